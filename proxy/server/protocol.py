"""The client's side of an exchange, on aiohttp's server: the only file that touches its internals.

aiohttp parses requests (llhttp), keeps connections alive and lingers over unread content. What it
cannot do is done here: write a response head octet for octet as decided, send interim responses, and
hand a connection over to a tunnel. The internals relied on are named in `INTERNALS`, and a test holds
the installed aiohttp to them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from aiohttp import http_exceptions, web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from proxy import errors
from proxy.observe.events import Observation
from proxy.origin.connection import OnInterim
from proxy.policy import forwarding
from proxy.policy.messages import Fields, RequestHead
from proxy.policy.plain import Lexicon, Plain
from proxy.policy.prepared import wire_head
from proxy.server.exchange import AtHand, ClientGone, ClientTunnel, Exchange, as_number
from proxy.server.express import Express, Passing
from proxy.server.fast_path import Hits, Seat, head_of, scheme_of
from proxy.server.refusal import refusal_head

if TYPE_CHECKING:
    from aiohttp.http import RawRequestMessage
    from aiohttp.web_protocol import _ErrInfo

log = logging.getLogger("siding.protocol")

INTERNALS = {
    "RequestHandler": (
        "_close",
        "_current_request",
        "_drain_helper",
        "_handler_waiter",
        "_make_error_handler",
        "_messages",
        "_next_keepalive_close_time",
        "_parser",
        "_paused",
        "_payload_parser",
        "_process_keepalive",
        "_reading_paused",
        "_request_in_progress",
        "_upgraded",
        "_waiter",
        "set_parser",
        "writing_paused",
    ),
    "BaseRequest": ("_message", "_payload"),
    "Server": ("_loop",),
    "StreamReader": ("_buffer",),
}

KEEPALIVE_SECONDS = 75.0
"""Longer than the 60 s after which Railway's edge closes an idle connection, so that the edge goes first."""
READ_SECONDS = 60.0
"""The longest silence of a client that owes content (nginx: client_body_timeout)."""
EARLY_BYTES = 64 * 1024
"""Held of what a client sends before it has its answer; then it is no longer read."""
MAX_LOOKS = 16
"""How often in one segment of chunks it is looked whether they have ended; their content may look as if."""
MAX_TARGET_BYTES = 16 * 1024
MAX_FIELD_BYTES = 32 * 1024
MAX_FIELD_LINES = 200

Handler = Callable[[Exchange], Awaitable[None]]
Take = Callable[[Seat, bytes], bool]
"""See `Hits.take`."""
OnRefused = Callable[[Observation], None]
"""Told of a request that was refused before it could be handled."""


_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = re.compile(rb"\n0+(?:;[^\r\n:]*)?\r\n\r\n")
"""The end of chunks without trailer fields, whose lines have a colon (RFC 9112 7.1); or content that looks like it."""
_LAST_BYTES = 16
"""Octets of a segment that are kept to find it where it is cut in two."""
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]*)?\Z")
"""host [ ":" port ] of RFC 3986 3.2, never empty and without user information (RFC 9110 4.2.4)."""


def _target_and_fields(message: RawRequestMessage, fields: Fields) -> tuple[str, Fields]:
    """Origin-form target, and the fields with the Host that goes with it.

    An absolute-form target replaces Host, here and for the origin (RFC 9112 3.2.2). Raises MalformedRequest.
    """
    target, authority = _target_and_authority(message, fields)
    if authority is not None and _AUTHORITY.match(authority) is None:
        raise errors.MalformedRequest(f"the host is not one: {authority[:80]!r}")
    if authority is None or authority == fields.get("host"):
        return target, fields
    return target, Fields((("Host", authority), *fields.without({"host"}).lines))


def _target_and_authority(message: RawRequestMessage, fields: Fields) -> tuple[str, str | None]:
    if message.method == "CONNECT":
        raise errors.MethodNotSupported("CONNECT is for forward proxies; this is a reverse proxy")
    target = message.path.encode("utf-8", "surrogateescape").decode("latin-1")
    if "#" in target:
        raise errors.MalformedRequest(f"a request target has no fragment: {target[:80]!r}")
    authority = fields.get("host")
    if target.startswith("/") or target == "*":
        return target, authority
    _, separator, rest = target.partition("://")
    if not separator:
        raise errors.MalformedRequest(f"the request target is neither a path nor a URI: {target[:80]!r}")
    for index, character in enumerate(rest):
        if character in "/?":
            path = rest[index:]
            return (path if character == "/" else "/" + path), rest[:index]
    # of the server as a whole, where there is neither path nor query (RFC 9112 3.2.4)
    return "*" if message.method == "OPTIONS" else "/", rest


def _check_framing(message: RawRequestMessage, fields: Fields) -> None:
    """Content that is framed in another way, or whose transfer coding would be lost, is not taken (RFC 9112 6.1, 7)."""
    if message.version.major != 1:
        raise errors.VersionNotSupported("only HTTP/1.1 and HTTP/1.0 are spoken here")
    codings = fields.get("transfer-encoding")
    if codings is None:
        return
    if message.version < (1, 1):
        raise errors.MalformedRequest("HTTP/1.0 has no Transfer-Encoding")
    if codings.strip().lower() != "chunked":
        raise errors.CodingNotSupported(f"the only transfer coding known here is chunked; given: {codings[:80]!r}")


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
            raise errors.MalformedRequest("the framing of the request's content is broken") from fault
        except ConnectionError as fault:
            raise ClientGone("the client left while sending its content") from fault


def _exchange(request: web.BaseRequest) -> Exchange:
    """The exchange that a request parsed by aiohttp begins. Raises ClientError."""
    message = request._message
    fields = Fields.from_raw(message.raw_headers)
    target, fields = _target_and_fields(message, forwarding.without_named(fields))
    _check_framing(message, fields)
    head = RequestHead(
        message.method,
        target,
        fields,
        scheme_of(fields.get("x-forwarded-proto")),
        fields.get("host") or "",
        (message.version.major, message.version.minor),
    )
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
        "_alone",
        "_begun",
        "_chunks",
        "_early",
        "_new",
        "_owed",
        "_passing",
        "_quiet",
        "_seat",
        "_server",
        "_take",
        "_task",
        "_unsure",
        "_whole",
        "closing",
        "peer_address",
    )

    def __init__(self, manager: ClientServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = manager
        self._take = manager.take
        self.closing = False
        self.peer_address = ""
        self._seat: Seat
        # what comes next is the head of a request, as far as is known without asking aiohttp
        self._quiet = False
        self._task: asyncio.Task[None] | None = None
        self._passing: Passing | None = None
        self._early = b""
        self._new = True
        # whether aiohttp's parser has nothing of a message, once it has no request to serve
        self._whole = True
        # the last octets of the beginning of a head that the parser has, or of chunks
        self._begun = b""
        # content of which no end without trailer fields has been seen
        self._chunks: StreamReader | None = None
        # heads that the parser found when it had nothing else, until they are handled; whether what it has found behind
        # the request handled last may have got a trailer field of that
        self._alone: list[object] = []
        self._unsure = False
        # octets of content still to come of the request parsed last; -1 where that is not known
        self._owed = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the peer; refuse at once what came after the drain began."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.peer_address = str(peer[0]).removeprefix("::ffff:") if peer else ""
        self._seat = Seat(cast("asyncio.Transport", transport).write, self.peer_address)
        self.closing = self._server.draining

    def connection_lost(self, exc: BaseException | None) -> None:
        """What is being answered is given up."""
        super().connection_lost(exc)
        # it keeps the connection, and would be kept by it
        self._chunks = None
        if self._passing is not None:
            self._passing.abandon()
            self._passing = None
            self._served()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take a plain request; have aiohttp parse whatever is none."""
        if self._quiet:
            if self._take(self._seat, data):
                return
            self._quiet = False
            self._serve_or_parse(self._seat.leave(), data, begins=True)
        elif self._task is not None or self._passing is not None:
            self._hold(data)
        else:
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        waiter, new = self._waiter, self._new
        self._new = False
        # aiohttp waits for a request, or has not begun to, and has nothing of one: what comes is its head, no content
        waits = new or (waiter is not None and not waiter.done())
        plain = None
        if waits and self._whole and not self.closing and not self._close:
            if self._paused:
                self._server.only_read(self._seat, data)
            elif self._take(self._seat, data):
                # the answer may have been more than the client takes
                self._quiet = not self._paused
                return
            plain = self._seat.leave()
        beginning = self._begun != b"" and self._chunks is None
        self._serve_or_parse(plain, data, begins=beginning or (waits and self._whole))

    def _serve_or_parse(self, plain: Plain | None, data: bytes, *, begins: bool) -> None:
        """begins -- aiohttp has no request to serve, and of the next at most the beginning of its head."""
        if plain is not None and (end := plain.size + plain.length) <= len(data):
            if end < len(data):
                self._hold(data[end:])
            self._serve_shortly(plain, data[plain.size : end] if plain.length else b"")
        elif data:
            self._parse_one(data, begins=begins)
        else:
            # content has been read: aiohttp goes on with what it has
            self._parse(data)
            if self._chunks is not None and not self._reading_paused:
                self._parse_one(self._let_go(), begins=False)

    def _parse_one(self, data: bytes, *, begins: bool) -> None:
        """Have aiohttp parse the octets of one request; those behind it wait until it is answered (RFC 9112 9.3.2).

        Given both at once it drops the request, though it is complete, when what follows is malformed. No octet is
        left out, nor given to it before another that came earlier.
        """
        if begins:
            if self._chunks is not None:
                # there were trailer fields, or it is not known
                self.force_close()
                return
            seen = self._begun + data
            at = seen.find(_HEAD_END)
            end = len(data) if at < 0 else at + len(_HEAD_END) - len(self._begun)
            self._begun = seen[-3:] if at < 0 else b""
            head, data = data[:end], data[end:]
            self._parse(head)
            self._owed = self._length()
            if self._messages:
                self._alone.append(self._messages[-1][0])
                if self._owed < 0:
                    self._chunks, self._begun = self._messages[-1][1], head[-1:]
            self._whole = not self._owed if self._owed >= 0 else head.endswith(_HEAD_END)
        if self._owed > 0:
            content, data = data[: self._owed], data[self._owed :]
            if content:
                self._parse(content)
            self._owed -= len(content)
            self._whole = not self._owed
        elif self._chunks is not None and not self._reading_paused:
            data = self._parse_chunks(self._chunks, data)
        elif self._chunks is not None and data:
            self._hold(data)
            return
        if not data:
            return
        if self._owed == 0 and self._payload_parser is None:
            if self._early or self._messages or self._request_in_progress or self._upgraded:
                # whoever answers it comes back for them (`parse_held`)
                self._hold(data)
            else:
                self._parse_one(data, begins=True)
            return
        # A head that is not complete cannot end as a complete one does, and content that is not complete is still being
        # served. So what ends like a head or a last chunk (RFC 9112 2.1, 7.1) is the end of a message.
        self._owed = -1
        self._begun = b""
        self._whole = data.endswith(_HEAD_END)
        self._parse(data)

    def _parse_chunks(self, content: StreamReader, data: bytes) -> bytes:
        """Have aiohttp parse chunks as far as their end; returns what is behind it.

        Behind trailer fields nothing is processed: aiohttp (3.14) takes the last of them for one of the next request's.
        """
        seen, parsed = self._begun + data, len(self._begun)
        for last in itertools.islice(_LAST_CHUNK.finditer(seen), MAX_LOOKS):
            end = last.end()
            if end <= parsed:
                continue
            # it is the end if nothing before it was
            if parsed < end - 1:
                self._parse(seen[parsed : end - 1])
                parsed = end - 1
            if self._reading_paused:
                # the parser stops where content is read slowly, and goes on later
                self._begun = seen[:parsed][-_LAST_BYTES:]
                self._hold(seen[parsed:])
                return b""
            if content.is_eof():
                break
            self._parse(seen[parsed:end])
            parsed = end
            if content.is_eof():
                self._begun, self._chunks = b"", None
                self._owed, self._whole = 0, True
                return seen[end:]
        if parsed < len(seen):
            self._parse(seen[parsed:])
        self._begun = seen[-_LAST_BYTES:]
        self._whole = content.is_eof()
        if self._whole:
            self.closing = True
        return b""

    def accepts(self, request: web.BaseRequest) -> bool:
        """Whether the request is sure to be what the client has sent. To be asked once for each."""
        message, sure = request._message, not self._unsure
        if self._alone and self._alone[0] is message:
            del self._alone[0]
            sure = True
        self._unsure = message.chunked
        return sure

    def _length(self) -> int:
        """The length of the content whose head has just been parsed; -1 where it is chunked, or no head is complete."""
        if not self._messages:
            return -1
        message, content = self._messages[-1]
        if content is EMPTY_PAYLOAD:
            return 0
        message = cast("RawRequestMessage", message)
        length = None if message.chunked else message.headers.get("Content-Length")
        return as_number(length) if length is not None else -1

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

    def parse_held(self) -> None:
        """What came behind the request that aiohttp has parsed, now that this is answered."""
        # what aiohttp has parsed is answered first; of chunks that nobody has read to their end it reads the rest first
        if self._early and self._chunks is None and not self._messages:
            if self._upgraded and self._parser is not None:
                # the upgrade was declined, as aiohttp would find out in a moment
                self._parser.set_upgraded(False)
                self._upgraded = False
            self._parse_one(self._let_go(), begins=True)

    # -- plain requests

    def _serve_shortly(self, plain: Plain, content: bytes) -> None:
        express = self._server.express
        self._request_in_progress = True
        if not self._paused and express is not None:
            try:
                self._passing = express.take(self, self._seat, plain, content)
            except Exception:
                # law 6, as above
                log.exception("the express way failed")
            if self._passing is not None:
                return
        self._serve_plain(plain, content, None)

    def _serve_plain(self, plain: Plain, content: bytes, passing: Passing | None) -> Exchange:
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
        self._go_on(exchange.keep_alive)

    def _served(self) -> None:
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def _go_on(self, keep_alive: bool) -> None:
        """To the next request, or the end."""
        if self._close or not keep_alive:
            self.force_close()
            return
        self._next_keepalive_close_time = time.monotonic() + KEEPALIVE_SECONDS
        if self._early:
            self.data_received(self._let_go())

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
        """After the request that it is at."""
        super().close()
        self._quiet = False

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
        if not self._request_in_progress and not self._messages:
            self.force_close()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Content that makes no sense is the client's fault, also where nobody but aiohttp reads it any more."""
        fault = kw.get("exc_info")
        if isinstance(fault, RequestPayloadError):
            # the content keeps it, and would be kept by it
            fault.__traceback__ = None
        else:
            super().log_exception(*args, **kw)

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        fault = _client_error(err_info.exc)
        # it keeps this connection otherwise, and is kept by it
        err_info.exc.__traceback__ = None

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            content = fault.content()
            head = refusal_head(fault)
            if self.transport is not None:
                self.transport.write(wire_head(head, len(content)) + b"Connection: close\r\n\r\n" + content)
            observation = Observation(method="", path="", client=self.peer_address, started=time.time())
            observation.status, observation.error = fault.status, fault.code
            observation.response_bytes = len(content)
            self._server.on_refused(observation)
            return _Sent(keep_alive=False)

        return refuse


def _client_error(fault: BaseException) -> errors.ClientError:
    """aiohttp's parse errors, in our words."""
    if isinstance(fault, errors.ClientError):
        return fault
    if isinstance(fault, http_exceptions.LineTooLong):
        if fault.args[1] == MAX_TARGET_BYTES:
            return errors.TargetTooLong(f"the request target is longer than {MAX_TARGET_BYTES} bytes")
        return errors.FieldsTooLarge(f"a field is longer than {MAX_FIELD_BYTES} bytes")
    if isinstance(fault, http_exceptions.BadHttpMessage) and "Too many headers" in str(fault.message):
        return errors.FieldsTooLarge(f"more than {MAX_FIELD_LINES} fields")
    if isinstance(fault, http_exceptions.BadHttpMethod) and "HTTPS" not in str(fault.message):
        return errors.MethodNotSupported("the method is not one that HTTP/1.1 registers")
    return errors.MalformedRequest("the request is not well-formed HTTP/1.1")


class ClientServer(web.Server):
    """Makes a `ClientConnection` for each client and calls `handler` for each request.

    on_refused -- told of requests that were refused before they reached the handler.
    """

    def __init__(
        self,
        handler: Handler,
        on_refused: OnRefused,
        lexicon: Lexicon | None,
        hits: Hits | None,
        express: Express | None,
    ) -> None:
        """lexicon -- by which plain requests are read; None leaves all to aiohttp. hits, express -- the short ways."""
        self.on_refused = on_refused
        self.draining = False
        self.serve = handler
        self.lexicon = lexicon
        self.take: Take = self.only_read if hits is None else hits.take
        self.express = express
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
        if not request.protocol.accepts(request):  # type: ignore[attr-defined]
            # as behind Connection: close, it counts as not processed (RFC 9112 9.6)
            request.protocol.force_close()
            return _Sent(keep_alive=False)
        try:
            exchange = _exchange(request)
        except errors.ClientError as fault:
            return await request.protocol._make_error_handler(_Refused(400, fault, ""))(request)  # type: ignore[arg-type]
        await self.serve(exchange)
        if exchange.keep_alive:
            request.protocol.parse_held()  # type: ignore[attr-defined]
        return _Sent(exchange.keep_alive)

    def begin_drain(self) -> None:
        """Close idle connections; the others end after the answer they are at."""
        self.draining = True
        for connection in self.connections:
            connection.end_when_idle()  # type: ignore[attr-defined]


class _Refused:
    """A refusal in the shape of aiohttp's own parse failures."""

    __slots__ = ("exc", "message", "status")

    def __init__(self, status: int, exc: BaseException, message: str) -> None:
        self.status = status
        self.exc = exc
        self.message = message
