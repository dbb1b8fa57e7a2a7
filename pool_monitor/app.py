"""Composition root: the monitor's parts are built, started and stopped here, and nowhere else."""

from __future__ import annotations

import asyncio
import errno
import getpass
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.metrics_core import Metric

from config.descriptors import most_clients
from config.ending import LINGER_SECONDS
from config.everywhere import FlagsEverywhere
from config.flags import Flags
from config.listen import BACKLOG
from config.settings import MonitorSettings
from config.spare_memory import SpareMemory
from config.tasks import end
from config.tier import SharedTier
from config.tier_metrics import TierMetrics, tier_levels
from config.tracing import set_up
from pool_monitor import changes
from pool_monitor.advisor.advise import from_server
from pool_monitor.callers import Caller, CallersRoom, callers_levels, room_for_operators
from pool_monitor.endpoints import Parts, monitor_app
from pool_monitor.finder import Finder
from pool_monitor.grading.models import Models, load_models
from pool_monitor.grading.part import GradingPart
from pool_monitor.grading.template_files import load_templates
from pool_monitor.grading.templates import Template
from pool_monitor.grading.wire import HEAD_LIMITS
from pool_monitor.observe import Metrics, pool_levels
from pool_monitor.pool import Pool, Tuning
from pool_monitor.proxy_tags import ProxyTags
from pool_monitor.queries import Query
from pool_monitor.query_cache import QueryCache
from pool_monitor.replicas import Replicas
from pool_monitor.request_traces import tracing_middleware
from pool_monitor.runner import Runner
from pool_monitor.server_stats import Sampler

if TYPE_CHECKING:
    from config.otel import Tracing
    from pool_monitor.pgbouncer import Bouncer

log = logging.getLogger("siding.monitor")

DESCRIPTORS = 512
"""What may be needed beside the pool: callers, and what is asked for them at the grading upstream."""
THREADS = max(8, min(32, (os.cpu_count() or 1) + 4))
"""For what would hold up the event loop, names to look up included: as many as Python itself would have."""
FLUSH_SECONDS = 2.0
"""How long the last spans may take to be delivered, once all else has ended."""


def tuning_of(settings: MonitorSettings) -> Tuning:
    """The pool as the settings have it. DATABASE_URL must be set."""
    assert settings.database_url is not None
    return Tuning(
        url=settings.database_url,
        most=settings.db_pool_max,
        least=settings.db_pool_min,
        idle=settings.db_pool_idle_timeout_ms / 1000,
        acquire=settings.db_pool_connection_timeout_ms / 1000,
        max_age=settings.db_pool_max_age_ms / 1000,
        statement=settings.db_statement_timeout_ms / 1000,
        query=settings.db_query_timeout_ms / 1000,
        octets=settings.db_query_max_bytes,
        pgbouncer={"auto": None, "yes": True, "no": False}[settings.db_pgbouncer],
    )


class ThreadsError(OSError):
    """Too few threads can be started; `strerror` says why, and what to do about it."""


def started_threads() -> ThreadPoolExecutor:
    """All of them run at once: later a machine may have none left to start. Raises ThreadsError."""
    executor, go = ThreadPoolExecutor(THREADS, thread_name_prefix="monitor"), threading.Event()
    try:
        for _ in range(THREADS):
            executor.submit(go.wait)
        # the loop ends them by one more
        threading.Thread(target=go.wait).start()
    except RuntimeError as fault:
        executor.shutdown(wait=False)
        raise no_threads(fault) from fault
    finally:
        go.set()
    return executor


def no_threads(fault: RuntimeError) -> ThreadsError:
    """Why it does not run."""
    why = f"{THREADS + 2} threads are needed: {fault}; raise the limit of threads or of processes"
    return ThreadsError(errno.EAGAIN, why)


class Monitor:
    """One process's monitor. `start` returns at once, whether the database is there or not."""

    def __init__(
        self,
        settings: MonitorSettings,
        queries: Mapping[str, Query],
        templates: Sequence[Template] | None = None,
        models: Models | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """templates, models -- None: those that come with Siding. tracing -- where spans go; None: nowhere."""
        self._settings = settings
        self._tracing = tracing
        self._chore: asyncio.Task[None] | None = None
        self._queries = queries
        self._pool: Pool | None = None
        self.sampler: Sampler | None = None
        self.bouncer: Bouncer | None = None
        self._listener: changes.Listener | None = None
        self.finder: Finder | None = None
        self._tags = ProxyTags(settings.proxy_admin_url, settings.proxy_admin_token)
        self._flags = Flags(settings)
        self._metrics = Metrics(self._flags, self._levels)
        self._tier: SharedTier | None = None
        self._everywhere: FlagsEverywhere | None = None
        if settings.redis_url is not None:
            called = TierMetrics(self._metrics.registry).called
            self._tier = SharedTier(settings.redis_url, seconds=settings.redis_timeout_ms / 1000, observe=called)
        self.replicas = self._share()
        self.cache = QueryCache(time.monotonic, replicas=self.replicas)
        if self._tier is not None:
            self._everywhere = FlagsEverywhere(self._tier, "monitor", self._flags, self.cache.forget)
        self.parts = Parts(self._flags, self._metrics, self.cache, queries=queries)
        if self._everywhere is not None:
            self.parts.pins = self._everywhere.pins
        known = load_templates() if templates is None else templates
        priced = load_models() if models is None else models
        self.grading = GradingPart(settings, self._flags, self._tier, self._metrics.registry, known, priced)
        # each may need another to the upstream
        self.room = CallersRoom(max(1, most_clients(DESCRIPTORS + settings.db_pool_max) // 2))
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    def _share(self) -> Replicas | None:
        if self._tier is None or self._settings.database_url is None:
            return None
        flags = self._flags
        url, user = self._settings.database_url, os.environ.get("PGUSER") or getpass.getuser()
        return Replicas(self._tier, url, user, lambda: flags.redis_cache and not flags.bypass)

    def _levels(self) -> Iterable[Metric]:
        yield from callers_levels(self._runner, self.room)
        yield from self.grading.levels()
        if self._tier is not None and self._everywhere is not None:
            yield from tier_levels(self._tier, self._everywhere.bulletin, self._everywhere.pins)
        if self._pool is not None:
            yield from pool_levels(self._pool.numbers())
        for part in (self.sampler, self.bouncer):
            if part is not None:
                yield from part.levels()

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`, which must be listening."""
        asyncio.get_running_loop().set_default_executor(started_threads())
        self._metrics.lag.start()
        self._chore = asyncio.create_task(SpareMemory().run())
        if self._everywhere is not None:
            self._everywhere.bulletin.start()
        url = self._settings.database_url
        if url is not None:
            self._pool = Pool(tuning_of(self._settings), self._metrics)
            self._pool.start()
            self.parts.numbers = self._pool.numbers
            self.parts.runner = Runner(self._pool, self.cache, self._flags, self._metrics.answered)
            self.parts.advise = self._advise
            self.sampler = Sampler(url)
            self.sampler.start()
            if self._queries:
                self.cache.distrust()
                self._listener = changes.Listener(url, self._changed, self._heard)
                self._listener.start()
                self.finder = Finder(self._pool, self._queries.values(), self.parts.runner.tables, self._altered)
                self.finder.start()
        else:
            log.warning("DATABASE_URL is not set: the pool part is off")
        if self._settings.pgbouncer_admin_url is not None:
            from pool_monitor.pgbouncer import Bouncer  # noqa: PLC0415 - with a driver of its own

            self.bouncer = Bouncer(self._settings.pgbouncer_admin_url)
            self.bouncer.start()
            self.parts.bouncer = self.bouncer.document
        outermost = [tracing_middleware(self._tracing)] if self._tracing is not None else []
        app = monitor_app(self.parts, self._settings.admin_token, self._settings.queries_token, outermost)
        app.middlewares.append(room_for_operators)
        self.grading.mount(app)
        await self.grading.start()
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            shutdown_timeout=self._settings.drain_seconds,
            # who leaves is no longer asked for
            handler_cancellation=True,
        )
        await self._runner.setup()
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None
        # what is forwarded goes on as it is coded
        options = {"loop": loop, "access_log": None, "auto_decompress": False, "lingering_time": LINGER_SECONDS}
        options |= HEAD_LIMITS
        self._listening = await loop.create_server(
            lambda: Caller(server, self.room, **options), sock=sock, backlog=self.room.at_once
        )
        sock.listen(BACKLOG)

    async def _advise(self) -> dict[str, object]:
        assert self._pool is not None
        async with self._pool.acquire("advice") as connection:
            return await from_server(connection)

    def _heard(self, listening: bool, hears: bool) -> None:
        if listening:
            self.cache.trust(hears)
            # what has changed meanwhile nobody has told
            self._tags.purge({tag for query in self._queries.values() for tag in query.tags})
        else:
            self.cache.distrust()

    def _changed(self, table: str) -> None:
        """Any role may notify, of whatever it likes: nothing is remembered of what no query reads."""
        found = self.parts.runner.tables if self.parts.runner is not None else {}
        read = [query.tables or found.get(query.name) for query in self._queries.values() if not query.write]
        names = {table, table.rpartition(".")[2]} & {name for names in read for name in names or ()}
        if names:
            self.cache.changed(*names)
        elif None in read:
            # another monitor may have shared an answer that was read from it, and be gone before it counts the change
            self.cache.forget()
        self._purge_tags(table)

    def _purge_tags(self, table: str) -> None:
        self._tags.purge({tag for query in self._queries.values() if self._reads(query, table) for tag in query.tags})

    def _altered(self, query: Query, names: Collection[str]) -> None:
        """What a query reads is another than before."""
        for table in names:
            self._purge_tags(table)
        if names:
            self.cache.changed(*names)
        else:
            # what was kept of it has no table to be spoilt by
            self.cache.forget()
        self._tags.purge(set(query.tags))

    def _reads(self, query: Query, table: str) -> bool:
        """Whether it may; what a query reads is found out after the start."""
        found = self.parts.runner.tables.get(query.name) if self.parts.runner is not None else ()
        if not query.tables and found is None:
            return True
        return table in (*query.tables, *(found or ())) or table.rpartition(".")[2] in query.tables

    async def close(self) -> None:
        """Stop serving and close every connection."""
        self._metrics.lag.stop()
        await end((self._chore,))
        self.parts.draining = True
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.grading.close()
        for part in (self.finder, self._listener, self.sampler, self.bouncer):
            if part is not None:
                await part.close()
        await self._tags.close()
        if self.replicas is not None:
            await self.replicas.close()
        if self._everywhere is not None:
            await self._everywhere.bulletin.close()
        if self._tier is not None:
            await self._tier.close()
        if self._pool is not None:
            await self._pool.close(5.0)
        if self._tracing is not None:
            await self._tracing.close(min(FLUSH_SECONDS, self._settings.drain_seconds))


async def serve(
    settings: MonitorSettings,
    queries: Mapping[str, Query],
    sock: socket.socket,
    stop: Callable[[], Awaitable[object]],
    templates: Sequence[Template] | None = None,
    models: Models | None = None,
) -> None:
    """Run the monitor until `stop` returns."""
    monitor = Monitor(settings, queries, templates, models, set_up("siding-monitor", os.environ))
    # it may be stopped while it still looks for its database
    stopped = asyncio.ensure_future(stop())
    try:
        await monitor.start(sock)
        await stopped
    finally:
        stopped.cancel()
        await monitor.close()
