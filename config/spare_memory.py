"""Memory that was freed goes back to the system.

The C library keeps what is freed between what is in use: after a burst a process would stay as large as it ever was,
and be billed for it, or killed. glibc gives it back when asked, by malloc_trim(3); other C libraries have no such call.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from resource import getpagesize

log = logging.getLogger("siding.memory")

EVERY_SECONDS = 60.0
WORTH_BYTES = 32 * 1024 * 1024
"""Growth since the start that is worth asking: what a process grows by while it gets to know its work."""
STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of memory that this process takes; 0 where the system does not say (proc(5))."""
    try:
        return int(STATM.read_text().split()[1]) * getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def trimmer() -> Callable[[int], int] | None:
    """malloc_trim of the C library, if it has it; it may be called in a thread, and takes some 0.1 ms a megabyte."""
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    trim: Callable[[int], int] = found
    return trim


class SpareMemory:
    """Gives it back once a minute, as long as the process is larger than it was."""

    def __init__(self) -> None:
        self._trim = trimmer()
        self._least = resident()

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._trim is not None and self._least:
            await asyncio.sleep(EVERY_SECONDS)
            await self.give_back()

    async def give_back(self) -> None:
        """What is free, if it may be much."""
        if self._trim is not None and resident() > self._least + WORTH_BYTES:
            await asyncio.to_thread(self._trim, 0)
            self._least = min(self._least, resident())
