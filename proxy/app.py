"""Composition root: one worker's parts are built, started, drained and stopped here, and nowhere else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from config.bulletin import Standing
from config.descriptors import most_clients
from config.everywhere import behind
from config.everywhere import set_flags as everywhere_or_here
from config.flags import Flags
from config.listen import BACKLOG
from config.metrics import write_out
from config.room import ROOM_SHARE, Room
from config.rules import RouteTable, load_rules
from config.settings import ProxySettings
from config.spare_memory import SpareMemory
from config.tasks import end
from config.tracing import set_up
from proxy.observe.access_log import AccessLog
from proxy.observe.briefs import Briefs
from proxy.observe.events import Observation, PurgeKind
from proxy.observe.live import Numbers, SlowRequests
from proxy.observe.metrics import Metrics
from proxy.origin.client import MAX_CONNECTIONS, OriginClient
from proxy.origin.collapse import Collapse
from proxy.origin.fetch import Copies
from proxy.policy.decisions import Outcome
from proxy.server.admin import PurgeOrder, admin_app, purged
from proxy.server.express import Express
from proxy.server.fast_path import Hits, Index
from proxy.server.handler import Handler
from proxy.server.live import LiveSettings
from proxy.server.local import PATHS, LastHop, LocalMetrics
from proxy.server.protocol import ClientServer
from proxy.server.visit import Limits, Shared
from proxy.siblings import Siblings
from proxy.store.invalidations import Invalidations
from proxy.store.memory import MemoryStore
from proxy.store.replicas import Replicas
from proxy.store.sweeping import Sweeper
from proxy.store.telling import Notice, note

if TYPE_CHECKING:
    from config.otel import Tracing
    from proxy.observe.traces import Traces

log = logging.getLogger("siding")

STOP_SECONDS = 2.0
"""For answers of the admin listener that are on their way when it stops."""
COPIES_SHARE = 4
"""Answers on their way to the store may take up a quarter of CACHE_MAX_BYTES beside it, and so may the content of
requests that is part of their keys."""
CONTENTS_BYTES = 16 * 1024 * 1024
"""The least that the latter may, however little is stored."""
DESCRIPTORS = MAX_CONNECTIONS + 100
"""What a process needs beside its clients: connections to the origin, files, Redis and listeners."""
FLUSH_SECONDS = 2.0
"""How long the last spans may take to be delivered, once all else has ended."""


class Reader(Protocol):
    """Is told of every request."""

    def observe(self, seen: Observation, /) -> None: ...


def keyed_digest(secret: bytes) -> Callable[[bytes], str]:
    """HMAC-SHA-256 under `secret`: stands for a credential in a cache key, and cannot be guessed from outside."""

    def digest(value: bytes) -> str:
        return hmac.new(secret, value, hashlib.sha256).hexdigest()

    return digest


class Worker:
    """One process's proxy. It also answers for itself on the admin listener (`server.admin.Control`).

    siblings -- the other workers, who are told what was invalidated here; None where there are none.
    wall -- the wall clock, seconds.
    group -- names this worker and its siblings, among all replicas. tracing -- where spans go; None: nowhere.
    """

    def __init__(
        self,
        settings: ProxySettings,
        flags: Flags,
        routes: RouteTable,
        siblings: Siblings | None,
        wall: Callable[[], float] = time.time,
        group: str | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self._flags = flags
        self._routes = routes
        self._draining = False
        self._listening = False
        self.store = MemoryStore(settings.cache_max_bytes // settings.workers)
        self._invalidations = Invalidations()
        self._origin = OriginClient(
            settings.upstream_url,
            connect_timeout=settings.upstream_connect_timeout_ms / 1000,
            idle_timeout=settings.upstream_timeout_ms / 1000,
        )
        self._access_log = AccessLog(settings.log_level, settings.log_format, alone=settings.workers == 1)
        self._slow = SlowRequests()
        self._siblings = siblings
        self._wall = wall
        secret = settings.cache_secret.get_secret_value().encode() if settings.cache_secret is not None else b""
        group = group or secrets.token_hex(8)
        mark = f"siding-{group}"
        self.replicas = self._replicas(secret, group)
        self._metrics = Metrics(
            flags,
            store=self.store,
            origin=self._origin,
            in_flight=lambda: self.handler.in_flight,
            log_dropped=lambda: self._access_log.dropped,
            replicas=self.replicas,
        )
        digest = keyed_digest(secret or secrets.token_bytes(32))
        self._fast = Index(
            self.store, self._invalidations, routes, flags, digest, show_keys=settings.cache_status_key, mark=mark
        )
        self._briefs = Briefs(
            [self._metrics.observe_briefs, self._slow.observe_briefs, self._access_log.observe_briefs]
        )
        self._tracing = tracing
        self._traces = _traces(tracing, settings.upstream_url)
        self._readers: list[Reader] = [self._metrics, self._slow, self._access_log]
        if self._traces is not None:
            self._readers.append(self._traces)
        shared = self._shared(digest, mark)
        self._local = LocalMetrics(settings, self.report_cache) if settings.public_metrics else None
        self.handler = Handler(shared, LastHop(self._local))
        own_paths = PATHS if settings.public_metrics else frozenset()
        self._express = Express(shared, self.handler.requests, self._briefs, own_paths)
        self._server: ClientServer | None = None
        self._listener: asyncio.Server | None = None
        self._chores: list[asyncio.Task[None]] = []

    def _shared(self, digest: Callable[[bytes], str], mark: str) -> Shared:
        settings = self.settings
        share = settings.cache_max_bytes // settings.workers // COPIES_SHARE
        return Shared(
            flags=self._flags,
            routes=self._routes,
            store=self.store,
            invalidations=self._invalidations,
            collapse=Collapse(),
            copies=Copies(share),
            contents=Copies(max(share, CONTENTS_BYTES)),
            origin=self._origin,
            limits=Limits(
                max_request_bytes=settings.max_request_bytes,
                max_object_bytes=settings.cache_max_object_bytes,
                upstream_seconds=settings.upstream_timeout_ms / 1000,
            ),
            targets=settings.targeted_fields,
            show_keys=settings.cache_status_key,
            digest=digest,
            wall=self._wall,
            clock=time.monotonic,
            observe=self._observe,
            observe_origin=self._metrics.observe_origin,
            announce=self._announce if self._siblings is not None or self.replicas is not None else None,
            fast=self._fast,
            mark=mark,
            remote=self.replicas.store if self.replicas is not None else None,
            traces=self._traces,
        )

    def _replicas(self, secret: bytes, group: str) -> Replicas | None:
        settings = self.settings
        if settings.redis_url is None:
            return None
        if not secret:
            log.warning(
                "CACHE_SECRET is not set: what is keyed by more than its URL stays in memory, private routes among it"
            )
        return Replicas(
            settings.redis_url,
            seconds=settings.redis_timeout_ms / 1000,
            origin=settings.upstream_url,
            group=group,
            secret=secret,
            limit=settings.redis_max_object_bytes,
            here=self._invalidations,
            flags=self._flags,
            # those of all workers are their parent's
            minds_flags=self._siblings is None,
            logged=self._siblings.logged if self._siblings is not None else lambda _, __: None,
            wall=self._wall,
        )

    def _announce(self, what: list[str]) -> asyncio.Future[None] | None:
        count = self.replicas.tell(_notices(what)) if self.replicas is not None else 0
        return self._siblings.tell(what, count) if self._siblings is not None else None

    def _observe(self, observation: Observation) -> None:
        for reader in self._readers:
            try:
                reader.observe(observation)
            except Exception:
                # law 6: a client is never failed by what merely watches
                log.exception("an observation could not be recorded")

    def _refused(self, observation: Observation) -> None:
        observation.outcome = Outcome.REFUSED
        self._observe(observation)

    # -- life

    async def start(self, sock: socket.socket, logs: Collection[str] = ()) -> None:
        """Serve clients on `sock`, which must be listening. logs -- of the replicas, that the other workers read."""
        self._metrics.lag.start()
        sweeper = Sweeper(self.store, self._invalidations, self._wall, time.monotonic)
        self._chores = [asyncio.create_task(chore) for chore in (sweeper.run(), SpareMemory().run())]
        if self.replicas is not None:
            self.replicas.start(logs)
        hits = Hits(self._fast, self._briefs, self._wall, self._traces.needs_span if self._traces is not None else None)
        most = most_clients(DESCRIPTORS)
        # the others are told that there is none
        room = Room(most - most // ROOM_SHARE)
        self._server = ClientServer(self.handler, self._refused, self._fast.lexicon, hits, self._express, room)
        self._listener = await asyncio.get_running_loop().create_server(self._server, sock=sock)
        sock.listen(BACKLOG)
        self._listening = True

    async def drain(self) -> None:
        """Stop accepting; requests on their way, and connections at their end, have DRAIN_SECONDS to finish.

        nginx gives both worker_shutdown_timeout.
        """
        self._draining = True
        if self._listener is None or self._server is None:
            return
        self._listener.close()
        self._server.begin_drain()
        deadline = time.monotonic() + self.settings.drain_seconds
        # a request whose task has yet to begin, and what a client sent behind one, only its connection knows of
        await self._server.leaving.ended(self.settings.drain_seconds)
        if not await self.handler.requests.ended(max(0.0, deadline - time.monotonic())):
            log.warning("%d requests did not finish within DRAIN_SECONDS and are cut", self.handler.in_flight)
            self.handler.requests.cut()
        await self._server.shutdown(0.5)
        await self.handler.fetches.end(max(0.0, deadline - time.monotonic()))

    async def close(self) -> None:
        """End what is left. The access log is written out."""
        self._metrics.lag.stop()
        await end(self._chores)
        self._briefs.tell()
        if self._local is not None:
            await self._local.close()
        await self._origin.close()
        if self.replicas is not None:
            await self.replicas.close()
        if self._tracing is not None:
            await self._tracing.close(min(FLUSH_SECONDS, self.settings.drain_seconds))
        self._access_log.close()

    # -- what the admin listener asks (server.admin.Control)

    async def ready(self) -> tuple[bool, str]:
        """Whether clients are served, and if not, why."""
        if self._draining:
            return False, "draining: no new connections are accepted"
        if not self._listening:
            return False, "starting: not listening yet"
        return True, "serving"

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type."""
        self._briefs.tell()
        return await asyncio.to_thread(write_out, self._metrics.taken(), accept)

    async def report_cache(self) -> dict[str, object]:
        """The `/api/metrics/report-cache` answer."""
        self._briefs.tell()
        return self._metrics.report_cache()

    async def live(self) -> Numbers:
        """What the live page shows."""
        self._briefs.tell()
        return self._metrics.live(self._slow.worst(self._wall()))

    async def flags(self) -> dict[str, bool]:
        """Every flag."""
        return self._flags.as_dict()

    async def behind_flags(self) -> dict[str, object]:
        """Why they stand so."""
        return behind(self._flags, self.replicas.notices.pins if self.replicas is not None else None)

    async def set_flags(self, changes: Mapping[str, object], *, everywhere: bool = False) -> dict[str, object]:
        """Flip flags, all or none; `everywhere` says whether all replicas know of it. Raises FlagError."""
        tell = self.replicas.notices.tell_flags if self.replicas is not None else None
        return await everywhere_or_here(self._flags, changes, everywhere=everywhere, tell=tell)

    async def purge(self, order: PurgeOrder) -> dict[str, object]:
        """Purge what `order` names; it takes effect with the next look-up."""
        notice = ("uri" if order.kind == PurgeKind.URL else str(order.kind), order.value, order.soft)
        note(self._invalidations, notice)
        self._metrics.purged(order.kind)
        if self.replicas is None:
            return purged(order)
        self.replicas.tell([notice])
        return purged(order, [await self.replicas.told()])

    async def routes(self) -> list[dict[str, object]]:
        """The route rules in force."""
        return self._routes.describe()

    # -- what the other workers tell

    def sibling_told(self, who: int, count: int, what: list[str]) -> None:
        """Take note of what another has invalidated (as given to `Siblings.tell`)."""
        notices = _notices(what)
        for notice in notices:
            note(self._invalidations, notice)
        if self.replicas is not None:
            self.replicas.notices.sibling_told(who, count, notices)

    def sibling_logged(self, who: int, count: int, upto: Standing) -> None:
        """The first `count` of what it told are in a log of the replicas, up to there."""
        if self.replicas is not None:
            self.replicas.notices.sibling_logged(who, count, upto)

    def sibling_gone(self, who: int) -> None:
        """It has ended."""
        if self.replicas is not None:
            self.replicas.notices.sibling_gone(who)

    async def sibling_joined(self) -> str:
        """It has heard nothing yet. The name of the log that is read here, once it knows what it cannot read there."""
        if self.replicas is None:
            return ""
        name, notices = self.replicas.notices.sibling_joined()
        if notices:
            known = self._announce([f"{'soft ' * soft}{kind} {name}" for kind, name, soft in notices])
            if known is not None:
                await asyncio.wait((known,))
        return name


def _notices(what: list[str]) -> list[Notice]:
    """What `server.visit.Shared` announces, a line each, and what `Worker.sibling_joined` does."""
    return [_notice(line.removeprefix("soft "), soft=line.startswith("soft ")) for line in what]


def _notice(line: str, *, soft: bool) -> Notice:
    kind, _, name = line.partition(" ")
    return kind, name, soft


def _traces(tracing: Tracing | None, upstream: str) -> Traces | None:
    if tracing is None:
        return None
    from proxy.observe.traces import Traces  # noqa: PLC0415 - it imports OpenTelemetry

    return Traces(tracing, upstream)


def set_up_tracing() -> Tracing | None:
    """Traces as the environment of this process asks for them."""
    return set_up("siding-proxy", os.environ)


class AdminListener:
    """The admin and metrics listener, never on the public port."""

    def __init__(self, app: web.Application) -> None:
        # who leaves is not told any more, and who does not read holds no stop up
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=STOP_SECONDS
        )

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()


def build_routes(settings: ProxySettings) -> RouteTable:
    """The route rules of RULES_FILE, or none. Raises FileError."""
    if settings.rules_file is None:
        return RouteTable(())
    return load_rules(settings.rules_file, settings.cache_ttl_seconds)


async def serve(
    settings: ProxySettings,
    routes: RouteTable,
    public: socket.socket,
    admin: socket.socket,
    stop: Callable[[], Awaitable[object]],
) -> None:
    """Run one worker and its admin listener until `stop` returns, then drain."""
    flags = Flags(settings)
    worker = Worker(settings, flags, routes, siblings=None, tracing=set_up_tracing())
    listener = AdminListener(admin_app(worker, settings.admin_token, LiveSettings.of(settings)))
    try:
        await listener.start(admin)
        await worker.start(public)
        await stop()
        await worker.drain()
    finally:
        await listener.close()
        await worker.close()
