"""The steps that lead traffic past Siding on Railway.

Variables are set with Railway's command line tool, which deploys the service anew with them; its deployments overlap,
so that nothing is lost. A custom domain belongs to one service: while it moves it leads nowhere, and its DNS target may
become another, so it comes last, and BYPASS is the better way as long as Siding answers. Its port goes
with it: Railway does not know which port of a service is meant where that listens on several, as Siding does.
The commands are those of the tool from version 5 on: https://docs.railway.com/cli/variable and /cli/domain.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from config.words import masked

TOOL = "railway"
TOOL_SECONDS = 120.0
HINTS = (
    "callers of the backend: their variable that names Siding, back to the backend's own address "
    "(--variable 'frontend:API_URL=http://${{backend.RAILWAY_PRIVATE_DOMAIN}}:3000')",
    "the AI service: OPENAI_BASE_URL back to https://api.openai.com/v1 "
    "(--variable ai-engine:OPENAI_BASE_URL=https://api.openai.com/v1)",
    "the backend: DATABASE_URL back to Postgres itself, where it names a pooler of Siding's "
    "(--variable 'backend:DATABASE_URL=${{Postgres.DATABASE_URL}}')",
    "a public domain that leads to Siding: --domain api.example.com --from siding:8080 --to backend:3000",
)


class BadStep(Exception):
    """A step that cannot be taken. Its text says why."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A service's variable, and the value that leads past Siding. environment -- Railway's; None for the linked one."""

    service: str
    name: str
    value: str
    environment: str | None = None

    def command(self, does: str, *words: str) -> list[str]:
        """A command of the tool. does -- list, set or delete."""
        place = ["--environment", self.environment] if self.environment else []
        return [TOOL, "variable", does, *words, "--service", self.service, *place]

    def undo(self, before: str | None) -> str:
        """A line for the shell that sets it back to what it was; None -- it was not set."""
        if before is None:
            return shlex.join(self.command("delete", self.name))
        if not before:
            return shlex.join(self.command("set", f"{self.name}="))
        return f"printf %s {shlex.quote(before)} | {shlex.join(self.command('set', self.name, '--stdin'))}"


@dataclass(frozen=True, slots=True)
class Place:
    """A service, and the port of it that a domain leads to; None -- left to Railway."""

    service: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """A custom domain, the service of Siding that it leads to, and the service that it is to lead to."""

    name: str
    old: Place
    new: Place

    def moves(self, old: Place, new: Place) -> list[list[str]]:
        """The tool's commands. A domain belongs to one service: it leaves the one before the other may have it."""
        port = [] if new.port is None else ["--port", str(new.port)]
        return [
            [TOOL, "domain", "delete", self.name, "--service", old.service, "--yes"],
            [TOOL, "domain", self.name, "--service", new.service, *port],
        ]

    @property
    def steps(self) -> list[list[str]]:
        """There."""
        return self.moves(self.old, self.new)

    @property
    def undo(self) -> list[str]:
        """And back, as lines for the shell. It may have left the one and never reached the other."""
        leave, back = map(shlex.join, self.moves(self.new, self.old))
        return [f"{leave} || true", back]


def parse(text: str, environment: str | None = None) -> Variable:
    """SERVICE:NAME=VALUE. Raises BadStep."""
    place, separator, value = text.partition("=")
    service, colon, name = place.partition(":")
    if not (separator and colon and service and name and value):
        raise BadStep(f"{masked(text)!r} is not SERVICE:NAME=VALUE")
    return Variable(service, name, value, environment)


def place(text: str) -> Place:
    """SERVICE:PORT, or SERVICE alone. Raises BadStep."""
    service, colon, port = text.partition(":")
    if not colon and service:
        return Place(service)
    # int() would take signs, spaces and other scripts' digits as well
    if not (service and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise BadStep(f"{masked(text)!r} is not SERVICE:PORT, as in backend:3000")
    return Place(service, int(port))


def shown_value(value: str) -> str:
    """For a terminal: addresses without their secrets, references, and nothing else."""
    return masked(value) if "://" in value or "${{" in value else "***"


def present(environ: Mapping[str, str]) -> str | None:
    """The path of Railway's tool."""
    return shutil.which(TOOL, path=environ.get("PATH", os.defpath))


def value_before(variable: Variable, tool: str) -> str | None:
    """What it is set to now; None where it is not set. Raises BadStep."""
    output = run(tool, variable.command("list", "--json"))
    try:
        found = orjson.loads(output).get(variable.name)
    except (ValueError, AttributeError) as fault:
        raise BadStep(f"{TOOL} did not list the variables of {variable.service} as JSON") from fault
    return None if found is None else str(found)


def perform(variable: Variable, tool: str) -> None:
    """Set it; the value is not seen among the machine's processes. Raises BadStep."""
    run(tool, variable.command("set", variable.name, "--stdin"), variable.value)


def run(tool: str, command: Sequence[str], given: str = "") -> str:
    """Have the tool do it, and return what it says. given -- its standard input. Raises BadStep."""
    try:
        done = subprocess.run(
            [tool, *command[1:]], capture_output=True, text=True, timeout=TOOL_SECONDS, check=False, input=given
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise BadStep(f"{TOOL} cannot be run: {masked(str(fault))}") from fault
    if done.returncode:
        # what it was asked to set may be a secret, and it may repeat it
        said = done.stderr.strip()
        said = said.replace(given, "***") if given else said
        raise BadStep(f"{TOOL} ended with status {done.returncode}: {masked(said[-300:])}")
    return done.stdout


def write_undo(path: Path, lines: Sequence[str]) -> None:
    """A script that sets everything back; only its owner may read it, since values may be secrets. Raises BadStep."""
    text = "\n".join(["#!/bin/sh", "set -e", *lines, ""])
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as fault:
        raise BadStep(f"{path} cannot be written, so nothing was changed: {fault.strerror}") from fault
