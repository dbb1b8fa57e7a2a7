"""The grading simulator in the process of a test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from config.listen import address_of, open_socket
from deploy.grading_simulator import Simulator, State


@dataclass(frozen=True, slots=True)
class Running:
    """A simulator that serves. url -- the API's base."""

    url: str
    state: State


@contextlib.asynccontextmanager
async def running_simulator() -> AsyncIterator[Running]:
    """On a free port."""
    state = State()
    with open_socket("127.0.0.1", 0) as sock:
        runner = web.AppRunner(Simulator(state).app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.SockSite(runner, sock).start()
            yield Running(f"http://{address_of(sock)}/v1", state)
        finally:
            await runner.cleanup()
