"""A local stack of real processes for a module's tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.deploy.processes import environment, python
from tests.deploy.test_local import ANYWHERE, address


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
