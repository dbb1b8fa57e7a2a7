"""A service under test: a process that is made anew on the same port, and looked at from outside."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from config.listen import spare_port
from tests.deploy.processes import environment
from tests.soak.truth import Truth

TOKEN = "soak"  # noqa: S105 - made up
READY_SECONDS = 20.0
MOST_GROWTH = 40 * 2**20
"""Octets of memory that a process may gain after its first rest: allocators keep some of what a peak took."""
MOST_MORE_DESCRIPTORS = 100
"""Connections are kept as many as were needed at once."""
ERROR = re.compile(
    r"^.* (?:ERROR|CRITICAL) (?!.* ended \(-9\) and is replaced$|siding\.pool: (?:cannot connect|connection error)).*$"
    r"|^Traceback.*$",
    re.MULTILINE,
)
"""In its log. Workers are killed on purpose, and so are databases."""


class Process:
    """`python -m MODULE`. log -- where all that it says goes. admin -- where it is asked for changes, and whether it is
    ready."""

    def __init__(self, python: str, code: Path, module: str, settings: Mapping[str, str], log: Path) -> None:
        self.port = spare_port()
        self.admin = self.url
        own = {"HOST": "127.0.0.1", "PORT": str(self.port), "ADMIN_TOKEN": TOKEN}
        self.environ = environment(LOG_LEVEL="warning", LOG_FORMAT="text", **own, **settings)
        self._command = (python, "-m", module)
        self._code = code
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._command, cwd=self._code, env=self.environ, stdout=log, stderr=log
            )
        async with aiohttp.ClientSession() as session, asyncio.timeout(READY_SECONDS):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.admin}/readyz") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.05)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        await self.process.wait()

    def workers(self) -> list[int]:
        """Processes that serve for it, if there are several."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    async def ask(self, method: str, path: str, document: object) -> None:
        """A change by the admin listener."""
        fields = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.admin}{path}", json=document, headers=fields) as answer,
        ):
            assert answer.status == 200, await answer.text()

    def errors(self) -> list[str]:
        """Lines of its log that nobody should ever find there."""
        return ERROR.findall(self.log.read_text(errors="replace"))


class Sizes:
    """Of processes, from one rest to the next."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, int]] = {}

    def look(self, processes: Mapping[str, Process], truth: Truth) -> None:
        """Tell of each what it takes up, and find fault with what has grown."""
        for name, process in processes.items():
            for pid in (process.pid, *process.workers()):
                resident, descriptors = _resident(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))
                first, least = self._first.setdefault(pid, (resident, descriptors))
                if resident - first > MOST_GROWTH:
                    truth.fault(f"{name} grew from {first:,} to {resident:,} octets")
                if descriptors - least > MOST_MORE_DESCRIPTORS:
                    truth.fault(f"{name} has {descriptors} descriptors open, after {least}")
                print(f"  {name}: {resident / 2**20:.1f} MB, {descriptors} descriptors", flush=True)


def _resident(pid: int) -> int:
    """Octets of memory (VmRSS)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])
