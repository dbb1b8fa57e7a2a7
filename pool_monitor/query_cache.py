"""Answers of named queries, kept for a while: until their time is over, or a table they read has changed.

Nothing is kept of what changed while it was read: an answer carries the count of changes at which its query began,
and any later change of one of its tables spoils it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from pool_monitor.kept import Kept
from pool_monitor.replicas import EVERYTHING, Replicas

MAX_BYTES = 64 * 1024 * 1024
MAX_ANSWER_BYTES = 1024 * 1024
OVERHEAD_BYTES = 600


class Found(StrEnum):
    """Where an answer came from."""

    HIT = "hit"
    SHARED = "shared"
    """another replica had asked"""
    MISS = "miss"
    COLLAPSED = "collapsed"
    BYPASS = "bypass"


@dataclass(slots=True)
class _Answer:
    content: bytes
    until: float
    tables: tuple[str, ...]
    epoch: int

    @property
    def weight(self) -> int:
        return len(self.content) + OVERHEAD_BYTES


class QueryCache:
    """Kept answers by key, least recently used first out. clock -- monotonic seconds. Keys are digests, all short.

    trusted -- False while changes cannot be heard of: then nothing is served from here or kept.
    """

    def __init__(
        self, clock: Callable[[], float], max_bytes: int = MAX_BYTES, replicas: Replicas | None = None
    ) -> None:
        self._clock = clock
        self._replicas = replicas
        self.held: Kept[str, _Answer] = Kept(max_bytes)
        self._asking: dict[str, asyncio.Task[tuple[bytes, Found]]] = {}
        self._epoch = 0
        self._changed: dict[str, int] = {}
        self._all_changed = 0
        self.trusted = True
        self._hears = True
        self.tally = dict.fromkeys(Found, 0)
        self.invalidations = 0

    async def answer(
        self,
        key: str,
        ttl: float,
        tables: Iterable[str],
        ask: Callable[[], Awaitable[bytes]],
        collapses: bool = True,
    ) -> tuple[bytes, Found]:
        """The kept answer, or that of `ask`, which is called once however many want it at the same time.

        collapses -- False: each that finds nothing kept has it called.
        """
        if not self.trusted or ttl <= 0:
            return await ask(), self._count(Found.BYPASS)
        kept = self._find(key)
        if kept is not None:
            return kept.content, self._count(Found.HIT)
        if not collapses:
            content, found = await self._ask(key, ttl, tuple(tables), self._epoch, ask)
            return content, self._count(found)
        asking = self._asking.get(key)
        if asking is not None:
            content, _ = await asyncio.shield(asking)
            return content, self._count(Found.COLLAPSED)
        # in a task of its own: whoever came first may leave without failing the others
        task = asyncio.create_task(self._ask(key, ttl, tuple(tables), self._epoch, ask))
        self._asking[key] = task
        task.add_done_callback(lambda done: self._asked(key, done))
        content, found = await asyncio.shield(task)
        return content, self._count(found)

    def _asked(self, key: str, task: asyncio.Task[tuple[bytes, Found]]) -> None:
        if self._asking.get(key) is task:
            del self._asking[key]
        if not task.cancelled():
            task.exception()

    async def _ask(
        self, key: str, ttl: float, tables: tuple[str, ...], epoch: int, ask: Callable[[], Awaitable[bytes]]
    ) -> tuple[bytes, Found]:
        look = await self._replicas.look(key, tables) if self._replicas is not None else None
        if look is not None and look.content is not None:
            content, left, found = look.content, min(ttl, look.left), Found.SHARED
        else:
            content, left, found = await ask(), ttl, Found.MISS
        kept = _Answer(content, self._clock() + left, tables, epoch)
        if self.trusted and len(content) <= MAX_ANSWER_BYTES and self._holds(kept):
            self.held.keep(key, kept)
            if self._replicas is not None and look is not None and found is Found.MISS:
                await self._replicas.tell(look, content, ttl)
        return content, found

    def _count(self, found: Found) -> Found:
        self.tally[found] += 1
        return found

    def _holds(self, kept: _Answer) -> bool:
        changed = max((self._changed.get(table, 0) for table in kept.tables), default=0)
        return kept.epoch >= max(changed, self._all_changed)

    def _find(self, key: str) -> _Answer | None:
        kept = self.held.find(key)
        if kept is not None and (kept.until <= self._clock() or not self._holds(kept)):
            self.held.drop(key)
            return None
        return kept

    def changed(self, *names: str) -> None:
        """A table, known by these names, has changed: what was read from it before is not served any more."""
        self._epoch += 1
        self._changed.update(dict.fromkeys(names, self._epoch))
        if self._replicas is not None:
            self._replicas.spoil(names)
        self.invalidations += 1
        # requests from now on must not be given what is being read now
        self._asking.clear()

    def distrust(self) -> None:
        """Changes cannot be heard of: drop everything, and keep nothing until `trust`."""
        self.trusted = self._hears = False
        self.clear()

    def trust(self, hears: bool = True) -> None:
        """Changes are heard of again; those missed in between count as if everything had changed.

        hears -- False: nothing can ever be heard, and answers live for their ttl.
        """
        self.trusted, self._hears = True, hears
        self.forget()

    def forget(self) -> None:
        """Everything counts as if it had changed."""
        self.clear()
        if self._replicas is not None:
            self._replicas.spoil((EVERYTHING,))

    def clear(self) -> None:
        """Drop everything, and what is being read as well."""
        self._epoch += 1
        self._all_changed = self._epoch
        self._asking.clear()
        self.held.clear()

    def report(self, enabled: bool) -> dict[str, object]:
        """The `/api/metrics/query-cache` answer, as the proxy's `/api/metrics/report-cache`."""
        hits = self.tally[Found.HIT] + self.tally[Found.SHARED] + self.tally[Found.COLLAPSED]
        misses = self.tally[Found.MISS]
        total = hits + misses
        return {
            "cacheHits": hits,
            "cacheMisses": misses,
            "cacheHitRate": f"{100 * hits / total if total else 0:.2f}%",
            "enabled": enabled,
            "collapsed": self.tally[Found.COLLAPSED],
            "shared": self.tally[Found.SHARED],
            "bypassed": self.tally[Found.BYPASS],
            "listening": self._hears,
            "storedAnswers": len(self.held),
            "storedBytes": self.held.bytes,
            "invalidations": self.invalidations,
        }
