"""How many clients may be connected, and who goes where one comes too many."""

from __future__ import annotations

import heapq
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Collection
from typing import Protocol

from config.descriptors import SILENT_SECONDS

log = logging.getLogger("siding.room")

ROOM_SHARE = 16
"""One in so many connections is closed at once to make room (nginx: a sixteenth of worker_connections)."""
LOOK_SHARE = 20
"""Where nobody was idle, the look for one takes one part in so many of the time."""
ARRIVAL_SECONDS = 1.0
"""Who has just come is about to ask: its request may be here, unread."""
LEAST_TOLD = 16
"""So many may be told at once that there is no room, where a `ROOM_SHARE` of those for whom there is would be fewer."""


class Guest(Protocol):
    """A client's connection."""

    @property
    def idle(self) -> bool:
        """No request of it is on its way, as far as is known, nor expected at any moment."""
        ...

    @property
    def standing(self) -> tuple[bool, float]:
        """Whether it ever asked anything, and when it ends if it stays idle, on the monotonic clock."""
        ...

    def end_when_idle(self) -> None:
        """Close it."""

    def cut(self) -> None:
        """Close it, whatever it sends."""


class Room:
    """Of so many descriptors: what is left is for the origin, for Redis and for who looks after this process.

    libuv, where there is none left, cuts clients without a word (uv_listen). Who is too many is told so, and what it
    still sends is read: closed at once it would see a reset instead. Of those the first goes where they are too many.

    most -- clients that may be connected.
    """

    def __init__(self, most: int = sys.maxsize) -> None:
        self.most = most
        self._told: OrderedDict[Guest, None] = OrderedDict()
        self._said_until = self._looks_from = 0.0
        # connections that are being closed to make room, and whose room nobody has taken
        self._leaving = 0

    @property
    def most_told(self) -> int:
        """How many may be told at once that there is no room."""
        return max(LEAST_TOLD, self.most // ROOM_SHARE)

    @property
    def outside(self) -> int:
        """How many of the guests there is no room for."""
        return len(self._told)

    def is_outside(self, guest: Guest) -> bool:
        """Whether it is one of those."""
        return guest in self._told

    def tell(self, guest: Guest) -> None:
        """It is told that there is no room, and may still be sending."""
        self._told[guest] = None
        self._bound()

    def _bound(self) -> None:
        if len(self._told) > self.most_told:
            first, _ = self._told.popitem(last=False)
            first.cut()

    def gone(self, guest: Guest) -> None:
        """It has left."""
        self._told.pop(guest, None)

    def admit(self, newcomer: Guest, guests: Collection[Guest]) -> bool:
        """Take one of `guests`, who has just come, where there is room; otherwise make some; False where none can be.

        Of the idle ones some go, who never asked anything first.
        """
        if len(guests) - self.outside <= self.most:
            self._leaving = 0
            return True
        if self._leaving:
            self._leaving -= 1
            return True
        now = time.monotonic()
        if now >= self._said_until:
            log.error(
                "%d clients are connected, and file descriptors allow no more: idle ones are closed, or new ones get "
                "a 503; raise the hard limit (ulimit -Hn, LimitNOFILE)",
                self.most,
            )
        self._said_until = now + SILENT_SECONDS
        if now < self._looks_from:
            return False
        idle = [one for one in guests if one is not newcomer and one.idle and not self.is_outside(one)]
        ended = time.monotonic()
        self._looks_from = now if idle else ended + LOOK_SHARE * (ended - now)
        going = heapq.nsmallest(max(1, self.most // ROOM_SHARE), idle, key=lambda one: one.standing)
        for one in going:
            one.end_when_idle()
        self._leaving = max(0, len(going) - 1)
        return bool(going)
