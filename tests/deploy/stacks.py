"""A local stack of real processes for a module's tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession

from tests.deploy.processes import Child, environment, python

ANYWHERE = {"HOST": "127.0.0.1", "PORT": "0", "ADMIN_PORT": "0", "MONITOR_HOST": "127.0.0.1", "MONITOR_PORT": "0"}
ALONE = {
    **ANYWHERE,
    "DATABASE_URL": "postgresql://siding@127.0.0.1:9/none",
    "GRADING_UPSTREAM_URL": "http://127.0.0.1:9/v1",
    "ENABLE_REDIS_CACHE": "off",
}
"""Nothing is started but what every stack has."""


@dataclass(frozen=True)
class Up:
    """The addresses of what runs."""

    proxy: str
    admin: str
    monitor: str
    origin: str


@contextlib.asynccontextmanager
async def running_stack(**settings: str) -> AsyncIterator[Up]:
    """`siding up`, stopped afterwards."""
    async with python("-m", "deploy", "up", environ=environment(**ANYWHERE, **settings)) as child:
        await child.line(" check http")
        yield Up(*(f"http://{address(child, name)}" for name in ("proxy", "admin", "monitor", "origin")))
        child.press_ctrl_c()
        assert await child.end() == 0


def address(child: Child, name: str) -> str:
    """What the welcome says of `name`, as HOST:PORT."""
    (line,) = [line for line in child.lines if line.startswith(f"  {name} ")]
    return line.split()[1].removeprefix("http://")


async def counts(origin: str) -> dict[str, Any]:
    async with ClientSession() as client, client.get(f"http://{origin}/stats") as answer:
        counted: dict[str, Any] = await answer.json()
        return counted
