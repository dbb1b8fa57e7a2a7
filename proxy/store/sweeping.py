"""Drops stored responses that nobody will be given any more, though their room is not needed yet.

Nobody but who would take what is hours out of date (`max-stale`, `stale-if-error` in a request): who does so is given
what the origin says.

What is invalid is found out when it is asked for, and what is not asked for goes when room is needed. Without this a
purge of everything would free nothing, and what had one reader once would stay as long as the process. Varnish has its
ban lurker and expiry thread for it, nginx `inactive`.

    turn: all keys, PORTION at a time, over TURN_SECONDS
    begun once something has been invalidated since the last one began, at the latest after EVERY_SECONDS
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from proxy.policy.messages import StoredResponse
from proxy.policy.reuse import worth_keeping
from proxy.store.invalidations import Invalidations, Validity
from proxy.store.memory import MemoryStore

log = logging.getLogger("siding.store")

PORTION = 500
"""Keys looked at before anybody else may go on: some 2 ms where all of them go."""
TURN_SECONDS = 30.0
EVERY_SECONDS = 600.0
LOOK_SECONDS = 5.0
KEPT_SECONDS = 3600.0
"""How long past its uses a response is kept for its validator alone."""


class Sweeper:
    """Sweeps `store`, in a running event loop.

    wall, clock -- the wall clock and a monotonic one, seconds.
    """

    def __init__(
        self, store: MemoryStore, invalidations: Invalidations, wall: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._invalidations = invalidations
        self._wall = wall
        self._clock = clock
        self._epoch = invalidations.epoch
        self._begun = clock()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.due():
                try:
                    await self.turn()
                except Exception:
                    # law 6: it is housekeeping
                    log.exception("a turn of the sweeper failed")

    def due(self) -> bool:
        """Whether a turn is to begin."""
        return self._invalidations.epoch != self._epoch or self._clock() >= self._begun + EVERY_SECONDS

    async def turn(self) -> None:
        """Look at all that is stored now."""
        self._epoch, self._begun = self._invalidations.epoch, self._clock()
        keys = self._store.keys()
        portions = [keys[begin : begin + PORTION] for begin in range(0, len(keys), PORTION)]
        for portion in portions:
            self.sweep(portion)
            await asyncio.sleep(TURN_SECONDS / len(portions))

    def sweep(self, keys: Sequence[str]) -> None:
        """Look at what is held under `keys`."""
        now = self._wall()
        for key in keys:
            slot = self._store.find(key)
            for stored in () if slot is None else slot.variants:
                if self._is_over(stored, now):
                    self._store.remove(stored)

    def _is_over(self, stored: StoredResponse, now: float) -> bool:
        validity = self._invalidations.state(stored.uri, stored.tags, stored.epoch)
        return validity is Validity.GONE or worth_keeping(stored, now, KEPT_SECONDS) < 0
