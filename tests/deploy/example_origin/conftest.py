"""The example origin in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import ClientSession, ClientTimeout

from tests.deploy.example_origin.support import ORIGIN
from tests.deploy.processes import PATIENCE, ROOT, environment


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """HOST:PORT of an origin whose reports are made at once."""
    command = [sys.executable, "-W", "error", *ORIGIN, "--port", "0", "--report-seconds", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition("http://")[2]
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.fixture
async def client(origin: str) -> AsyncIterator[ClientSession]:
    """A client of that origin which takes answers as they come."""
    timeout = ClientTimeout(total=PATIENCE)
    async with ClientSession(f"http://{origin}", timeout=timeout, auto_decompress=False) as session:
        yield session
