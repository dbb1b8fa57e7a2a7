"""The monitor over HTTP against a real server: its numbers, and a server that is away, starving or late."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.postgres import Postgres, running
from pool_monitor import finder, server_stats, tables
from pool_monitor.advisor.advise import from_server
from tests.pool_monitor.reports_table import QUERIES
from tests.pool_monitor.support import Served, execute, running_monitor, tables_known
from tests.support import PATIENCE, holds


async def test_the_pool_in_json(database: str) -> None:
    async with running_monitor(database) as client:
        async with asyncio.timeout(PATIENCE):
            while (answer := await client.get("/api/metrics/database-pool")).document["idleCount"] != 2:
                pass
        five = ("totalCount", "idleCount", "waitingCount", "maxConnections", "activeConnections")
        assert {name: answer.document[name] for name in five} == dict(zip(five, (2, 2, 0, 20, 0), strict=True))
        assert answer.document["verdict"] == "healthy"
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/readyz")).document == {"ready": True, "reason": "healthy"}


async def test_the_pool_for_prometheus(server: Postgres, database: str) -> None:
    await execute(database, "CREATE EXTENSION pg_stat_statements")
    async with running_monitor(database) as client:
        await holds(lambda: client.monitor.sampler is not None and client.monitor.sampler.latest is not None)
        text = (await client.get("/metrics")).content.decode()
    for line in (
        'siding_pool_connections{state="idle"}',
        "siding_pool_waiting 0.0",
        "siding_pool_connections_max 20.0",
        'siding_pool_connect_seconds_count{outcome="ok"}',
        'siding_pool_state{state="healthy"} 1.0',
        "siding_server_up 1.0",
        'siding_server_connections{state="idle"}',
        "siding_server_cache_hit_ratio",
        "siding_server_connections_max 60.0",
        'siding_server_statement_seconds_total{fingerprint="',
        'siding_flag{flag="ENABLE_QUERY_CACHE"} 1.0',
    ):
        assert line in text, line


async def test_statistics_without_statements_that_are_not_loaded() -> None:
    async with running() as plain:
        await execute(plain.url(), "CREATE EXTENSION pg_stat_statements")
        connection = await asyncpg.connect(plain.url())
        sample = await server_stats.look(connection)
        await connection.close()
    assert sample.database["max_connections"] == 100
    assert sample.statements == []


async def test_a_statement_of_several_roles_is_counted_once(database: str) -> None:
    await execute(database, "CREATE EXTENSION pg_stat_statements; CREATE TABLE seen (id int)")
    sql = "SELECT count(*) AS several FROM seen WHERE id = $1"
    connection = await asyncpg.connect(database)
    for role in ("none", "pg_read_all_data"):
        await connection.execute(f"SET ROLE {role}")
        await connection.fetch(sql, 1)
    await connection.execute("RESET ROLE")
    sample = await server_stats.look(connection)
    assert [calls for name, calls, _ in sample.statements if name == server_stats.fingerprint(sql)] == [2]
    advice = (await from_server(connection))["advice"]
    assert isinstance(advice, list)
    assert [(one["sql"], one["calls"]) for one in advice] == [(sql, 2)]
    await connection.close()


async def test_a_starving_pool_is_seen(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path, db_pool_max=1, db_pool_min=1) as client:
        await client.query("has-report", userId="ann")
        hold = asyncio.create_task(client.query("hold", seconds=1))
        numbers = client.monitor.parts.numbers
        assert numbers is not None
        await holds(lambda: [holder.name for holder in numbers().holders] == ["hold"])
        waiting = asyncio.create_task(client.query("has-report", userId="ann"))
        answer: Served | None = None
        async with asyncio.timeout(PATIENCE):
            while answer is None or answer.document["waitingCount"] != 1:
                answer = await client.get("/api/metrics/database-pool")
        assert answer.document["state"] == "saturated"
        assert answer.document["holders"][0]["name"] == "hold"
        assert answer.document["targets"]["waitingAlwaysZero"] is False
        assert (await client.get("/metrics")).status == 200
        assert (await waiting).document == {"exists": True}
        await hold


async def test_without_a_database(tmp_path: Path) -> None:
    async with running_monitor(None, QUERIES, tmp_path) as client:
        assert (await client.get("/readyz")).status == 200
        assert (await client.get("/api/metrics/database-pool")).document["state"] == "off"
        assert (await client.query("reports", userId="ann")).status == 503


async def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    async with running() as server:
        await server.stop()
        async with running_monitor(server.url(), QUERIES, tmp_path, db_pool_connection_timeout_ms=100) as client:
            answer = await client.query("reports", userId="ann")
            assert (answer.status, answer.document["error"]["code"]) == (503, "database-unreachable")
            assert answer.fields["Retry-After"] == "1"
            ready = await client.get("/readyz")
            assert (ready.status, ready.document["reason"].partition(":")[0]) == (503, "unreachable")
            await server.start()
            async with asyncio.timeout(PATIENCE):
                while (await client.get("/readyz")).status != 200:
                    pass


async def test_a_host_that_cannot_be_found_is_told_by_name(caplog: pytest.LogCaptureFixture) -> None:
    async with running_monitor("postgresql://nobody.invalid/db"):
        await holds(lambda: "cannot connect to the database: the host nobody.invalid" in caplog.text)


async def test_a_database_that_comes_late_is_asked_what_it_was_to_be_asked_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "READ_TABLES_SECONDS", 0.05)
    monkeypatch.setattr(finder, "ASK_AGAIN_SECONDS", 0.01)
    declared = '[[query]]\nname = "declared"\nsql = "SELECT 1 AS one"\ntables = ["homework"]\nttl = 60\n'
    async with running() as server:
        await server.stop()
        async with running_monitor(server.url(), declared, tmp_path) as client:
            found = client.monitor.finder
            assert found is not None
            await holds(lambda: "cannot connect to the database" in caplog.text)
            assert not found.told.is_set()
            await server.start()
            await asyncio.wait_for(found.told.wait(), PATIENCE)
    assert caplog.text.count("there is no table homework") == 1


async def test_a_database_that_goes_while_it_is_asked_for_tables_is_asked_again(
    reports: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "ASK_AGAIN_SECONDS", 0.01)
    read_by = tables.read_by
    gone: list[int] = []

    async def read_by_one_that_goes(connection: Any, *asked: Any) -> tables.Reading:
        if not gone:
            gone.append(await connection.fetchval("SELECT pg_backend_pid()"))
            await execute(reports, f"SELECT pg_terminate_backend({gone[0]})")
        return await read_by(connection, *asked)

    monkeypatch.setattr(tables, "read_by", read_by_one_that_goes)
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        await tables_known(client)
    assert gone
