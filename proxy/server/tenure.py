"""One fetch's standing among the replicas: whether it is the one to ask the origin, and who hears of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.origin.fetch import Fetch
from proxy.policy.messages import StoredResponse
from proxy.store.shared import Lease, Seen, SharedStore

STREAM_SECONDS = 1.0
"""How long others wait for the end of an answer whose beginning is there."""

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
        self._late: asyncio.TimerHandle | None = None
        self._number = remote.number

    async def elsewhere(self) -> StoredResponse | None:
        """What another replica has asked for meanwhile; None where this one is to ask, be it alone or for others."""
        assert self._request is not None
        led = await self._remote.lead(self._key, self._request, self._seen, self._seconds)
        self._lease = led.lease
        self._number = self._remote.number
        return self._usable(led.filled.responses) if led.filled.responses else None

    def follow(self, fetch: Fetch) -> None:
        """See to it that whoever waits for the fetch elsewhere hears of its end, or needs not wait for it."""
        fetch.on_streaming(self._streams)
        fetch.task.add_done_callback(self._ended)

    def _streams(self) -> None:
        """Here its beginning goes on at once; elsewhere they have nothing before they have all of it."""
        if self._lease is not None:
            self._late = asyncio.get_running_loop().call_later(STREAM_SECONDS, self._let_go)

    def _let_go(self) -> None:
        if self._lease is not None:
            self._remote.release(self._lease, alone=True)

    def keep(self, stored: StoredResponse) -> None:
        """Let the others have it."""
        self._remote.keep(stored, self._number, self._lease)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Where it was given up another may ask."""
        if self._late is not None:
            self._late.cancel()
        if self._lease is not None:
            self._remote.release(self._lease, alone=not task.cancelled())
