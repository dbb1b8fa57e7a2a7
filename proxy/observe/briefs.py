"""Requests that were answered the short way, told in batches: that must cost less than the answers themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from proxy.observe.events import Brief

log = logging.getLogger("siding.briefs")

GATHER_SECONDS = 0.05
"""How long briefs gather before they are told."""
MOST: Final = 2000
"""Told at once when there are so many: a bound on memory, and on how long telling takes in one go."""


class Briefs:
    """Gathers briefs and gives them to `readers`. For the event loop's thread."""

    def __init__(self, readers: Sequence[Callable[[list[Brief]], None]]) -> None:
        self._readers = readers
        self._gathered: list[Brief] = []
        self._due: asyncio.TimerHandle | None = None

    def add(self, brief: Brief) -> None:
        """One more."""
        self._gathered.append(brief)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHER_SECONDS, self.tell)
        elif len(self._gathered) >= MOST:
            self.tell()

    def tell(self) -> None:
        """Give what has gathered to the readers, now."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        briefs, self._gathered = self._gathered, []
        if not briefs:
            return
        for reader in self._readers:
            try:
                reader(briefs)
            except Exception:
                # law 6: a client is never failed by what merely watches
                log.exception("briefs could not be recorded")
