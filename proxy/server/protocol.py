"""The client's side of an exchange, on aiohttp's server: the only file that touches its internals.

aiohttp parses requests (llhttp), keeps connections alive and lingers over unread content. What it
cannot do is done here: write a response head octet for octet as decided, send interim responses, and
hand a connection over to a tunnel. The internals relied on are named in `INTERNALS`, and a test holds
the installed aiohttp to them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, cast

from aiohttp import http_exceptions, web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from config.room import ARRIVAL_SECONDS, Guest, Room
from config.untaken import unread
from proxy import errors
from proxy.observe.events import Observation
from proxy.origin.connection import OnInterim
from proxy.policy import forwarding
from proxy.policy.extent import Extent, Stage
from proxy.policy.plain import Lexicon, Plain
from proxy.server.ending import Ending
from proxy.server.exchange import AtHand, ClientGone, ClientTunnel, Exchange, as_number
from proxy.server.express import Express, Passing
from proxy.server.fast_path import Hits, Seat, head_of
from proxy.server.in_flight import InFlight
from proxy.server.parsed import (
    MAX_FIELD_BYTES,
    MAX_FIELD_LINES,
    MAX_HEAD_BYTES,
    MAX_TARGET_BYTES,
    client_error,
    request_head,
)
from proxy.server.refusal import last_refusal

if TYPE_CHECKING:
    from aiohttp.http import RawRequestMessage

log = logging.getLogger("siding.protocol")

INTERNALS = {
    "RequestHandler": (
        "_close",
        "_current_request",
        "_drain_helper",
        "_force_close",
        "_handler_waiter",
        "_make_error_handler",
        "_messages",
        "_next_keepalive_close_time",
        "_parser",
        "_paused",
        "_payload_parser",
        "_process_keepalive",
        "_reading_paused",
        "_request_count",
        "_request_in_progress",
        "_upgraded",
        "_waiter",
        "set_parser",
        "writing_paused",
    ),
    "BaseRequest": ("_message", "_payload"),
    "Server": ("_connections", "_loop"),
    "StreamReader": ("_buffer",),
}

KEEPALIVE_SECONDS = 75.0
"""Longer than the 60 s after which Railway's edge closes an idle connection, so that the edge goes first."""
READ_SECONDS = 60.0
"""The longest silence of a client that owes content (nginx: client_body_timeout)."""
EARLY_BYTES = 64 * 1024
"""Held of what a client sends before it has its answer; then it is no longer read."""

Handler = Callable[[Exchange], Awaitable[None]]
Take = Callable[[Seat, bytes], bool]
"""See `Hits.take`."""
OnRefused = Callable[[Observation], None]
"""Told of a request that was refused before it could be handled."""


class _Sent(web.StreamResponse):
    """Tells aiohttp that the response is on the wire already."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._kept = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._kept

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class _Arriving:
    """Content that aiohttp reads from the connection."""

    __slots__ = ("_payload",)

    def __init__(self, payload: StreamReader) -> None:
        self._payload = payload

    async def read(self) -> bytes:
        """See `exchange.Content`. RequestTimeout comes after `READ_SECONDS` of silence."""
        payload = self._payload
        try:
            if payload._buffer or payload.is_eof():
                return await payload.readany()
            async with asyncio.timeout(READ_SECONDS):
                return await payload.readany()
        except TimeoutError:
            raise errors.RequestTimeout(f"no content came for {READ_SECONDS:.0f} s") from None
        except (RequestPayloadError, http_exceptions.HttpProcessingError) as fault:
            # the content keeps it, and would be kept by it
            fault.__traceback__ = None
            raise errors.MalformedRequest("the framing of the request's content is broken") from fault
        except ConnectionError as fault:
            raise ClientGone("the client left while sending its content") from fault


def _exchange(request: web.BaseRequest) -> Exchange:
    """The exchange that a request parsed by aiohttp begins. Raises ClientError."""
    message = request._message
    head = request_head(message)
    protocol: ClientConnection = request.protocol  # type: ignore[assignment]
    content = None if request._payload is EMPTY_PAYLOAD else _Arriving(request._payload)
    # what follows an upgrade that aiohttp knows no tunnel for is lost: it is to count as not processed (RFC 9112 9.6)
    closes = message.should_close or (message.upgrade and not forwarding.wants_websocket(head))
    return Exchange(protocol, head, content, keep_alive=not closes)


class ClientConnection(RequestHandler):
    """aiohttp's connection, with refusals in our words, a way to end it when idle, and shorter ways for plain requests.

    A plain request (`policy.plain`) that has arrived whole, while nothing else is on its way, is taken here: answered
    from prepared octets at once if it is alone, or served in a task of its own. Everything else goes through aiohttp.
    What comes behind a request waits until that is answered (`_hold`).
    """

    __slots__ = (
        "_content",
        "_early",
        "_extent",
        "_new",
        "_passing",
        "_quiet",
        "_seat",
        "_server",
        "_take",
        "_task",
        "_unanswered",
        "asking",
        "closing",
        "ended",
        "ending",
        "peer_address",
    )

    def __init__(self, manager: ClientServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = manager
        self._take = manager.take
        self.asking = False
        self.closing = False
        self.ended = False
        self.ending = Ending(manager.leaving)
        self.peer_address = ""
        self._seat: Seat
        # what comes next is the head of a request, as far as is known without asking aiohttp
        self._quiet = False
        self._task: asyncio.Task[None] | None = None
        self._passing: Passing | None = None
        self._early = b""
        self._new = True
        # of the request that aiohttp has got a part of; whether it is still to be answered; and its content, until that
        # has been parsed to its end
        self._extent: Extent | None = None
        self._unanswered = False
        self._content: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the peer; refuse at once what came after the drain began."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.peer_address = str(peer[0]).removeprefix("::ffff:") if peer else ""
        self._seat = Seat(cast("asyncio.Transport", transport).write, self.peer_address)
        self.closing = self._server.draining
        if not self._server.room.admit(self, cast("Collection[Guest]", self._server._connections)):
            self._refuse(errors.OutOfDescriptors("Siding is out of file descriptors; try again later"))
            self._server.room.tell(self)
            if not self.linger(unsure=True):
                self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """What is being answered is given up."""
        super().connection_lost(exc)
        self._server.room.gone(self)
        # it keeps the connection, and would be kept by it
        self._content = None
        self.ending.over()
        if self._passing is not None:
            self._passing.abandon()
            self._passing = None
            self._served()
        if self._task is not None:
            self._task.cancel()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who ends its side once it has asked gets whole what is answered from here; who waits for the origin has left.

        As for nginx (proxy_ignore_client_abort off). Who has left altogether is found out by sending to it.
        """
        self.ended = True
        if self.ending.lingering is not None:
            return False
        if self.asking or self._passing is not None or self._payload_parser is not None or not self._whole:
            self.ending.part_from(self.transport)
            return False
        if not self._early:
            self.end_when_idle()
        return self._at_work

    @property
    def _at_work(self) -> bool:
        """On a request that has been read, as far as its head goes."""
        return self._request_in_progress or self._unanswered or bool(self._messages)

    @property
    def _whole(self) -> bool:
        """What aiohttp has got of a request is all of it."""
        return self._extent is None or self._extent.stage is Stage.OVER

    def _end_behind(self) -> None:
        """What was held is parsed. Nothing follows it where the client has ended its side."""
        if not self.ended or self._early:
            return
        if self._whole:
            self.end_when_idle()
        else:
            self.force_close()

    def data_received(self, data: bytes) -> None:
        """Take a plain request; have aiohttp parse whatever is none."""
        if self._quiet:
            if self._take(self._seat, data):
                return
            self._quiet = False
            self._serve_or_parse(self._seat.leave(), data)
        elif self._task is not None or self._passing is not None:
            self._hold(data)
        else:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        if self.ending.lingering is not None:
            self.ending.lingering.heard = True
            return
        if self._close or self._force_close:
            # aiohttp takes nothing more
            return
        waiter, new = self._waiter, self._new
        self._new = False
        # aiohttp waits for a request, or has not begun to: what comes is a head, unless it has the beginning of one
        waits = new or (waiter is not None and not waiter.done())
        plain = None
        if waits and self._extent is None and not self.closing:
            if self._paused:
                self._server.only_read(self._seat, data)
            elif self._take(self._seat, data):
                # the answer may have been more than the client takes
                self._quiet = not self._paused
                return
            plain = self._seat.leave()
        self._serve_or_parse(plain, data)

    def _serve_or_parse(self, plain: Plain | None, data: bytes) -> None:
        if plain is not None and (end := plain.size + plain.length) <= len(data):
            if end < len(data):
                self._hold(data[end:])
            self._serve_shortly(plain, data[plain.size : end] if plain.length else b"")
        elif data:
            self._parse_one(data)
        else:
            # content has been read: aiohttp goes on with what it has
            self._parse(data)
            self._parse_held()

    def _parse_one(self, data: bytes) -> None:
        """Have aiohttp parse the octets of one request; those behind it wait until it is answered (RFC 9112 9.3.2).

        Given both at once it drops the request, though it is complete, when what follows is malformed. Behind trailer
        fields nothing is processed: aiohttp (3.14) takes the last of them for one of the next request's.
        """
        while data and self._payload_parser is None:
            extent = self._extent
            if extent is None:
                if self._early or not self._wants_another():
                    break
                extent = self._extent = Extent()
            size = extent.take(data)
            if not size:
                break
            self._parse(data[:size])
            data = data[size:]
            if extent.head > MAX_HEAD_BYTES and extent.stage in {Stage.HEAD, Stage.FRAMING}:
                self._refuse_head()
                # nothing else is looked at
                extent.stage = Stage.OVER
                break
            if extent.stage is Stage.FRAMING:
                self._frame(extent)
            if extent.trailers or extent.stage is Stage.LOST:
                self.closing = True
                if extent.stage is Stage.OVER and not self._unanswered:
                    # the answer did not tell the client
                    self.linger()
                    return
            elif extent.stage is Stage.OVER:
                self._extent = None
        if data and self._payload_parser is not None:
            self._parse(data)
        elif data:
            self._hold(data)

    def _refuse_head(self) -> None:
        """As what the parser finds at fault, unless it has."""
        message = self._messages[-1][0] if self._messages else None
        if isinstance(message, _ErrInfo):
            return
        if message is not None:
            self._messages.pop()
        fault = errors.FieldsTooLarge(f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
        self._messages.append((_ErrInfo(status=fault.status, exc=fault, message=""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _frame(self, extent: Extent) -> None:
        """Tell it of the content whose head has just been parsed."""
        if not self._messages:
            # there were empty lines only (RFC 9112 2.2)
            extent.framed(0)
            return
        self._unanswered = True
        message, content = self._messages[-1]
        if content is EMPTY_PAYLOAD:
            extent.framed(0)
            return
        self._content = content
        message = cast("RawRequestMessage", message)
        length = message.headers.get("Content-Length")
        if message.chunked:
            extent.framed(None)
        elif length is not None:
            extent.framed(as_number(length))
        else:
            extent.stage = Stage.LOST

    def _wants_another(self) -> bool:
        """Whether aiohttp has parsed the whole of the request that it got last, which is answered."""
        if self._content is not None and self._content.is_eof():
            self._content = None
        return self._content is None and not self._unanswered

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and not hasattr(fault := self._messages[-1][0], "raw_headers"):
            # it may be kept by this connection, which it would keep otherwise
            fault.exc.__traceback__ = None
            # content that stops making sense fails the request being read, at once
            if len(self._messages) > 1:
                content = self._messages[-2][1]
            elif self._current_request is not None:
                content = self._current_request._payload
            else:
                return
            if not content.is_eof():
                content.set_exception(RequestPayloadError(fault.message))

    def _parse_held(self) -> None:
        if self._early and self._extent is None and self._wants_another():
            self._parse_one(self._let_go())
            self._end_behind()

    def go_on(self, *, keep_alive: bool) -> bool:
        """To what came behind the request that aiohttp had parsed, which is answered; returns whether aiohttp may."""
        self._unanswered = False
        if self.closing or not keep_alive:
            self.linger()
            return False
        if self._upgraded and self._parser is not None:
            # the upgrade was declined, as aiohttp would find out in a moment
            self._parser.set_upgraded(False)
            self._upgraded = False
        self._parse_held()
        return bool(self._messages) or not self.closing

    def linger(self, *, unsure: bool = False) -> bool:
        """Close in steps if the client may still be sending; returns whether it may.

        It would be told that the connection is reset, and lose what it has not read yet (RFC 9112 9.6).
        unsure -- its octets do not tell.
        """
        transport = self.transport
        if transport is None or transport.is_closing() or self.ended:
            return False
        if not (unsure or self._early or self._extent is not None):
            return False
        if not self.ending.linger(transport, self.force_close):
            return False
        # aiohttp serves nothing more, and leaves closing to us
        self._force_close = True
        self._early = b""
        return True

    # -- plain requests

    def _serve_shortly(self, plain: Plain, content: bytes) -> None:
        express = self._server.express
        self._request_in_progress = True
        if not self._paused and express is not None and not self.ended:
            try:
                self._passing = express.take(self, self._seat, plain, content)
            except Exception:
                # law 6, as above
                log.exception("the express way failed")
            if self._passing is not None:
                return
        self._serve_plain(plain, content, None)

    def _serve_plain(self, plain: Plain, content: bytes, passing: Passing | None) -> Exchange:
        self._request_count += 1
        octets = AtHand(content) if plain.length else None
        exchange = Exchange(self, head_of(plain), octets, plain=plain, passing=passing)
        self._task = self._loop.create_task(self._serve(exchange))
        if passing is not None:
            # a task that is cancelled before it has begun gives nothing up by itself
            self._task.add_done_callback(lambda _: passing.give_up())
        return exchange

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._server.serve(exchange)
        finally:
            self._task = None
            self._served()
        # what was held the client may expect to be answered, where this answer was not said to be the last
        self._go_on(exchange.keep_alive and bool(self._early or not self.closing))

    def _served(self) -> None:
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def _go_on(self, keep_alive: bool) -> None:
        """To the next request, or the end."""
        if self._close or not keep_alive:
            if not self.linger():
                self.force_close()
            return
        self._next_keepalive_close_time = time.monotonic() + KEEPALIVE_SECONDS
        if self._early:
            self.data_received(self._let_go())
            self._end_behind()

    # -- what `express` needs

    def answered(self) -> None:
        """See `express.Client`."""
        self._passing = None
        self._served()
        if self.closing or self._close or self._early:
            self._go_on(keep_alive=not self.closing)
        else:
            self._quiet = not self._paused

    def serve_ordinarily(self, plain: Plain, content: bytes, passing: Passing) -> OnInterim:
        """Have the handler serve the request, whose origin has been asked already; takes interim responses."""
        self._passing = None
        return self._serve_plain(plain, content, passing).interim

    def _hold(self, data: bytes) -> None:
        """What comes before the answer is sent waits for its turn."""
        self._early += data
        if len(self._early) > EARLY_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _let_go(self) -> bytes:
        """What waited."""
        early, self._early = self._early, b""
        if len(early) > EARLY_BYTES and self.transport is not None and not self._reading_paused:
            self.transport.resume_reading()
        return early

    def pause_writing(self) -> None:
        """What comes next may not be answered at once."""
        super().pause_writing()
        self._quiet = False

    def close(self) -> None:
        """After the request that it is at, of which aiohttp may have waited long enough for the rest."""
        super().close()
        self._quiet = False
        if self._extent is not None and not self._unanswered:
            self.linger()

    def force_close(self) -> None:
        """Now, or once the client has taken its answer."""
        transport = self.transport
        super().force_close()
        self.ending.part_from(transport)

    async def start(self) -> None:
        """aiohttp's own, which ends with the connection."""
        await super().start()
        self.ending.part_from(self.transport)

    def _process_keepalive(self) -> None:
        self._next_keepalive_close_time = max(self._next_keepalive_close_time, self._seat.ended + KEEPALIVE_SECONDS)
        if self._task is not None or self._passing is not None:
            self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_SECONDS
        super()._process_keepalive()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's own
        """End it, after its answer if that comes within `timeout` seconds."""
        self._quiet = False
        await super().shutdown(timeout)
        if self._passing is not None:
            self._passing.abandon()
            self._passing = None
        if self._task is not None:
            self._task.cancel()

    # -- what an exchange needs

    async def writable(self) -> None:
        """Until the client has taken enough. Raises ConnectionError."""
        await self._drain_helper()

    def take_over(self, tunnel: ClientTunnel) -> None:
        """Give `tunnel` whatever the client sends from now on."""
        self.set_parser(tunnel)  # type: ignore[arg-type]
        if self._early:
            tunnel.feed_data(self._let_go())

    def end_when_idle(self) -> None:
        """Close now when no request is on its way, otherwise after its answer."""
        self.closing = True
        self._quiet = False
        if not self._at_work:
            self.force_close()

    def cut(self) -> None:
        """See `room.Guest`."""
        self.force_close()

    @property
    def idle(self) -> bool:
        """See `room.Guest`. Nothing of an answer is left either, so that it is gone at once when it is closed."""
        transport = self.transport
        if transport is None or self._at_work:
            return False
        asked, ends = self.standing
        if not asked and ends - KEEPALIVE_SECONDS > time.monotonic() - ARRIVAL_SECONDS:
            return False
        return not (transport.get_write_buffer_size() or unread(transport))

    @property
    def standing(self) -> tuple[bool, float]:
        """See `room.Guest`."""
        asked = self._request_count > 0 or self._seat.ended > 0
        return asked, max(self._next_keepalive_close_time, self._seat.ended + KEEPALIVE_SECONDS)

    def _refuse(self, fault: errors.SidingError) -> None:
        octets, observation = last_refusal(fault, self.peer_address, time.time())
        if self.transport is not None:
            self.transport.write(octets)
        self._server.on_refused(observation)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Content that makes no sense is the client's fault, also where nobody but aiohttp reads it any more."""
        fault = kw.get("exc_info")
        if isinstance(fault, RequestPayloadError):
            # the content keeps it, and would be kept by it
            fault.__traceback__ = None
        else:
            super().log_exception(*args, **kw)

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        fault = client_error(err_info.exc)
        # it keeps this connection otherwise, and is kept by it
        err_info.exc.__traceback__ = None

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            self._refuse(fault)
            self._unanswered = False
            self.linger(unsure=True)
            return _Sent(keep_alive=False)

        return refuse


class ClientServer(web.Server):
    """Makes a `ClientConnection` for each client and calls `handler` for each request.

    on_refused -- told of requests that were refused before they reached the handler.
    leaving -- connections that are ending, and all that there are when a drain begins, until they are over.
    """

    def __init__(
        self,
        handler: Handler,
        on_refused: OnRefused,
        lexicon: Lexicon | None,
        hits: Hits | None,
        express: Express | None,
        room: Room,
    ) -> None:
        """lexicon -- by which plain requests are read; None leaves all to aiohttp. hits, express -- the short ways."""
        self.on_refused = on_refused
        self.draining = False
        self.leaving = InFlight()
        self.serve = handler
        self.lexicon = lexicon
        self.take: Take = self.only_read if hits is None else hits.take
        self.express = express
        self.room = room
        super().__init__(self._handle, handler_cancellation=True)

    def only_read(self, seat: Seat, data: bytes) -> bool:
        """As `Hits.take` where nothing is at hand."""
        if self.lexicon is not None:
            seat.read(data, self.lexicon)
        return False

    def __call__(self) -> ClientConnection:
        return ClientConnection(
            self,
            loop=self._loop,
            keepalive_timeout=KEEPALIVE_SECONDS,
            access_log=None,
            auto_decompress=False,
            max_line_size=MAX_TARGET_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELD_LINES,
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol: ClientConnection = request.protocol  # type: ignore[assignment]
        try:
            exchange = _exchange(request)
        except errors.ClientError as fault:
            return await protocol._make_error_handler(_Refused(400, fault, ""))(request)  # type: ignore[arg-type]
        await self.serve(exchange)
        return _Sent(protocol.go_on(keep_alive=exchange.keep_alive))

    def begin_drain(self) -> None:
        """Close idle connections; the others end after the answer they are at, or when their clients have ended."""
        self.draining = True
        for connection in cast("list[ClientConnection]", self.connections):
            # aiohttp counts one that is over until its task is
            if connection.transport is not None:
                connection.ending.leave()
            if not connection.ending.has_begun:
                connection.end_when_idle()


class _Refused:
    """A refusal in the shape of aiohttp's own parse failures."""

    __slots__ = ("exc", "message", "status")

    def __init__(self, status: int, exc: BaseException, message: str) -> None:
        self.status = status
        self.exc = exc
        self.message = message
