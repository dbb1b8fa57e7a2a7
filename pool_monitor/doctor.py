"""`siding-monitor doctor`: the known traps between a pool, a PgBouncer and a server, looked for one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import asyncpg
import psycopg

from config.load import load
from config.output import say
from config.settings import MonitorSettings
from pool_monitor import pgbouncer
from pool_monitor.faults import FAULTS, describe
from pool_monitor.pgbouncer import BouncerSample
from pool_monitor.pool import APPLICATION, BESIDE, BUDGET, OURS
from pool_monitor.server_stats import STATEMENTS_THERE

SECONDS = 5.0
OLDEST_SERVER = 13
"""With pg_stat_statements.total_exec_time. Source: its release notes."""


class Grade(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and what to do."""

    grade: Grade
    what: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """The server's connections: allowed and reserved ones, and those that others use."""

    allowed: int
    reserved: int
    others: int

    @property
    def left(self) -> int:
        """How many a pool may have."""
        return max(0, self.allowed - self.reserved - self.others - BESIDE)


# -- decisions, pure


def budget_check(most: int, replicas_hint: str, budget: Budget) -> Check:
    """Whether the pool fits into what the server allows."""
    told = (
        f"DB_POOL_MAX is {most}; the server allows {budget.allowed} connections, {budget.reserved} are reserved, "
        f"others use {budget.others} and the monitor {BESIDE} beside its pool"
    )
    if most > budget.left:
        lower = f"lower DB_POOL_MAX to {budget.left} or less, or " if budget.left else ""
        return Check(Grade.FAULT, told, f"{lower}raise max_connections")
    if 2 * most > budget.left:
        return Check(Grade.WARNING, told, replicas_hint)
    return Check(Grade.OK, told)


def version_check(major: int) -> Check:
    """Whether the server's version is one that is worked with."""
    if major < OLDEST_SERVER:
        advice = f"Siding works with {OLDEST_SERVER} and newer: before, statistics of statements have other names"
        return Check(Grade.FAULT, f"the server is PostgreSQL {major}", advice)
    return Check(Grade.OK, f"the server is PostgreSQL {major}")


def bouncer_checks(most: int, sample: BouncerSample) -> list[Check]:
    """What a PgBouncer's settings mean for a pool in front of it."""
    found, settings = [], sample.settings
    mode = settings.get("pool_mode", "")
    size = int(settings.get("default_pool_size") or 0)
    found.append(Check(Grade.OK, f"PgBouncer's pool_mode is {mode}, default_pool_size {size}"))
    if mode == "transaction" and int(settings.get("max_prepared_statements") or 0) == 0:
        found.append(
            Check(
                Grade.WARNING,
                "PgBouncer keeps no prepared statements (max_prepared_statements is 0 or too old a version)",
                "clients must keep none either: asyncpg statement_cache_size=0, node-postgres queries without `name`",
            )
        )
    if size and most > size:
        found.append(
            Check(
                Grade.WARNING,
                f"two pools in a row: DB_POOL_MAX is {most}, but PgBouncer gives {size} connections to the server",
                f"lower DB_POOL_MAX to {size}: more only wait in PgBouncer, where this pool does not see them",
            )
        )
    # which may be half a second
    if float(settings.get("query_wait_timeout") or 0) == 0:
        found.append(
            Check(Grade.WARNING, "query_wait_timeout is 0: clients wait for ever", "set query_wait_timeout = 10")
        )
    return found


def unreachable(fault: BaseException, url: str) -> Check:
    """A database that cannot be asked anything."""
    advice = "check DATABASE_URL, and that it runs"
    if isinstance(fault, asyncpg.TooManyConnectionsError):
        advice = "end some (a superuser may still connect, and pg_stat_activity names them), or raise max_connections"
    return Check(Grade.FAULT, f"the database: {describe(fault, url)}", advice)


# -- looking


async def _server_checks(settings: MonitorSettings, connection: Any) -> list[Check]:
    row = await connection.fetchrow(BUDGET, OURS)
    hint = "a second replica of the monitor, or a deploy with both versions running, does not fit; lower DB_POOL_MAX"
    found = [
        version_check(connection.get_server_version().major),
        budget_check(settings.db_pool_max, hint, Budget(row["allowed"], row["reserved"], row["others"])),
    ]
    if not await connection.fetchval(STATEMENTS_THERE):
        found.append(
            Check(
                Grade.WARNING,
                "pg_stat_statements is not there or not loaded, so neither top statements nor advice can be given",
                "add it to shared_preload_libraries, restart, and CREATE EXTENSION pg_stat_statements",
            )
        )
    return found


async def _startup(url: str) -> Check:
    """Whether startup parameters are taken, or a PgBouncer answers instead."""
    parameters = {"application_name": f"{APPLICATION} doctor", "statement_timeout": "5000"}
    try:
        connection = await asyncpg.connect(url, timeout=SECONDS, statement_cache_size=0, server_settings=parameters)
    except asyncpg.PostgresError as fault:
        if "startup parameter" not in str(fault):
            raise
        advice = "the monitor finds this out by itself and sets timeouts by transaction; other clients must as well"
        return Check(Grade.WARNING, f"DATABASE_URL is a PgBouncer that refuses startup parameters: {fault}", advice)
    await connection.close()
    return Check(Grade.OK, "the server takes statement_timeout as a startup parameter")


async def examine(settings: MonitorSettings) -> list[Check]:
    """Every check that the settings allow."""
    found: list[Check] = []
    if settings.database_url is None:
        found.append(Check(Grade.WARNING, "DATABASE_URL is not set", "set it to have the pool looked at"))
    else:
        try:
            found.append(await _startup(settings.database_url))
            connection = await asyncpg.connect(settings.database_url, timeout=SECONDS, statement_cache_size=0)
            try:
                found += await _server_checks(settings, connection)
            finally:
                await connection.close()
        except FAULTS as fault:
            found.append(unreachable(fault, settings.database_url))
    if settings.pgbouncer_admin_url is not None:
        found += await _bouncer(settings)
    return found


async def _bouncer(settings: MonitorSettings) -> Sequence[Check]:
    assert settings.pgbouncer_admin_url is not None
    try:
        connection = await pgbouncer.connect(settings.pgbouncer_admin_url)
        async with connection:
            return bouncer_checks(settings.db_pool_max, await pgbouncer.look(connection))
    except (psycopg.Error, OSError, TimeoutError) as fault:
        return [Check(Grade.FAULT, f"PgBouncer's console: {fault}", "check PGBOUNCER_ADMIN_URL and admin_users")]


def as_text(checks: Sequence[Check]) -> str:
    """A line for each check, and one for what to do."""
    lines = []
    for check in checks:
        lines.append(f"{check.grade.value:8}{check.what}")
        if check.advice:
            lines.append(f"        -> {check.advice}")
    return "\n".join(lines)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit status: 1 when something is at fault."""
    settings = load(MonitorSettings, argv, environ, prog="siding-monitor doctor")
    checks = asyncio.run(examine(settings))
    told = say(as_text(checks))
    return 0 if told and all(check.grade is not Grade.FAULT for check in checks) else 1
