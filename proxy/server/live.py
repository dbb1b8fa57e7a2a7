"""`GET /api/live`: the numbers behind the live page, once a second to all who listen.

There is one sampler for all of them, and it runs only while somebody listens. Each event holds everything, so that one
that is lost does no harm. A listener that does not read is cut, not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from aiohttp import hdrs, web

from config.access import Refusal, is_local_authority, is_loopback
from config.answers import answer_json, peer_of
from config.settings import ProxySettings
from config.tasks import end
from config.version import VERSION
from proxy.observe.live import SLOW_SECONDS, Numbers
from proxy.observe.metrics import SECONDS as BOUNDS
from proxy.server.monitor import Monitor, MonitorError

log = logging.getLogger("siding.live")

EVENT_STREAM = "text/event-stream"
MAX_HOLDERS = 5
MONITOR_DOCUMENTS = {
    "pool": "/api/metrics/database-pool",
    "grading": "/api/metrics/grading",
    "flags": "/api/flags",
}


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How the stream goes. Seconds.

    monitor_url -- POOL_MONITOR_URL. shared -- whether flags can be flipped in other replicas as well.
    every, monitor_every -- between two samples. send -- how long a listener may take to take an event.
    retry -- after which a browser comes back. listeners -- the most at a time.
    """

    monitor_url: str | None = None
    shared: bool = False
    workers: int = 1
    every: float = 1.0
    monitor_every: float = 2.0
    send: float = 5.0
    retry: float = 2.0
    listeners: int = 32

    @classmethod
    def of(cls, settings: ProxySettings) -> LiveSettings:
        """As the proxy's settings have it."""
        return cls(settings.pool_monitor_url, settings.redis_url is not None, settings.workers)


class Source(Protocol):
    """Where the numbers come from; a `Control` is one."""

    async def ready(self) -> tuple[bool, str]: ...
    async def live(self) -> Numbers: ...
    async def flags(self) -> dict[str, bool]: ...
    async def behind_flags(self) -> dict[str, object]: ...


# -- what is told; pure


def snapshot(
    numbers: Numbers,
    ready: tuple[bool, str],
    flags: dict[str, bool],
    behind_flags: dict[str, object],
    monitor: dict[str, Any],
    settings: LiveSettings,
) -> dict[str, object]:
    """The document of one event, but for the time."""
    return {
        **numbers,
        "bounds": BOUNDS,
        "slowSeconds": SLOW_SECONDS,
        "ready": ready[0],
        "readyReason": ready[1],
        "flags": flags,
        **behind_flags,
        "shared": settings.shared,
        "workers": settings.workers,
        "version": VERSION,
        "monitor": monitor,
    }


def trimmed(name: str, document: object) -> object:
    """One of MONITOR_DOCUMENTS without what would only make events long."""
    if not isinstance(document, dict):
        raise MonitorError("pool-monitor-failed", "the pool monitor answered something else than it should")
    if name == "pool":
        holders = document.get("holders")
        return {**document, "holders": holders[:MAX_HOLDERS] if isinstance(holders, list) else []}
    return {key: value for key, value in document.items() if key != "days"}


def event(number: int, document: bytes) -> bytes:
    """A server-sent event. document -- JSON, which has no line ends."""
    return b"id: %d\ndata: %b\n\n" % (number, document)


def refusal_to_read(peer: str | None, host: str) -> Refusal | None:
    """Against a name rebound to this machine, by which a web page could read paths."""
    if not is_loopback(peer) or is_local_authority(host):
        return None
    return Refusal(403, "host-not-local", "from this machine the Host must be localhost or an IP address")


# -- the monitor


class MonitorReader:
    """The monitor's documents as they were last seen. wall -- seconds since 1970."""

    def __init__(self, url: str | None, every: float, wall: Callable[[], float] = time.time) -> None:
        self._monitor = Monitor(url) if url is not None else None
        self._every = every
        self._wall = wall
        self.seen: dict[str, Any] = {}
        self.forget()

    def forget(self) -> None:
        """What was seen is too old to be shown."""
        url = self._monitor.url if self._monitor is not None else None
        self.seen = {"url": url, "state": "off" if url is None else "waiting"}

    async def read(self) -> None:
        """Ask for all of them, once."""
        if self._monitor is None:
            return
        try:
            asked = map(self._monitor.get, MONITOR_DOCUMENTS.values())
            contents = await asyncio.gather(*asked, return_exceptions=True)
            for fault in contents:
                if isinstance(fault, BaseException):
                    raise fault
            documents = {
                name: trimmed(name, orjson.loads(content))
                for name, content in zip(MONITOR_DOCUMENTS, contents, strict=True)
                if isinstance(content, bytes)
            }
        except Exception as fault:
            match fault:
                case MonitorError():
                    self._away(self._monitor, fault)
                case orjson.JSONDecodeError():
                    message = "the pool monitor's answer is not JSON"
                    self._away(self._monitor, MonitorError("pool-monitor-failed", message))
                case _:
                    message = "the pool monitor could not be read"
                    self._away(self._monitor, MonitorError("pool-monitor-failed", message), traced=fault)
            return
        self._monitor.works()
        self.seen = {"url": self._monitor.url, "state": "here", "at": self._wall(), **documents}

    def _away(self, monitor: Monitor, fault: MonitorError, *, traced: Exception | None = None) -> None:
        monitor.complain(fault, traced=traced)
        # nothing old is shown as if it were of now
        self.seen = {"url": monitor.url, "state": "away", "reason": str(fault), "at": self._wall()}

    async def keep_reading(self) -> None:
        """Until cancelled."""
        while self._monitor is not None:
            await self.read()
            await asyncio.sleep(self._every)

    async def close(self) -> None:
        """Close the connections to it."""
        if self._monitor is not None:
            await self._monitor.close()


# -- the stream


class Live:
    """The sampler and its listeners.

    wall -- seconds since 1970.
    """

    def __init__(self, source: Source, settings: LiveSettings, *, wall: Callable[[], float] = time.time) -> None:
        self._source = source
        self._settings = settings
        self._wall = wall
        self._monitor = MonitorReader(settings.monitor_url, settings.monitor_every, wall)
        self._tasks: list[asyncio.Task[None]] = []
        self._latest: tuple[int, bytes] | None = None
        self._news = asyncio.Condition()
        self._wake = asyncio.Event()
        self._closed = False
        self.listeners = 0

    def add_to(self, app: web.Application) -> None:
        """Its path, and its end: before the listener waits for whoever is still being answered."""
        app.router.add_get("/api/live", self._answer)
        app.on_shutdown.append(self._end)

    async def _end(self, _: web.Application) -> None:
        self._closed = True
        await self._stop_sampling()
        async with self._news:
            self._news.notify_all()
        await self._monitor.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        refusal = refusal_to_read(peer_of(request), request.headers.get(hdrs.HOST, ""))
        if refusal is not None:
            raise refusal
        if EVENT_STREAM not in request.headers.get(hdrs.ACCEPT, "") or request.method == hdrs.METH_HEAD:
            if not self._tasks:
                await self._monitor.read()
            return answer_json(200, await self._sample())
        if self.listeners >= self._settings.listeners or self._closed:
            message = f"{self.listeners} listen already; close a page that nobody looks at"
            raise Refusal(503, "too-many-listeners", message, {hdrs.RETRY_AFTER: "5"})
        return await self._stream(request)

    # -- sampling

    async def _sample(self) -> dict[str, object]:
        source = self._source
        numbers, ready = await source.live(), await source.ready()
        flags, behind = await source.flags(), await source.behind_flags()
        return {"at": self._wall(), **snapshot(numbers, ready, flags, behind, self._monitor.seen, self._settings)}

    async def _keep_sampling(self) -> None:
        while True:
            began = time.monotonic()
            self._wake.clear()
            try:
                document = orjson.dumps(await self._sample())
            except Exception:
                # the page says since when it has heard nothing
                log.exception("the live page's numbers could not be read")
            else:
                async with self._news:
                    # greater than any before, those of the process before this one included
                    self._latest = (int(self._wall() * 1000), document)
                    self._news.notify_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(began + self._settings.every - time.monotonic()):
                    await self._wake.wait()

    def _start_sampling(self) -> None:
        self._latest = None
        self._monitor.forget()
        self._tasks = [
            asyncio.create_task(self._keep_sampling()),
            asyncio.create_task(self._monitor.keep_reading()),
        ]

    async def _stop_sampling(self) -> None:
        tasks, self._tasks = self._tasks, []
        await end(tasks)

    # -- listeners

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: EVENT_STREAM,
                hdrs.CACHE_CONTROL: "no-store",
                "X-Content-Type-Options": "nosniff",
                # a proxy before the admin listener is to pass each event on at once
                "X-Accel-Buffering": "no",
            }
        )
        self.listeners += 1
        try:
            if self.listeners == 1:
                self._start_sampling()
            # what was sampled before is not what whoever comes now has just changed
            seen = self._latest
            self._wake.set()
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await self._send(request, response, b"retry: %d\n\n" % (self._settings.retry * 1000))
                while (seen := await self._after(seen)) is not None:
                    await self._send(request, response, event(*seen))
        finally:
            self.listeners -= 1
            if self.listeners == 0:
                await self._stop_sampling()
        return response

    async def _after(self, last: tuple[int, bytes] | None) -> tuple[int, bytes] | None:
        """The next sample that is not `last`; None at the end."""
        async with self._news:
            await self._news.wait_for(lambda: self._closed or self._latest not in {None, last})
            return None if self._closed else self._latest

    async def _send(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._settings.send):
                await response.write(data)
        except TimeoutError:
            log.info("a listener of /api/live did not read for %g s and is cut", self._settings.send)
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError from None
