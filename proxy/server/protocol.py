"""The client's side of an exchange, on aiohttp's server: the only file that touches its internals.

aiohttp parses requests (llhttp), keeps connections alive and lingers over unread content. What it
cannot do is done here: write a response head octet for octet as decided, send interim responses, and
hand a connection over to a tunnel. The internals relied on are named in `INTERNALS`, and a test holds
the installed aiohttp to them.
"""

from __future__ import annotations

import asyncio
import fcntl
import re
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import http_exceptions, web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from proxy import errors
from proxy.observe.events import Observation
from proxy.policy import forwarding
from proxy.policy.messages import Fields, RequestHead, ResponseHead

if TYPE_CHECKING:
    from aiohttp.http import RawRequestMessage
    from aiohttp.web_protocol import _ErrInfo

INTERNALS = {
    "RequestHandler": (
        "_current_request",
        "_drain_helper",
        "_make_error_handler",
        "_messages",
        "_request_in_progress",
        "set_parser",
        "writing_paused",
    ),
    "BaseRequest": ("_cancel", "_message", "_payload"),
    "Server": ("_loop",),
    "StreamReader": ("_buffer",),
}

KEEPALIVE_SECONDS = 75.0
"""Longer than the 60 s after which Railway's edge closes an idle connection, so that the edge goes first."""
READ_SECONDS = 60.0
"""The longest silence of a client that owes content (nginx: client_body_timeout)."""
SEND_SECONDS = 60.0
"""The longest a client may refuse to read its answer (nginx: send_timeout)."""
MAX_TARGET_BYTES = 16 * 1024
MAX_FIELD_BYTES = 32 * 1024
MAX_FIELD_LINES = 200
TUNNEL_BUFFER_BYTES = 256 * 1024

NO_CONTENT = frozenset({204, 304})

Handler = Callable[["Exchange"], Awaitable[None]]
OnRefused = Callable[[Observation], None]
"""Told of a request that was refused before it could be handled."""


class ClientGone(ConnectionError):
    """The client closed the connection, or stopped reading for `SEND_SECONDS`."""


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
    return "/", rest


def _check_framing(message: RawRequestMessage, fields: Fields) -> None:
    """Content whose transfer coding would be lost on the way is not taken (RFC 9112 6.1, 7)."""
    codings = fields.get("transfer-encoding")
    if codings is None:
        return
    if message.version < (1, 1):
        raise errors.MalformedRequest("HTTP/1.0 has no Transfer-Encoding")
    if codings.strip().lower() != "chunked":
        raise errors.CodingNotSupported(f"the only transfer coding known here is chunked; given: {codings[:80]!r}")


class Exchange:
    """One request of a client, and the means to answer it.

    Every method that waits raises `ClientGone` once the client has left.
    """

    __slots__ = (
        "_chunked",
        "_continued",
        "_has_content",
        "_protocol",
        "_request",
        "content_received",
        "content_sent",
        "head",
        "keep_alive",
        "peer",
        "started",
        "started_at",
    )

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._protocol: ClientConnection = request.protocol  # type: ignore[assignment]
        message = request._message
        fields = Fields.from_raw(message.raw_headers)
        target, fields = _target_and_fields(message, forwarding.without_named(fields))
        _check_framing(message, fields)
        forwarded = fields.get("x-forwarded-proto")
        scheme = forwarded.partition(",")[0].strip().lower() if forwarded else ""
        self.head = RequestHead(
            message.method,
            target,
            fields,
            scheme or "http",
            fields.get("host") or "",
            (message.version.major, message.version.minor),
        )
        self.peer: str = self._protocol.peer_address
        self.keep_alive = not message.should_close
        self.started = False
        self.started_at: float | None = None
        self.content_received = 0
        self.content_sent = 0
        self._has_content = request._payload is not EMPTY_PAYLOAD
        self._chunked = False
        self._continued = not self._has_content or "expect" not in fields

    # -- the request's content

    @property
    def has_content(self) -> bool:
        """Whether the request is framed with content (which may turn out to be empty)."""
        return self._has_content

    @property
    def length(self) -> int | None:
        """The request's Content-Length; None when it is chunked or absent."""
        value = self.head.fields.get("content-length")
        return int(value) if value is not None and value.isdecimal() else None

    async def read(self) -> bytes:
        """The next piece of the request's content; b"" at its end.

        Raises MalformedRequest for broken framing and RequestTimeout after `READ_SECONDS` of silence.
        """
        if not self._has_content:
            return b""
        payload = self._request._payload
        try:
            if payload._buffer or payload.is_eof():
                piece = await payload.readany()
            else:
                async with asyncio.timeout(READ_SECONDS):
                    piece = await payload.readany()
        except TimeoutError:
            raise errors.RequestTimeout(f"no content came for {READ_SECONDS:.0f} s") from None
        except (RequestPayloadError, http_exceptions.HttpProcessingError) as fault:
            raise errors.MalformedRequest("the framing of the request's content is broken") from fault
        except ConnectionError as fault:
            raise ClientGone("the client left while sending its content") from fault
        self.content_received += len(piece)
        return piece

    # -- the answer

    def interim(self, head: ResponseHead) -> None:
        """Pass on an interim response (RFC 9110 15.2); HTTP/1.0 clients do not know them.

        A client that does not read gets none: they would pile up here.
        """
        transport = self._protocol.transport
        if transport is None or self.started or self.head.version < (1, 1) or self._protocol.writing_paused:
            return
        if head.status == HTTPStatus.CONTINUE:
            self._continued = True
        transport.write(_status_line(head) + forwarding.strip(head.fields).wire() + b"\r\n")

    async def respond(self, head: ResponseHead, content: bytes) -> None:
        """Send a whole response. For HEAD, 204 and 304 the content is measured but not sent."""
        self.start(head, len(content), content)
        await self.drain()

    def start(self, head: ResponseHead, length: int | None, content: bytes = b"") -> None:
        """Send a response head, framed for `length` octets (None: unknown), and the content at hand.

        `head.fields` hold no framing and no hop-by-hop fields. Raises ClientGone.
        """
        transport = self._protocol.transport
        if transport is None:
            raise ClientGone("the client left before its answer")
        if self._protocol.closing or not (self._continued or self.content_received):
            # a client that was never told to send may send its content now or never (RFC 9110 10.1.1)
            self.keep_alive = False
        self.started = True
        self.started_at = time.monotonic()
        http11 = self.head.version >= (1, 1)
        wire = [_status_line(head), head.fields.wire()]
        bodiless = self.head.method == "HEAD" or head.status in NO_CONTENT
        if head.status in NO_CONTENT:
            pass
        elif length is not None:
            wire.append(b"Content-Length: %d\r\n" % length)
        elif self.head.method != "HEAD":
            self._chunked = http11
            if http11:
                wire.append(b"Transfer-Encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not self.keep_alive:
            wire.append(b"Connection: close\r\n")
        elif not http11:
            wire.append(b"Connection: keep-alive\r\n")
        wire.append(b"\r\n")
        if content and not bodiless:
            self.content_sent += len(content)
            wire.append(self._framed(content))
        transport.write(b"".join(wire))

    def _framed(self, content: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(content), content) if self._chunked else content

    async def write(self, content: bytes) -> None:
        """Send a piece of the response's content, waiting while the client is slow to read."""
        transport = self._protocol.transport
        if transport is None:
            raise ClientGone("the client left during its answer")
        if content:
            self.content_sent += len(content)
            transport.write(self._framed(content))
            await self.drain()

    async def finish(self) -> None:
        """End content of unknown length."""
        transport = self._protocol.transport
        if self._chunked and transport is not None:
            transport.write(b"0\r\n\r\n")
        await self.drain()

    async def drain(self) -> None:
        """Wait until the client has taken enough. Raises ClientGone after `SEND_SECONDS` without progress."""
        await _drain(self._protocol)

    def abort(self) -> None:
        """Cut the connection, so that a truncated answer cannot pass for a complete one."""
        self.keep_alive = False
        if self._protocol.transport is not None:
            self._protocol.transport.abort()

    def tunnel(self, head: ResponseHead) -> ClientTunnel:
        """Send the origin's 101 and take the connection over (RFC 9110 7.8)."""
        transport = self._protocol.transport
        if transport is None:
            raise ClientGone("the client left before its upgrade")
        self.started = True
        self.keep_alive = False
        upgrade = head.fields.get("upgrade") or "websocket"
        fields = head.fields.without({"connection", "upgrade"}).adding(("Connection", "Upgrade"), ("Upgrade", upgrade))
        transport.write(_status_line(head) + fields.wire() + b"\r\n")
        tunnel = ClientTunnel(self._protocol)
        self._protocol.set_parser(tunnel)  # type: ignore[arg-type]
        return tunnel


async def _drain(protocol: ClientConnection) -> None:
    """See `Exchange.drain`."""
    while protocol.writing_paused and (transport := protocol.transport) is not None:
        left = _untaken(transport)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await protocol._drain_helper()
        except TimeoutError:
            if _untaken(transport) >= left:
                transport.abort()
                raise ClientGone(f"the client took nothing for {SEND_SECONDS:.0f} s") from None
        except ConnectionError as fault:
            raise ClientGone("the client left during its answer") from fault


def _untaken(transport: asyncio.WriteTransport) -> int:
    """Octets that the client's machine has not acknowledged, here and in the kernel.

    The kernel asks for more only when a third of a buffer of megabytes is free, so what
    waits here can stand still for minutes while a slow client reads (tcp(7), SIOCOUTQ).
    """
    waiting = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # closed meanwhile, or a system that does not tell
        return waiting
    return waiting + int.from_bytes(answer, sys.byteorder)


class ClientTunnel:
    """The client's half of an upgraded connection. aiohttp feeds it as it would a WebSocket reader."""

    def __init__(self, protocol: ClientConnection) -> None:
        self._protocol = protocol
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._wake: asyncio.Future[None] | None = None

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Called by aiohttp with what the client sent."""
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size > TUNNEL_BUFFER_BYTES and self._protocol.transport is not None:
            self._protocol.transport.pause_reading()
        self._notify()
        return False, b""

    def feed_eof(self) -> None:
        """Called by aiohttp when the connection is lost."""
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def read(self) -> bytes:
        """What the client sent since; b"" once it has left."""
        while not self._pieces:
            if self._ended:
                return b""
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        data = b"".join(self._pieces)
        self._pieces.clear()
        if self._size > TUNNEL_BUFFER_BYTES and self._protocol.transport is not None:
            self._protocol.transport.resume_reading()
        self._size = 0
        return data

    async def write(self, data: bytes) -> None:
        """Send to the client, waiting while it is slow. Raises ClientGone."""
        transport = self._protocol.transport
        if transport is None:
            raise ClientGone("the client left its tunnel")
        transport.write(data)
        await _drain(self._protocol)


def _status_line(head: ResponseHead) -> bytes:
    return f"HTTP/1.1 {head.status} {head.reason}\r\n".encode("latin-1")


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


class ClientConnection(RequestHandler):
    """aiohttp's connection, with refusals in our words and a way to end it when idle."""

    __slots__ = ("_server", "closing", "peer_address")

    def __init__(self, manager: ClientServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = manager
        self.closing = False
        self.peer_address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the peer; refuse at once what came after the drain began."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.peer_address = str(peer[0]).removeprefix("::ffff:") if peer else ""
        self.closing = self._server.draining

    def data_received(self, data: bytes) -> None:
        """Parse; content that stops making sense fails the request being read, at once."""
        super().data_received(data)
        if self._messages and self._current_request is not None:
            last = self._messages[-1][0]
            if not hasattr(last, "raw_headers"):
                self._current_request._cancel(RequestPayloadError(last.message))

    def end_when_idle(self) -> None:
        """Close now when no request is on its way, otherwise after its answer."""
        self.closing = True
        if not self._request_in_progress and not self._messages:
            self.force_close()

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        fault = _client_error(err_info.exc)

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            content = fault.content()
            head = refusal_head(fault)
            if self.transport is not None:
                self.transport.write(
                    _status_line(head)
                    + head.fields.wire()
                    + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(content)
                    + content
                )
            observation = Observation(method="", path="", client=self.peer_address, started=time.time())
            observation.status, observation.error = fault.status, fault.code
            observation.response_bytes = len(content)
            self._server.on_refused(observation)
            return _Sent(keep_alive=False)

        return refuse


def refusal_head(fault: errors.SidingError) -> ResponseHead:
    """The head of the JSON answer that tells a client of `fault`."""
    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    if fault.status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields.append(("Retry-After", "1"))
    return ResponseHead(fault.status, HTTPStatus(fault.status).phrase, Fields(fields))


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

    def __init__(self, handler: Handler, on_refused: OnRefused) -> None:
        self.on_refused = on_refused
        self.draining = False
        self._serve = handler
        super().__init__(self._handle, handler_cancellation=True)

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
        try:
            exchange = Exchange(request)
        except errors.ClientError as fault:
            return await request.protocol._make_error_handler(_Refused(400, fault, ""))(request)  # type: ignore[arg-type]
        await self._serve(exchange)
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
