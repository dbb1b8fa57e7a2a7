"""A PgBouncer's own numbers, from its console. The console speaks only the simple protocol, which psycopg can."""

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


@dataclass(frozen=True, slots=True)
class BouncerPool:
    """One pool: a database and a user. Connections to the server unless said otherwise; seconds.

    limit -- pool_size of the database; 0 where it is not known.
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


async def _show(connection: psycopg.AsyncConnection[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(ANSWER_SECONDS):
        cursor = await connection.execute(f"SHOW {what}")
        return await cursor.fetchall()


def _whole(row: dict[str, Any], *names: str) -> int:
    return sum(int(row.get(name) or 0) for name in names)


async def look(connection: psycopg.AsyncConnection[dict[str, Any]]) -> BouncerSample:
    """Read the console."""
    databases = {row["name"]: row for row in await _show(connection, "DATABASES")}
    pools = []
    for row in await _show(connection, "POOLS"):
        if row["database"] == "pgbouncer":
            continue
        pools.append(
            BouncerPool(
                database=str(row["database"]),
                user=str(row["user"]),
                mode=str(row.get("pool_mode") or ""),
                active=_whole(row, "sv_active", "sv_login", "sv_tested", "sv_active_cancel"),
                idle=_whole(row, "sv_idle", "sv_used"),
                waiting=_whole(row, "cl_waiting"),
                oldest_wait=float(row.get("maxwait") or 0) + float(row.get("maxwait_us") or 0) / 1e6,
                limit=_whole(databases.get(row["database"], {}), "pool_size"),
            )
        )
    stats = {
        str(row["database"]): {name: float(value) for name, value in row.items() if name.startswith("total_")}
        for row in await _show(connection, "STATS")
        if row["database"] != "pgbouncer"
    }
    settings = {str(row["key"]): str(row["value"]) for row in await _show(connection, "CONFIG")}
    return BouncerSample(tuple(pools), stats, settings)


async def connect(url: str) -> psycopg.AsyncConnection[dict[str, Any]]:
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
