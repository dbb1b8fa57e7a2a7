"""Several proxies, one Redis, one origin."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from proxy.store.replicas import Replicas
from proxy.store.shared import LeaseOutcome
from tests.redis_servers import Redis, client_of
from tests.relay import Relay, relayed
from tests.support import Client, Message, Origin, Proxy, holds, running_proxy

SECRET = "0123456789abcdef" * 2
FRESH = "Cache-Control: max-age=60"
REPORTS = """
[[route]]
match = "/reports"
methods = ["POST"]
ttl = 300
key = ["body", "authorization"]
tags = ["reports"]
invalidated_by = ["POST /homework/*"]
"""


def replicas_of(proxy: Proxy) -> Replicas:
    assert proxy.worker.replicas is not None
    return proxy.worker.replicas


async def ready(*proxies: Proxy) -> None:
    """They hear of each other."""
    for proxy in proxies:
        store = replicas_of(proxy).store
        await holds(lambda: store.usable)  # noqa: B023 - it is awaited at once


async def settled(*proxies: Proxy) -> None:
    """What is on its way to Redis and back has arrived."""
    for proxy in proxies:
        replicas = replicas_of(proxy)
        await holds(lambda: not replicas.store._tasks and replicas.notices.bulletin.settled)  # noqa: B023


@contextlib.asynccontextmanager
async def several(origin: Origin, url: str, count: int = 2, **options: Any) -> AsyncIterator[list[Proxy]]:
    async with contextlib.AsyncExitStack() as stack:
        options = {"redis_url": url, "cache_secret": SECRET, "wall": time.time, **options}
        proxies = [await stack.enter_async_context(running_proxy(origin.url, **options)) for _ in range(count)]
        await ready(*proxies)
        yield proxies


@contextlib.asynccontextmanager
async def parted(origin: Origin, shared: Redis) -> AsyncIterator[tuple[Proxy, Proxy, Relay]]:
    """Two, and the relay between the first and the tier."""
    async with relayed(shared.port) as relay:
        options: dict[str, Any] = {"cache_secret": SECRET, "wall": time.time}
        async with (
            running_proxy(origin.url, redis_url=f"redis://127.0.0.1:{relay.port}/0", **options) as away,
            running_proxy(origin.url, redis_url=shared.url, **options) as other,
        ):
            await ready(away, other)
            yield away, other, relay


def status_of(message: Message) -> str:
    return message.get("cache-status") or ""


def leases(*proxies: Proxy) -> dict[LeaseOutcome, int]:
    total = dict.fromkeys(LeaseOutcome, 0)
    for proxy in proxies:
        for outcome, count in replicas_of(proxy).store.leases.items():
            total[outcome] += count
    return total


async def heard(teller: Proxy, *others: Proxy) -> None:
    """Everything that one has told has arrived at the others."""
    told = replicas_of(teller).notices.bulletin
    await holds(lambda: not told.pending)
    for other in others:
        bulletin = replicas_of(other).notices.bulletin
        await holds(lambda: bulletin.position >= told.published)  # noqa: B023 - it is awaited at once


async def admin(proxy: Proxy, method: str, path: str, content: bytes) -> Message:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.admin_port)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{proxy.admin_port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    message = await Client(reader, writer).response()
    writer.close()
    return message


async def dump(shared: Redis) -> bytes:
    """Every key and value of the server."""
    found = []
    async with client_of(shared) as client:
        async for key in client.scan_iter("*"):
            kind = await client.type(key)
            values = {
                b"string": client.get,
                b"hash": client.hgetall,
                b"stream": client.xrange,
            }
            found.append(repr((key, await values[kind](key))).encode())
    return b"\n".join(found)
