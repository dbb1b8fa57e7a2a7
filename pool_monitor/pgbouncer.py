"""A PgBouncer's own numbers, from its console. The console speaks only the simple protocol, which psycopg can.

Versions from 1.17 on: what one of them does not know counts as 0. Source: PgBouncer's documentation, "Admin console".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from psycopg.rows import dict_row

from pool_monitor.following import Following

EVERY_SECONDS = 5.0
CONNECT_SECONDS = 3
ANSWER_SECONDS = 3.0
CONSOLE = "pgbouncer"
"""The console's own database."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BouncerPool:
    """One pool: a database and a user. Connections to the server unless said otherwise; seconds.

    active -- those that serve nobody but cannot either (logging in, tested, cancelling, being cancelled) included.
    limit -- pool_size of the user (1.23 and newer), or of the database; 0 where it is not known.
    """

    database: str
    user: str
    mode: str
    active: int
    idle: int
    waiting: int
    oldest_wait: float
    limit: int

    def document(self) -> dict[str, object]:
        """The five keys of node-postgres, and whose they are."""
        return {
            "database": self.database,
            "user": self.user,
            "mode": self.mode,
            "totalCount": self.active + self.idle,
            "idleCount": self.idle,
            "waitingCount": self.waiting,
            "maxConnections": self.limit,
            "activeConnections": self.active,
            "oldestWaitMs": round(1000 * self.oldest_wait, 3),
        }


@dataclass(frozen=True, slots=True)
class BouncerSample:
    """One look at the console. stats -- SHOW STATS by database. settings -- SHOW CONFIG."""

    pools: tuple[BouncerPool, ...]
    stats: dict[str, dict[str, float]]
    settings: dict[str, str]


async def _show(connection: psycopg.AsyncConnection[Row], what: str) -> list[Row]:
    async with asyncio.timeout(ANSWER_SECONDS):
        cursor = await connection.execute(f"SHOW {what}")
        return await cursor.fetchall()


def _whole(row: Row, *names: str) -> int:
    # the sizes of a user are text, and empty where they are not set
    return sum(int(row.get(name) or 0) for name in names)


def pools_of(pools: Iterable[Row], databases: Iterable[Row], users: Iterable[Row]) -> tuple[BouncerPool, ...]:
    """The pools in the rows of SHOW POOLS, SHOW DATABASES and SHOW USERS, without the console's own."""
    sizes = {str(row["name"]): _whole(row, "pool_size") for row in databases}
    sizes_of_users = {str(row["name"]): _whole(row, "pool_size") for row in users if str(row.get("pool_size") or "")}
    return tuple(
        BouncerPool(
            database=str(row["database"]),
            user=str(row["user"]),
            mode=str(row.get("pool_mode") or ""),
            active=_whole(row, "sv_active", "sv_login", "sv_tested", "sv_active_cancel", "sv_being_canceled"),
            idle=_whole(row, "sv_idle", "sv_used"),
            waiting=_whole(row, "cl_waiting"),
            oldest_wait=_whole(row, "maxwait") + _whole(row, "maxwait_us") / 1e6,
            limit=sizes_of_users.get(str(row["user"]), sizes.get(str(row["database"]), 0)),
        )
        for row in pools
        if row["database"] != CONSOLE
    )


async def look(connection: psycopg.AsyncConnection[Row]) -> BouncerSample:
    """Read the console. Raises psycopg.Error and TimeoutError."""
    databases, users = await _show(connection, "DATABASES"), await _show(connection, "USERS")
    pools = pools_of(await _show(connection, "POOLS"), databases, users)
    stats = {
        str(row["database"]): {name: float(value) for name, value in row.items() if name.startswith("total_")}
        for row in await _show(connection, "STATS")
        if row["database"] != CONSOLE
    }
    settings = {str(row["key"]): str(row["value"]) for row in await _show(connection, "CONFIG")}
    return BouncerSample(pools, stats, settings)


async def connect(url: str) -> psycopg.AsyncConnection[Row]:
    """Open the console. Raises psycopg.Error."""
    return await psycopg.AsyncConnection.connect(
        url, autocommit=True, row_factory=dict_row, prepare_threshold=None, connect_timeout=CONNECT_SECONDS
    )


class Bouncer(Following):
    """Looks every `EVERY_SECONDS`; `latest` is None while the console cannot be read."""

    def __init__(self, url: str) -> None:
        super().__init__("PgBouncer's console", EVERY_SECONDS, (psycopg.Error, OSError, TimeoutError))
        self._url = url
        self.latest: BouncerSample | None = None

    async def follow(self) -> None:
        """See `Following`."""
        async with await connect(self._url) as connection:
            try:
                while True:
                    self.latest = await look(connection)
                    self.works()
                    await asyncio.sleep(EVERY_SECONDS)
            finally:
                self.latest = None

    def document(self) -> list[dict[str, object]] | None:
        """Its pools, each as the five keys; None while they are not known."""
        return None if self.latest is None else [pool.document() for pool in self.latest.pools]

    def levels(self) -> Iterable[Metric]:
        """The latest sample as metrics."""
        sample = self.latest
        yield GaugeMetricFamily("siding_pgbouncer_up", "Whether PgBouncer's console can be read.", sample is not None)
        if sample is None:
            return
        connections = GaugeMetricFamily(
            "siding_pgbouncer_connections", "Connections to the server.", labels=["database", "user", "state"]
        )
        waiting = GaugeMetricFamily("siding_pgbouncer_waiting", "Clients that wait.", labels=["database", "user"])
        oldest = GaugeMetricFamily(
            "siding_pgbouncer_oldest_wait_seconds",
            "How long the first of them has waited.",
            labels=["database", "user"],
        )
        for pool in sample.pools:
            names = [pool.database, pool.user]
            connections.add_metric([*names, "active"], pool.active)
            connections.add_metric([*names, "idle"], pool.idle)
            waiting.add_metric(names, pool.waiting)
            oldest.add_metric(names, pool.oldest_wait)
        yield connections
        yield waiting
        yield oldest
        queries = CounterMetricFamily("siding_pgbouncer_queries", "Queries.", labels=["database"])
        waited = CounterMetricFamily("siding_pgbouncer_wait_seconds", "Time clients waited.", labels=["database"])
        for database, of in sample.stats.items():
            queries.add_metric([database], of.get("total_query_count", 0.0))
            waited.add_metric([database], of.get("total_wait_time", 0.0) / 1e6)
        yield queries
        yield waited
