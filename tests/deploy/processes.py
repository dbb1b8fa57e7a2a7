"""Real processes under test: started, read line by line with patience, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

PATIENCE = 20.0
"""Seconds after which something that does not happen is not going to."""
ROOT = Path(__file__).parents[2]


class Child:
    """A Python process whose output (and its children's) is read as lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, has: str) -> str:
        """The next line that contains `has`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while raw := await self.process.stdout.readline():
                self.lines.append(raw.decode().rstrip("\n"))
                if has in self.lines[-1]:
                    return self.lines[-1]
        raise AssertionError(f"{has!r} was never said, but:\n{self.output}")

    async def end(self, patience: float = PATIENCE) -> int:
        """Its exit status, once it and all who write to the same output are gone. patience -- in seconds."""
        assert self.process.stdout is not None
        async with asyncio.timeout(patience):
            async for raw in self.process.stdout:
                self.lines.append(raw.decode().rstrip("\n"))
            return await self.process.wait()

    @property
    def output(self) -> str:
        """Everything read so far."""
        return "\n".join(self.lines)

    def send(self, number: signal.Signals) -> None:
        """A signal to this process alone."""
        self.process.send_signal(number)

    def press_ctrl_c(self) -> None:
        """What a terminal does: the signal to its whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)


def environment(**changes: str) -> dict[str, str]:
    """This process's own without any setting of Siding's, and with `changes`."""
    passed_on = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE")
    kept = {name: value for name, value in os.environ.items() if name.startswith(passed_on)}
    return {**kept, **changes}


@contextlib.asynccontextmanager
async def python(
    *arguments: str, environ: Mapping[str, str] | None = None, stderr: int = asyncio.subprocess.STDOUT
) -> AsyncIterator[Child]:
    """A Python process in a group of its own; killed, if it still runs at the end.

    stderr -- where that goes, if not to the lines that are read.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", *arguments),
        cwd=ROOT,
        env=environment() if environ is None else environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )
    child = Child(process)
    try:
        yield child
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await child.end()
            except TimeoutError:
                process.kill()
                await process.wait()


def with_few_descriptors(module: str) -> tuple[str, str]:
    """Arguments that start `module` where 100 file descriptors are allowed, and 200 to whoever asks for more."""
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))"
    return "-c", f"{limit}; runpy.run_module({module!r}, run_name='__main__')"


def refused(main: Callable[[list[str], Mapping[str, str]], int], *options: str, **environ: str) -> int:
    """The exit status of a command that is not to get far, in this process."""
    try:
        return main(list(options), environ)
    except SystemExit as ended:  # by argparse
        return int(ended.code or 0)


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Ports of 127.0.0.1 that nobody uses, and nobody is given unless it asks for them by number."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for reserved in sockets:
            # bound but not listening, a port is not handed out again, and one who asks to reuse it may have it
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
        yield [reserved.getsockname()[1] for reserved in sockets]


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def listens(address: str) -> bool:
    """Whether HOST:PORT accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True
