"""Hearing of changed tables from the database itself: statement-level triggers notify, one connection listens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg
import orjson

from pool_monitor.following import Following
from pool_monitor.pool import APPLICATION

log = logging.getLogger("siding.changes")

CHANNEL = "siding_changed"
FUNCTION = "siding_notify_changed"
TRIGGER = "siding_changed"
HEARTBEAT_SECONDS = 5.0
ANSWER_SECONDS = 2.0
RETRY_SECONDS = 1.0

_FUNCTION_SQL = f"""
CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{CHANNEL}', TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME);
    RETURN NULL;
END $$
"""
_INSTALLED = """
SELECT n.nspname || '.' || c.relname AS name
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgname = $1 ORDER BY 1
"""


class TableError(Exception):
    """A table that does not exist or is not one; the text names it."""


async def _resolve(connection: Any, table: str) -> tuple[str, str]:
    row = await connection.fetchrow(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p')",
        table,
    )
    if row is None:
        raise TableError(f"there is no table {table!r} in this database")
    return row["nspname"], row["relname"]


def _quoted(schema: str, name: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))


async def install(connection: Any, tables: Sequence[str]) -> list[str]:
    """Let `tables` notify of their changes; all or none. Raises TableError."""
    async with connection.transaction():
        names = [await _resolve(connection, table) for table in tables]
        await connection.execute(_FUNCTION_SQL)
        for schema, name in names:
            where = _quoted(schema, name)
            await connection.execute(f"DROP TRIGGER IF EXISTS {TRIGGER} ON {where}")
            await connection.execute(
                f"CREATE TRIGGER {TRIGGER} AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {where} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}()"
            )
    return [f"{schema}.{name}" for schema, name in names]


async def remove(connection: Any) -> list[str]:
    """Take every trigger and the function away again."""
    async with connection.transaction():
        names = await installed(connection)
        for name in names:
            await connection.execute(f"DROP TRIGGER {TRIGGER} ON {_quoted(*name.split('.', 1))}")
        await connection.execute(f"DROP FUNCTION IF EXISTS {FUNCTION}()")
    return names


async def installed(connection: Any) -> list[str]:
    """The tables that notify of their changes."""
    return [row["name"] for row in await connection.fetch(_INSTALLED, TRIGGER)]


def unheard(read: Mapping[str, Iterable[str]], installed: Sequence[str]) -> dict[str, list[str]]:
    """The tables that do not notify of their changes, each with the queries that read it.

    read -- what each query reads, with or without the schema. installed -- as `installed` has them.
    """
    heard = {*installed, *(name.rpartition(".")[2] for name in installed)}
    found: dict[str, list[str]] = {}
    for query, tables in read.items():
        for table in tables:
            if table not in heard:
                found.setdefault(table, []).append(query)
    return found


async def tables_of(connection: Any, sql: str, parameters: int) -> tuple[str, ...]:
    """The tables that a statement with so many parameters reads, from its generic plan. Raises asyncpg's errors.

    A plan for given values would leave out what those values make unnecessary.
    """
    name = f"siding_plan_{secrets.token_hex(4)}"
    arguments = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
    try:
        # in one transaction, so that a PgBouncer does it all on one connection
        async with connection.transaction(readonly=True):
            await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            await connection.execute(f"PREPARE {name} AS {sql}")
            plan = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE {name}{arguments}")
            await connection.execute(f"DEALLOCATE {name}")
    except asyncpg.PostgresError:
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.execute(f"DEALLOCATE {name}")
        raise
    found: dict[str, None] = {}
    # a connection that queries have used gives JSON as it came
    _walk(orjson.loads(plan.contents if isinstance(plan, orjson.Fragment) else plan), found)
    return tuple(found)


def _walk(node: Any, found: dict[str, None]) -> None:
    if isinstance(node, dict):
        if "Relation Name" in node:
            found[f"{node.get('Schema', 'public')}.{node['Relation Name']}"] = None
        for value in node.values():
            _walk(value, found)
    elif isinstance(node, list):
        for value in node:
            _walk(value, found)


async def _comes(event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Listener(Following):
    """Listens on a connection apart, and says when it cannot.

    changed -- called with each table that has changed, as schema.name. heard -- called with True once it listens,
    and with False once it does not any more.
    """

    def __init__(self, url: str, changed: Callable[[str], None], heard: Callable[[bool], None]) -> None:
        super().__init__("news of changed tables (the query cache is off without)", RETRY_SECONDS)
        self._url = url
        self._changed = changed
        self._heard = heard

    async def follow(self) -> None:
        """See `Following`."""
        connection = await asyncpg.connect(
            self._url,
            timeout=ANSWER_SECONDS,
            statement_cache_size=0,
            server_settings={"application_name": f"{APPLICATION} changes"},
        )
        lost, echo = asyncio.Event(), asyncio.Event()

        def notified(*what: Any) -> None:
            if what[3]:
                self._changed(str(what[3]))
            else:
                echo.set()

        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(CHANNEL, notified)
            await connection.execute(f"SELECT pg_notify('{CHANNEL}', '')")
            if await _comes(echo):
                log.info("changes of tables are heard of")
            else:
                log.warning(
                    "changes of tables cannot be heard of here (through a PgBouncer in transaction mode nothing can); "
                    "kept answers live for their ttl, whatever changes"
                )
            self.works()
            self._heard(True)
            while not lost.is_set():
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await lost.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1", timeout=ANSWER_SECONDS)
            log.warning("the connection that hears of changes was lost; the query cache is off until it is back")
        finally:
            self._heard(False)
            connection.terminate()
