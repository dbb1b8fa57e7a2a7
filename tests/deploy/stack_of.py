"""Runs a stack of stand-ins: python -m tests.deploy.stack_of "NAME PORT [OPTIONS]" ...

A part is ready when its port accepts connections. `!` as its name is a command that does not exist.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Awaitable, Callable

from deploy.stack import Part, Stack
from tests.deploy.processes import listens

READY_SECONDS = 10.0
STOP_SECONDS = 10.0


def part(text: str, ready_seconds: float, stop_seconds: float) -> Part:
    name, port, *options = shlex.split(text)
    command = (sys.executable, "-W", "error", "-m", "tests.deploy.stand_in", name, *options)
    return Part(
        name=name,
        command=("/there/is/no/such/command",) if name == "!" else command,
        environ=os.environ,
        ready=opened(f"127.0.0.1:{port}"),
        ready_seconds=ready_seconds,
        stop_seconds=stop_seconds,
    )


def opened(address: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await asyncio.to_thread(listens, address)

    return ready


def main() -> int:
    ready_seconds = float(os.environ.get("READY_SECONDS", READY_SECONDS))
    stop_seconds = float(os.environ.get("STOP_SECONDS", STOP_SECONDS))
    parts = [part(text, ready_seconds, stop_seconds) for text in sys.argv[1:]]
    return asyncio.run(Stack(parts).run("all are ready"))


if __name__ == "__main__":
    sys.exit(main())
