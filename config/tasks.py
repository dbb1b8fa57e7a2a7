"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 1.5
"""Longer than a task takes that closes what it has open."""


async def end(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel tasks, and wait until they have ended; what they raise is not told.

    More than once where need be: a library that waits by `asyncio.wait_for`, as redis-py does, may lose a cancellation
    before Python 3.12 (https://github.com/python/cpython/issues/86296).
    """
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=AGAIN_SECONDS)
        await asyncio.gather(*done, return_exceptions=True)
