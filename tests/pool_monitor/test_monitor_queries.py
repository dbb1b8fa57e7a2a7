"""The monitor over HTTP against a real server: named queries, and what breaks them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from pool_monitor import finder
from tests.pool_monitor.reports_table import QUERIES
from tests.pool_monitor.support import all_found, execute, running_monitor
from tests.support import holds, until


async def test_named_queries(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        rows = [{"id": 1, "title": "first"}, {"id": 2, "title": "second"}]
        assert (await client.query("reports", userId="ann")).document == {"rows": rows, "rowCount": 2}
        assert (await client.get("/api/queries/reports?userId=ann")).document == {"rows": rows, "rowCount": 2}
        assert (await client.query("has-report", userId="ann")).document == {"exists": True}
        assert (await client.query("has-report", userId="bob")).document == {"exists": False}
        lines = await client.ask("POST", "/api/queries/reports", {"userId": "ann"}, Accept="application/x-ndjson")
        assert [json.loads(line) for line in lines.content.splitlines()] == rows
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        target = b"/api/queries/reports?userId=ann HTTP/1.1"
        writer.write(
            b"HEAD %b\r\nHost: localhost\r\nAccept: application/x-ndjson\r\nConnection: close\r\n\r\n" % target
        )
        assert (await reader.read()).partition(b"\r\n\r\n")[2] == b""
        writer.close()
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


async def test_arguments_are_a_json_object_and_nothing_is_an_empty_one(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        for content, media_type, status, code in (
            (b" ", "application/json", 400, "bad-arguments"),
            (b"[]", "application/json", 400, "bad-json"),
            (b"{'userId': 'ann'}", "application/json", 400, "bad-json"),
            (b'{"userId": "ann"}', "text/plain", 415, "not-json"),
        ):
            headers = {"Content-Type": media_type}
            async with client.session.post("/api/queries/reports", data=content, headers=headers) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)


LARGE = """
[[query]]
name = "large"
sql = "SELECT repeat('x', 100000) AS t FROM generate_series(1, 1000)"
ttl = 0
"""


@pytest.mark.parametrize(
    ("name", "parameters", "accept"), [("hold", {"seconds": 60}, "*/*"), ("large", {}, "application/x-ndjson")]
)
async def test_who_leaves_before_the_answer_is_whole_is_no_error(
    reports: str,
    tmp_path: Path,
    name: str,
    parameters: dict[str, object],
    accept: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_monitor(reports, QUERIES + LARGE, tmp_path) as client:
        registry, pool = client.monitor._metrics.registry, client.monitor._pool
        assert pool is not None

        def counted(outcome: str) -> float | None:
            return registry.get_sample_value("siding_query_duration_seconds_count", {"query": name, "outcome": outcome})

        async with aiohttp.ClientSession(client.session._base_url, read_bufsize=1024) as leaving:
            asking = asyncio.create_task(_begun(leaving, f"/api/queries/{name}", parameters, accept))
            await until(lambda: any(holder.name == name for holder in pool.numbers().holders))
            if name == "large":
                await asking
            else:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: counted("client-gone") == 1)
        assert counted("error") is None
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def _begun(session: aiohttp.ClientSession, path: str, parameters: object, accept: str) -> None:
    """The beginning of an answer."""
    async with session.post(path, json=parameters, headers={"Accept": accept}) as answer:
        await answer.content.readany()
        answer.close()


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
        await holds(lambda: runner.tables["late"] == ("public.late",))
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


async def test_parallel_workers_answer_unless_rows_are_streamed(database: str, tmp_path: Path) -> None:
    # what one runs in; with the setting, all that may run in a worker does
    await execute(
        database,
        "CREATE FUNCTION kind() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$ BEGIN RETURN "
        "(SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()); END $$",
    )
    await execute(database, f"ALTER DATABASE {database.rpartition('/')[2]} SET debug_parallel_query = on")
    query = '[[query]]\nname = "kind"\nsql = "SELECT kind() AS kind"\nttl = 0\n'
    async with running_monitor(database, query, tmp_path) as client:
        assert (await client.query("kind")).document["rows"] == [{"kind": "parallel worker"}]
        lines = await client.ask("POST", "/api/queries/kind", {}, Accept="application/x-ndjson")
        assert json.loads(lines.content) == {"kind": "client backend"}


async def test_rows_that_are_too_many_end_a_connection_only_where_they_are_far_too_many(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "siding.pool")
    async with running_monitor(reports, QUERIES, tmp_path, db_pool_max=1, db_pool_min=1) as client:
        for number, ended in ((1001, 0), (1500, 0), (1_000_000, 1)):
            assert (await client.query("many", n=number)).document["error"]["code"] == "too-many-rows"
            assert caplog.text.count("connection closed") == ended
            assert (await client.query("many", n=1000)).document["rowCount"] == 1000
        assert (await client.get("/api/metrics/database-pool")).document["errorsTotal"] == {}


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
