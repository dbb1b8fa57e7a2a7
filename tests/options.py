"""Values of options that several of the programs here take."""

from __future__ import annotations

import argparse
from pathlib import Path


def whole(text: str) -> int:
    """A number of things. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1_000):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 1000")
    return int(text)


def tree(text: str) -> Path:
    """Where Siding's code lies. Raises argparse.ArgumentTypeError."""
    if not (Path(text) / "proxy" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"no Siding lies in {text!r}")
    return Path(text).resolve()


def minutes(text: str) -> float:
    """For how long. Raises argparse.ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, and up to 10000")
    return number
