"""What both services have of a process: its standard streams, how it loads what it needs, and is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from config.output import in_vain, tell_the_rest

log = logging.getLogger("siding")

INTERRUPTED = 130
"""The exit status that shells have for Ctrl-C."""


def open_standard_streams() -> None:
    """Those that the process was started without lead nowhere: their numbers would be given to the next sockets.

    And at the end a standard output that cannot be written gives no traceback.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this
            os.set_inheritable(nowhere, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
        in_vain()
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    tell_the_rest()


@contextmanager
def loading() -> Iterator[None]:
    """What is imported here stays: to look through it for garbage, time and again, takes a tenth of a start."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


async def until_stopped() -> None:
    """Wait for SIGTERM, Ctrl-C, or the end of the terminal, unless that is ignored (nohup)."""
    stopped = asyncio.Event()
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    for number in (signal.SIGTERM, signal.SIGINT, *hangup):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    log.info("stopping: no new connections; requests on their way may finish")
