"""`python -m proxy` as an operator starts it, on free ports."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.deploy.processes import Child, environment, python


@dataclass
class Running:
    """A proxy's process with its addresses."""

    child: Child
    url: str
    admin: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def peak_bytes(self) -> int:
        """The most memory its process has held so far (VmHWM)."""
        status = Path(f"/proc/{self.child.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@contextlib.asynccontextmanager
async def proxy_process(upstream: str, **settings: str) -> AsyncIterator[Running]:
    """A proxy that is ready."""
    environ = {
        "UPSTREAM_URL": upstream,
        "HOST": "127.0.0.1",
        "PORT": "0",
        "ADMIN_PORT": "0",
        "LOG_FORMAT": "text",
    } | {name.upper(): value for name, value in settings.items()}
    async with python("-m", "proxy", environ=environment(**environ)) as child:
        line = await child.line("in front of")
        public, admin = re.findall(r"http://([\w.:\[\]]+)(?=,)", line)[-2:]
        running = Running(child, f"http://{public}", f"http://{admin}")
        await _until_ready(running)
        yield running


async def _until_ready(running: Running) -> None:
    async with aiohttp.ClientSession(base_url=running.admin) as session:
        while True:
            async with session.get("/readyz") as answer:
                if answer.status == 200:
                    return
