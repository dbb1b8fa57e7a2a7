"""Callers' connections; the only file that touches aiohttp's internals."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, cast

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from config.answers import answer_json
from config.ending import SILENT_SECONDS, Lingering, Taking
from config.room import ARRIVAL_SECONDS, Guest, Room
from config.untaken import unread

OPERATORS = ("/healthz", "/readyz", "/metrics", "/api/metrics/", "/api/flags")
"""What is answered while there is a descriptor for who asks; some are left for that."""
TOO_MANY = {
    "error": {"code": "out-of-descriptors", "message": "the monitor is out of file descriptors; try again later"}
}
AGAIN = {"Retry-After": "1"}
MOST_HEAD_BYTES = 64 * 1024
"""As the proxy takes it. aiohttp bounds each field, and their number: of both together it would hold megabytes."""
LARGE_HEAD = {"error": {"code": "fields-too-large", "message": f"a head may have {MOST_HEAD_BYTES} bytes"}}
AT_ONCE = 100
"""Accepted in a turn of the loop, as asyncio has it."""


class CallersRoom(Room):
    """Who is too many is listened to, for it may look after this process, and has time to take its refusal: as many as
    there is room for, of whom none needs another descriptor to the upstream. Half of them may be unheard; of more the
    last, so that none is without a chance."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._unheard: OrderedDict[Caller, None] = OrderedDict()

    @property
    def at_once(self) -> int:
        """How many are accepted in a turn of the loop: what one asks is read two turns later, before it is turned away
        for others."""
        return max(1, min(AT_ONCE, self.most // 8))

    @property
    def most_told(self) -> int:
        """See `Room`."""
        return self.most - len(self._unheard)

    @property
    def outside(self) -> int:
        """See `Room`."""
        return len(self._unheard) + super().outside

    def is_outside(self, guest: Guest) -> bool:
        """See `Room`."""
        return guest in self._unheard or super().is_outside(guest)

    def listen_to(self, caller: Caller) -> None:
        """Who is too many has come."""
        self._unheard[caller] = None
        if len(self._unheard) > self.most - self.most // 2:
            first, _ = self._unheard.popitem(last=False)
            first.turn_away()
            self.tell(first)
        self._bound()

    def heard(self, caller: Caller, guests: Collection[Guest]) -> bool:
        """It has asked; whether there is room by now."""
        self._unheard.pop(caller, None)
        return self.admit(caller, guests)

    def gone(self, guest: Guest) -> None:
        """See `Room`."""
        self._unheard.pop(cast("Caller", guest), None)
        super().gone(guest)


class Caller(RequestHandler):
    """aiohttp's connection, which is cut where the caller takes nothing of what waits for it, whether somebody waits
    for that or the answer is over: its upstream, its memory and its descriptor would be held for good.

    too_many -- there was no room for it.
    """

    __slots__ = ("_came", "_connected", "_content", "_head", "_lingering", "_taking", "room", "too_many")

    def __init__(self, manager: web.Server, room: CallersRoom, **options: Any) -> None:
        super().__init__(manager, **options)
        self.room = room
        self.too_many = False
        self._connected: asyncio.Transport
        self._came = 0.0
        # of the request that was parsed last
        self._content: StreamReader | None = None
        self._head = 0
        self._lingering: Lingering | None = None
        self._taking: Taking | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._connected = cast("asyncio.Transport", transport)
        self._came = self._loop.time()
        # of anything that the kernel does not take at once it is told
        self._connected.set_write_buffer_limits(0)
        self.too_many = not self.room.admit(self, self._guests)
        if self.too_many:
            self.room.listen_to(self)

    @property
    def _guests(self) -> Collection[Guest]:
        # without a manager it has left
        return cast("Collection[Guest]", self._manager._connections) if self._manager is not None else ()

    def is_still_too_many(self) -> bool:
        """Now that it has asked; there may be room by now."""
        if self.too_many:
            self.too_many = not self.room.heard(self, self._guests)
        return self.too_many

    @property
    def idle(self) -> bool:
        """See `room.Guest`. Nothing of an answer is left either, so that it is gone at once when it is closed."""
        # between a request's arrival and its handler aiohttp says of it nowhere that it is on its way
        if self.transport is None or self._waiter is None or self._waiter.done():
            return False
        if not self._request_count and self._loop.time() < self._came + ARRIVAL_SECONDS:
            return False
        return not (self._connected.get_write_buffer_size() or unread(self._connected))

    @property
    def standing(self) -> tuple[bool, float]:
        """See `room.Guest`."""
        return self._request_count > 0, self._next_keepalive_close_time

    def end_when_idle(self) -> None:
        """See `room.Guest`; only who is idle is asked to."""
        self.force_close()

    def turn_away(self) -> None:
        """Without having heard what it asks."""
        self._end_with("503 Service Unavailable", TOO_MANY, AGAIN)

    def _end_with(self, status: str, document: object, more: Mapping[str, str]) -> None:
        """An answer while it may be sending: closed at once, it would lose it."""
        transport = self.transport
        if transport is None:
            return
        content = orjson.dumps(document)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
        lines = [f"{name}: {value}" for name, value in {**fields, **more}.items()]
        head = "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""])
        transport.write(head.encode() + content)
        # what has been parsed of it meanwhile is not to be answered as well
        self.transport = None
        self.force_close()
        try:
            self._lingering = Lingering(self._connected, self._connected.close)
        except OSError:
            # it has left
            self._connected.close()

    def cut(self) -> None:
        """Now, whatever it sends, and aiohttp still reads."""
        self._connected.abort()

    def force_close(self) -> None:
        """See aiohttp; also where it lingers."""
        super().force_close()
        if self._lingering is not None:
            self._connected.close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - as aiohttp has it
        """See aiohttp. Who is answered, and may be sending, is waited for no longer than who is silent."""
        most = timeout or 0.0
        if not self._request_in_progress:
            most = min(most, SILENT_SECONDS)
        # aiohttp (3.14) takes its time twice: for the handler, and for the task that has run it
        try:
            async with asyncio.timeout(most):
                await super().shutdown(None)
        except TimeoutError:
            # no time at all is to it time without end
            await super().shutdown(0.001)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._lingering is not None:
            self._lingering.heard = True
            return
        if self._close or self._force_close:
            self._take_rest(data)
            return
        count, whole = self._request_count, self._content is None or self._content.is_eof()
        super().data_received(data)
        if self._request_count != count:
            self._content = self._messages[-1][1]
            self._head = 0
        elif whole:
            self._head += len(data)
            if self._head > MOST_HEAD_BYTES:
                self._refuse_head()

    def _take_rest(self, data: bytes) -> None:
        """Of a request that is being answered: aiohttp, once it is to close, drops that as well."""
        if self._parser is None or self._content is None or self._content.is_eof():
            return
        try:
            self._parser.feed_data(data)
        except HttpProcessingError:
            self.force_close()

    def _refuse_head(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._end_with("431 Request Header Fields Too Large", LARGE_HEAD, {})
        else:
            # nothing is read of it any more, and nothing follows the answer that is on its way
            self.close()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._taking = Taking(self._connected)

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self._end_taking()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self.room.gone(self)
        # it keeps the connection, and would be kept by it
        self._content = None
        if self._lingering is not None:
            self._lingering.end()
            self._lingering = None
        self._end_taking()

    def _end_taking(self) -> None:
        if self._taking is not None:
            self._taking.end()
            self._taking = None


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def room_for_operators(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Of callers that are too many only those are answered who look after this process."""
    caller = request.protocol
    if isinstance(caller, Caller) and caller.is_still_too_many() and not request.path.startswith(OPERATORS):
        caller.room.tell(caller)
        answer = answer_json(503, TOO_MANY, AGAIN)
        answer.force_close()
        return answer
    return await handler(request)


def callers_levels(runner: web.AppRunner | None, room: Room) -> Iterable[Metric]:
    """How many callers are connected, and how many may be. runner -- None before it serves."""
    connected = len(runner.server._connections) if runner is not None and runner.server is not None else 0
    yield GaugeMetricFamily("siding_callers", "Connections of callers.", connected)
    yield GaugeMetricFamily("siding_callers_max", "More than these find none but the metrics answered.", room.most)
