"""Hearing of changed tables from the database itself: statement-level triggers notify, one connection listens.

A partition's changes are told of as those of the partitioned table that it belongs to, at the top.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import asyncpg

from pool_monitor.following import Following
from pool_monitor.pool import APPLICATION

log = logging.getLogger("siding.changes")

CHANNEL = "siding_changed"
FUNCTION = "siding_notify_changed"
TRIGGER = "siding_changed"
HEARTBEAT_SECONDS = 5.0
ANSWER_SECONDS = 2.0
RETRY_SECONDS = 1.0
LOCK_SECONDS = 3.0
"""How long the lock on a table is waited for, behind which everybody else waits meanwhile."""
OLDEST, REPLACES = 12, 14
"""The first versions of PostgreSQL with pg_partition_root, and with CREATE OR REPLACE TRIGGER (its release notes)."""

_FUNCTION_SQL = f"""
CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE root regclass := pg_partition_root(TG_RELID);
BEGIN
    PERFORM pg_notify('{CHANNEL}', n.nspname || '.' || c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = coalesce(root, TG_RELID);
    RETURN NULL;
END $$
"""
_TREE = """
SELECT n.nspname AS schema, c.relname AS name, c.oid = root.oid AS is_root, t.oid IS NOT NULL AS has_one,
       coalesce(t.tgtype = 60 AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL AND p.proname = $3, false) AS tells
FROM (SELECT coalesce(pg_partition_root(to_regclass($1)), to_regclass($1)) AS oid) root
JOIN pg_class c ON c.oid = root.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(root.oid))
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = $2
LEFT JOIN pg_proc p ON p.oid = t.tgfoid
WHERE c.relkind IN ('r', 'p') ORDER BY is_root DESC, 1, 2
"""
"""60 is pg_trigger.tgtype of after, each statement, for all four kinds."""
_INSTALLED = """
SELECT n.nspname AS schema, c.relname AS name, NOT c.relispartition AS is_root
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgname = $1 ORDER BY 1, 2
"""


class TableError(Exception):
    """A table that does not exist, is none, or is held by others, and a server that is too old; the text names it."""


def _quoted(row: Any) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in (row["schema"], row["name"]))


def _roots(rows: Iterable[Any]) -> list[str]:
    return [f"{row['schema']}.{row['name']}" for row in rows if row["is_root"]]


@contextlib.asynccontextmanager
async def _with_lock(connection: Any, table: str) -> AsyncIterator[None]:
    """A transaction that has to do with one table alone, and does not wait for it for long. Raises TableError."""
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {round(1000 * LOCK_SECONDS)}")
            yield
    except asyncpg.LockNotAvailableError as fault:
        raise TableError(
            f"{table} was left as it is: others hold it, and its lock was not to be had within {LOCK_SECONDS:g} s; "
            "do it again when they have ended (pg_stat_activity names them), which goes on with this table"
        ) from fault


async def install(connection: Any, tables: Sequence[str]) -> list[str]:
    """Let `tables` notify of their changes; one that does is left alone. Raises TableError, before all if one is none.

    A partition stands for its partitioned table, which notifies with all the partitions that it has now: a statement
    fires the triggers of the table that it names, and not those of others that it reaches through that one.
    """
    major = connection.get_server_version().major
    if major < OLDEST:
        raise TableError(f"the server is PostgreSQL {major}; its tables can tell of their changes from {OLDEST} on")
    found: list[Any] = []
    for table in tables:
        tree = await connection.fetch(_TREE, table, TRIGGER, FUNCTION)
        if not tree:
            raise TableError(f"there is no table {table!r} in this database")
        found += tree
    await connection.execute(_FUNCTION_SQL)
    replaces = major >= REPLACES
    # each in a transaction of its own: nobody waits for one table because of another
    for row in {_quoted(row): row for row in found if not row["tells"]}.values():
        where = _quoted(row)
        async with _with_lock(connection, where):
            if row["has_one"] and not replaces:
                await connection.execute(f"DROP TRIGGER {TRIGGER} ON {where}")
            await connection.execute(
                f"CREATE {'OR REPLACE ' if replaces else ''}TRIGGER {TRIGGER} "
                f"AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {where} FOR EACH STATEMENT "
                f"EXECUTE FUNCTION {FUNCTION}()"
            )
    return list(dict.fromkeys(_roots(found)))


async def doubts(connection: Any) -> str:
    """What tables that notify may break in this database; nothing where they do not."""
    prepared = await connection.fetchval("SELECT current_setting('max_prepared_transactions')::int")
    if not prepared:
        return ""
    return (
        f"max_prepared_transactions is {prepared}: a transaction that has notified cannot be prepared, so whoever uses "
        "PREPARE TRANSACTION (two-phase commit) fails with 0A000 after a change of these tables"
    )


async def remove(connection: Any) -> list[str]:
    """Take every trigger and the function away again. Raises TableError."""
    rows = await connection.fetch(_INSTALLED, TRIGGER)
    for row in rows:
        where = _quoted(row)
        async with _with_lock(connection, where):
            await connection.execute(f"DROP TRIGGER IF EXISTS {TRIGGER} ON {where}")
    await connection.execute(f"DROP FUNCTION IF EXISTS {FUNCTION}()")
    return _roots(rows)


async def installed(connection: Any) -> list[str]:
    """The tables that notify of their changes; a partitioned one stands for its partitions."""
    return _roots(await connection.fetch(_INSTALLED, TRIGGER))


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
    and with False once it does not any more; and with whether anything can be heard.
    """

    def __init__(self, url: str, changed: Callable[[str], None], heard: Callable[[bool, bool], None]) -> None:
        super().__init__("news of changed tables (the query cache is off without)", RETRY_SECONDS)
        self._url = url
        self._changed = changed
        self._heard = heard

    async def _connect(self) -> Any:
        return await asyncpg.connect(
            self._url,
            timeout=ANSWER_SECONDS,
            command_timeout=ANSWER_SECONDS,
            statement_cache_size=0,
            server_settings={"application_name": f"{APPLICATION} changes"},
        )

    async def follow(self) -> None:
        """See `Following`."""
        connection = await self._connect()
        lost, echo = asyncio.Event(), asyncio.Event()

        def notified(*what: Any) -> None:
            if what[3]:
                self._changed(str(what[3]))
            else:
                echo.set()

        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(CHANNEL, notified)
            await self._call()
            hears = await _comes(echo)
            if hears:
                log.info("changes of tables are heard of")
            else:
                log.warning(
                    "changes of tables cannot be heard of here (through a PgBouncer in transaction mode nothing can); "
                    "kept answers live for their ttl, whatever changes"
                )
            self.works()
            self._heard(True, hears)
            while not lost.is_set():
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await lost.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")
            log.warning("the connection that hears of changes was lost; the query cache is off until it is back")
        finally:
            self._heard(False, False)
            connection.terminate()

    async def _call(self) -> None:
        """Notify as others do, from another connection: to its own a PgBouncer may bring what it says itself alone."""
        other = await self._connect()
        try:
            await other.execute(f"SELECT pg_notify('{CHANNEL}', '')")
        finally:
            other.terminate()
