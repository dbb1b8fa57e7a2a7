"""The monitor over HTTP against a real server: what is kept of queries' answers, and what makes them anew."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from asyncpg.types import ServerVersion

from pool_monitor import changes, finder, tables
from tests.pool_monitor.reports_table import QUERIES
from tests.pool_monitor.support import (
    Client,
    all_found,
    execute,
    found,
    listening,
    purged_proxy,
    running_monitor,
    tables_known,
)
from tests.support import PATIENCE, holds

DEAFEN = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'siding-monitor changes'"


async def test_answers_are_kept_and_flags_stop_that(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        await listening(client)
        await all_found(client)
        assert [found(await client.query("reports", userId="ann")) for _ in range(3)] == ["miss", "hit", "hit"]
        assert found(await client.query("reports", userId="bob")) == "miss"
        report = (await client.get("/api/metrics/query-cache")).document
        keys = ("cacheHits", "cacheMisses", "cacheHitRate", "enabled")
        assert {name: report[name] for name in keys} == dict(zip(keys, (2, 2, "50.00%", True), strict=True))
        await client.ask("PATCH", "/api/flags", {"ENABLE_QUERY_CACHE": False})
        assert found(await client.query("reports", userId="ann")) == "bypass"
        assert (await client.get("/api/metrics/query-cache")).document["enabled"] is False


async def test_numbers_that_are_none_are_not_taken_for_each_other(database: str, tmp_path: Path) -> None:
    query = '[[query]]\nname = "sign"\nsql = "SELECT $1::float8::text AS of"\nparameters = ["v: double"]\n'
    big = '[[query]]\nname = "big"\nsql = "SELECT $1::bigint AS of"\nparameters = ["v: bigint"]\n'
    async with running_monitor(database, query + big, tmp_path) as client:
        await listening(client)
        await all_found(client)
        for value in ("Infinity", "-Infinity", "NaN"):
            assert (await client.get(f"/api/queries/sign?v={value}")).document["rows"] == [{"of": value}]
        assert (await client.query("sign", v=None)).document["rows"] == [{"of": None}]
        assert (await client.get(f"/api/queries/big?v={10**20}")).status == 400


async def test_equal_calls_ask_once(reports: str, tmp_path: Path) -> None:
    slow = QUERIES.replace('name = "hold"', 'name = "held"\ntables = ["reports"]', 1).replace("ttl = 0\n", "ttl = 60\n")
    async with running_monitor(reports, slow, tmp_path) as client:
        await listening(client)
        answers = await asyncio.gather(*(client.query("held", seconds=0.2) for _ in range(20)))
        assert sorted(found(answer) for answer in answers) == ["collapsed"] * 19 + ["miss"]
        await client.ask("PATCH", "/api/flags", {"ENABLE_DEDUP": False})
        answers = await asyncio.gather(*(client.query("held", seconds=0.3) for _ in range(4)))
        assert [found(answer) for answer in answers] == ["miss"] * 4
        assert found(await client.query("held", seconds=0.3)) == "hit"


async def test_a_change_makes_answers_fresh(reports: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(reports)
    assert await changes.install(connection, ["reports"]) == ["public.reports"]
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        await listening(client)
        await tables_known(client)
        assert (await client.query("reports", userId="ann")).document["rowCount"] == 2
        assert found(await client.query("reports", userId="ann")) == "hit"
        await connection.execute("INSERT INTO reports (user_id, title) VALUES ('ann', 'third')")
        async with asyncio.timeout(PATIENCE):
            while (await client.query("reports", userId="ann")).document["rowCount"] != 3:
                pass
        assert found(await client.query("reports", userId="ann")) == "hit"
    assert await changes.remove(connection) == ["public.reports"]
    assert await changes.installed(connection) == []
    await connection.close()


async def test_nothing_is_remembered_of_tables_that_nobody_reads(
    reports: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any role of the database may notify."""
    declared = '[[query]]\nname = "declared"\nsql = "TABLE reports"\ntables = ["reports"]\n'
    miscounted = '[[query]]\nname = "miscounted"\nsql = "SELECT $1::int"\n'
    invented = "SELECT pg_notify('siding_changed', 'public.t' || n), pg_notify('siding_changed', n || '.reports')"
    connection = await asyncpg.connect(reports)
    await changes.install(connection, ["reports"])
    async with running_monitor(reports, QUERIES + declared + miscounted, tmp_path) as client:
        cache = client.monitor.cache
        await listening(client)
        await all_found(client)
        told: list[tuple[str, ...]] = []
        spoil = cache.changed

        def changed(*names: str) -> None:
            told.append(tuple(sorted(names)))
            spoil(*names)

        def forget() -> None:
            told.append(())

        monkeypatch.setattr(cache, "changed", changed)
        monkeypatch.setattr(cache, "forget", forget)
        assert found(await client.query("reports", userId="ann")) == "miss"
        await connection.execute(f"{invented} FROM generate_series(1, 500) AS n")
        await connection.execute("DELETE FROM reports")
        await holds(lambda: ("public.reports", "reports") in told)
        # which may be the one that is meant
        assert told == [("reports",)] * 500 + [("public.reports", "reports")]
        assert (await client.query("reports", userId="ann")).document["rowCount"] == 0
    await connection.close()


async def test_while_tables_are_not_known_any_may_be_among_them(
    reports: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(finder, "LOCK_SECONDS", 0.1)
    queries = "".join(f'[[query]]\nname = "{name}"\nsql = "TABLE {name}"\n' for name in ("locked", "reports"))
    locker = await asyncpg.connect(reports)
    await locker.execute("CREATE TABLE locked AS SELECT 1 AS id")
    await locker.execute("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
    async with running_monitor(reports, queries, tmp_path) as client:
        await listening(client)
        await tables_known(client)
        assert [found(await client.query("reports")) for _ in range(2)] == ["miss", "hit"]
        await execute(reports, "SELECT pg_notify('siding_changed', 'public.locked')")
        await holds(lambda: len(client.monitor.cache.held) == 0)
    await locker.close()


async def test_tables_that_do_not_tell_of_changes_are_told_of(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await execute(reports, "CREATE TABLE homework (id int); CREATE TABLE grades (id int)")
    more = [
        f'[[query]]\nname = "{name}"\nsql = "{sql}"\nttl = {ttl}\n{declared}\n'
        for name, sql, ttl, declared in (
            ("all-homework", "SELECT id FROM homework", 9, ""),
            ("misspelt", "SELECT id FROM homework", 9, 'tables = ["homewrok"]'),
            ("told", "SELECT id FROM reports", 9, 'tables = ["reports"]'),
            ("anew", "SELECT id FROM grades", 0, ""),
        )
    ]
    connection = await asyncpg.connect(reports)
    await changes.install(connection, ["reports"])
    await connection.close()
    async with running_monitor(reports, QUERIES + "\n".join(more), tmp_path) as client:
        await all_found(client)
    told = [record.getMessage() for record in caplog.records if "live for their ttl" in record.getMessage()]
    assert [message.partition(",")[0] for message in told] == [
        "table public.homework does not tell of its changes",
        "there is no table homewrok",
    ]
    assert "answers of all-homework live for their ttl" in told[0]
    assert "siding-monitor triggers install public.homework" in told[0]


async def test_nothing_is_kept_of_tables_that_are_not_known_yet(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(finder, "LOCK_SECONDS", 0.1)
    queries = "".join(f'[[query]]\nname = "{name}"\nsql = "TABLE {name}"\n' for name in ("locked", "reports"))
    locker = await asyncpg.connect(reports)
    await locker.execute("CREATE TABLE locked AS SELECT 1 AS id")
    await changes.install(locker, ["locked", "reports"])
    await locker.execute("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
    async with running_monitor(reports, queries, tmp_path) as client:
        await listening(client)
        # the locked one holds nobody up
        await tables_known(client)
        assert found(await client.query("reports")) == "miss"
        waits = asyncio.create_task(client.query("locked"))
        await holds(lambda: "query locked reads cannot be found yet" in caplog.text)
        await locker.execute("COMMIT")
        assert found(await waits) == "bypass"
        await all_found(client)
        assert found(await client.query("locked")) == "miss"
        await locker.execute("DELETE FROM locked")
        async with asyncio.timeout(PATIENCE):
            while (await client.query("locked")).document["rowCount"] != 0:
                pass
    await locker.close()
    assert caplog.text.count("cannot be found yet") == 1


async def test_an_altered_schema_is_heard_of_in_the_end(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "FIND_AGAIN_SECONDS", 0.05)
    connection = await asyncpg.connect(database)
    await connection.execute(
        "CREATE TABLE parts (id int) PARTITION BY RANGE (id); CREATE TABLE more (id int); INSERT INTO more VALUES (1);"
        "CREATE TABLE one (id int); CREATE TABLE two (id int); CREATE VIEW seen AS SELECT id FROM one;"
        "CREATE FUNCTION hidden() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM one); END'"
    )
    await changes.install(connection, ["parts", "more", "one", "two"])
    asked = {"whole": "SELECT id FROM parts", "view": "SELECT id FROM seen", "hides": "SELECT hidden()"}
    queries = "".join(f'[[query]]\nname = "{name}"\nsql = "{sql}"\n' for name, sql in asked.items())

    async def comes_to(client: Client, name: str, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while (await client.query(name)).document["rowCount"] != count:
                pass

    async with running_monitor(database, queries, tmp_path) as client:
        await listening(client)
        await all_found(client)
        for name in ("whole", "view"):
            assert [found(await client.query(name)) for _ in range(2)] == ["miss", "hit"]
        await connection.execute("ALTER TABLE parts ATTACH PARTITION more FOR VALUES FROM (0) TO (10)")
        await comes_to(client, "whole", 1)
        await connection.execute("DROP TABLE more")
        await comes_to(client, "whole", 0)
        await connection.execute("INSERT INTO two VALUES (1)")
        await connection.execute("CREATE OR REPLACE VIEW seen AS SELECT id FROM two")
        await comes_to(client, "view", 1)
        runner = client.monitor.parts.runner
        assert runner is not None
        await holds(lambda: runner.tables["view"] == ("public.two",))
        await client.query("view")
        await connection.execute("DELETE FROM two")
        await comes_to(client, "view", 0)
        # and while nothing is altered, it is kept
        assert found(await client.query("view")) == "hit"
    await connection.close()
    assert caplog.text.count("no table can be seen that hides reads") == 1


async def test_a_table_that_is_locked_for_long_keeps_nobody_from_looking_at_others_again(
    reports: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(finder, "FIND_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(finder, "LOCK_SECONDS", 0.05)
    queries = "".join(f'[[query]]\nname = "{name}"\nsql = "TABLE {name}"\n' for name in ("locked", "seen"))
    locker = await asyncpg.connect(reports)
    await locker.execute("CREATE TABLE locked (id int); CREATE VIEW seen AS SELECT id FROM reports")
    await locker.execute("CREATE TABLE other (id int)")
    await locker.execute("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
    async with running_monitor(reports, queries, tmp_path) as client:
        runner = client.monitor.parts.runner
        assert runner is not None
        await holds(lambda: runner.tables.get("seen") == ("public.reports",))
        await execute(reports, "CREATE OR REPLACE VIEW seen AS SELECT id FROM other")
        await holds(lambda: runner.tables["seen"] == ("public.other",))
        assert "locked" not in runner.tables
    await locker.close()


@pytest.mark.parametrize("fault", [asyncpg.DeadlockDetectedError, asyncpg.OutOfMemoryError])
async def test_a_deadlock_while_tables_are_sought_leaves_what_is_known(
    reports: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    monkeypatch.setattr(finder, "ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(finder, "FIND_AGAIN_SECONDS", 0.01)
    async with running_monitor(reports, '[[query]]\nname = "all"\nsql = "TABLE reports"\n', tmp_path) as client:
        runner = client.monitor.parts.runner
        assert runner is not None
        await all_found(client)
        asked = 0

        async def refused(*_: object) -> tables.Reading:
            nonlocal asked
            asked += 1
            raise fault("not now")

        monkeypatch.setattr(tables, "read_by", refused)
        await holds(lambda: asked > 1)
        assert runner.tables["all"] == ("public.reports",)


async def test_without_ears_nothing_is_kept(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        await listening(client)
        await client.query("reports", userId="ann")
        await execute(reports, DEAFEN)
        await holds(lambda: not client.monitor.cache.trusted)
        assert found(await client.query("reports", userId="ann")) == "bypass"
        await listening(client)
        await all_found(client)
        assert found(await client.query("reports", userId="ann")) == "miss"


async def test_the_proxy_is_told(reports: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(reports)
    await changes.install(connection, ["reports"])
    async with (
        purged_proxy() as proxy,
        running_monitor(reports, QUERIES, tmp_path, proxy_admin_url=proxy.url, proxy_admin_token="door") as client,
        asyncio.timeout(PATIENCE),
    ):
        # what changed while there was no monitor nobody knows
        assert await proxy.asked.get() == ({"tag": "reports"}, "Bearer door")
        await connection.execute("UPDATE reports SET title = 'new'")
        assert await proxy.asked.get() == ({"tag": "reports"}, "Bearer door")
        await tables_known(client)
        await connection.execute("UPDATE reports SET title = 'newer'")
        assert await proxy.asked.get() == ({"tag": "reports"}, "Bearer door")
    await connection.close()


async def test_what_changed_while_nothing_was_heard_is_purged(reports: str, tmp_path: Path) -> None:
    async with (
        purged_proxy() as proxy,
        running_monitor(reports, QUERIES, tmp_path, proxy_admin_url=proxy.url),
        asyncio.timeout(PATIENCE),
    ):
        await proxy.asked.get()
        await execute(reports, DEAFEN)
        assert await proxy.asked.get() == ({"tag": "reports"}, None)


class Old(asyncpg.Connection):
    """A connection to a server that says it is older. major -- what it says."""

    major = 0

    def get_server_version(self) -> ServerVersion:
        return ServerVersion(self.major, 0, 0, "final", 0)


@pytest.mark.parametrize("major", [12, 13, 14])
async def test_triggers_are_made_anew_as_the_version_can(
    reports: str, monkeypatch: pytest.MonkeyPatch, major: int
) -> None:
    monkeypatch.setattr(Old, "major", major)
    connection = await asyncpg.connect(reports, connection_class=Old)
    for _ in range(2):
        assert await changes.install(connection, ["reports"]) == ["public.reports"]
        assert (await tables.look_at(connection, ["reports"]))["reports"].tells
        await connection.execute("ALTER TABLE reports DISABLE TRIGGER siding_changed")
        assert not (await tables.look_at(connection, ["reports"]))["reports"].tells
    await connection.close()


async def test_a_server_without_what_triggers_need_is_refused(reports: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Old, "major", 11)
    connection = await asyncpg.connect(reports, connection_class=Old)
    with pytest.raises(changes.TableError, match=r"the server is PostgreSQL 11; .* from 12 on"):
        await changes.install(connection, ["reports"])
    await connection.close()


async def test_triggers_are_all_or_none(reports: str) -> None:
    connection = await asyncpg.connect(reports)
    with pytest.raises(changes.TableError, match="'nothing'"):
        await changes.install(connection, ["reports", "nothing"])
    assert await changes.installed(connection) == []
    await connection.close()
