"""What the programs that are tried and tested with have in common: serving until somebody stops them."""

from __future__ import annotations

import asyncio
import signal
import socket

from aiohttp import web

from deploy.stack import voice

CANNOT_LISTEN = 1
"""The exit status."""
STOP_SECONDS = 1.0
"""What requests on their way get to finish in."""


async def serve_until_stopped(app: web.Application, sock: socket.socket, said: str) -> None:
    """Serve on `sock` until SIGTERM or SIGINT. said -- as soon as it does."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        with voice() as say:
            say(said)
            await stopped.wait()
    finally:
        await runner.cleanup()
