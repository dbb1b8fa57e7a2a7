"""What the server says of itself, sampled now and then on a connection of its own, so that no metric waits for it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from config.metrics import filled
from pool_monitor.following import Following
from pool_monitor.pool import APPLICATION

EVERY_SECONDS = 15.0
QUERY_SECONDS = 3.0
TOP_STATEMENTS = 20
"""Statements told by their time; each is a label value, so there are few."""

_STATES = """
SELECT coalesce(state, 'other') AS state, count(*)::int AS connections,
       coalesce(extract(epoch FROM max(now() - xact_start)), 0)::float8 AS longest
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1
"""
_DATABASE = """
SELECT blks_hit::float8, blks_read::float8, deadlocks::float8, temp_bytes::float8, xact_commit::float8,
       xact_rollback::float8, pg_database_size(current_database())::float8 AS size,
       (SELECT count(*)::float8 FROM pg_locks WHERE NOT granted) AS locks_waiting,
       (SELECT setting::float8 FROM pg_settings WHERE name = 'max_connections') AS max_connections,
       (SELECT coalesce(max(extract(epoch FROM replay_lag)), 0)::float8 FROM pg_stat_replication) AS lag
FROM pg_stat_database WHERE datname = current_database()
"""
STATEMENTS_THERE = """
SELECT to_regclass('pg_stat_statements') IS NOT NULL AND current_setting('pg_stat_statements.max', true) IS NOT NULL
"""
"""Whether the extension was created and its library was loaded when the server started, without which it only fails."""
_STATEMENTS = """
SELECT query, sum(calls)::float8 AS calls, sum(total_exec_time)::float8 / 1000 AS seconds
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query IS NOT NULL
GROUP BY query ORDER BY sum(total_exec_time) DESC LIMIT $1
"""
"""The same text has a row for each role, and for each table of that name; one that cannot be read is NULL."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the server. states -- connections by state. longest -- seconds of the longest transaction."""

    states: dict[str, int]
    longest: float
    database: dict[str, float]
    statements: list[tuple[str, float, float]] = field(default_factory=list)


def fingerprint(sql: str) -> str:
    """A short name for a statement, whatever its white space."""
    return hashlib.sha256(re.sub(r"\s+", " ", sql).strip().encode()).hexdigest()[:12]


async def look(connection: Any) -> Sample:
    """Sample the server."""
    states = await connection.fetch(_STATES, timeout=QUERY_SECONDS)
    database = await connection.fetchrow(_DATABASE, timeout=QUERY_SECONDS)
    there = await connection.fetchval(STATEMENTS_THERE, timeout=QUERY_SECONDS)
    statements = await connection.fetch(_STATEMENTS, TOP_STATEMENTS, timeout=QUERY_SECONDS) if there else []
    return Sample(
        states={row["state"]: row["connections"] for row in states},
        longest=max((row["longest"] for row in states), default=0.0),
        database=dict(database),
        statements=[(fingerprint(row["query"]), row["calls"], row["seconds"]) for row in statements],
    )


class Sampler(Following):
    """Looks every `EVERY_SECONDS`; `latest` is None until it could, and again once it could not."""

    def __init__(self, url: str) -> None:
        super().__init__("the server's statistics", EVERY_SECONDS)
        self._url = url
        self.latest: Sample | None = None

    async def follow(self) -> None:
        """See `Following`."""
        connection = await asyncpg.connect(
            self._url,
            timeout=QUERY_SECONDS,
            statement_cache_size=0,
            server_settings={"application_name": f"{APPLICATION} statistics"},
        )
        try:
            while True:
                self.latest = await look(connection)
                self.works()
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            self.latest = None
            connection.terminate()

    def levels(self) -> Iterable[Metric]:
        """The latest sample as metrics."""
        sample = self.latest
        yield GaugeMetricFamily("siding_server_up", "Whether the server's statistics can be read.", sample is not None)
        if sample is None:
            return
        states = GaugeMetricFamily("siding_server_connections", "Clients' connections by state.", labels=["state"])
        yield filled(states, sample.states)
        of = sample.database
        yield GaugeMetricFamily("siding_server_connections_max", "max_connections.", of["max_connections"])
        yield GaugeMetricFamily("siding_server_longest_transaction_seconds", "The longest open one.", sample.longest)
        reads = of["blks_hit"] + of["blks_read"]
        ratio = of["blks_hit"] / reads if reads else 1.0
        yield GaugeMetricFamily("siding_server_cache_hit_ratio", "Blocks found in shared buffers.", ratio)
        yield GaugeMetricFamily("siding_server_database_bytes", "Size of the database.", of["size"])
        yield GaugeMetricFamily("siding_server_locks_waiting", "Locks that are waited for.", of["locks_waiting"])
        yield GaugeMetricFamily("siding_server_replication_lag_seconds", "Of the slowest replica.", of["lag"])
        yield CounterMetricFamily("siding_server_deadlocks", "Deadlocks.", of["deadlocks"])
        yield CounterMetricFamily("siding_server_temporary_bytes", "Written to temporary files.", of["temp_bytes"])
        transactions = CounterMetricFamily("siding_server_transactions", "Transactions by end.", labels=["end"])
        yield filled(transactions, {"commit": of["xact_commit"], "rollback": of["xact_rollback"]})
        seconds = CounterMetricFamily(
            "siding_server_statement_seconds", "Time of the statements that took most.", labels=["fingerprint"]
        )
        calls = CounterMetricFamily("siding_server_statement_calls", "Calls of the same.", labels=["fingerprint"])
        for name, called, spent in {one[0]: one for one in sample.statements}.values():
            seconds.add_metric([name], spent)
            calls.add_metric([name], called)
        yield seconds
        yield calls
