"""The other replicas, as one worker knows them: what they share, and what they tell each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from config.flags import Flags
from config.tier import SharedTier
from proxy.store.invalidations import Invalidations
from proxy.store.notices import Notice, Notices
from proxy.store.shared import SharedStore


class Replicas:
    """See `shared` and `notices`. url -- of the Redis. seconds -- the longest for a call.

    origin -- its URL: replicas of one origin share. group -- names this worker and those that it tells anyway.
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
        flipped: Callable[[Mapping[str, bool]], None],
        wall: Callable[[], float],
    ) -> None:
        self.tier = SharedTier(url, seconds=seconds)
        name = hashlib.blake2b(origin.encode(), digest_size=8).hexdigest()
        self.notices = Notices(self.tier, name, group, here, flags, flipped)
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

    def tell(self, notices: Sequence[Notice]) -> None:
        """Let the others know what was invalidated here."""
        self.notices.tell(notices)

    def start(self) -> None:
        """Begin to listen."""
        self.notices.bulletin.start()

    async def close(self) -> None:
        """Tell what is to be told, bounded in time, and stop."""
        await self.store.close()
        await self.notices.bulletin.close()
        await self.tier.close()
