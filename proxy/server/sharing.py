"""What other replicas have, and a fetch's standing among them: does it ask the origin, and who hears of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.origin.fetch import Fetch
from proxy.policy import reuse
from proxy.policy.cache_key import portable
from proxy.policy.decisions import Reuse
from proxy.policy.messages import StoredResponse
from proxy.server.visit import Shared, Visit
from proxy.store.invalidations import Validity
from proxy.store.shared import Lease, Seen, SharedStore

ANSWERING = frozenset({Reuse.FRESH, Reuse.STALE_ALLOWED})
"""Decisions by which a stored response answers, and the origin has nothing to do with it."""
SAME_SECONDS = 0.05
"""What was made so little later is the same response, which took its time to the tier and back."""
STREAM_SECONDS = 1.0
"""How long others wait for the end of an answer whose beginning is there."""

Usable = Callable[[tuple[StoredResponse, ...]], StoredResponse | None]
"""The one that answers the request, of those that another replica was given."""


class Tenure:
    """One fetch's standing.

    key, request -- the cache key, and what tells collapsed requests apart (None: nobody waits for this one).
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
        self._asked_at = remote.standing

    async def elsewhere(self) -> StoredResponse | None:
        """What another replica has asked for meanwhile; None where this one is to ask, be it alone or for others."""
        assert self._request is not None
        led = await self._remote.lead(self._key, self._request, self._seen, self._seconds)
        self._lease = led.lease
        self._asked_at = self._remote.standing
        return self._usable(led.filled.responses) if led.filled.responses else None

    def follow(self, fetch: Fetch) -> None:
        """See to it that whoever waits for the fetch elsewhere hears of its end, or needs not wait for it."""
        fetch.on_streaming(self._streams)
        fetch.on_end(self._ended)

    @property
    def leads(self) -> bool:
        """Others may wait for what it brings."""
        return self._lease is not None and not self._lease.ended

    def _streams(self) -> None:
        """Here its beginning goes on at once; elsewhere they have nothing before they have all of it."""
        if self._lease is not None:
            self._late = asyncio.get_running_loop().call_later(STREAM_SECONDS, self._let_go)

    def _let_go(self) -> None:
        if self._lease is not None:
            self._remote.release(self._lease, alone=True)

    def keep(self, stored: StoredResponse) -> None:
        """Let the others have it."""
        self._remote.keep(stored, self._asked_at, self._lease)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Where it was given up another may ask."""
        if self._late is not None:
            self._late.cancel()
        if self._lease is not None:
            self._remote.release(self._lease, alone=not task.cancelled())


class Sharing:
    """What one process makes of what the others have."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def allows(self, visit: Visit) -> bool:
        """Whether the request may be answered with what other replicas have, and its answer be theirs."""
        shared, remote = self._shared, self._shared.remote
        if remote is None or not remote.usable or not shared.flags.query_cache or shared.flags.bypass:
            return False
        return remote.has_secret or portable(visit.exchange.head, visit.rule)

    def take_over(self, key: str, responses: tuple[StoredResponse, ...]) -> tuple[StoredResponse, ...]:
        """Keep here what is newer than what is here; everything under the key then, also what has no room here."""
        store, beside = self._shared.store, []
        for stored in responses:
            had = [one for one in store.get(key) if one.secondary_key == stored.secondary_key and one.part is None]
            if not any(_supersedes(one, stored) for one in had if self._is_valid(one)) and not store.put(stored):
                beside.append(stored)
        return (*store.get(key), *beside)

    def _is_valid(self, stored: StoredResponse) -> bool:
        return self._shared.validity(stored) is Validity.VALID

    def tenure(self, visit: Visit, key: str, request: str | None, seen: Seen | None) -> Tenure | None:
        """The standing of a fetch; None where it has none. For the parameters see Tenure."""
        shared = self._shared
        if shared.remote is None or not self.allows(visit):
            return None

        def usable(responses: tuple[StoredResponse, ...]) -> StoredResponse | None:
            stored = reuse.select(self.take_over(key, responses), visit.exchange.head.fields)
            return stored if stored is not None and self.answers(visit, stored) else None

        return Tenure(shared.remote, key, request, seen, usable, shared.limits.upstream_seconds * 2)

    def answers(self, visit: Visit, stored: StoredResponse) -> bool:
        """Whether what another replica was just given answers this request as well."""
        request = visit.exchange.head
        if stored.part is not None or not self._is_valid(stored) or reuse.select((stored,), request.fields) is None:
            return False
        return reuse.decide(stored, request, self._shared.wall(), rule=visit.rule) in ANSWERING


def _supersedes(here: StoredResponse, other: StoredResponse) -> bool:
    """Whether what is here is newer than what another replica had, or the same."""
    newer = reuse.made(here) - reuse.made(other)
    same = abs(newer) <= SAME_SECONDS and here.freshness.lifetime == other.freshness.lifetime
    return newer > SAME_SECONDS or same
