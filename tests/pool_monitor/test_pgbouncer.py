"""Through a real PgBouncer in transaction mode, its console, and the doctor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from deploy.postgres import Postgres, running
from pool_monitor.doctor import Budget, Grade, bouncer_checks, budget_check, version_check
from pool_monitor.pgbouncer import BouncerPool, BouncerSample, Row, pools_of
from tests.bouncers import Running, pgbouncer_for
from tests.deploy.processes import environment, python
from tests.pool_monitor.support import listening, running_monitor
from tests.support import PATIENCE

QUERIES = """
[[query]]
name = "timeout"
sql = "SELECT current_setting('statement_timeout') AS t, $1::text AS echo"
parameters = ["echo: text"]
ttl = 0
"""


@pytest.fixture
async def bouncer(server: Postgres, open_folder: Path) -> AsyncIterator[Running]:
    async with pgbouncer_for(server, open_folder) as running:
        yield running


async def test_queries_through_it(bouncer: Running, database: str, tmp_path: Path) -> None:
    url, console = bouncer.url(database.rpartition("/")[2]), bouncer.url("pgbouncer")
    async with running_monitor(url, QUERIES, tmp_path, pgbouncer_admin_url=console, db_pool_max=10) as client:
        answers = await asyncio.gather(*(client.query("timeout", echo=str(n)) for n in range(30)))
        assert [answer.status for answer in answers] == [200] * 30
        assert [answer.document["rows"][0] for answer in answers] == [{"t": "10s", "echo": str(n)} for n in range(30)]
        async with asyncio.timeout(2 * PATIENCE):
            while not (told := (await client.get("/api/metrics/database-pool")).document)["pgbouncer"]:
                pass
        mine = next(pool for pool in told["pgbouncer"] if pool["database"] == database.rpartition("/")[2])
        assert (mine["mode"], mine["maxConnections"]) == ("transaction", 5)
        text = (await client.get("/metrics")).content.decode()
    assert "siding_pgbouncer_up 1.0" in text
    assert "siding_pgbouncer_connections{" in text
    # nothing of a transaction's settings stays behind in the server's session
    connection = await asyncpg.connect(url, statement_cache_size=0)
    assert await connection.fetchval("SHOW statement_timeout") == "0"
    await connection.close()


async def test_that_nothing_can_be_heard_through_it_is_told(
    bouncer: Running, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "siding.changes")
    async with running_monitor(bouncer.url(database.rpartition("/")[2]), QUERIES, tmp_path) as client:
        await listening(client)
        assert (await client.get("/api/metrics/query-cache")).document["listening"] is False
    assert "changes of tables cannot be heard of here" in caplog.text
    assert "changes of tables are heard of" not in caplog.text


async def test_triggers_through_it_again_and_again(bouncer: Running, reports: str) -> None:
    """Each is another process, and may find what those before it have left on the server's connection."""
    environ = environment(DATABASE_URL=bouncer.url(reports.rpartition("/")[2]))
    for arguments, words in (
        (("install", "reports"), "these tables notify of their changes now: public.reports"),
        (("show",), "these tables notify of their changes: public.reports"),
        (("remove",), "these tables do not notify any more: public.reports"),
    ):
        async with python("-m", "pool_monitor", "triggers", *arguments, environ=environ) as child:
            assert (await child.end(), child.output) == (0, words)


async def test_the_doctor_sees_the_traps(bouncer: Running, database: str) -> None:
    url = bouncer.url(database.rpartition("/")[2])
    environ = environment(DATABASE_URL=url, PGBOUNCER_ADMIN_URL=bouncer.url("pgbouncer"), DB_POOL_MAX="100")
    async with python("-m", "pool_monitor", "doctor", environ=environ) as child:
        assert await child.end() == 1
    for words in (
        "refuses startup parameters",
        "DB_POOL_MAX is 100; the server allows 60 connections",
        "two pools in a row: DB_POOL_MAX is 100, but PgBouncer gives 5",
        "keeps no prepared statements",
        "clients wait for ever",
    ):
        assert words in child.output, child.output
    assert "Traceback" not in child.output


async def test_the_doctor_reads_a_time_out_of_half_a_second(server: Postgres, open_folder: Path) -> None:
    async with pgbouncer_for(server, open_folder, wait="0.5") as running:
        environ = environment(PGBOUNCER_ADMIN_URL=running.url("pgbouncer"))
        async with python("-m", "pool_monitor", "doctor", environ=environ) as child:
            assert await child.end() == 0
    assert "default_pool_size 5" in child.output
    assert "clients wait for ever" not in child.output
    assert "Traceback" not in child.output


async def test_the_doctor_without_a_bouncer(database: str) -> None:
    async with python("-m", "pool_monitor", "doctor", environ=environment(DATABASE_URL=database)) as child:
        assert await child.end() == 0
    assert child.output.startswith("ok      the server takes statement_timeout")
    async with python(
        "-m", "pool_monitor", "doctor", environ=environment(DATABASE_URL="postgresql://127.0.0.1:1/x")
    ) as child:
        assert await child.end() == 1
    assert "fault   the database:" in child.output


async def test_the_doctor_of_a_server_that_is_full_says_so() -> None:
    """The runbook sends to the doctor who has too many connections; the address is right then, and the server runs."""
    async with running({"max_connections": "2", "superuser_reserved_connections": "0"}) as server:
        held = [await asyncpg.connect(server.url()) for _ in range(2)]
        async with python("-m", "pool_monitor", "doctor", environ=environment(DATABASE_URL=server.url())) as child:
            assert await child.end() == 1
        for one in held:
            await one.close()
    assert "too many clients already (53300)" in child.output
    assert "raise max_connections" in child.output
    assert "check DATABASE_URL" not in child.output


async def test_the_doctor_counts_all_that_is_reserved() -> None:
    settings = {"max_connections": "30", "superuser_reserved_connections": "2", "reserved_connections": "10"}
    async with running(settings) as server:
        environ = environment(DATABASE_URL=server.url(), DB_POOL_MAX="20")
        async with python("-m", "pool_monitor", "doctor", environ=environ) as child:
            assert await child.end() == 1
    assert "the server allows 30 connections, 12 are reserved" in child.output


async def test_the_doctor_names_a_host_that_is_not_found() -> None:
    environ = environment(DATABASE_URL="postgresql://u:geheim@nowhere.invalid/x")
    async with python("-m", "pool_monitor", "doctor", environ=environ) as child:
        assert await child.end() == 1
    assert "fault   the database: the host nowhere.invalid cannot be found: " in child.output
    assert "geheim" not in child.output


@pytest.mark.parametrize(("major", "grade"), [(11, Grade.FAULT), (12, Grade.FAULT), (13, Grade.OK), (18, Grade.OK)])
def test_the_version(major: int, grade: Grade) -> None:
    found = version_check(major)
    assert found.grade is grade
    assert f"PostgreSQL {major}" in found.what


@pytest.mark.parametrize(
    ("most", "budget", "grade", "advice"),
    [
        (20, Budget(100, 3, 10), Grade.OK, ""),
        (50, Budget(100, 3, 10), Grade.WARNING, "hint"),
        (20, Budget(24, 3, 0), Grade.FAULT, "lower DB_POOL_MAX to 19 or less, or raise max_connections"),
        (20, Budget(25, 3, 0), Grade.WARNING, "hint"),
        (20, Budget(10, 3, 50), Grade.FAULT, "raise max_connections"),
    ],
)
def test_the_budget(most: int, budget: Budget, grade: Grade, advice: str) -> None:
    found = budget_check(most, "hint", budget)
    assert (found.grade, found.advice) == (grade, advice)


WAS = {"database": "shop", "user": "ann", "cl_active": 9, "cl_waiting": 2, "sv_active": 3, "sv_idle": 4, "sv_used": 1}
WAS |= {"sv_tested": 1, "sv_login": 2, "maxwait": 1, "maxwait_us": 500_000, "pool_mode": "transaction"}
CANCELS = {"cl_active_cancel_req": 5, "cl_waiting_cancel_req": 6, "sv_active_cancel": 7, "sv_being_canceled": 8}


@pytest.mark.parametrize(
    ("pool", "database", "user", "active", "limit"),
    [
        # 1.17
        (WAS | {"cl_cancel_req": 5}, {"reserve_pool": 3}, {"pool_mode": None}, 6, 20),
        # 1.18
        (WAS | CANCELS, {"reserve_pool": 3}, {"pool_mode": None}, 21, 20),
        # 1.23
        (WAS | CANCELS, {"server_lifetime": 3600}, {"pool_size": None, "pool_mode": None}, 21, 20),
        (WAS | CANCELS, {"server_lifetime": 3600}, {"pool_size": 7, "pool_mode": None}, 21, 7),
        # 1.24 and 1.25
        (WAS | CANCELS | {"load_balance_hosts": None}, {"reserve_pool_size": 3}, {"pool_size": ""}, 21, 20),
        (WAS | CANCELS | {"load_balance_hosts": None}, {"reserve_pool_size": 3}, {"pool_size": "        7"}, 21, 7),
        (WAS | CANCELS | {"load_balance_hosts": None}, {"reserve_pool_size": 3}, {"pool_size": "        0"}, 21, 0),
    ],
)
def test_pools_as_the_versions_tell_of_them(pool: Row, database: Row, user: Row, active: int, limit: int) -> None:
    databases = [{"name": "pgbouncer", "pool_size": 2}, {"name": "shop", "pool_size": 20, **database}]
    console = WAS | {"database": "pgbouncer", "user": "pgbouncer"}
    users = [{"name": "bob", "pool_size": "        9"}, {"name": "ann", **user}]
    (found,) = pools_of([console, pool], databases, users)
    assert found == BouncerPool("shop", "ann", "transaction", active, 5, 2, 1.5, limit)


def test_a_bouncer_without_traps() -> None:
    settings = {
        "pool_mode": "transaction",
        "default_pool_size": "20",
        "max_prepared_statements": "100",
        "query_wait_timeout": "120",
    }
    assert {check.grade for check in bouncer_checks(20, BouncerSample((), {}, settings))} == {Grade.OK}
