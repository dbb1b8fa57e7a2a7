"""What is followed over a connection of its own, made again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from config.tasks import end
from config.told import Told
from pool_monitor.faults import FAULTS, describe

log = logging.getLogger("siding.following")


class Following(ABC):
    """Follows from `start` to `close`, and says in the log when it cannot, and when it can again.

    what -- as the log names it. seconds -- until it is tried again. faults -- what `follow` may raise.
    """

    def __init__(self, what: str, seconds: float, faults: tuple[type[Exception], ...] = FAULTS) -> None:
        self._what = what
        self._seconds = seconds
        self._faults = faults
        self._told = Told()
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def follow(self) -> None:
        """Follow it as long as the connection lasts, and call `works` whenever it does."""

    def works(self) -> None:
        """It is followed; the next fault is told, be it the same as the last."""
        if self._told.works():
            log.info("%s can be read again", self._what)

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        await end([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self.follow()
            except self._faults as fault:
                if self._told.news(reason := describe(fault)):
                    log.warning("%s cannot be read: %s", self._what, reason)
            await asyncio.sleep(self._seconds)
