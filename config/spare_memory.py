"""Memory that was freed goes back to the system.

The C library keeps what is freed between what is in use: after a burst a process would stay as large as it ever was,
and be billed for it, or killed. glibc gives it back when asked, by malloc_trim(3); other C libraries have no such call.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from pathlib import Path
from resource import getpagesize

EVERY_SECONDS = 60.0
MOST_TURNS = 64
"""It is asked for about once an hour where it does not give anything."""
WORTH_BYTES = 32 * 1024 * 1024
"""What is much."""
STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of memory that this process takes; 0 where the system does not say (proc(5))."""
    try:
        return int(STATM.read_text().split()[1]) * getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def trimmer() -> Callable[[int], int] | None:
    """malloc_trim of the C library, if it has it.

    It may be called in a thread; others wait for it to allocate: 0.1 ms for each megabyte that it gives back, and up to
    0.05 ms for each that the process takes, where there is nothing to give.
    """
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    trim: Callable[[int], int] = found
    return trim


class SpareMemory:
    """Looks once a minute, and gives back what is free once the process has grown; again and again, but ever more
    seldom, where neither it has, nor much was given."""

    def __init__(self) -> None:
        self._trim = trimmer()
        self._least = resident()
        self._turns = self._wait = 1

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._trim is not None and self._least:
            await asyncio.sleep(EVERY_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Give back what is free, if it may be much."""
        taken = resident()
        grown = taken > self._least + WORTH_BYTES
        self._turns -= 1
        self._least = min(self._least, taken)
        if self._trim is None or (self._turns and not grown):
            return
        await asyncio.to_thread(self._trim, 0)
        self._least = resident()
        gave_much = taken >= self._least + WORTH_BYTES
        self._wait = 1 if grown or gave_much else min(2 * self._wait, MOST_TURNS)
        self._turns = self._wait
