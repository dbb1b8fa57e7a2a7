"""Values of options and of the environment that several commands take, and how the tool itself is started."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from config.kinds import read_number, read_secret
from config.words import masked


def this_tool() -> list[str]:
    """The words that start `siding` here, for a command that is to be typed: it need not be in PATH, nor installed."""
    if shutil.which("siding"):
        return ["siding"]
    installed = Path(sys.executable).with_name("siding")
    return [str(installed)] if installed.exists() else [os.path.relpath(sys.executable), "-m", "deploy"]


def address(text: str) -> str:
    """The URL of a service. Raises argparse.ArgumentTypeError."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{masked(text)!r} is no URL like https://service.example.com")
    if "@" in parts.netloc:
        why = "has a user name: credentials are ADMIN_TOKEN, or stand in the file of requests"
        raise argparse.ArgumentTypeError(f"{masked(text)!r} {why}")
    return text.rstrip("/")


def path(text: str) -> str:
    """A path at a service, which would belong to its name without the slash. Raises argparse.ArgumentTypeError."""
    if not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{masked(text)!r} is no path: a path begins with /")
    return text


def token(environ: Mapping[str, str]) -> str | None:
    """ADMIN_TOKEN as the services read it, which leave out a line's end that came with it. Raises ValueError."""
    given = environ.get("ADMIN_TOKEN", "")
    try:
        return read_secret(given) if given.strip() else None
    except ValueError as fault:
        raise ValueError(f"ADMIN_TOKEN (not shown) is no token: {fault}") from fault


def port(text: str) -> int:
    """A port to listen on, or 0. Raises argparse.ArgumentTypeError."""
    # int() would take signs, spaces and other scripts' digits as well
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a whole number from 0 to 65535")
    return int(text)


def amount(text: str) -> float:
    """Of seconds, milliseconds or percent. Raises argparse.ArgumentTypeError."""
    try:
        number = read_number(text)
    except ValueError:
        number = -1.0
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return number


def content(text: str) -> str:
    """What is in the file of that name. Raises argparse.ArgumentTypeError."""
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is not UTF-8"
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {why}") from fault


def positive(text: str) -> float:
    """Seconds. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of more than 0 and at most 3600")
    return number
