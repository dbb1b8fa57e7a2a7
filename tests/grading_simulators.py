"""The grading simulator in the process of a test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from deploy.grading_simulator import Simulator, State
from tests.support import serving


@dataclass(frozen=True, slots=True)
class Running:
    """A simulator that serves. url -- the API's base."""

    url: str
    state: State


@contextlib.asynccontextmanager
async def running_simulator() -> AsyncIterator[Running]:
    """On a free port."""
    state = State()
    async with serving(Simulator(state).app(), handler_cancellation=True, shutdown_timeout=1.0) as url:
        yield Running(f"{url}/v1", state)
