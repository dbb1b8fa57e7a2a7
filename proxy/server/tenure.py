"""One fetch's standing among the replicas: whether it is the one to ask the origin, and who hears of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.policy.messages import StoredResponse
from proxy.store.shared import Lease, Seen, SharedStore

Usable = Callable[[tuple[StoredResponse, ...]], StoredResponse | None]
"""The one that answers the request, of those that another replica was given."""


class Tenure:
    """key, request -- the cache key, and what tells collapsed requests apart (None: nobody waits for this one).

    seen -- what the tier had before. seconds -- the longest wait for another replica.
    """

    def __init__(
        self, remote: SharedStore, key: str, request: str | None, seen: Seen | None, usable: Usable, seconds: float
    ) -> None:
        self._remote = remote
        self._key = key
        self._request = request
        self._seen = seen
        self._usable = usable
        self._seconds = seconds
        self._lease: Lease | None = None
        self._number = remote.number

    async def elsewhere(self) -> StoredResponse | None:
        """What another replica has asked for meanwhile; None where this one is to ask, be it alone or for others."""
        assert self._request is not None
        led = await self._remote.lead(self._key, self._request, self._seen, self._seconds)
        self._lease = led.lease
        self._number = self._remote.number
        return self._usable(led.filled.responses) if led.filled.responses else None

    def keep(self, stored: StoredResponse) -> None:
        """Let the others have it."""
        self._remote.keep(stored, self._number, self._lease)

    def ended(self, task: asyncio.Task[None]) -> None:
        """The fetch is over; where it was given up another may ask."""
        if self._lease is not None:
            self._remote.release(self._lease, alone=not task.cancelled())
