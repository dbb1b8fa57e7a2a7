"""First come, first served: a bound on how many hold a connection, and exact accounts of those who wait.

asyncpg's own queue is not fair (a connection that is given back may be taken by whoever runs next), and does not
tell how many wait. With this in front of it, its queue is never used.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Granted(StrEnum):
    """How a wait ended."""

    AT_ONCE = "at-once"
    AFTER_WAITING = "after-waiting"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"


class TimedOut(Exception):
    """No turn came in time."""


@dataclass(slots=True)
class _Waiter:
    turn: asyncio.Future[None]
    since: float


class Admission:
    """At most `capacity` turns at once; whoever has asked first gets the next one.

    observe -- told of every wait: how it ended, and seconds. clock -- monotonic seconds.
    """

    def __init__(self, capacity: int, clock: Callable[[], float], observe: Callable[[Granted, float], None]) -> None:
        self.capacity = capacity
        self.held = 0
        self._clock = clock
        self._observe = observe
        self._queue: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        return f"<Admission {self.held} of {self.capacity} held, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._queue)

    def oldest_wait(self) -> float:
        """Seconds that the first in the queue has waited; 0 when nobody does."""
        return self._clock() - self._queue[0].since if self._queue else 0.0

    async def enter(self, seconds: float) -> None:
        """Get a turn within `seconds`. Raises TimedOut."""
        if self.held < self.capacity and not self._queue:
            self.held += 1
            self._observe(Granted.AT_ONCE, 0.0)
            return
        waiter = _Waiter(asyncio.get_running_loop().create_future(), self._clock())
        self._queue.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.turn
        except BaseException as fault:
            waited = self._clock() - waiter.since
            if waiter.turn.done() and not waiter.turn.cancelled():
                # the turn came in the same moment: it goes to the next
                self.leave()
            elif waiter in self._queue:
                self._queue.remove(waiter)
            if isinstance(fault, TimeoutError):
                self._observe(Granted.TIMED_OUT, waited)
                raise TimedOut from None
            self._observe(Granted.CANCELLED, waited)
            raise
        self._observe(Granted.AFTER_WAITING, self._clock() - waiter.since)

    def leave(self) -> None:
        """Give a turn back."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.turn.done():
                waiter.turn.set_result(None)
                return
        self.held -= 1
