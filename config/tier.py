"""The tier that replicas share: a Redis, each call bounded in time, and never the outage.

After a few failures in a row it is left alone for a while; then one call tries it again. A single server, the master
that Sentinels name, or a cluster (`redis_place`) are all the same to whoever calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from config.redis_place import Mode, Place, read_place

log = logging.getLogger("siding.tier")

CALL_SECONDS = 0.05
CONNECT_SECONDS = 0.5
FAILURES = 3
"""Failures in a row after which the tier is left alone."""
REST_SECONDS = 1.0
MAX_CONNECTIONS = 32
"""To each server; further calls wait for one within their time, so that a burst does not become a storm of connects."""

_Answer = TypeVar("_Answer")
Observe = Callable[["Result", float], None]


class Result(StrEnum):
    """How a call ended."""

    OK = "ok"
    TIMED_OUT = "timed-out"
    FAILED = "failed"


class State(StrEnum):
    """Whether the tier is called."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


def _nobody(_: Result, __: float) -> None:
    """Nobody asks."""


class SharedTier:
    """A Redis at `url` (`redis_place`). clock -- monotonic seconds. observe -- told of every call that was made.

    Every call returns None, or False, where the tier cannot be had; none raises.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic, observe: Observe = _nobody) -> None:
        self._clock = clock
        self._observe = observe
        self._client, self._closing = _connected(read_place(url))
        self._failures = 0
        self._rests_until = 0.0
        self.failed = 0

    @property
    def available(self) -> bool:
        """Whether a call would be made now."""
        return self._clock() >= self._rests_until

    @property
    def state(self) -> State:
        """Half open: it has failed, and the next call tries it."""
        if self._failures < FAILURES:
            return State.CLOSED
        return State.HALF_OPEN if self.available else State.OPEN

    async def read(self, key: str, counters: Sequence[str]) -> tuple[bytes | None, float, list[int]] | None:
        """A value with the seconds it has left, and counters, in one round trip; None where the tier cannot be had."""

        async def call() -> tuple[bytes | None, float, list[int]]:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.get(key)
            pipeline.pttl(key)
            # one by one: in a cluster they need not be on the same node
            for counter in counters:
                pipeline.get(counter)
            value, left, *counted = await pipeline.execute()
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
        began = self._clock()
        try:
            async with asyncio.timeout(CONNECT_SECONDS if self._failures else CALL_SECONDS):
                answer = await call()
        except (TimeoutError, OSError, RedisError, ValueError) as fault:
            timed_out = isinstance(fault, TimeoutError | redis.exceptions.TimeoutError)
            self._observe(Result.TIMED_OUT if timed_out else Result.FAILED, self._clock() - began)
            self._fail(fault)
            return None
        self._observe(Result.OK, self._clock() - began)
        if self._failures >= FAILURES:
            log.info("the shared tier answers again")
        self._failures, self._rests_until = 0, 0.0
        return answer

    def _fail(self, fault: Exception) -> None:
        self.failed += 1
        self._failures += 1
        if self._failures == FAILURES:
            log.warning("the shared tier is left alone until it answers again: %s", str(fault) or type(fault).__name__)
        if self._failures >= FAILURES:
            self._rests_until = self._clock() + REST_SECONDS

    async def close(self) -> None:
        """Close its connections."""
        for close in self._closing:
            await close()


def _connected(place: Place) -> tuple[Any, list[Callable[[], Awaitable[None]]]]:
    """A client for the place, which connects when it is first used, and what closes it."""
    options: dict[str, Any] = {
        "username": place.username,
        "password": place.password,
        "socket_timeout": CALL_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "retry": None,
    }
    match place.mode:
        case Mode.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in place.hosts]
            cluster = redis.asyncio.RedisCluster(
                startup_nodes=nodes,
                ssl=place.tls,
                max_connections=MAX_CONNECTIONS,
                require_full_coverage=False,
                **{**options, "retry": Retry(NoBackoff(), 1)},
            )
            return cluster, [cluster.aclose]
        case Mode.SENTINEL:
            watching = {"socket_timeout": CALL_SECONDS, "socket_connect_timeout": CONNECT_SECONDS, "ssl": place.tls}
            sentinel = Sentinel(place.hosts, sentinel_kwargs=watching)  # type: ignore[no-untyped-call]
            master = sentinel.master_for(
                place.service, db=place.number, ssl=place.tls, max_connections=MAX_CONNECTIONS, **options
            )
            return master, [master.aclose, *(one.aclose for one in sentinel.sentinels)]
    pool = redis.asyncio.BlockingConnectionPool(
        max_connections=MAX_CONNECTIONS,
        timeout=CALL_SECONDS,
        connection_class=_connection_class(place),
        **_where(place),
        **options,
    )
    client = redis.asyncio.Redis(connection_pool=pool)
    return client, [client.aclose, pool.aclose]


def _connection_class(place: Place) -> type[redis.asyncio.connection.AbstractConnection]:
    if place.mode is Mode.SOCKET:
        return redis.asyncio.UnixDomainSocketConnection
    return redis.asyncio.SSLConnection if place.tls else redis.asyncio.Connection


def _where(place: Place) -> dict[str, Any]:
    if place.mode is Mode.SOCKET:
        return {"path": place.path, "db": place.number}
    [(host, port)] = place.hosts
    return {"host": host, "port": port, "db": place.number}
