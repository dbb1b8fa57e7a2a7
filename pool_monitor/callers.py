"""Callers' connections; the only file that touches aiohttp's internals."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, cast

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from config.answers import answer_json
from config.room import ARRIVAL_SECONDS, Guest, Room
from config.untaken import untaken

SEND_SECONDS = 60.0
"""The longest a caller may take nothing of an answer (nginx: send_timeout)."""

OPERATORS = ("/healthz", "/readyz", "/metrics", "/api/metrics/", "/api/flags")
"""What is answered while there is a descriptor for who asks; some are left for that."""
TOO_MANY = {
    "error": {"code": "out-of-descriptors", "message": "the monitor is out of file descriptors; try again later"}
}
AGAIN = {"Retry-After": "1"}


class CallersRoom(Room):
    """Who is too many is listened to, for it may look after this process: as many as there is room for, of whom none
    needs another descriptor to the upstream. Of more the last, so that none is without a chance."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._unheard: OrderedDict[Caller, None] = OrderedDict()

    def listen_to(self, caller: Caller) -> None:
        """Who is too many has come."""
        self._unheard[caller] = None
        if len(self._unheard) > self.most:
            first, _ = self._unheard.popitem(last=False)
            first.turn_away()

    def heard(self, caller: Caller) -> None:
        """It has asked, or left."""
        self._unheard.pop(caller, None)


class Caller(RequestHandler):
    """aiohttp's connection, which is cut where the caller takes nothing of what waits for it, whether somebody waits
    for that or the answer is over: its upstream, its memory and its descriptor would be held for good.

    too_many -- there was no room for it.
    """

    __slots__ = ("_came", "_connected", "_left", "_watch", "room", "too_many")

    def __init__(self, manager: web.Server, room: CallersRoom, **options: Any) -> None:
        super().__init__(manager, **options)
        self.room = room
        self.too_many = False
        self._connected: asyncio.Transport
        self._came = 0.0
        self._left = 0
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._connected = cast("asyncio.Transport", transport)
        self._came = self._loop.time()
        # of anything that the kernel does not take at once it is told
        self._connected.set_write_buffer_limits(0)
        assert self._manager is not None
        self.too_many = not self.room.admit(self, cast("Collection[Guest]", self._manager._connections))
        if self.too_many:
            self.room.listen_to(self)

    @property
    def idle(self) -> bool:
        """See `room.Guest`. Nothing of an answer is left either, so that it is gone at once when it is closed."""
        # between a request's arrival and its handler aiohttp says of it nowhere that it is on its way
        if self.transport is None or self._waiter is None or self._waiter.done():
            return False
        if not self._request_count and self._loop.time() < self._came + ARRIVAL_SECONDS:
            return False
        return not self._connected.get_write_buffer_size()

    @property
    def standing(self) -> tuple[bool, float]:
        """See `room.Guest`."""
        return self._request_count > 0, self._next_keepalive_close_time

    def end_when_idle(self) -> None:
        """See `room.Guest`; only who is idle is asked to."""
        self.force_close()

    def turn_away(self) -> None:
        """Without having heard what it asks."""
        if self.transport is not None:
            content = orjson.dumps(TOO_MANY)
            fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
            lines = [f"{name}: {value}" for name, value in {**fields, **AGAIN}.items()]
            head = "\r\n".join(["HTTP/1.1 503 Service Unavailable", *lines, "", ""])
            self.transport.write(head.encode() + content)
        self.force_close()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self._end_watch()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self.room.heard(self)
        self._end_watch()

    def _wait(self) -> None:
        self._left = untaken(self._connected)
        self._watch = self._loop.call_later(SEND_SECONDS, self._look)

    def _look(self) -> None:
        # where it is more, something small was written behind it, which is bounded, and tells nothing
        if untaken(self._connected) == self._left:
            self._connected.abort()
        else:
            self._wait()

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def room_for_operators(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Of callers that are too many only those are answered who look after this process."""
    caller = request.protocol
    if isinstance(caller, Caller) and caller.too_many:
        caller.room.heard(caller)
        if not request.path.startswith(OPERATORS):
            answer = answer_json(503, TOO_MANY, AGAIN)
            answer.force_close()
            return answer
    return await handler(request)


def callers_levels(runner: web.AppRunner | None, room: Room) -> Iterable[Metric]:
    """How many callers are connected, and how many may be. runner -- None before it serves."""
    connected = len(runner.server._connections) if runner is not None and runner.server is not None else 0
    yield GaugeMetricFamily("siding_callers", "Connections of callers.", connected)
    yield GaugeMetricFamily("siding_callers_max", "More than these find none but the metrics answered.", room.most)
