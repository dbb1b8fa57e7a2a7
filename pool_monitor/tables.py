"""Which tables a query reads, and whether they tell of their changes.

A partition goes by the name of the partitioned table that it belongs to: rows come into it by way of that one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from pool_monitor.changes import TRIGGER

TABLE_KINDS = {"r", "p"}
"""pg_class.relkind of what can have the triggers."""
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_OF_THE_SERVER = ["pg_catalog", "information_schema"]

_ROOTS = """
SELECT DISTINCT n.nspname || '.' || root.relname AS name
FROM unnest($1::text[], $2::text[]) AS seen(schema, name)
JOIN pg_namespace s ON s.nspname = seen.schema
JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = seen.name
JOIN pg_class root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
JOIN pg_namespace n ON n.oid = root.relnamespace
WHERE n.nspname <> ALL($3::text[]) ORDER BY 1
"""
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


async def read_by(connection: Any, sql: str, parameters: int, lock_seconds: float = 1.0) -> tuple[str, ...]:
    """The tables that a statement with so many parameters reads, from its generic plan. Raises asyncpg's errors.

    lock_seconds -- how long a lock on one of them is waited for.

    A plan for given values would leave out what those values make unnecessary. The server's own are left out.
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
            await connection.execute(f"PREPARE {name} AS {sql}")
            plan = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE {name}{arguments}")
            await connection.execute(f"DEALLOCATE {name}")
    except asyncpg.PostgresError:
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.execute(f"DEALLOCATE {name}")
        raise
    seen: dict[tuple[str, str], None] = {}
    # a connection that queries have used gives JSON as it came
    _walk(orjson.loads(plan.contents if isinstance(plan, orjson.Fragment) else plan), seen)
    rows = await connection.fetch(_ROOTS, [schema for schema, _ in seen], [name for _, name in seen], _OF_THE_SERVER)
    return tuple(row["name"] for row in rows)


async def takes(connection: Any, sql: str, lock_seconds: float = 1.0) -> int:
    """How many parameters a statement has. Raises asyncpg's errors."""
    async with connection.transaction(readonly=True):
        await connection.execute(f"SET LOCAL lock_timeout = {max(1, round(1000 * lock_seconds))}")
        statement = await connection.prepare(sql)
        return len(statement.get_parameters())


def _walk(node: Any, seen: dict[tuple[str, str], None]) -> None:
    if isinstance(node, dict):
        if "Relation Name" in node:
            seen[node.get("Schema", "public"), node["Relation Name"]] = None
        for value in node.values():
            _walk(value, seen)
    elif isinstance(node, list):
        for value in node:
            _walk(value, seen)


async def look_at(connection: Any, names: Iterable[str]) -> dict[str, Found]:
    """What the database has by `names`, with or without the schema; those that it has not are left out.

    Of several by the same name, one that tells is meant. Raises asyncpg's errors.
    """
    rows = await connection.fetch(_LOOK, sorted(set(names)), TRIGGER, _OF_THE_SERVER)
    return {row["asked"]: Found(row["name"], row["kind"], row["is_whole"], row["tells"]) for row in rows}


def untold(read: Mapping[str, Sequence[str]], found: Mapping[str, Found]) -> list[str]:
    """What to say of the tables whose changes nobody hears of, each with the queries that read it, by their names.

    read -- what each query reads. found -- what `look_at` has of it.
    """
    readers: dict[str, list[str]] = {}
    for query, tables in read.items():
        for table in tables:
            readers.setdefault(table, []).append(query)
    said = (_said(table, ", ".join(queries), found.get(table)) for table, queries in readers.items())
    return [one for one in said if one is not None]


def _said(table: str, queries: str, found: Found | None) -> str | None:
    so = f"so answers of {queries} live for their ttl whatever changes"
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
