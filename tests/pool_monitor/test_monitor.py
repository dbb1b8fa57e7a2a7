"""The monitor over HTTP against a real server: numbers, named queries, the query cache, and what breaks them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.postgres import Postgres, running
from pool_monitor import changes, finder, server_stats, tables
from pool_monitor.advisor.advise import from_server
from tests.pool_monitor.support import Client, Served, purged_proxy, running_monitor
from tests.support import PATIENCE

QUERIES = """
[[query]]
name = "reports"
sql = "SELECT id, title FROM reports WHERE user_id = $1 ORDER BY id"
parameters = ["userId: text"]
ttl = 300
tags = ["reports"]

[[query]]
name = "has-report"
sql = "SELECT 1 FROM reports WHERE user_id = $1"
parameters = ["userId: text"]
exists = true
ttl = 0

[[query]]
name = "slow"
sql = "SELECT pg_sleep($1)"
parameters = ["seconds: double"]
timeout_ms = 100
ttl = 0

[[query]]
name = "many"
sql = "SELECT i FROM generate_series(1, $1) AS i"
parameters = ["n: integer"]
rows = 1000
ttl = 0

[[query]]
name = "add"
sql = "INSERT INTO reports (user_id, title) VALUES ($1, $2) RETURNING id"
parameters = ["userId: text", "title: text"]
write = true

[[query]]
name = "sneaky"
sql = "INSERT INTO reports (user_id, title) VALUES ('x', 'y') RETURNING id"

[[query]]
name = "divide"
sql = "SELECT 1 / $1::int AS q"
parameters = ["by: integer"]
ttl = 0

[[query]]
name = "hold"
sql = "SELECT pg_sleep($1)"
parameters = ["seconds: double"]
ttl = 0
"""

TABLE = (
    "CREATE TABLE reports (id serial PRIMARY KEY, user_id text NOT NULL, title text); CREATE INDEX ON reports (user_id)"
)


@pytest.fixture
async def reports(database: str) -> str:
    """A database with reports in it."""
    connection = await asyncpg.connect(database)
    await connection.execute(TABLE)
    await connection.execute("INSERT INTO reports (user_id, title) VALUES ('ann', 'first'), ('ann', 'second')")
    await connection.close()
    return database


async def until_true(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - what is waited for comes over a socket
            await asyncio.sleep(0.005)


async def listening(client: Client) -> None:
    await until_true(lambda: client.monitor.cache.trusted)


async def tables_known(client: Client) -> None:
    runner = client.monitor.parts.runner
    assert runner is not None
    await until_true(lambda: "reports" in runner.tables)


async def all_found(client: Client) -> None:
    assert client.monitor.finder is not None
    await asyncio.wait_for(client.monitor.finder.told.wait(), PATIENCE)


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


# -- numbers


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
        await until_true(lambda: client.monitor.sampler is not None and client.monitor.sampler.latest is not None)
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
        await until_true(lambda: [holder.name for holder in numbers().holders] == ["hold"])
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
        await until_true(lambda: "cannot connect to the database: the host nobody.invalid" in caplog.text)


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
            await until_true(lambda: "cannot connect to the database" in caplog.text)
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


# -- named queries


async def test_named_queries(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        rows = [{"id": 1, "title": "first"}, {"id": 2, "title": "second"}]
        assert (await client.query("reports", userId="ann")).document == {"rows": rows, "rowCount": 2}
        assert (await client.get("/api/queries/reports?userId=ann")).document == {"rows": rows, "rowCount": 2}
        assert (await client.query("has-report", userId="ann")).document == {"exists": True}
        assert (await client.query("has-report", userId="bob")).document == {"exists": False}
        lines = await client.ask("POST", "/api/queries/reports", {"userId": "ann"}, Accept="application/x-ndjson")
        assert [json.loads(line) for line in lines.content.splitlines()] == rows
        assert len((await client.get("/api/queries")).document) == 8


@pytest.mark.parametrize(
    ("name", "parameters", "status", "code", "words"),
    [
        ("nothing", {}, 404, "no-such-query", "QUERIES_FILE"),
        ("reports", {}, 400, "bad-arguments", "'userId' is missing: give text"),
        ("reports", {"userId": 5}, 400, "bad-arguments", "'userId' is not of the type text"),
        ("reports", {"userId": "a", "userid": "b"}, 400, "bad-arguments", "did you mean"),
        ("slow", {"seconds": 5}, 504, "query-timeout", "slow took too long"),
        ("many", {"n": 5000}, 422, "too-many-rows", "more than 1000 rows"),
        ("divide", {"by": 0}, 400, "query-failed", "division by zero"),
        ("sneaky", {}, 500, "query-failed", "read-only transaction"),
    ],
)
async def test_queries_that_fail(
    reports: str, tmp_path: Path, name: str, parameters: dict[str, object], status: int, code: str, words: str
) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        answer = await client.query(name, **parameters)
        assert (answer.status, answer.document["error"]["code"]) == (status, code)
        assert words in answer.document["error"]["message"]
        assert (await client.query("has-report", userId="ann")).status == 200


NUMBERS = """
[[query]]
name = "exact"
sql = "SELECT $1::numeric AS n, $2::jsonb AS j"
parameters = ["n: numeric", "j: jsonb"]
[[query]]
name = "sum"
sql = "SELECT $1::int + $2::int AS n"
parameters = ["a: integer"]
ttl = 0
[[query]]
name = "miscounted"
sql = "INSERT INTO reports (user_id) VALUES ('x')"
parameters = ["a: integer"]
write = true
[[query]]
name = "any"
sql = "SELECT 1 -- any?"
exists = true
"""


async def test_no_digit_is_lost(reports: str, tmp_path: Path) -> None:
    content = b'{"n": 12345678901234567890.50, "j": [1.10, 123456789012345678901234567890]}'
    async with running_monitor(reports, NUMBERS, tmp_path) as client:
        headers = {"Content-Type": "application/json"}
        async with client.session.post("/api/queries/exact", data=content, headers=headers) as answer:
            exact = b'{"n":12345678901234567890.50,"j":[1.10, 123456789012345678901234567890]}'
            assert await answer.read() == b'{"rows":[' + exact + b'],"rowCount":1}'
        assert (await client.get('/api/queries/exact?n=1&j={"a":1}')).document["rows"] == [{"n": 1, "j": {"a": 1}}]
        twice = await client.get("/api/queries/exact?n=1&n=2&j=1")
        assert (twice.status, twice.document["error"]["code"]) == (400, "bad-arguments")
        assert "'n': given more than once" in twice.document["error"]["message"]
        assert (await client.query("any")).document == {"exists": True}


async def test_parameters_that_do_not_fit_the_sql_are_told_of(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_monitor(reports, NUMBERS, tmp_path) as client:
        await all_found(client)
        assert "query sum fails: its SQL has 2 parameters, `parameters` 1" in caplog.text
        assert "query miscounted fails: its SQL has 0 parameters, `parameters` 1" in caplog.text
        for name in ("sum", "miscounted"):
            answer = await client.query(name, a=1)
            assert (answer.status, answer.document["error"]["code"]) == (500, "query-failed")
            message = answer.document["error"]["message"]
            assert "correct `parameters`" in message
            assert "\n" not in message


async def test_statements_that_cannot_be_looked_at_are_no_errors_of_the_pool(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "FIND_AGAIN_SECONDS", 0.01)
    queries = "".join(
        f'[[query]]\nname = "{name}"\nsql = "TABLE late"\n{more}\n'
        for name, more in (("late", ""), ("declared", 'tables = ["late"]'))
    )
    async with running_monitor(reports, queries, tmp_path) as client:
        await all_found(client)
        await asyncio.sleep(0.2)
        assert (await client.get("/api/metrics/database-pool")).document["errorsTotal"] == {}
        await execute(reports, "CREATE TABLE late AS SELECT 1 AS id")
        runner = client.monitor.parts.runner
        assert runner is not None
        await until_true(lambda: runner.tables["late"] == ("public.late",))
    assert caplog.text.count("that query late reads cannot be found") == 1
    assert caplog.text.count("query declared fails") == 1


async def test_one_that_may_not_write_is_no_fail_over(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        for _ in range(3):
            answer = await client.query("sneaky")
            assert "`write = true` lets it write" in answer.document["error"]["message"]
    assert "every connection is replaced" not in caplog.text


@pytest.mark.parametrize("given", ["", "08:00", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:05:06"])
async def test_an_argument_that_is_no_address_is_no_fault_of_the_connection(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    query = '[[query]]\nname = "card"\nsql = "SELECT $1::macaddr AS m"\nparameters = ["m: text"]\nttl = 0\n'
    async with running_monitor(database, query, tmp_path) as client:
        answer = await client.query("card", m=given)
        assert answer.status == 400
    assert "every connection is replaced" not in caplog.text


async def test_a_query_that_writes(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        assert (await client.query("add", userId="bob", title="x")).document == {"rows": [{"id": 3}], "rowCount": 1}
        assert (await client.get("/api/queries/add?userId=bob&title=x")).status == 405
        assert (await client.query("has-report", userId="bob")).document == {"exists": True}


async def test_a_query_that_would_write_more_rows_than_it_may_writes_none(reports: str, tmp_path: Path) -> None:
    sql = "UPDATE reports SET title = $1 RETURNING id"
    query = f'[[query]]\nname = "rename"\nsql = "{sql}"\nparameters = ["title: text"]\nwrite = true\nrows = 1\n'
    async with running_monitor(reports, QUERIES + query, tmp_path) as client:
        answer = await client.query("rename", title="all")
        assert (answer.status, answer.document["error"]["code"]) == (422, "too-many-rows")
        titles = [row["title"] for row in (await client.query("reports", userId="ann")).document["rows"]]
        assert titles == ["first", "second"]


async def test_tokens(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path, queries_token="sesame", admin_token="door") as client:
        assert (await client.query("reports", userId="ann")).status == 401
        assert (await client.get("/api/queries/reports?userId=ann", Authorization="Bearer door")).status == 401
        assert (await client.get("/api/queries/reports?userId=ann", Authorization="Bearer sesame")).status == 200
        assert (await client.ask("PATCH", "/api/flags", {"BYPASS": True})).status == 401
        flags = await client.ask("PATCH", "/api/flags", {"BYPASS": True}, Authorization="Bearer door")
        assert flags.document["BYPASS"] is True


async def test_a_query_that_fails_is_told_of_once_until_it_works(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        for _ in range(2):
            await execute(reports, "ALTER TABLE reports RENAME TO gone")
            for _ in range(3):
                assert (await client.query("has-report", userId="ann")).status == 500
            await execute(reports, "ALTER TABLE gone RENAME TO reports")
            assert (await client.query("has-report", userId="ann")).status == 200
        await client.query("divide", by=0)
    told = [record.getMessage() for record in caplog.records if record.name == "siding.queries"]
    assert told == ['query has-report fails: relation "reports" does not exist (42P01)'] * 2


@pytest.mark.parametrize("more", ["", "write = true"])
async def test_a_query_may_take_longer_than_others(database: str, tmp_path: Path, more: str) -> None:
    query = '[[query]]\nname = "long"\nsql = "SELECT 1 AS one FROM pg_sleep(1)"\nttl = 0\ntimeout_ms = 20000\n'
    async with running_monitor(
        database, query + more, tmp_path, db_query_timeout_ms=500, db_statement_timeout_ms=500
    ) as client:
        assert (await client.query("long")).document == {"rows": [{"one": 1}], "rowCount": 1}


async def test_what_cannot_be_read_within_a_record_is_refused(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await execute(database, "CREATE DOMAIN document AS jsonb; CREATE TABLE spans AS SELECT '1 day'::interval AS span")
    refused = (
        "SELECT ROW(1, '1 day'::interval)",
        "SELECT ROW('pg_class'::regclass)",
        "SELECT ARRAY[ROW(5::money)]",
        "SELECT ROW('{}'::document)",
        "SELECT spans FROM spans",
        "SELECT array_agg(spans) FROM spans",
    )
    read = ("SELECT to_jsonb(spans) AS v FROM spans", "SELECT ROW('{}'::jsonb) AS v")
    queries = "".join(
        f'[[query]]\nname = "q{number}"\nsql = "{sql}"\nttl = 0\n' for number, sql in enumerate((*refused, *read))
    )
    async with running_monitor(database, queries, tmp_path) as client:
        for number in range(len(refused)):
            answer = await client.query(f"q{number}")
            assert (answer.status, answer.document["error"]["code"]) == (500, "query-failed"), refused[number]
            assert "to_jsonb" in answer.document["error"]["message"]
        assert (await client.query(f"q{len(refused)}")).document["rows"] == [{"v": {"span": "1 day"}}]
        assert (await client.query(f"q{len(refused) + 1}")).document["rows"] == [{"v": [{}]}]
    assert "failed inside Siding" not in caplog.text


async def test_a_connection_that_ends_meanwhile_is_told_with_the_reason(database: str, tmp_path: Path) -> None:
    queries = "".join(
        f'[[query]]\nname = "{name}"\nsql = "SELECT pg_terminate_backend(pg_backend_pid())"\nttl = 0\n{more}\n'
        for name, more in (("reads", ""), ("writes", "write = true"))
    )
    async with running_monitor(database, queries, tmp_path) as client:
        for name, again in (("reads", "1"), ("writes", None)):
            answer = await client.query(name)
            assert (answer.status, answer.document["sqlstate"]) == (503, "57P01")
            assert "terminating connection" in answer.document["error"]["message"]
            assert answer.fields.get("Retry-After") == again
        assert (await client.get("/api/metrics/database-pool")).document["errorsTotal"] == {"57": 2}


async def test_tables_that_are_altered_are_read_on(reports: str, tmp_path: Path) -> None:
    queries = "".join(
        f'[[query]]\nname = "{name}"\nsql = "{sql}"\nttl = 0\n{more}\n'
        for name, sql, more in (
            ("all", "SELECT * FROM reports WHERE id = 1", ""),
            ("whole", "SELECT reports FROM reports WHERE id = 1", ""),
            ("write", "UPDATE reports SET title = 'x' WHERE id = 1 RETURNING *", "write = true"),
        )
    )
    row = {"id": 1, "user_id": "ann", "title": "first"}
    async with running_monitor(reports, queries, tmp_path, db_pool_max=2, db_pool_min=2) as client:
        for number in range(3):
            for _ in range(3):
                assert (await client.query("all")).document["rows"] == [row]
                assert (await client.query("whole")).document["rows"] == [{"reports": row}]
            await execute(reports, f"ALTER TABLE reports ADD COLUMN c{number} text")
            row[f"c{number}"] = None
        # one that writes is not done twice: who asked decides
        assert (await client.query("write")).status == 200
        await execute(reports, "ALTER TABLE reports ADD COLUMN last text")
        answer = await client.query("write")
        assert (answer.status, answer.document["error"]["code"]) == (503, "schema-changed")
        assert answer.fields["Retry-After"] == "1"
        assert (await client.query("write")).document["rows"] == [row | {"title": "x", "last": None}]
        assert (await client.get("/api/metrics/database-pool")).document["errorsTotal"] == {"0A": 1}


# -- the query cache


def found(answer: Served) -> str:
    return answer.fields["X-Query-Cache"]


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
        await until_true(
            lambda: client.monitor.parts.runner is not None and "reports" in client.monitor.parts.runner.tables
        )
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
        await until_true(lambda: "query locked reads cannot be found yet" in caplog.text)
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
        await until_true(lambda: runner.tables["view"] == ("public.two",))
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
        await until_true(lambda: runner.tables.get("seen") == ("public.reports",))
        await execute(reports, "CREATE OR REPLACE VIEW seen AS SELECT id FROM other")
        await until_true(lambda: runner.tables["seen"] == ("public.other",))
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
        await until_true(lambda: asked > 1)
        assert runner.tables["all"] == ("public.reports",)


async def test_without_ears_nothing_is_kept(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        await listening(client)
        await client.query("reports", userId="ann")
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'siding-monitor changes'"
        await execute(reports, cut)
        await until_true(lambda: not client.monitor.cache.trusted)
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
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'siding-monitor changes'"
        await execute(reports, cut)
        assert await proxy.asked.get() == ({"tag": "reports"}, None)


async def test_triggers_are_all_or_none(reports: str) -> None:
    connection = await asyncpg.connect(reports)
    with pytest.raises(changes.TableError, match="'nothing'"):
        await changes.install(connection, ["reports", "nothing"])
    assert await changes.installed(connection) == []
    await connection.close()
