"""Finds out what each named query reads, where the operator did not say, and tells what is kept whatever changes.

Nobody tells of changes of the schema: it is all found again now and then, and what was kept before is spoilt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import TypeVar

import asyncpg

from config.tasks import end
from pool_monitor import tables
from pool_monitor.faults import describe, is_gone
from pool_monitor.pool import Connection, Pool, PoolError
from pool_monitor.queries import Query

log = logging.getLogger("siding.finder")

T = TypeVar("T")

READ_TABLES_SECONDS = 5.0
ASK_AGAIN_SECONDS = 1.0
FIND_AGAIN_SECONDS = 60.0
LOCK_SECONDS = 1.0
"""A table that is locked for longer is asked about again later; others are not to wait for it."""
_REFUSED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_BUSY = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    # a deadlock, or no room for the locks: that says nothing of the statement either
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,
    TimeoutError,
)


def _was_lost(connection: Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        # the pool has taken it back already
        return True


async def _asked(pool: Pool, asking: Callable[[Connection], Awaitable[T]]) -> T:
    """What the database says, however long it takes to be there.

    Raises asyncpg's errors of what is asked itself, and TimeoutError if that takes too long.
    """
    while True:
        refused: asyncpg.PostgresError | None = None
        try:
            async with pool.acquire("finding tables", READ_TABLES_SECONDS) as connection:
                try:
                    return await asking(connection)
                except asyncpg.InterfaceError:
                    if not _was_lost(connection):
                        raise
                except asyncpg.PostgresError as fault:
                    if is_gone(fault):
                        raise
                    # of a statement of the operator's that is tried each minute; no error of the pool's
                    refused = fault
            if refused is not None:
                raise refused
        except TimeoutError:
            raise
        except (PoolError, OSError):
            pass
        except asyncpg.PostgresError as fault:
            if not is_gone(fault):
                raise
        await asyncio.sleep(ASK_AGAIN_SECONDS)


class Finder:
    """Finds from `start` to `close`. found -- tables of each query; they come there.

    altered -- called with a query that reads other tables than before, or the same that are no longer as they were, and
    the tables of both times. told -- set once everything was found and what nobody hears of was told.
    """

    def __init__(
        self,
        pool: Pool,
        queries: Iterable[Query],
        found: dict[str, tuple[str, ...]],
        altered: Callable[[Query, Collection[str]], None],
    ) -> None:
        self._pool = pool
        self._queries = list(queries)
        self._found = found
        self._altered = altered
        self._marks: dict[str, str] = {}
        self._failing: set[str] = set()
        self._said: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self.told = asyncio.Event()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        await end([self._task])

    async def _run(self) -> None:
        now, due, sought = asyncio.get_running_loop().time, 0.0, self._queries
        while True:
            if now() >= due:
                # all of them, though some may still be sought because of a lock
                due, sought = now() + FIND_AGAIN_SECONDS, self._queries
            sought = [query for query in sought if not await self._finds(query)]
            if sought or not await self._tells():
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            else:
                self.told.set()
                await asyncio.sleep(max(0.0, due - now()))

    def _say(self, text: str) -> None:
        """Once: it is all found again and again."""
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)

    async def _finds(self, query: Query) -> bool:
        """Whether what a query reads is known now, as far as it can be."""
        if query.write and query.name in self._marks:
            return True
        try:
            reading = await _asked(self._pool, partial(_reading, query=query, pool=self._pool))
        except _BUSY as fault:
            if query.name not in self._marks:
                self._say(
                    f"the tables that query {query.name} reads cannot be found yet (tried again, none of its answers "
                    f"are kept until then): {describe(fault)}"
                )
            return False
        except tables.Miscounted as fault:
            self._failing.add(query.name)
            self._say(f"query {query.name} fails: {fault}, `parameters` {len(query.parameters)}")
            reading = tables.Reading((), "")
        except _REFUSED as fault:
            self._failing.add(query.name)
            if query.tables or query.write:
                self._say(f"query {query.name} fails: {describe(fault)}")
            else:
                self._say(
                    f"the tables that query {query.name} reads cannot be found, so its answers live for their ttl "
                    f"whatever changes; declare `tables`: {describe(fault)}"
                )
            reading = tables.Reading((), "")
        else:
            self._failing.discard(query.name)
        self._note(query, reading)
        return True

    def _note(self, query: Query, reading: tables.Reading) -> None:
        known = self._marks.get(query.name)
        before = query.tables or self._found.get(query.name, ())
        if not query.write:
            self._found[query.name] = reading.tables
        self._marks[query.name] = reading.mark
        if known is not None and known != reading.mark:
            log.info("what query %s reads was altered: what was kept of it is dropped", query.name)
            self._altered(query, {*before, *(query.tables or reading.tables)} if before else ())

    async def _tells(self) -> bool:
        """Whether what is kept whatever changes could be seen, which is told then."""
        kept = [query for query in self._queries if query.ttl and not query.write and query.name not in self._failing]
        read = {query.name: query.tables or self._found.get(query.name) for query in kept}
        known = {name: names for name, names in read.items() if names is not None}
        try:
            found = await _asked(self._pool, partial(tables.look_at, names=set().union(*known.values())))
        except TimeoutError:
            return False
        except _REFUSED as fault:
            self._say(f"whether tables tell of their changes cannot be seen: {describe(fault)}")
            return True
        for untold in tables.untold(known, found):
            self._say(untold)
        return True


async def _reading(connection: Connection, query: Query, pool: Pool) -> tables.Reading:
    """What a query reads; of one that writes, whether it can be run."""
    seconds = min(LOCK_SECONDS, pool.tuning.query / 2)
    if not query.write:
        return await tables.read_by(connection, query.statement(), len(query.parameters), seconds)
    expected = await tables.takes(connection, query.statement(), seconds)
    if expected != len(query.parameters):
        raise tables.Miscounted(expected)
    return tables.Reading((), "")
