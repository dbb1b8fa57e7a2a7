"""How many clients may be connected, and who goes where one comes too many."""

from __future__ import annotations

import heapq
import logging
import sys
import time
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


class Room:
    """Of so many descriptors: what is left is for the origin, for Redis and for who looks after this process.

    libuv, where there is none left, cuts clients without a word (uv_listen). most -- clients that may be connected.
    """

    def __init__(self, most: int = sys.maxsize) -> None:
        self.most = most
        self._said_until = self._looks_from = 0.0
        # connections that are being closed to make room, and whose room nobody has taken
        self._leaving = 0

    def admit(self, newcomer: Guest, guests: Collection[Guest]) -> bool:
        """Take one of `guests`, who has just come, where there is room; otherwise make some; False where none can be.

        Of the idle ones some go, who never asked anything first.
        """
        if len(guests) <= self.most:
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
        idle = [one for one in guests if one.idle and one is not newcomer]
        ended = time.monotonic()
        self._looks_from = now if idle else ended + LOOK_SHARE * (ended - now)
        going = heapq.nsmallest(max(1, self.most // ROOM_SHARE), idle, key=lambda one: one.standing)
        for one in going:
            one.end_when_idle()
        self._leaving = max(0, len(going) - 1)
        return bool(going)
