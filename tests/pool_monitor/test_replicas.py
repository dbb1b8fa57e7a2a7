"""Monitors that share a real Redis: one asks for all, a change reaches all, and Redis is never the outage."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis.asyncio

from config.listen import spare_port
from config.tier import SharedTier
from deploy.postgres import Postgres
from pool_monitor import changes
from pool_monitor.replicas import reader_of
from tests.pool_monitor.reports_table import QUERIES, TABLE
from tests.pool_monitor.support import Client, execute, found, listening, running_monitor, tables_known
from tests.redis_servers import Redis
from tests.support import PATIENCE, holds


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
    await holds(lambda: not replicas.uncounted)


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


async def test_a_change_that_the_tier_has_lost_is_counted_again(
    pair: tuple[Client, Client], shared: Redis, database: str
) -> None:
    """As a fail-over to a replica may, which had not got it: what was read before the change would hold again."""
    one, other = pair
    await rows(one)
    async with redis.asyncio.Redis(port=shared.port) as client:
        kept = {key: await client.dump(key) async for key in client.scan_iter("siding:*") if b"log" not in key}
        await execute(database, "INSERT INTO reports (user_id, title) VALUES ('ann', 'more')")
        async with asyncio.timeout(PATIENCE):
            while (await rows(one))[0] != 2 or (await rows(other))[0] != 2:
                pass
        for monitor in pair:
            await counted(monitor)
            monitor.monitor.cache.clear()
        for key, value in kept.items():
            await client.restore(key, 60_000 if b"answer" in key else 0, value or b"", replace=True)
    assert await rows(other) == (2, "miss")
    await counted(other)
    other.monitor.cache.clear()
    assert await rows(other) == (2, "miss")
    assert await rows(one) == (2, "shared")


async def test_a_tier_that_may_have_lost_something_makes_all_count_as_changed(
    pair: tuple[Client, Client], shared: Redis
) -> None:
    one, other = pair
    await rows(one)
    async with redis.asyncio.Redis(port=shared.port) as client:
        [log] = [key async for key in client.scan_iter("*:log")]
        await client.hset(log, "generation", "another")
    async with asyncio.timeout(PATIENCE):
        while (await rows(other))[1] != "miss":
            await counted(other)
            other.monitor.cache.clear()


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


async def told_by_both(one: Client, other: Client) -> list[tuple[object, str]]:
    """What each says of the query `who`, one after the other."""
    for client in (one, other):
        await listening(client)
        await tables_known(client, "who")
        await counted(client)
    answers = [await client.query("who") for client in (one, other)]
    return [(answer.document["rows"], found(answer)) for answer in answers]


WHO = '[[query]]\nname = "who"\nsql = "SELECT owner FROM notes"\n'


async def test_roles_are_not_given_what_others_may_see(
    server: Postgres, database: str, shared: Redis, tmp_path: Path
) -> None:
    policy = (
        "CREATE TABLE notes (owner text); INSERT INTO notes VALUES ('role_a'), ('role_b'); "
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON notes USING (owner = current_user);"
    )
    roles = ("role_a", "role_b")
    await execute(
        database, policy + "".join(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON notes TO {role};" for role in roles)
    )
    user = urlsplit(database).username
    urls = [database.replace(f"{user}@", f"{role}@") for role in roles]
    try:
        async with (
            running_monitor(urls[0], WHO, tmp_path, redis_url=shared.url) as one,
            running_monitor(urls[1], WHO, tmp_path, redis_url=shared.url) as other,
        ):
            assert await told_by_both(one, other) == [([{"owner": role}], "miss") for role in roles]
    finally:
        await execute(database, "DROP TABLE notes; DROP ROLE role_a, role_b")


async def test_nor_is_what_another_schema_has(database: str, shared: Redis, tmp_path: Path) -> None:
    for schema in ("one", "other"):
        await execute(
            database, f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.notes AS SELECT '{schema}'::text AS owner"
        )
    async with (
        running_monitor(f"{database}?options=-csearch_path%3Done", WHO, tmp_path, redis_url=shared.url) as one,
        running_monitor(f"{database}?options=-csearch_path%3Dother", WHO, tmp_path, redis_url=shared.url) as other,
    ):
        assert await told_by_both(one, other) == [([{"owner": name}], "miss") for name in ("one", "other")]


async def test_nor_is_the_answer_to_a_query_of_the_same_name(database: str, shared: Redis, tmp_path: Path) -> None:
    await execute(database, "CREATE TABLE notes AS SELECT 'old'::text AS owner")
    async with (
        running_monitor(database, WHO, tmp_path, redis_url=shared.url) as one,
        running_monitor(
            database, WHO.replace("owner FROM", "'new' AS owner FROM"), tmp_path, redis_url=shared.url
        ) as other,
    ):
        assert await told_by_both(one, other) == [([{"owner": name}], "miss") for name in ("old", "new")]


def test_how_the_database_is_reached_is_not_who_asks_it() -> None:
    plain = "postgresql://ann:secret@db/app?search_path=a"
    for url in (plain.replace("secret", "other"), plain.replace("@db", "@db2"), f"{plain}&sslmode=require"):
        assert reader_of(url, "os") == reader_of(plain, "os")
    for url in (
        plain.replace("ann", "bob"),
        plain.replace("=a", "=b"),
        f"{plain}&timezone=UTC",
        plain.replace("ann", ""),
    ):
        assert reader_of(url, "os") != reader_of(plain, "os")
    assert reader_of("postgresql://db/app", "os") != reader_of("postgresql://db/app", "other")
    assert "secret" not in reader_of(plain, "os")


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
    assert await tier.count_up({"a": 1}) is None
    assert tier.failed == 3
    await tier.close()
