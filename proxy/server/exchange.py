"""One request of a client, and the means to answer it: whole, piece by piece, or by a tunnel.

How the client's connection works is `protocol`'s business; `Connection` is what is needed of it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from config import ending
from config.untaken import untaken
from proxy.policy import forwarding
from proxy.policy.messages import RequestHead, ResponseHead
from proxy.policy.plain import Plain
from proxy.policy.prepared import NO_CONTENT, status_line, wire_head

if TYPE_CHECKING:
    from proxy.server.express import Passing

TUNNEL_BUFFER_BYTES = 256 * 1024
PIECE_BYTES = 256 * 1024
"""Content longer than this is handed to the connection piece by piece, as the client reads: whole, each client that
does not read would hold a copy of its own (nginx sends from one file, Varnish from one object)."""

Octets = bytes | memoryview


class ClientGone(ConnectionError):
    """The client closed the connection, or stopped reading for `ending.SEND_SECONDS`."""


class Connection(Protocol):
    """The client's connection. closing -- it ends after this answer.

    asking -- its answer is yet to come from the origin. ended -- the client has ended its side, and may read on.
    """

    transport: asyncio.Transport | None
    asking: bool
    closing: bool
    ended: bool
    peer_address: str

    @property
    def writing_paused(self) -> bool: ...
    async def writable(self) -> None:
        """Until the client has taken enough. Raises ConnectionError."""
        ...

    def take_over(self, tunnel: ClientTunnel) -> None:
        """Give `tunnel` whatever the client sends from now on."""
        ...


class Content(Protocol):
    """A request's content. Raises MalformedRequest, RequestTimeout and ClientGone."""

    async def read(self) -> bytes:
        """The next piece; b"" at its end."""
        ...


def as_number(digits: str) -> int:
    """A Content-Length. It may have more zeros in front than `int` reads."""
    return int(digits.lstrip("0") or "0")


class AtHand:
    """Content that has arrived whole."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    async def read(self) -> bytes:
        """All of it, once."""
        octets, self._octets = self._octets, b""
        return octets


class Exchange:
    """One request of a client, and the means to answer it.

    Every method that waits raises `ClientGone` once the client has left.
    """

    __slots__ = (
        "_chunked",
        "_content",
        "_continued",
        "_ends_with_connection",
        "_protocol",
        "content_received",
        "content_sent",
        "head",
        "keep_alive",
        "passing",
        "peer",
        "plain",
        "started",
        "started_at",
    )

    def __init__(
        self,
        protocol: Connection,
        head: RequestHead,
        content: Content | None,
        *,
        keep_alive: bool = True,
        plain: Plain | None = None,
        passing: Passing | None = None,
    ) -> None:
        """content -- None where the request is framed without any. plain -- the head as the fast path has read it.

        passing -- the origin has been asked already.
        """
        self._protocol = protocol
        self._content = content
        self.head = head
        self.peer = protocol.peer_address
        self.keep_alive = keep_alive
        self.plain = plain
        self.passing = passing
        self.started = False
        self.started_at: float | None = None
        self.content_received = 0
        self.content_sent = 0
        self._chunked = False
        self._ends_with_connection = False
        self._continued = content is None or "expect" not in head.fields

    # -- the request's content

    @property
    def has_content(self) -> bool:
        """Whether the request is framed with content (which may turn out to be empty)."""
        return self._content is not None

    @property
    def length(self) -> int | None:
        """The request's Content-Length; None when it is chunked or absent."""
        value = self.head.fields.get("content-length")
        return as_number(value) if value is not None and value.isdecimal() else None

    async def read(self) -> bytes:
        """The next piece of the request's content; b"" at its end.

        Raises MalformedRequest for broken framing and RequestTimeout after `READ_SECONDS` of silence.
        """
        if self._content is None:
            return b""
        piece = await self._content.read()
        self.content_received += len(piece)
        return piece

    # -- the answer

    def to_the_origin(self) -> None:
        """From now on the origin is waited for. Raises ClientGone: who has ended its side does not count as waiting."""
        if self._protocol.ended:
            raise ClientGone("the client ended its side before its answer")
        self._protocol.asking = True

    def interim(self, head: ResponseHead) -> None:
        """Pass on an interim response (RFC 9110 15.2); HTTP/1.0 clients do not know them.

        A client that does not read gets none: they would pile up here.
        """
        transport = self._protocol.transport
        if transport is None or self.started or self.head.version < (1, 1) or self._protocol.writing_paused:
            return
        if head.status == HTTPStatus.CONTINUE:
            self._continued = True
        transport.write(status_line(head) + forwarding.strip(head.fields).wire() + b"\r\n")

    async def respond(self, head: ResponseHead, *content: Octets) -> None:
        """Send a whole response, of content in parts. For HEAD, 204 and 304 the content is measured but not sent."""
        self._protocol.asking = False
        length = sum(map(len, content))
        if length <= PIECE_BYTES:
            self.start(head, length, b"".join(content))
            await self.drain()
            return
        self.start(head, length)
        if self._is_bodiless(head):
            await self.drain()
            return
        for part in content:
            view = memoryview(part)
            for begin in range(0, len(view), PIECE_BYTES):
                await self.write(view[begin : begin + PIECE_BYTES])

    def _is_bodiless(self, head: ResponseHead) -> bool:
        return self.head.method == "HEAD" or head.status in NO_CONTENT

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
        wire = [wire_head(head, length)]
        bodiless = self._is_bodiless(head)
        if length is None and not bodiless:
            self._chunked = http11
            if http11:
                wire.append(b"Transfer-Encoding: chunked\r\n")
            else:
                self.keep_alive = False
                self._ends_with_connection = True
                _close_by_reset(transport, yes=True)
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

    async def write(self, content: Octets) -> None:
        """Send a piece of the response's content, waiting while the client is slow to read."""
        transport = self._protocol.transport
        if transport is None:
            raise ClientGone("the client left during its answer")
        if content:
            self.content_sent += len(content)
            transport.write(self._framed(bytes(content)) if self._chunked else content)
            await self.drain()

    async def finish(self) -> None:
        """End content, of unknown length or not."""
        self._protocol.asking = False
        transport = self._protocol.transport
        if self._chunked and transport is not None:
            transport.write(b"0\r\n\r\n")
        await self.drain()
        if self._ends_with_connection and transport is not None:
            _close_by_reset(transport, yes=False)

    async def drain(self) -> None:
        """Wait until the client has taken enough. Raises ClientGone after `ending.SEND_SECONDS` without progress."""
        await drained(self._protocol)

    def abort(self) -> None:
        """End the connection, and cut it where an answer has begun: truncated it is not to pass for a complete one.

        Where none has, the client may still be reading the answer before it.
        """
        self.keep_alive = False
        if self.started and self._protocol.transport is not None:
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
        transport.write(status_line(head) + fields.wire() + b"\r\n")
        tunnel = ClientTunnel(self._protocol)
        self._protocol.take_over(tunnel)
        return tunnel


def _close_by_reset(transport: asyncio.WriteTransport, *, yes: bool) -> None:
    """Whether the connection is reset when it is closed, whoever closes it and why (socket(7), SO_LINGER).

    For as long as its end would pass for the end of the content (RFC 9112 6.3, 8).
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", yes, 0))


async def drained(protocol: Connection) -> None:
    """See `Exchange.drain`."""
    while protocol.writing_paused and (transport := protocol.transport) is not None:
        left = untaken(transport)
        try:
            async with asyncio.timeout(ending.SEND_SECONDS):
                await protocol.writable()
        except TimeoutError:
            if untaken(transport) >= left:
                transport.abort()
                raise ClientGone(f"the client took nothing for {ending.SEND_SECONDS:.0f} s") from None
        except ConnectionError as fault:
            raise ClientGone("the client left during its answer") from fault


class ClientTunnel:
    """The client's half of an upgraded connection. aiohttp feeds it as it would a WebSocket reader."""

    def __init__(self, protocol: Connection) -> None:
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
        await drained(self._protocol)
