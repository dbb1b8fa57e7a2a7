"""Which tables a query reads, and whether they tell of their changes.

A partition goes by the name of the partitioned table that it belongs to: rows come into it by way of that one.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from config.words import counted
from pool_monitor.changes import TRIGGER

TABLE_KINDS = {"r", "p"}
"""pg_class.relkind of what can have the triggers."""
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_OF_THE_SERVER = ["pg_catalog", "information_schema"]

_READ = """
WITH RECURSIVE seen(relation) AS (
    SELECT relation FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION SELECT inhparent FROM pg_inherits JOIN seen ON inhrelid = relation)
SELECT c.oid::bigint AS id, c.relkind::text AS kind, n.nspname || '.' || c.relname AS own,
       rn.nspname || '.' || root.relname AS name, c.relfilenode::bigint AS file,
       (SELECT md5(string_agg(a.attname || ' ' || a.atttypid, ',' ORDER BY a.attnum)) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       CASE WHEN c.relkind IN ('v', 'm') THEN md5(pg_get_viewdef(c.oid)) END AS view
FROM seen
JOIN pg_class c ON c.oid = seen.relation
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
JOIN pg_namespace rn ON rn.oid = root.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> ALL($1::text[]) ORDER BY 1
"""
"""What a transaction has locked: all that its statements name, views and partitions as well, in the plan or not; and
what that inherits from, as a statement that names a parent changes the rows of children, and tells as the parent."""
_LOOK = """
SELECT asked.name AS asked, rn.nspname || '.' || root.relname AS name, root.relkind::text AS kind,
       root.oid = c.oid AS is_whole,
       EXISTS (SELECT FROM pg_trigger t
               WHERE t.tgrelid = root.oid AND t.tgname = $2 AND t.tgenabled IN ('O', 'A')) AS tells
FROM unnest($1::text[]) AS asked(name)
JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
  ON asked.name IN (c.relname, n.nspname || '.' || c.relname)
JOIN pg_class root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
JOIN pg_namespace rn ON rn.oid = root.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> ALL($3::text[])
ORDER BY tells
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What the database has by a name.

    name -- with the schema; of a partition, that of its partitioned table. kind -- pg_class.relkind.
    is_whole -- it is no partition. tells -- of its changes.
    """

    name: str
    kind: str
    is_whole: bool
    tells: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What a query reads. mark -- another once one of the tables, its partitions, children or views is another."""

    tables: tuple[str, ...]
    mark: str


class Miscounted(Exception):
    """A statement has `expected` parameters, and not as many as were declared."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"its SQL has {counted(expected, 'parameter')}")


async def read_by(connection: Any, sql: str, parameters: int, lock_seconds: float = 1.0) -> Reading:
    """What a statement with so many parameters reads. Raises asyncpg's errors, and Miscounted.

    lock_seconds -- how long a lock on one of its tables is waited for.

    It is planned, which locks all that it may read, and what is locked is looked at. Planned for any values: given ones
    would leave out partitions that they make unnecessary. The server's own tables are left out.
    """
    name = f"siding_plan_{secrets.token_hex(4)}"
    arguments = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
    try:
        # in one transaction, so that a PgBouncer does it all on one connection
        async with connection.transaction(readonly=True):
            # neither values nor NULL in their place may leave out partitions, up to the last of them
            await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            await connection.execute("SET LOCAL enable_partition_pruning = off")
            await connection.execute(f"SET LOCAL lock_timeout = {max(1, round(1000 * lock_seconds))}")
            # which takes one statement alone; of several, PREPARE would run those behind the first
            expected = await _parameters_of(connection, sql)
            if expected != parameters:
                raise Miscounted(expected)
            await connection.execute(f"PREPARE {name} AS {sql}")
            await connection.execute(f"EXPLAIN EXECUTE {name}{arguments}")
            rows = await connection.fetch(_READ, _OF_THE_SERVER)
            await connection.execute(f"DEALLOCATE {name}")
    except asyncpg.PostgresError:
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.execute(f"DEALLOCATE {name}")
        raise
    read = sorted({row["name"] for row in rows if row["kind"] != "v"})
    mark = hashlib.blake2b(repr([tuple(row) for row in rows]).encode(), digest_size=16).hexdigest()
    return Reading(tuple(read), mark)


async def takes(connection: Any, sql: str, lock_seconds: float = 1.0) -> int:
    """How many parameters a statement has. Raises asyncpg's errors."""
    async with connection.transaction(readonly=True):
        await connection.execute(f"SET LOCAL lock_timeout = {max(1, round(1000 * lock_seconds))}")
        return await _parameters_of(connection, sql)


async def _parameters_of(connection: Any, sql: str) -> int:
    # without a name: one with a name would stay on a PgBouncer's connection, for whoever has that next
    statement = await connection.prepare(sql, name="")
    return len(statement.get_parameters())


async def look_at(connection: Any, names: Iterable[str]) -> dict[str, Found]:
    """What the database has by `names`, with or without the schema; those that it has not are left out.

    Of several by the same name, one that tells is meant. Raises asyncpg's errors.
    """
    rows = await connection.fetch(_LOOK, sorted(set(names)), TRIGGER, _OF_THE_SERVER)
    return {row["asked"]: Found(row["name"], row["kind"], row["is_whole"], row["tells"]) for row in rows}


def untold(read: Mapping[str, Sequence[str]], found: Mapping[str, Found]) -> list[str]:
    """What to say of the tables whose changes nobody hears of, each with the queries that read it, by their names; and
    of queries that read none.

    read -- what each query reads. found -- what `look_at` has of it.
    """
    readers: dict[str, list[str]] = {}
    unseen = ", ".join(query for query, tables in read.items() if not tables)
    for query, tables in read.items():
        for table in tables:
            readers.setdefault(table, []).append(query)
    said = (_said(table, ", ".join(queries), found.get(table)) for table, queries in readers.items())
    told = [one for one in said if one is not None]
    if unseen:
        told.append(
            f"no table can be seen that {unseen} reads (a function hides its own), {_so(unseen)}; declare `tables`"
        )
    return told


def _so(queries: str) -> str:
    return f"so answers of {queries} live for their ttl whatever changes"


def _said(table: str, queries: str, found: Found | None) -> str | None:
    so = _so(queries)
    if found is None:
        return f"there is no table {table}, {so}; correct `tables`"
    if found.kind not in TABLE_KINDS:
        return f"{table} is {_KINDS[found.kind]}, which cannot tell of its changes, {so}"
    if not found.is_whole:
        return f"table {table} is a partition, whose changes are told of as {found.name}'s, {so}; declare that one"
    if not found.tells:
        advice = f"`siding-monitor triggers install {found.name}` has it tell"
        return f"table {table} does not tell of its changes, {so}; {advice}"
    return None
