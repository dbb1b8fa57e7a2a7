"""The other replicas, as one worker knows them: what they share, and what they tell each other."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from config.bulletin import Standing
from config.flags import Flags
from config.tasks import end
from config.tier import SharedTier, State
from config.tracing import apart
from proxy.store.invalidations import Invalidations
from proxy.store.notices import Notices
from proxy.store.shared import SharedStore
from proxy.store.telling import Notice

log = logging.getLogger("siding.replicas")

TOLD_SECONDS = 0.25
"""How long a purge waits for the tier, before its answer says that the others will hear of it later."""
COMPARE_SECONDS = 1.0
"""From one try to compare secrets to the next, while the tier is away."""


def log_name(origin: str) -> str:
    """What the replicas of one origin, given by its URL, have in common."""
    return hashlib.blake2b(origin.encode(), digest_size=8).hexdigest()


class Replicas:
    """See `shared` and `notices`. url -- of the Redis. seconds -- the longest for a call.

    origin -- its URL: replicas of one origin share. group -- names this worker and those that it tells anyway.
    minds_flags -- whether they are set in all replicas, and heard of, from here.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float,
        origin: str,
        group: str,
        secret: bytes,
        limit: int,
        here: Invalidations,
        flags: Flags,
        minds_flags: bool,
        logged: Callable[[int, Standing], None],
        wall: Callable[[], float],
    ) -> None:
        self.tier = SharedTier(url, seconds=seconds)
        name = log_name(origin)
        self.notices = Notices(self.tier, name, group, here, flags if minds_flags else None, logged)
        self.store = SharedStore(
            self.tier,
            self.notices,
            name=name,
            on=lambda: flags.redis_cache and not flags.bypass,
            here=here,
            secret=secret,
            limit=limit,
            wall=wall,
        )
        self._whose = f"siding:{name}:whose"
        self._mark = hmac.digest(secret, b"which", "sha256").hex()[:16].encode()
        self._comparing: asyncio.Task[None] | None = None

    def tell(self, notices: Sequence[Notice]) -> int:
        """Let the others know what was invalidated here. How many notices that makes."""
        return self.notices.tell(notices)

    async def told(self) -> bool:
        """Whether the others can hear of all that was invalidated here."""
        return await self.notices.bulletin.sent(TOLD_SECONDS if self.tier.state is State.CLOSED else 0.0)

    def start(self, others: Collection[str]) -> None:
        """Begin to listen. others -- see `config.bulletin.Bulletin.start`."""
        self.notices.bulletin.start(others)
        self._comparing = apart(self._compare())

    async def _compare(self) -> None:
        """Say so where whoever came before has another secret: the two share nothing, and nothing else tells."""

        async def swap(client: Any) -> bytes:
            try:
                before: bytes | None = await client.set(self._whose, self._mark, get=True)
            except self.tier.refusal:
                # it reads and does not write, which is no reason to leave it alone
                return self._mark
            return self._mark if before is None else before

        while (before := await self.tier.run(swap, "SET")) is None:  # noqa: ASYNC110 - the tier is another process
            await asyncio.sleep(COMPARE_SECONDS)
        if before != self._mark:
            log.warning(
                "another replica has, or had, another CACHE_SECRET: with different ones nothing stored is shared"
            )

    async def close(self) -> None:
        """Tell what is to be told, bounded in time, and stop."""
        await end([self._comparing])
        await self.store.close()
        await self.notices.bulletin.close()
        await self.tier.close()
