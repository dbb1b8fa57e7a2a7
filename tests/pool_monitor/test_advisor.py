"""COUNT checks: found in SQL and in source code, rewritten to the same answer, proved on real rows."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.advisor.advise import as_text, from_server
from pool_monitor.advisor.detect import Safety, detect
from pool_monitor.advisor.prove import prove
from pool_monitor.advisor.sources import as_sql, scan, scan_text
from tests.deploy.processes import environment, python
from tests.pool_monitor.support import running_monitor


@pytest.mark.parametrize(
    ("sql", "safety", "rewritten"),
    [
        (
            "SELECT COUNT(*) as total FROM parent_reports WHERE user_id = $1",
            Safety.IF_ONLY_TESTED,
            'SELECT EXISTS(SELECT 1 FROM parent_reports WHERE user_id = $1) AS "exists"',
        ),
        ("SELECT count(1) FROM t", Safety.IF_ONLY_TESTED, 'SELECT EXISTS(SELECT 1 FROM t) AS "exists"'),
        ("SELECT count(*) > 0 FROM t", Safety.ALWAYS, 'SELECT EXISTS(SELECT 1 FROM t) AS "exists"'),
        ("SELECT count(*) >= 1 AS any FROM t", Safety.ALWAYS, 'SELECT EXISTS(SELECT 1 FROM t) AS "any"'),
        ("SELECT 0 < count(*) AS any FROM t", Safety.ALWAYS, 'SELECT EXISTS(SELECT 1 FROM t) AS "any"'),
        ("SELECT count(*) = 0 AS none FROM t", Safety.ALWAYS, 'SELECT NOT EXISTS(SELECT 1 FROM t) AS "none"'),
        ("SELECT count(*) > $1 AS any FROM t", Safety.IF_ZERO, 'SELECT EXISTS(SELECT 1 FROM t) AS "any"'),
        (
            "SELECT id FROM u WHERE (SELECT count(*) FROM t WHERE t.uid = u.id) > 0",
            Safety.ALWAYS,
            "SELECT id FROM u WHERE EXISTS(SELECT 1 FROM t WHERE t.uid = u.id)",
        ),
    ],
)
def test_checks(sql: str, safety: Safety, rewritten: str) -> None:
    found = detect(sql)
    assert found is not None
    assert (found.safety, found.rewritten) == (safety, rewritten)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM t GROUP BY a",
        "SELECT count(*) FROM t HAVING max(a) > 1",
        "SELECT count(DISTINCT a) FROM t",
        "SELECT count(a) FROM t",
        "SELECT count(*), max(a) FROM t",
        "SELECT count(*) > 5 FROM t",
        "SELECT count(*) > -1 FROM t",
        "SELECT count(*) FROM t LIMIT 10",
        "SELECT count(*) > 0 INTO new FROM t",
        "SELECT count(*) OVER () FROM t",
        "SELECT count(*)",
        "SELECT count(*) FROM generate_series(1, 2)",
        "SELECT count(*) > 0 FROM t FOR UPDATE",
        # what does more than look: counted, it is done to all rows
        "SELECT count(*) > 0 FROM jobs WHERE pg_try_advisory_lock(id)",
        "SELECT count(*) > 0 FROM jobs WHERE pg_catalog.pg_try_advisory_lock(id)",
        'SELECT count(*) > 0 FROM jobs WHERE "mine"(id)',
        "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM sessions) AS ended",
        "SELECT count(*) > 0 FROM jobs JOIN LATERAL pg_advisory_lock(jobs.id) ON true",
        # what would be written otherwise than it was read
        "SELECT count(*) > 0 FROM t WHERE span > interval '1 day 2:03'",
        "SELECT count(*) > 0 FROM t WHERE @ a = 2",
        "SELECT count(*) > 0 FROM t WHERE a = 0x2",
        # a piece of SQL that a program puts there
        "SELECT count(*) AS total FROM t $1",
        "SELECT count(*) AS $1 FROM t",
        "UPDATE t SET a = (SELECT count(*) FROM u)",
        "SELECT 1 FROM t; SELECT count(*) FROM t",
        "SELECT counter FROM t",
        "count count count",
        "",
    ],
)
def test_what_is_none(sql: str) -> None:
    assert detect(sql) is None


@given(st.text(max_size=60))
def test_no_text_makes_it_raise(text: str) -> None:
    detect(f"SELECT count(*) {text}")
    list(scan_text(text, "a.js"))


EQUAL = [
    "SELECT count(*) > 0 FROM t WHERE a = 1",
    "SELECT count(*) = 0 FROM t WHERE a = 1 OR b = 2",
    "SELECT 1 <= count(*) FROM t JOIN t AS u ON t.a = u.b WHERE u.a = 2",
    "SELECT count(*) FROM t WHERE a NOT IN (SELECT b FROM t)",
]


@pytest.mark.parametrize("rows", [[], [(1, 0)], [(0, 2)], [(1, 2), (2, 1)], [(0, 0), (2, 2)]])
async def test_both_say_the_same(database: str, rows: list[tuple[int, int]]) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE t (a int, b int)")
    await connection.executemany("INSERT INTO t VALUES ($1, $2)", rows)
    for sql in EQUAL:
        found = detect(sql)
        assert found is not None
        assert bool(await connection.fetchval(sql)) is await connection.fetchval(found.rewritten)
    await connection.close()


# -- in source code

JAVASCRIPT = """
const result = await db.query(
    `SELECT COUNT(*) as total FROM parent_reports WHERE user_id = $1`,
    [userId]
);
const exists = result.rows[0].total > 0;

const page = await db.query("SELECT COUNT(*) AS total FROM parent_reports WHERE kind = '" + kind + "'");
reply.send({ pages: Math.ceil(page.rows[0].total / 20) });

const rows = await db.query(`SELECT count(*) FROM t WHERE name = ${name}`);
if (parseInt(rows.rows[0].count) === 0) { return; }
"""
PYTHON = '''
def has_reports(cursor, user):
    cursor.execute("""
        SELECT COUNT(*) AS n FROM parent_reports
        WHERE user_id = %(user)s
    """, {"user": user})
    return cursor.fetchone()["n"] > 0
'''


def test_source_code(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "reports.js").write_text(JAVASCRIPT)
    (tmp_path / "src" / "reports.py").write_text(PYTHON)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "dep.js").write_text(JAVASCRIPT)
    (tmp_path / "notes.md").write_text(JAVASCRIPT)
    assert [(place.file, place.line, place.tested) for place in scan(tmp_path)] == [
        ("src/reports.js", 3, True),
        ("src/reports.js", 11, True),
        ("src/reports.py", 3, True),
    ]


@pytest.mark.parametrize(
    "source",
    [
        """q("SELECT COUNT(*) AS total FROM t WHERE a = 1" + " GROUP BY b HAVING COUNT(*) > 5");""",
        """q("SELECT COUNT(*) AS total FROM t WHERE a = 1 " +\n  "GROUP BY b");""",
        """q('WITH t AS (SELECT 1 LIMIT 0) ' +\n  'SELECT COUNT(*) AS total FROM t');""",
        """execute("SELECT COUNT(*) AS total FROM t "\n  "WHERE a = %s LIMIT 0", (a,))""",
        """execute("WITH t AS (SELECT 1) "\n  f"SELECT COUNT(*) AS total FROM t")""",
        """q("SELECT COUNT(*) AS total FROM t" \\\n  " LIMIT 0")""",
        "q(`SELECT COUNT(*) AS total FROM t ${rest}`);",
    ],
)
def test_a_part_of_a_statement_is_none(source: str) -> None:
    assert list(scan_text(source, "a.js")) == []


def test_placeholders_of_drivers_are_parameters() -> None:
    assert as_sql("a = %s AND b = %(x)s AND c = :name AND d = ? AND e::text = 'f'") == (
        "a = $1 AND b = $2 AND c = $3 AND d = $4 AND e::text = 'f'"
    )


# -- on real rows


@pytest.mark.parametrize(
    ("behind", "tested"),
    [
        *(
            (f"if (r.rows[0].total {test}) return;", True)
            for test in ("> 0", ">= 1", "!= 0", "!== '0'", "=== 0", "< 1")
        ),
        *(
            (f"if (r.rows[0].total {test}) return;", False)
            for test in ("> 1", ">= 0", "> 0.5", "> 10", "=== 1", "< 10")
        ),
        ('return cursor.fetchone()["total"] > 0', True),
        ("if (r.rows[0].total > 0) { return r.rows[0].total; }", False),
        ("if (r.rows[0].total > 0) ok(); if (r.rows[0].total === 0) fail();", True),
        ("if (r.rows[0]?.total > 0) return r;", False),
        ("if (r.rows[0]['total'] > 0) log(r.rows[0]);", False),
        ("const { total } = r.rows[0]; if (total > 0) ok();", False),
        ("if (limit - r.rows[0].total > 0) ok();", False),
        ("if (used + Number(r.rows[0].total) >= 1) ok();", False),
        ("log(r.rows[0]);", False),
    ],
)
def test_what_is_merely_tested(behind: str, tested: bool) -> None:
    query = 'await db.query("SELECT COUNT(*) AS total FROM t WHERE a = $1", [a]);'
    source = f"const r = {query}\n{behind}\n"
    assert [place.tested for place in scan_text(source, "a.js")] == [tested]
    # what is done with another's result is not done with this one's
    other = f"{source}const s = {query}\nsend(s.rows[0].total / 20);\n"
    assert [place.tested for place in scan_text(other, "a.js")] == [tested, False]


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("a = ${a} AND b = ${b} AND c = '${c}' AND d = ${a}", "a = $1 AND b = $2 AND c = $3 AND d = $1"),
        ("a = %s AND b = %s", "a = $1 AND b = $2"),
        ("a = ? AND b = ?", "a = $1 AND b = $2"),
        ("a = :uid AND b = :kid AND c = :uid AND d::text = 'x'", "a = $1 AND b = $2 AND c = $1 AND d::text = 'x'"),
        ("a = %(user)s AND b = %(kind)s AND c = %(user)s", "a = $1 AND b = $2 AND c = $1"),
        ("a = $2 AND b = $1 AND c = ${c}", "a = $2 AND b = $1 AND c = $3"),
    ],
)
def test_each_hole_has_its_number(text: str, sql: str) -> None:
    assert as_sql(text) == sql


async def _million(connection: asyncpg.Connection[asyncpg.Record], rows: int) -> None:
    await connection.execute("CREATE TABLE parent_reports (id bigserial, user_id text, filler text)")
    await connection.execute(
        "INSERT INTO parent_reports (user_id, filler) "
        "SELECT CASE WHEN n % 3 = 0 THEN 'large_user' ELSE 'u' || n % 1000 END, repeat('x', 100) "
        "FROM generate_series(1, $1) AS n",
        rows,
    )
    await connection.execute("ANALYZE parent_reports")


async def test_the_plans_case_is_proved(database: str) -> None:
    connection = await asyncpg.connect(database)
    await _million(connection, 50_000)
    found = detect("SELECT COUNT(*) AS total FROM parent_reports WHERE user_id = $1")
    assert found is not None
    proof = await prove(connection, found)
    assert proof is not None
    assert proof.values == ("$1 = 'large_user'",)
    assert proof.index == "CREATE INDEX CONCURRENTLY ON parent_reports (user_id)"
    await connection.execute("CREATE INDEX ON parent_reports (user_id)")
    await connection.execute("VACUUM ANALYZE parent_reports")
    indexed = await prove(connection, found)
    assert indexed is not None
    assert indexed.index is None
    assert indexed.gain() > 5
    assert indexed.before.milliseconds > indexed.after.milliseconds
    await connection.close()


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("SELECT count(*) > 0 FROM big WHERE a = 1 AND b > 2", "CREATE INDEX CONCURRENTLY ON big (a)"),
        ("SELECT count(*) > 0 FROM big WHERE (a = 1)", "CREATE INDEX CONCURRENTLY ON big (a)"),
        # neither of them would be used
        ("SELECT count(*) > 0 FROM big WHERE a = 1 OR b = 2", None),
        ("SELECT count(*) > 0 FROM big WHERE NOT a = 1", None),
        # whose it is
        ("SELECT count(*) > 0 FROM big JOIN small ON big.a = small.id WHERE word = 'x'", None),
        ("SELECT count(*) > 0 FROM big, small WHERE b = 3 AND big.b = 3", "CREATE INDEX CONCURRENTLY ON big (b)"),
        ("SELECT count(*) > 0 FROM small WHERE small.id = 1 AND EXISTS (SELECT FROM big WHERE big.a = 1)", None),
    ],
)
async def test_the_index_is_one_that_would_be_used(database: str, sql: str, index: str | None) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "CREATE TABLE big AS SELECT n % 9 AS a, n % 7 AS b FROM generate_series(1, 1000) AS n;"
        "CREATE TABLE small (id int PRIMARY KEY, word text); INSERT INTO small SELECT generate_series(1, 1000), 'x'"
    )
    await connection.execute("ANALYZE big, small")
    found = detect(sql)
    assert found is not None
    proof = await prove(connection, found)
    assert proof is not None
    assert proof.index == index
    await connection.close()


async def test_advice_from_what_the_server_ran(database: str) -> None:
    connection = await asyncpg.connect(database)
    assert (await from_server(connection))["available"] is False
    await connection.execute("CREATE EXTENSION pg_stat_statements")
    await _million(connection, 5000)
    await connection.fetchval("SELECT count(*) AS total FROM parent_reports WHERE user_id = $1", "u1")
    await connection.fetchval("SELECT count(*) > 0 FROM parent_reports WHERE user_id = 'u1'")
    await connection.fetchval("SELECT count(*) FROM parent_reports GROUP BY user_id LIMIT 1")
    await connection.close()
    async with running_monitor(database) as client:
        told = (await client.get("/api/advice")).document
    assert told["available"] is True
    assert {one["safety"] for one in told["advice"]} == {"if-only-tested", "if-compared-with-zero"}
    for one in told["advice"]:
        assert one["proof"]["indexFirst"] == "CREATE INDEX CONCURRENTLY ON parent_reports (user_id)"
        assert "first: CREATE INDEX" in as_text(one)


async def test_the_command(database: str, tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text(JAVASCRIPT)
    advise = ("-m", "pool_monitor", "advise")
    async with python(*advise, "--source", str(tmp_path), environ=environment()) as child:
        assert await child.end() == 0
    assert "a.js:3: merely tested in the lines behind it" in child.output
    async with python(*advise, environ=environment()) as child:
        assert await child.end() == 2
    async with python(*advise, environ=environment(DATABASE_URL=database)) as child:
        assert await child.end() == 0
    assert "pg_stat_statements is not there" in child.output
