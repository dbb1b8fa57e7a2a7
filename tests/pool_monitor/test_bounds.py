"""Answers of named queries that are larger than they may be, against a real server."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import pytest

from pool_monitor.runner import FETCH_ROWS, PORTION_BYTES, next_portion
from tests.pool_monitor.support import Client, execute, running_monitor

QUERIES = """
[[query]]
name = "values"
sql = "SELECT repeat('x', $1) AS v FROM generate_series(1, $2)"
parameters = ["size: integer", "count: integer"]
bytes = "1MiB"
ttl = 0

[[query]]
name = "growing"
sql = "SELECT repeat('x', CASE WHEN n <= $1 THEN 200 ELSE $2 END) AS v FROM generate_series(1, 1000) AS n"
parameters = ["small: integer", "size: integer"]
bytes = "1MiB"
ttl = 0

[[query]]
name = "names"
sql = "SELECT 1 AS a_long_name_that_each_row_of_the_answer_has_again FROM generate_series(1, $1)"
parameters = ["count: integer"]
rows = 1000000
ttl = 0

[[query]]
name = "rename"
sql = "UPDATE reports SET title = repeat('x', $1) RETURNING title"
parameters = ["size: integer"]
write = true
bytes = "1MiB"
"""
WIDE = ", ".join(f"{number} AS c{number}" for number in range(10, 30))
GROWING = """
[[query]]
name = "growing"
sql = "SELECT repeat('x', CASE WHEN n <= $1 THEN $2::int ELSE $3::int END) AS v FROM generate_series(1, 120) AS n"
parameters = ["small: integer", "size: integer", "large: integer"]
bytes = "1MiB"
ttl = 0
"""
MOODS = f"""
[[query]]
name = "moods"
sql = "SELECT repeat('x', $1) AS v, 'good'::mood AS m, ARRAY['bad']::mood[] AS more, 'a'::word AS w"
parameters = ["size: integer"]
bytes = 300
ttl = 0

[[query]]
name = "wide"
sql = "SELECT {WIDE}"
bytes = 300
ttl = 0
"""
STREAMED = {"Accept": "application/x-ndjson"}
MIB = 1024 * 1024


async def refused(client: Client, name: str, **parameters: object) -> None:
    answer = await client.query(name, **parameters)
    assert (answer.status, answer.document["error"]["code"]) == (422, "answer-too-large")
    assert "raise its `bytes`" in answer.document["error"]["message"]
    assert "more than 1 MiB at once" in answer.document["error"]["message"]
    # what is written comes at once in any case
    assert ("have it streamed" in answer.document["error"]["message"]) is (name != "rename")


@pytest.mark.parametrize(("size", "count"), [(2 * MIB, 1), (100_000_000, 1), (300_000, 4), (500, 4000)])
async def test_an_answer_that_is_too_large_is_refused(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, count: int
) -> None:
    caplog.set_level("INFO", "siding.pool")
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        await refused(client, "values", size=size, count=count)
        # what was on its way did not come
        assert caplog.text.count("connection closed") == 1
        # that it was cut is neither an error of the database, nor anybody else's
        assert (await client.get("/api/metrics/database-pool")).document["errorsTotal"] == {}
        answer = await client.query("values", size=1000, count=1000)
        assert (answer.status, answer.document["rowCount"]) == (200, 1000)
    assert "every connection is replaced" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("pgbouncer", ["no", "yes"])
async def test_what_is_asked_about_a_statement_is_no_part_of_its_answer(
    reports: str, tmp_path: Path, pgbouncer: str
) -> None:
    """Its columns, and what its types are, which a connection asks once."""
    await execute(reports, "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN word AS text")
    async with running_monitor(reports, MOODS, tmp_path, db_pgbouncer=pgbouncer) as client:
        for _ in range(2):
            answer = await client.query("moods", size=10)
            expected = {"v": "x" * 10, "m": "good", "more": ["bad"], "w": "a"}
            assert (answer.status, answer.document["rows"]) == (200, [expected])
            assert (await client.query("moods", size=300)).document["error"]["code"] == "answer-too-large"
        wide = [(await client.query("wide")).status for _ in range(2)]
        streamed = await client.ask("POST", "/api/queries/moods", {"size": 10}, **STREAMED)
        assert (streamed.status, json.loads(streamed.content)) == (200, expected)
    assert wide == [200, 200]


async def test_the_answer_counts_as_it_is_sent(reports: str, tmp_path: Path) -> None:
    """Of which the names of columns are the most: the server sends them once."""
    async with running_monitor(reports, QUERIES, tmp_path, db_query_max_bytes="1MiB") as client:
        assert (await client.query("names", count=10_000)).document["rowCount"] == 10_000
        await refused(client, "names", count=20_000)
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        assert (await client.query("names", count=20_000)).document["rowCount"] == 20_000


async def test_one_that_would_write_too_much_writes_nothing(reports: str, tmp_path: Path) -> None:
    everything = '[[query]]\nname = "all"\nsql = "SELECT title FROM reports ORDER BY id"\nttl = 0\n'
    async with running_monitor(reports, QUERIES + everything, tmp_path) as client:
        for size in (600_000, 40 * MIB):
            await refused(client, "rename", size=size)
        assert (await client.query("all")).document["rows"] == [{"title": "first"}, {"title": "second"}]
        assert (await client.query("rename", size=3)).document["rows"] == [{"title": "xxx"}] * 2


async def test_a_stream_may_be_of_any_length(reports: str, tmp_path: Path) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        for name, parameters in (
            ("values", {"size": 60_000, "count": 200}),
            ("values", {"size": 1_000_000, "count": 12}),
            ("growing", {"small": 20, "size": 15_000}),
        ):
            streamed = await client.ask("POST", f"/api/queries/{name}", parameters, **STREAMED)
            assert streamed.status == 200
            assert len(streamed.content) > 10 * MIB
            assert all(json.loads(line) for line in streamed.content.splitlines())


async def test_a_stream_may_grow_within_a_portion(reports: str, tmp_path: Path) -> None:
    """Of rows that are as large as a portion of them should be, the next ones are larger."""
    async with running_monitor(reports, GROWING, tmp_path) as client:
        streamed = await client.ask(
            "POST", "/api/queries/growing", {"small": 100, "size": 15_000, "large": 150_000}, **STREAMED
        )
        assert len(streamed.content.splitlines()) == 120


async def test_a_stream_with_a_portion_that_is_too_large_is_refused_or_cut(
    reports: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_monitor(reports, QUERIES, tmp_path) as client:
        asked = {"size": 2 * MIB, "count": 1}
        answer = await client.ask("POST", "/api/queries/values", asked, **STREAMED)
        assert (answer.status, answer.document["error"]["code"]) == (422, "answer-too-large")
        assert "have it streamed" not in answer.document["error"]["message"]
        with pytest.raises(aiohttp.ClientPayloadError):
            # so many that the first of them are on their way
            await client.ask("POST", "/api/queries/growing", {"small": 990, "size": 2 * MIB}, **STREAMED)
        # whoever is cut is told nothing
        [told] = [one for one in caplog.messages if "growing" in one and "fails" in one]
        assert "more than 1 MiB at once" in told
        await execute(reports, "SELECT 1")
        assert (await client.query("values", size=1, count=1)).status == 200


@pytest.mark.parametrize(
    ("rows", "octets", "most", "following"),
    [
        (16, 16 * 50, 16 * MIB, 32),
        (400, 400 * 50, 16 * MIB, FETCH_ROWS),
        (100, 2 * PORTION_BYTES, 16 * MIB, 50),
        (100, 2 * PORTION_BYTES, 160 * MIB, 50),
        (100, 2 * PORTION_BYTES, 4 * MIB, 12),
        (16, 160 * PORTION_BYTES, 1000 * MIB, 1),
        (1, PORTION_BYTES, 16 * MIB, 1),
        (1, 0, 16 * MIB, 2),
        (1, 100, 300, 1),
    ],
)
def test_portions_grow_slowly_and_shrink_at_once(rows: int, octets: int, most: int, following: int) -> None:
    assert next_portion(rows, octets, most) == following
