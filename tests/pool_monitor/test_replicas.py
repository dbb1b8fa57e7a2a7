"""Monitors that share a real Redis: one asks for all, a change reaches all, and Redis is never the outage."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from config.listen import spare_port
from config.tier import SharedTier
from pool_monitor import changes
from tests.pool_monitor.support import Client, running_monitor
from tests.pool_monitor.test_monitor import QUERIES, TABLE, execute, found, listening, tables_known
from tests.redis_servers import Redis
from tests.support import PATIENCE


@pytest.fixture
async def pair(database: str, shared: Redis, tmp_path: Path) -> AsyncIterator[tuple[Client, Client]]:
    """Two monitors of one database with one Redis."""
    await execute(database, TABLE)
    await execute(database, "INSERT INTO reports (user_id, title) VALUES ('ann', 'first')")
    connection = await asyncpg.connect(database)
    await changes.install(connection, ["reports"])
    await connection.close()
    async with (
        running_monitor(database, QUERIES, tmp_path, redis_url=shared.url) as one,
        running_monitor(database, QUERIES, tmp_path, redis_url=shared.url) as other,
    ):
        for client in (one, other):
            await listening(client)
            await tables_known(client)
            await counted(client)
        yield one, other


async def counted(client: Client) -> None:
    """Until the monitor has told the tier of all it has heard."""
    replicas = client.monitor.replicas
    assert replicas is not None
    async with asyncio.timeout(PATIENCE):
        while replicas.uncounted:  # noqa: ASYNC110 - told over a socket
            await asyncio.sleep(0.005)


async def rows(client: Client) -> tuple[int, str]:
    answer = await client.query("reports", userId="ann")
    assert answer.status == 200
    return answer.document["rowCount"], found(answer)


async def test_one_asks_for_all(pair: tuple[Client, Client]) -> None:
    one, other = pair
    assert await rows(one) == (1, "miss")
    assert await rows(other) == (1, "shared")
    assert await rows(other) == (1, "hit")


async def test_a_change_reaches_all(pair: tuple[Client, Client], database: str) -> None:
    one, other = pair
    for number in range(2, 8):
        await execute(database, "INSERT INTO reports (user_id, title) VALUES ('ann', 'more')")
        async with asyncio.timeout(PATIENCE):
            while (await rows(one))[0] != number or (await rows(other))[0] != number:
                pass
        # and nobody goes back
        for client in (one, other, one, other):
            assert (await rows(client))[0] == number


async def test_a_flag_stops_the_sharing(pair: tuple[Client, Client]) -> None:
    one, other = pair
    await rows(one)
    await other.ask("PATCH", "/api/flags", {"ENABLE_REDIS_CACHE": False})
    assert await rows(other) == (1, "miss")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_redis_is_never_the_outage(
    pair: tuple[Client, Client], shared: Redis, database: str, how: signal.Signals
) -> None:
    one, other = pair
    await rows(one)
    os.kill(shared.process.pid, how)
    await execute(database, "INSERT INTO reports (user_id, title) VALUES ('ann', 'more')")
    async with asyncio.timeout(PATIENCE):
        while (await rows(one))[0] != 2 or (await rows(other))[0] != 2:
            pass
    assert (await rows(one))[1] == "hit"
    if how is signal.SIGSTOP:
        os.kill(shared.process.pid, signal.SIGCONT)
        await counted(one)
        await counted(other)
        assert (await rows(other))[0] == 2


async def test_broken_values_are_misses(pair: tuple[Client, Client], shared: Redis) -> None:
    one, other = pair
    await rows(one)
    async with redis.asyncio.Redis(port=shared.port) as client:
        keys = [key async for key in client.scan_iter("siding:*:answer:*")]
        assert len(keys) == 1
        assert b"ann" not in keys[0]
        await client.set(keys[0], b"\x00broken", keepttl=True)
    assert await rows(other) == (1, "miss")


async def test_a_tier_that_is_not_there_is_left_alone() -> None:
    tier = SharedTier(f"redis://127.0.0.1:{spare_port()}/0")
    for _ in range(3):
        assert await tier.read("a", ["b"]) is None
    assert (tier.failed, tier.available) == (3, False)
    assert await tier.write("a", b"b", 1) is False
    assert await tier.count_up(["a"]) is False
    assert tier.failed == 3
    await tier.close()
