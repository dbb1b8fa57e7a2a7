"""What both services have of a process: how it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

log = logging.getLogger("siding")

INTERRUPTED = 130
"""The exit status that shells have for Ctrl-C."""


async def until_stopped() -> None:
    """Wait for SIGTERM or Ctrl-C."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    log.info("stopping: no new connections; requests on their way may finish")
