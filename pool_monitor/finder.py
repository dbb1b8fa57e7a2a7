"""Finds out what each named query reads, where the operator did not say, and tells what is kept whatever changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import asyncpg

from config.tasks import end
from pool_monitor import tables
from pool_monitor.pool import Connection, Pool, PoolError, describe, is_gone
from pool_monitor.queries import Query

log = logging.getLogger("siding.finder")

T = TypeVar("T")

READ_TABLES_SECONDS = 5.0
ASK_AGAIN_SECONDS = 1.0
LOCK_SECONDS = 1.0
"""A table that is locked for longer is asked about again later; others are not to wait for it."""
_BUSY = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, TimeoutError)


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
        try:
            async with pool.acquire("finding tables", READ_TABLES_SECONDS) as connection:
                try:
                    return await asking(connection)
                except asyncpg.InterfaceError:
                    if not _was_lost(connection):
                        raise
        except TimeoutError:
            raise
        except (PoolError, OSError):
            pass
        except asyncpg.PostgresError as fault:
            if not is_gone(fault):
                raise
        await asyncio.sleep(ASK_AGAIN_SECONDS)


class Finder:
    """Finds from `start` to `close`. tables -- of each query that is not declared with them; what is found comes there.

    told -- set once everything was found and what nobody hears of was told.
    """

    def __init__(self, pool: Pool, queries: Iterable[Query], found: dict[str, tuple[str, ...]]) -> None:
        self._pool = pool
        self._queries = list(queries)
        self._found = found
        self._locked: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self.told = asyncio.Event()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        await end([self._task])

    async def _run(self) -> None:
        sought = self._queries
        while True:
            sought = [query for query in sought if not await self._finds(query)]
            if not sought and await self._tells():
                break
            await asyncio.sleep(ASK_AGAIN_SECONDS)
        self.told.set()

    async def _finds(self, query: Query) -> bool:
        """Whether what a query reads is known now, as far as it is to be."""
        seconds = min(LOCK_SECONDS, self._pool.tuning.query / 2)
        counting = partial(tables.takes, sql=query.statement(), lock_seconds=seconds)
        asking = partial(tables.read_by, sql=query.statement(), parameters=len(query.parameters), lock_seconds=seconds)
        try:
            expected, declared = await _asked(self._pool, counting), len(query.parameters)
            if expected != declared:
                log.warning(
                    "query %s fails: its SQL has %d parameters, `parameters` %d", query.name, expected, declared
                )
            elif not (query.tables or query.write):
                self._found[query.name] = await _asked(self._pool, asking)
        except _BUSY as fault:
            if query.name not in self._locked:
                log.warning(
                    "the tables that query %s reads cannot be found yet (tried again, none of its answers are kept "
                    "until then): %s",
                    query.name,
                    describe(fault),
                )
            self._locked.add(query.name)
            return False
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
            if query.tables or query.write:
                log.warning("query %s fails: %s", query.name, describe(fault))
                return True
            self._found[query.name] = ()
            log.warning(
                "the tables that query %s reads cannot be found, so its answers live for their ttl whatever "
                "changes; declare `tables`: %s",
                query.name,
                describe(fault),
            )
        return True

    async def _tells(self) -> bool:
        """Whether what is kept whatever changes could be seen, which is told then."""
        kept = [query for query in self._queries if query.ttl and not query.write]
        read = {query.name: query.tables or self._found.get(query.name, ()) for query in kept}
        try:
            found = await _asked(self._pool, partial(tables.look_at, names=set().union(*read.values())))
        except TimeoutError:
            return False
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
            log.warning("whether tables tell of their changes cannot be seen: %s", describe(fault))
            return True
        for untold in tables.untold(read, found):
            log.warning("%s", untold)
        return True
