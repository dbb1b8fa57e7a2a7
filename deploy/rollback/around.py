"""The steps that lead traffic past Siding on Railway.

Variables are set with Railway's command line tool, which deploys the service anew with them; its deployments overlap,
so that nothing is lost. A custom domain is moved in the dashboard: the tool adds domains, but does not remove them.
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
    "a public domain that leads to Siding: --domain api.example.com --to backend",
)


class BadStep(Exception):
    """A step that cannot be taken. Its text says why."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A service's variable, and the value that leads past Siding."""

    service: str
    name: str
    value: str

    def command(self, value: str, environment: str | None) -> list[str]:
        """Sets it."""
        place = ["--environment", environment] if environment else []
        return [TOOL, "variables", "--service", self.service, *place, "--set", f"{self.name}={value}"]


def parse(text: str) -> Variable:
    """SERVICE:NAME=VALUE. Raises BadStep."""
    place, separator, value = text.partition("=")
    service, colon, name = place.partition(":")
    if not (separator and colon and service and name and value):
        raise BadStep(f"{masked(text)!r} is not SERVICE:NAME=VALUE")
    return Variable(service, name, value)


def shown_value(value: str) -> str:
    """For a terminal: addresses without their secrets, references, and nothing else."""
    return masked(value) if "://" in value or "${{" in value else "***"


def domain_steps(domain: str, service: str) -> list[str]:
    """By hand, in the dashboard, and the way back."""
    return [
        f"in the dashboard: Siding's service, Settings, Networking: remove {domain}",
        f"then: {shlex.join([TOOL, 'domain', domain, '--service', service])}",
        "where the DNS target that it prints differs from the record you have, change the record: "
        "it takes effect within the record's time to live",
        f"undo: remove {domain} from {service} and add it to Siding's service again",
    ]


def present(environ: Mapping[str, str]) -> str | None:
    """The path of Railway's tool."""
    return shutil.which(TOOL, path=environ.get("PATH", os.defpath))


def value_before(variable: Variable, environment: str | None, tool: str) -> str | None:
    """What it is set to now; None where it is not set. Raises BadStep."""
    place = ["--environment", environment] if environment else []
    output = _run([tool, "variables", "--service", variable.service, *place, "--json"])
    try:
        found = orjson.loads(output).get(variable.name)
    except (ValueError, AttributeError) as fault:
        raise BadStep(f"{TOOL} did not list the variables of {variable.service} as JSON") from fault
    return None if found is None else str(found)


def perform(variable: Variable, environment: str | None, tool: str) -> None:
    """Set it. Raises BadStep."""
    _run([tool, *variable.command(variable.value, environment)[1:]])


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise BadStep(f"{TOOL} cannot be run: {masked(str(fault))}") from fault
    if done.returncode:
        # what it was asked to set may be a secret, and it may repeat it
        raise BadStep(f"{TOOL} ended with status {done.returncode}: {masked(done.stderr.strip()[-300:])}")
    return done.stdout


def write_undo(path: Path, commands: Sequence[Sequence[str]]) -> None:
    """A script that sets everything back; only its owner may read it, since values may be secrets. Raises BadStep."""
    text = "\n".join(["#!/bin/sh", "set -e", *map(shlex.join, commands), ""])
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as fault:
        raise BadStep(f"{path} cannot be written, so nothing was changed: {fault.strerror}") from fault
