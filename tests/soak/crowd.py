"""Callers that ask on and on, each in a task of its own."""

from __future__ import annotations

import abc
import asyncio


class Crowd(abc.ABC):
    """So many of them."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(self._number)]

    async def stop(self) -> None:
        """After what each is at."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    @abc.abstractmethod
    async def _ask_on(self, number: int) -> None:
        """Until `_stopping`. number -- of the caller."""
