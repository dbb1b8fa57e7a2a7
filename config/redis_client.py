"""redis-py as the shared tier uses it. Imported with the first tier: it takes a tenth of a second and more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from config.redis_place import Mode, Place
from config.tier import CALL_SECONDS, CONNECT_SECONDS, MAX_CALLS

__all__ = ["FAULTS", "PRIMARIES", "TIMEOUTS", "NoScriptError", "ResponseError", "closed", "connected"]

log = logging.getLogger("siding.tier")

SENTINEL_SECONDS = 0.3
"""For a connection to a Sentinel."""
FAULTS: tuple[type[Exception], ...] = (
    TimeoutError,
    OSError,
    RedisError,
    RedisClusterException,
    ValueError,
    AttributeError,
    RuntimeError,
)
"""What a call may raise where the tier cannot be had: redis-py looks for connections that it has closed meanwhile, and
that a cluster is away is no `RedisError`; and to uvloop it is a RuntimeError to write where the other side has left."""
TIMEOUTS = (TimeoutError, redis.exceptions.TimeoutError)
PRIMARIES = redis.asyncio.RedisCluster.PRIMARIES
"""For commands that are for each of them."""


def connected(place: Place, seconds: float) -> tuple[Any, list[Callable[[], Awaitable[None]]]]:
    """A client for the place, which connects when it is first used, and what closes it. seconds -- for an answer."""
    options: dict[str, Any] = {
        "username": place.username,
        "password": place.password,
        "socket_timeout": seconds,
        "socket_connect_timeout": CONNECT_SECONDS,
        "retry": None,
        # without news of the server's maintenance, for which each connection would have to ask
        "protocol": 2,
    }
    match place.mode:
        case Mode.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in place.hosts]
            cluster = redis.asyncio.RedisCluster(
                startup_nodes=nodes,
                ssl=place.tls,
                max_connections=MAX_CALLS,
                require_full_coverage=False,
                **{**options, "retry": Retry(NoBackoff(), 1)},
            )
            return cluster, [cluster.aclose]
        case Mode.SENTINEL:
            watching = {
                "socket_timeout": CALL_SECONDS,
                "socket_connect_timeout": SENTINEL_SECONDS,
                # the next one is asked at once
                "retry": None,
                "ssl": place.tls,
                "username": place.sentinel_username,
                "password": place.sentinel_password,
            }
            sentinel = Sentinel(place.hosts, sentinel_kwargs=watching)  # type: ignore[no-untyped-call]
            master = sentinel.master_for(
                place.service, db=place.number, ssl=place.tls, max_connections=MAX_CALLS, **options
            )
            return master, [master.aclose, *(one.aclose for one in sentinel.sentinels)]
    pool = redis.asyncio.ConnectionPool(
        max_connections=MAX_CALLS, connection_class=_connection_class(place), **_where(place), **options
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


async def closed(closing: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Close what `connected` has told."""
    for close in closing:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await close()
        except FAULTS as fault:
            log.debug("a connection of the shared tier did not close well: %s", fault)
