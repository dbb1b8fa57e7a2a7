"""Turns at the grading upstream: so many at once, and those who wait get theirs fairly.

Who waits in person goes first, but a batch never stands still; callers of one lane take turns among each other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from pool_monitor.grading.calls import Lane, UpstreamFault

MOST_WAITING = 2000
BATCH_EVERY = 4
"""At least every so many turns are a batch's while one waits."""
BUSY_SECONDS = 1.0
"""When to come again, told to those for whom there is no place to wait."""

Turn = asyncio.Future[None]


class ObserveWait(Protocol):
    """Told of every turn that was waited for, whether it came or not. seconds -- how long."""

    def waited(self, lane: Lane, seconds: float) -> None: ...


class Waiters:
    """Who waits in one lane: by key in turn, and first come first served within a key. No key without waiters."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: str, turn: Turn) -> None:
        """At the end of its key."""
        self._keys.setdefault(key, deque()).append(turn)
        self._count += 1

    def next(self) -> Turn:
        """Take the next one out. Raises KeyError when there is none."""
        key, turns = self._keys.popitem(last=False)
        turn = turns.popleft()
        if turns:
            self._keys[key] = turns
        self._count -= 1
        return turn

    def remove(self, key: str, turn: Turn) -> None:
        """Take out one that gave up, if it still is here."""
        turns = self._keys.get(key)
        if turns is None or turn not in turns:
            return
        turns.remove(turn)
        if not turns:
            del self._keys[key]
        self._count -= 1


class Turns:
    """At most `capacity` turns at once, and at most `most_waiting` who wait, half of them not in person.

    clock -- monotonic seconds.
    """

    def __init__(self, capacity: int, clock: Callable[[], float], observe: ObserveWait, most_waiting: int) -> None:
        self.capacity = capacity
        self.held = 0
        self._clock = clock
        self._observe = observe
        self._most_waiting = most_waiting
        self._lanes = {lane: Waiters() for lane in Lane}
        self._since_batch = 0

    def __repr__(self) -> str:
        return f"<Turns {self.held} of {self.capacity} held, {sum(self.waiting.values())} waiting>"

    @property
    def waiting(self) -> dict[Lane, int]:
        """How many wait now."""
        return {lane: len(waiters) for lane, waiters in self._lanes.items()}

    async def enter(self, lane: Lane, key: str, deadline: float) -> None:
        """Get a turn by then, to be given back by `leave`. key -- whose turn it is, to be fair between them.

        Raises UpstreamFault: too many wait already (503), or the turn did not come in time (504).
        """
        if self.held < self.capacity:
            self.held += 1
            self._observe.waited(lane, 0.0)
            return
        if self._full(lane):
            raise UpstreamFault(
                503,
                "too_many_waiting",
                f"all {self.capacity} connections to the upstream are in use, and too many wait for one",
                retry_after=BUSY_SECONDS,
            )
        turn: Turn = asyncio.get_running_loop().create_future()
        self._lanes[lane].add(key, turn)
        since = self._clock()
        try:
            async with asyncio.timeout(deadline - since):
                await turn
        except BaseException as fault:
            if turn.done() and not turn.cancelled():
                # the turn came in the same moment: it goes to the next
                self.leave()
            else:
                self._lanes[lane].remove(key, turn)
            if isinstance(fault, TimeoutError):
                raise UpstreamFault(
                    504,
                    "upstream_timeout",
                    f"all {self.capacity} connections to the upstream stayed in use for {self._clock() - since:.3g} s",
                    "timeout",
                ) from None
            raise
        finally:
            self._observe.waited(lane, self._clock() - since)

    def _full(self, lane: Lane) -> bool:
        waiting = self.waiting
        if sum(waiting.values()) >= self._most_waiting:
            return True
        return lane is not Lane.CALLER and waiting[Lane.BATCH] + waiting[Lane.SHADOW] >= self._most_waiting // 2

    def leave(self) -> None:
        """Give a turn back."""
        while (lane := self._next_lane()) is not None:
            turn = self._lanes[lane].next()
            if not turn.done():
                self._since_batch = 0 if lane is Lane.BATCH else self._since_batch + 1
                turn.set_result(None)
                return
        self.held -= 1

    def _next_lane(self) -> Lane | None:
        if self._lanes[Lane.BATCH] and self._since_batch >= BATCH_EVERY - 1:
            return Lane.BATCH
        return next((lane for lane in (Lane.CALLER, Lane.BATCH, Lane.SHADOW) if self._lanes[lane]), None)
