"""What may become of a Redis behind a relay, each with what ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

from tests.redis_servers import Redis, client_of
from tests.relay import Relay

Fault = Callable[[Redis, Relay], Awaitable[None]]


async def frozen(server: Redis, _: Relay) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)


async def thawed(server: Redis, _: Relay) -> None:
    os.kill(server.process.pid, signal.SIGCONT)


async def slow(_: Redis, relay: Relay) -> None:
    relay.delay = 0.2


async def quick(_: Redis, relay: Relay) -> None:
    relay.delay = 0.0


async def deaf(_: Redis, relay: Relay) -> None:
    relay.stop()


async def cut(_: Redis, relay: Relay) -> None:
    relay.cut()


async def goes(_: Redis, relay: Relay) -> None:
    relay.go()


async def spoilt(_: Redis, relay: Relay) -> None:
    relay.spoil = lambda data: bytes(octet ^ 1 if at % 37 == 36 else octet for at, octet in enumerate(data))


async def clean(_: Redis, relay: Relay) -> None:
    relay.spoil = bytes
    relay.cut()


async def read_only(server: Redis, _: Relay) -> None:
    async with client_of(server) as client:
        await client.replicaof("127.0.0.1", 1)


async def writable(server: Redis, _: Relay) -> None:
    async with client_of(server) as client:
        await client.replicaof("NO", "ONE")


async def full(server: Redis, _: Relay) -> None:
    async with client_of(server) as client:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1")


async def roomy(server: Redis, _: Relay) -> None:
    async with client_of(server) as client:
        await client.config_set("maxmemory", "0")


async def evicting(server: Redis, _: Relay) -> None:
    """Everything is dropped again and again, the log of invalidations as well."""
    async with client_of(server) as client:
        await client.config_set("maxmemory-policy", "allkeys-random")
        used = (await client.info("memory"))["used_memory"]
        await client.config_set("maxmemory", str(used - 20_000))


async def locked(server: Redis, relay: Relay) -> None:
    async with client_of(server) as client:
        await client.config_set("requirepass", "another")
    relay.cut()


async def unlocked(server: Redis, _: Relay) -> None:
    async with client_of(server, password="another") as client:
        await client.config_set("requirepass", "")


async def emptied(server: Redis, _: Relay) -> None:
    async with client_of(server) as client:
        await client.flushall()
        await client.script_flush()


async def nothing(_: Redis, __: Relay) -> None:
    """It heals by itself."""


FAULTS: dict[str, tuple[Fault, Fault]] = {
    "frozen": (frozen, thawed),
    "slow": (slow, quick),
    "deaf": (deaf, goes),
    "cut": (cut, nothing),
    "spoilt": (spoilt, clean),
    "read-only": (read_only, writable),
    "full": (full, roomy),
    "evicting": (evicting, roomy),
    "locked": (locked, unlocked),
    "emptied": (emptied, nothing),
}
