"""The tier that replicas share: a Redis, each call bounded in time, and never the outage.

After a few failures in a row it is left alone for a while; then one call tries it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import redis.asyncio
from redis.exceptions import RedisError

log = logging.getLogger("siding.tier")

CALL_SECONDS = 0.05
CONNECT_SECONDS = 0.5
FAILURES = 3
"""Failures in a row after which the tier is left alone."""
REST_SECONDS = 1.0
MAX_CONNECTIONS = 50

_Answer = TypeVar("_Answer")


class SharedTier:
    """A Redis at `url` (`redis://`, `rediss://`, `unix://`). clock -- monotonic seconds.

    Every call returns None, or False, where the tier cannot be had; none raises.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._client: redis.asyncio.Redis[Any] = redis.asyncio.Redis.from_url(  # type: ignore[type-arg,unused-ignore]
            url,
            socket_timeout=CALL_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            max_connections=MAX_CONNECTIONS,
            retry_on_timeout=False,
            retry=None,
        )
        self._failures = 0
        self._rests_until = 0.0
        self.failed = 0

    @property
    def available(self) -> bool:
        """Whether a call would be made now."""
        return self._clock() >= self._rests_until

    async def read(self, key: str, counters: Sequence[str]) -> tuple[bytes | None, float, list[int]] | None:
        """A value with the seconds it has left, and counters, in one round trip; None where the tier cannot be had."""

        async def call() -> tuple[bytes | None, float, list[int]]:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.get(key)
            pipeline.pttl(key)
            if counters:
                pipeline.mget(counters)
            value, left, *rest = await pipeline.execute()
            counted = rest[0] if rest else []
            return value, max(0, left) / 1000, [int(count or 0) for count in counted]

        return await self._try(call)

    async def write(self, key: str, value: bytes, seconds: float) -> bool:
        """Keep a value for so long."""

        async def call() -> bool:
            await self._client.set(key, value, px=max(1, round(1000 * seconds)))
            return True

        return await self._try(call) or False

    async def count_up(self, counters: Sequence[str]) -> bool:
        """Add one to each counter."""

        async def call() -> bool:
            pipeline = self._client.pipeline(transaction=False)
            for counter in counters:
                pipeline.incr(counter)
            await pipeline.execute()
            return True

        return await self._try(call) or False

    async def _try(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        if not self.available:
            return None
        if self._failures >= FAILURES:
            # one tries; the others leave it alone until that has come back
            self._rests_until = self._clock() + REST_SECONDS
        try:
            async with asyncio.timeout(CONNECT_SECONDS if self._failures else CALL_SECONDS):
                answer = await call()
        except (TimeoutError, OSError, RedisError, ValueError) as fault:
            self.failed += 1
            self._failures += 1
            if self._failures == FAILURES:
                log.warning(
                    "the shared tier is left alone until it answers again: %s", str(fault) or type(fault).__name__
                )
            if self._failures >= FAILURES:
                self._rests_until = self._clock() + REST_SECONDS
            return None
        if self._failures >= FAILURES:
            log.info("the shared tier answers again")
        self._failures, self._rests_until = 0, 0.0
        return answer

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()
