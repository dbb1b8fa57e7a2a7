"""Fixtures that every folder shares."""

from __future__ import annotations

import gc
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web_app

from tests.redis_servers import Redis, running_redis
from tests.support import Origin


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long by itself begins first, so that nobody waits for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_collection_finish() -> None:
    """What is loaded stays: to look through it for garbage takes a tenth of a second each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    """aiohttp keeps the last 1024 applications, and with them all that their handlers know: whole monitors."""
    web_app._cached_build_middleware.cache_clear()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """A scripted origin, stopped afterwards."""
    server = await Origin().start()
    yield server
    await server.stop()


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Redis]:
    """A Redis of the test's own."""
    async with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def hung_up() -> Iterator[None]:
    """Children are hung up on by SIGHUP, also where this process was started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that another user may enter."""
    folder = tmp_path_factory.mktemp("pgbouncer")
    for above in (folder, *folder.parents):
        if above == folder or above.name.startswith("pytest"):
            above.chmod(0o755)
    return folder
