"""Which tables a query reads and whether they tell, against a real server: partitions, views, odd names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from deploy.postgres import running
from pool_monitor import changes, tables, triggers
from pool_monitor.tables import Found
from tests.support import PATIENCE

SCHEMA = """
CREATE TABLE homework (id int, day int) PARTITION BY RANGE (day);
CREATE TABLE homework_old PARTITION OF homework FOR VALUES FROM (0) TO (100) PARTITION BY LIST (id);
CREATE TABLE homework_old_rest PARTITION OF homework_old DEFAULT;
CREATE TABLE homework_new PARTITION OF homework FOR VALUES FROM (100) TO (200);
CREATE TABLE plain (id int);
CREATE TABLE hollow (id int) PARTITION BY RANGE (id);
CREATE TABLE above (id int);
CREATE TABLE between () INHERITS (above);
CREATE TABLE below () INHERITS (between);
CREATE SCHEMA "Odd";
CREATE TABLE "Odd"."The "".Name" (id int);
CREATE VIEW seen AS SELECT id FROM plain;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM plain;
"""


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    found = await asyncpg.connect(database)
    await found.execute(SCHEMA)
    yield found
    await found.close()


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("SELECT id FROM homework", ["public.homework"]),
        # one whose partitions the plan names in part
        ("SELECT id FROM homework WHERE day = 150", ["public.homework"]),
        ("SELECT id FROM homework WHERE day = 500", ["public.homework"]),
        ("SELECT id FROM homework WHERE day = $1::int", ["public.homework"]),
        (
            "SELECT id FROM plain WHERE EXISTS (SELECT FROM homework WHERE day = $1::int AND homework.id = plain.id)",
            ["public.homework", "public.plain"],
        ),
        ("SELECT id FROM homework_old_rest", ["public.homework"]),
        # whose rows are changed by way of those above, too
        ("SELECT id FROM ONLY below", ["public.above", "public.below", "public.between"]),
        ("SELECT id FROM above", ["public.above", "public.below", "public.between"]),
        ("SELECT id FROM seen JOIN homework USING (id)", ["public.homework", "public.plain"]),
        ("SELECT count FROM counted", ["public.counted"]),
        ('SELECT id FROM "Odd"."The "".Name"', ['Odd.The ".Name']),
        ("SELECT relname FROM pg_class", []),
        # of which the plan names nothing
        ("SELECT id FROM hollow", ["public.hollow"]),
        ("SELECT id FROM plain WHERE false", ["public.plain"]),
        ("SELECT 1 AS one", []),
    ],
)
async def test_what_a_query_reads(connection: Any, sql: str, read: list[str]) -> None:
    assert list((await tables.read_by(connection, sql, sql.count("$"))).tables) == read


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE homework_last PARTITION OF homework FOR VALUES FROM (200) TO (300)",
        "DROP TABLE homework_new",
        "ALTER TABLE homework DETACH PARTITION homework_new",
        "ALTER TABLE homework ADD COLUMN more text",
        "CREATE TABLE child () INHERITS (plain)",
        "CREATE OR REPLACE VIEW seen AS SELECT id + 1 AS id FROM plain",
        "ALTER TABLE plain RENAME TO other; CREATE TABLE plain (id int)",
        "ALTER TABLE plain ALTER COLUMN id TYPE bigint; CREATE VIEW seen AS SELECT id FROM plain",
    ],
)
async def test_what_is_altered_has_another_mark(connection: Any, ddl: str) -> None:
    async def mark() -> str:
        reading = await tables.read_by(connection, "SELECT homework.id FROM homework, plain, seen", 0)
        return reading.mark

    before = await mark()
    await connection.execute("INSERT INTO plain VALUES (1); CREATE INDEX ON plain (id)")
    assert await mark() == before
    if "TYPE" in ddl:
        await connection.execute("DROP VIEW seen")
    await connection.execute(ddl)
    assert await mark() != before


async def test_parameters_are_counted(connection: Any) -> None:
    with pytest.raises(tables.Miscounted, match="its SQL has 2 parameters"):
        await tables.read_by(connection, "SELECT $1::int + $2::int", 1)
    assert await tables.takes(connection, "INSERT INTO plain VALUES ($1)") == 1
    # and none of them is left behind
    await connection.execute("DO $$BEGIN ASSERT NOT EXISTS (SELECT FROM pg_prepared_statements); END$$")
    assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name ~ 'siding'") == 0


async def test_of_several_statements_none_is_run(connection: Any) -> None:
    with pytest.raises(asyncpg.PostgresSyntaxError, match="multiple commands"):
        await tables.read_by(connection, "SELECT 1; COMMIT; INSERT INTO plain VALUES (1)", 0)
    assert await connection.fetchval("SELECT count(*) FROM plain") == 0


async def test_a_partitioned_table_tells_with_all_its_partitions(connection: Any) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await connection.add_listener(changes.CHANNEL, lambda *told: heard.put_nowait(told[3]))
    # whichever part is named
    assert await changes.install(connection, ["homework_old", "plain", "homework"]) == [
        "public.homework",
        "public.plain",
    ]
    assert await changes.installed(connection) == ["public.homework", "public.plain"]
    for sql, table in (
        ("INSERT INTO homework VALUES (1, 1), (1, 101)", "public.homework"),
        ("INSERT INTO homework_old VALUES (1, 2)", "public.homework"),
        ("DELETE FROM homework_old_rest", "public.homework"),
        ("INSERT INTO plain VALUES (1)", "public.plain"),
        ("TRUNCATE homework_new", "public.homework"),
        ("CREATE TABLE later PARTITION OF homework DEFAULT; UPDATE homework SET id = 2", "public.homework"),
        ("ALTER TABLE homework DETACH PARTITION homework_new; DELETE FROM homework_new", "public.homework_new"),
    ):
        await connection.execute(sql)
        async with asyncio.timeout(PATIENCE):
            assert await heard.get() == table
    assert heard.empty()
    assert await changes.remove(connection) == ["public.homework", "public.homework_new", "public.plain"]
    await connection.execute("INSERT INTO homework_old VALUES (1, 2)")
    assert await connection.fetchval("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0


async def test_installing_again_does_not_touch_what_tells_already(connection: Any, database: str) -> None:
    await changes.install(connection, ["plain", "homework"])
    reader = await asyncpg.connect(database)
    await reader.execute("BEGIN; SELECT FROM plain; SELECT FROM homework; INSERT INTO homework VALUES (1, 1)")
    assert await changes.install(connection, ["homework", "plain"]) == ["public.homework", "public.plain"]
    # what came later is what it is about
    await reader.execute("COMMIT")
    await reader.execute("CREATE TABLE later PARTITION OF homework DEFAULT")
    await reader.execute("BEGIN; SELECT FROM plain")
    await changes.install(connection, ["homework", "plain"])
    await reader.execute("COMMIT")
    await reader.execute("ALTER TABLE plain DISABLE TRIGGER siding_changed")
    await reader.execute("BEGIN; SELECT FROM plain")
    # with readers about, a trigger can be made, and made again
    await changes.install(connection, ["plain"])
    await reader.close()
    states = await connection.fetch("SELECT tgenabled FROM pg_trigger WHERE tgname = 'siding_changed'")
    assert [row["tgenabled"] for row in states] == [b"O"] * 6


async def test_a_table_that_is_held_is_left_alone_and_told(
    connection: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOCK_SECONDS", 0.1)
    writer = await asyncpg.connect(database)
    await writer.execute("BEGIN; INSERT INTO plain VALUES (1)")
    with pytest.raises(changes.TableError, match=r'"public"\."plain" was left as it is: others'):
        await changes.install(connection, ["homework", "plain"])
    assert await changes.installed(connection) == ["public.homework"]
    await writer.execute("COMMIT")
    await changes.install(connection, ["homework", "plain"])
    await writer.execute("BEGIN; SELECT FROM plain")
    with pytest.raises(changes.TableError, match='"plain" was left as it is'):
        await changes.remove(connection)
    await writer.execute("COMMIT")
    assert "public.plain" in await changes.remove(connection)
    await writer.close()


async def test_two_phase_commit_is_warned_of(database: str) -> None:
    connection = await asyncpg.connect(database)
    assert await changes.doubts(connection) == ""
    await connection.close()
    async with running({"max_prepared_transactions": "2"}) as other:
        connection = await asyncpg.connect(other.url())
        await connection.execute("CREATE TABLE plain (id int)")
        told = await triggers.act(other.url(), "install", ["plain"])
        assert told.startswith("these tables notify of their changes now: public.plain\nmax_prepared_transactions is 2")
        await connection.execute("BEGIN; INSERT INTO plain VALUES (1)")
        # as it is said
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await connection.execute("PREPARE TRANSACTION 'x'")
        await connection.close()


async def test_what_the_database_has_by_a_name(connection: Any) -> None:
    await changes.install(connection, ["plain"])
    await connection.execute('CREATE TABLE "Odd".plain (id int)')
    asked = ["plain", "public.plain", "Odd.plain", "homework", "homework_new", "seen", "counted", "pg_class", "no"]
    assert await tables.look_at(connection, asked) == {
        # of two by this name
        "plain": Found("public.plain", "r", is_whole=True, tells=True),
        "public.plain": Found("public.plain", "r", is_whole=True, tells=True),
        "Odd.plain": Found("Odd.plain", "r", is_whole=True, tells=False),
        "homework": Found("public.homework", "p", is_whole=True, tells=False),
        "homework_new": Found("public.homework", "p", is_whole=False, tells=False),
        "seen": Found("public.seen", "v", is_whole=True, tells=False),
        "counted": Found("public.counted", "m", is_whole=True, tells=False),
    }


async def test_a_trigger_that_is_off_does_not_tell(connection: Any) -> None:
    await changes.install(connection, ["plain"])
    await connection.execute(f"ALTER TABLE plain DISABLE TRIGGER {changes.TRIGGER}")
    assert not (await tables.look_at(connection, ["plain"]))["plain"].tells


def test_what_is_said_of_those_that_nobody_hears_of() -> None:
    read = {
        "one": ["told", "untold", "gone"],
        "two": ["untold", "view"],
        "three": ["public.part"],
    }
    found = {
        "told": Found("public.told", "r", is_whole=True, tells=True),
        "untold": Found("public.untold", "p", is_whole=True, tells=False),
        "view": Found("public.view", "m", is_whole=True, tells=False),
        "public.part": Found("public.whole", "p", is_whole=False, tells=True),
    }
    said = tables.untold(read, found)
    assert [line.partition(", so ")[0] for line in said] == [
        "table untold does not tell of its changes",
        "there is no table gone",
        "view is a materialized view, which cannot tell of its changes",
        "table public.part is a partition, whose changes are told of as public.whole's",
    ]
    assert "answers of one, two live for their ttl" in said[0]
    assert "`siding-monitor triggers install public.untold`" in said[0]
    assert tables.untold({"one": ["told"]}, found) == []
    assert tables.untold({"one": [], "two": ["told"], "three": []}, found) == [
        "no table can be seen that one, three reads (a function hides its own), "
        "so answers of one, three live for their ttl whatever changes; declare `tables`"
    ]
