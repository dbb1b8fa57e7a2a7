"""What both services have of a process: how it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal

log = logging.getLogger("siding")

INTERRUPTED = 130
"""The exit status that shells have for Ctrl-C."""


async def until_stopped() -> None:
    """Wait for SIGTERM, Ctrl-C, or the end of the terminal, unless that is ignored (nohup)."""
    stopped = asyncio.Event()
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    for number in (signal.SIGTERM, signal.SIGINT, *hangup):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    log.info("stopping: no new connections; requests on their way may finish")
