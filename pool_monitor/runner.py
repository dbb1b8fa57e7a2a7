"""Runs named queries: on a lent connection, in a transaction of its own, within bounds, from the cache where it may."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg

from config.flags import Flags
from config.kinds import show_size
from pool_monitor import results
from pool_monitor.faults import describe, is_gone, sqlstate
from pool_monitor.incoming import Incoming
from pool_monitor.pool import Pool, PoolError
from pool_monitor.queries import Query
from pool_monitor.query_cache import Found, QueryCache

log = logging.getLogger("siding.queries")

FIRST_ROWS, FETCH_ROWS = 1, 500
"""How many rows of a stream are fetched at once: first, of which nothing is known, and at most."""
PORTION_BYTES = 1024 * 1024
PORTION_SHARE = 16
"""How much they should be: so many bytes, and so small a part of what they may be, for the next may be larger."""
PIECE_BYTES = 64 * 1024
OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""What a connection remembers of tables and types is not so any more."""
ERROR = "error"
CLIENT_GONE = "client-gone"
"""Whoever asked left before the answer was complete."""
MISCOUNTED = "the server expects"
"""How asyncpg begins when there are more or fewer arguments than parameters."""

Observe = Callable[[str, str, float], None]
"""Told of a query's name, how it was answered, and seconds."""


class QueryError(Exception):
    """A query that failed. status -- for HTTP. more -- for the JSON beside code and message."""

    def __init__(self, status: int, code: str, message: str, **more: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.more = more


class TooManyRows(Exception):
    """The query brought more rows than it may."""


class TooManyOctets(Exception):
    """The query brought more octets at once than it may. whole -- it need not have been at once."""

    def __init__(self, most: int, *, whole: bool) -> None:
        super().__init__(f"more than {show_size(most)}")
        self.whole = whole


def next_portion(rows: int, octets: int, most: int) -> int:
    """How many rows to fetch after as many that had so many octets: those that come may be larger. most -- octets that
    they may have."""
    aim = min(PORTION_BYTES, most // PORTION_SHARE)
    return max(1, min(2 * rows, FETCH_ROWS, aim * rows // max(1, octets)))


class Runner:
    """Answers named queries. tables -- of each query, once they are known; before that nothing of it is kept."""

    def __init__(self, pool: Pool, cache: QueryCache, flags: Flags, observe: Observe) -> None:
        self._pool = pool
        self._cache = cache
        self._flags = flags
        self._observe = observe
        self.tables: dict[str, tuple[str, ...]] = {}
        self._failing: dict[str, str] = {}

    async def answer(self, query: Query, values: Sequence[object]) -> tuple[bytes, Found]:
        """The whole answer as JSON. Raises QueryError."""
        began = time.monotonic()
        outcome = CLIENT_GONE
        try:
            content, found = await self._answer(query, values)
            outcome = found.value
            self._failing.pop(query.name, None)
            return content, found
        except Exception as fault:
            outcome = ERROR
            raise self._fails(query, fault) from fault
        finally:
            self._observe(query.name, outcome, time.monotonic() - began)

    async def _answer(self, query: Query, values: Sequence[object]) -> tuple[bytes, Found]:
        async def ask() -> bytes:
            async with contextlib.aclosing(self._document(query, values)) as pieces:
                return b"".join([piece async for piece in pieces])

        # nothing could spoil what is kept of tables that are not known yet
        tables = query.tables or self.tables.get(query.name)
        keeps = tables is not None and self._flags.query_cache and not self._flags.bypass and not query.write
        ttl = query.ttl if keeps else 0.0
        return await self._cache.answer(query.key(values), ttl, tables or (), ask, self._flags.dedup)

    def _octets(self, query: Query) -> int:
        return query.octets or self._pool.tuning.octets

    async def _document(self, query: Query, values: Sequence[object]) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._records(query, values, streamed=False)) as records:
            if query.exists:
                async for record in records:
                    yield results.encode({"exists": record[0]})
                return
            count, size, most = 0, 0, self._octets(query)
            yield b'{"rows":['
            async for record in records:
                row = results.row(record)
                size += len(row) + 1
                if size > most:
                    raise TooManyOctets(most, whole=not query.write)
                yield (b"," if count else b"") + row
                count += 1
            yield b'],"rowCount":%d}' % count

    async def lines(self, query: Query, values: Sequence[object]) -> AsyncGenerator[bytes, None]:
        """The rows as they come, each as a line of JSON, gathered into pieces. Raises QueryError."""
        began = time.monotonic()
        outcome, piece, size, begun = CLIENT_GONE, [], 0, False
        try:
            async with contextlib.aclosing(self._records(query, values, streamed=True)) as records:
                async for record in records:
                    line = results.row(record) + b"\n"
                    piece.append(line)
                    size += len(line)
                    if size >= PIECE_BYTES:
                        yield b"".join(piece)
                        piece, size, begun = [], 0, True
            outcome = Found.BYPASS.value
            self._failing.pop(query.name, None)
            yield b"".join(piece)
        except Exception as fault:
            outcome = ERROR
            raise self._fails(query, fault, begun) from fault
        finally:
            self._observe(query.name, outcome, time.monotonic() - began)

    def _fails(self, query: Query, fault: Exception, begun: bool = False) -> QueryError:
        """What is told to who asks; and to the operator, once until it works, where it is not the asker's doing, or he
        is cut, and cannot be told. begun -- his answer is."""
        told = _told(query, fault)
        # its text may have numbers that are others each time
        kind = f"{told.code} {told.more.get('sqlstate', '')}"
        if (told.status >= 500 or begun) and self._failing.get(query.name) != kind:
            self._failing[query.name] = kind
            log.warning("query %s fails: %s", query.name, told)
        return told

    async def _records(self, query: Query, values: Sequence[object], *, streamed: bool) -> AsyncGenerator[Any, None]:
        seconds = query.timeout or self._pool.tuning.query
        async with (
            self._pool.acquire(query.name) as connection,
            _read_only(query),
            asyncio.timeout(seconds),
            _bounded(connection.record.incoming, query, self._octets(query), streamed=streamed),
        ):
            await results.prepare_once(connection)
            begun, again = False, not query.write
            while True:
                try:
                    async with contextlib.aclosing(self._run(connection, query, values, seconds, streamed)) as records:
                        async for record in records:
                            begun = True
                            yield record
                    return
                except OUTDATED:
                    # a table or a type was altered; asyncpg's memory of it is as it was, after a cursor at least
                    await connection.reload_schema_state()
                    if begun or not again:
                        raise
                    again = False

    async def _run(
        self, connection: Any, query: Query, values: Sequence[object], seconds: float, streamed: bool
    ) -> AsyncGenerator[Any, None]:
        """seconds -- for each call: asyncpg bounds it by the pool's otherwise, which may be shorter.

        streamed -- in portions. For an Execute message that bounds the rows PostgreSQL starts no parallel workers
        (its documentation, "When Can Parallel Query Be Used?").
        """
        incoming, octets = connection.record.incoming, self._octets(query)
        async with connection.transaction(readonly=not query.write):
            limit = query.timeout or (self._pool.tuning.statement if self._pool.through_pgbouncer else None)
            if limit is not None:
                await connection.execute(f"SET LOCAL statement_timeout = {round(1000 * limit)}")
            if query.write or not streamed:
                # some more than it may bring are no reason to end a connection
                incoming.begin(octets, query.rows + FETCH_ROWS)
                whole = await connection.fetch(query.statement(), *values, timeout=seconds)
                if len(whole) > query.rows:
                    raise TooManyRows
                for record in whole:
                    yield record
                return
            cursor = await connection.cursor(query.statement(), *values, timeout=seconds)
            count, portion = 0, FIRST_ROWS
            while True:
                incoming.begin(octets, portion)
                rows = await cursor.fetch(portion, timeout=seconds)
                for record in rows:
                    count += 1
                    if count > query.rows:
                        raise TooManyRows
                    yield record
                if len(rows) < portion:
                    return
                portion = next_portion(portion, incoming.octets, octets)


@contextlib.asynccontextmanager
async def _read_only(query: Query) -> AsyncIterator[None]:
    """That it may not write is no sign of a fail-over, for which the pool would take it."""
    try:
        yield
    except asyncpg.ReadOnlySQLTransactionError as fault:
        if query.write:
            raise
        hint = f"{describe(fault)}; `write = true` lets it write"
        raise QueryError(500, "query-failed", hint, sqlstate=fault.sqlstate) from fault


@contextlib.asynccontextmanager
async def _bounded(incoming: Incoming, query: Query, octets: int, *, streamed: bool) -> AsyncIterator[None]:
    """That an answer was too large is no loss of a connection, though it was ended by it."""
    try:
        yield
    except Exception:
        if incoming.exceeded:
            if incoming.rows > query.rows:
                raise TooManyRows from None
            raise TooManyOctets(octets, whole=not streamed and not query.write) from None
        raise
    finally:
        incoming.end()


def _told(query: Query, fault: Exception) -> QueryError:
    match fault:
        case QueryError():
            return fault
        case PoolError():
            return QueryError(503, fault.code, str(fault), retry=True)
        case TooManyRows():
            return QueryError(
                422, "too-many-rows", f"{query.name} brings more than {query.rows} rows; narrow it, or raise its `rows`"
            )
        case TooManyOctets():
            streamed = ", have it streamed (Accept: application/x-ndjson)," if fault.whole else ""
            return QueryError(
                422,
                "answer-too-large",
                f"{query.name} brings {fault} at once; narrow it{streamed} or raise its `bytes` (otherwise "
                "DB_QUERY_MAX_BYTES)",
            )
        case TimeoutError():
            return QueryError(504, "query-timeout", f"{query.name} took too long")
        case asyncpg.InvalidCachedStatementError() | asyncpg.OutdatedSchemaCacheError():
            return QueryError(503, "schema-changed", f"what {query.name} reads was altered; ask again", retry=True)
        case asyncpg.QueryCanceledError():
            return QueryError(504, "query-timeout", f"{query.name} took too long", sqlstate=fault.sqlstate)
        case asyncpg.PostgresError() if is_gone(fault):
            # what it may have written is not known
            return QueryError(
                503, "database-unreachable", describe(fault), retry=not query.write, sqlstate=sqlstate(fault)
            )
        case asyncpg.PostgresError():
            client = sqlstate(fault)[:2] in {"22", "23"}
            return QueryError(400 if client else 500, "query-failed", describe(fault), sqlstate=sqlstate(fault))
        case (
            results.Unreadable()
            | asyncpg.UnsupportedClientFeatureError()
            | asyncpg.InternalClientError()
            | UnicodeDecodeError()
        ):
            why = "" if isinstance(fault, results.Unreadable) else f" ({describe(fault)})"
            return QueryError(500, "query-failed", f"{results.Unreadable()}{why}")
        case asyncpg.InterfaceError() if str(fault).startswith(MISCOUNTED):
            return QueryError(500, "query-failed", f"{describe(fault)}; correct `parameters`")
        case OSError() | asyncpg.InterfaceError():
            return QueryError(503, "database-unreachable", describe(fault), retry=True)
    log.error("query %s failed inside Siding", query.name, exc_info=fault)
    return QueryError(500, "internal-error", "a fault of Siding's own; its log has the details")
