"""One connection to the origin: HTTP/1.1 parsed by llhttp (httptools), with back-pressure both ways.

    idle -> asked -> head -> content -> complete -> idle        kept for the next request
                                     -> tunnel                  after 101: octets both ways until it is closed

Everything that happens on the socket ends in the state below; those who wait are woken by `_wake`.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import AsyncIterator, Callable
from typing import Final, cast

import httptools

from proxy import errors
from proxy.policy.fields import split_list
from proxy.policy.messages import Fields, ResponseHead

MAX_HEAD_BYTES: Final = 64 * 1024
"""A response head larger than this is not a response (nginx: proxy_buffer_size is 4 or 8 KiB)."""
HIGH_WATER_BYTES = 256 * 1024
"""Content read ahead of the reader before the origin is held back."""
CONTINUE_SECONDS = 1.0
"""How long content is held back for a 100 (Continue) that may never come (RFC 9110 10.1.1)."""

OnInterim = Callable[[ResponseHead], None]
Content = bytes | AsyncIterator[bytes] | None
Shortcut = Callable[[bytes], bool | None]
"""Looks at what arrives before the parser does: True when that was the whole response and is dealt with, None to be
shown it again with what comes next, and False (also asked with nothing, when nothing more will come) to give up."""

_COMPRESSING: Final = frozenset({"compress", "deflate", "gzip", "x-compress", "x-gzip"})
"""The registered transfer codings that change octets (RFC 9112 7.2). What is none of them, as the identity of old
servers, changes nothing."""
_WITHOUT_CONTENT: Final = frozenset({204, 304})
_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_OWS: Final = b" \t"


_NO_HEAD: Final = ResponseHead(200, "", Fields())


class OriginConnection:
    """A connection, for one exchange at a time.

    idle_timeout -- seconds of the origin's silence that are borne. name -- what it is called in words.
    method -- of the request that was asked last. exceeded -- more came than the answer to it.

    An `asyncio.Protocol` in all but its parent, with which it could not be compiled.
    """

    def __init__(self, idle_timeout: float, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_timeout = idle_timeout
        self._name = name
        self._transport: asyncio.Transport | None = None
        self._lost = False
        self._writing: asyncio.Future[None] | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self.idle_since = 0.0
        self.idle_until = 0.0
        self.on_idle_lost: Callable[[OriginConnection], None] | None = None
        self.shortcut: Shortcut | None = None
        self._poll: select.poll | None = None
        self._parser: httptools.HttpResponseParser | None = _parser_for(self)
        self._begin("", None)

    def _begin(self, method: str, on_interim: OnInterim | None) -> None:
        self.method = method
        self._on_interim = on_interim
        self._asked = bool(method)
        self._last_asked = False
        self._upgrading = False
        self._lines: list[tuple[str, str]] = []
        self._reason = b""
        self._head_bytes = 0
        self._early = b""
        self._until_close = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._sent = False
        self._keep = False
        self._tunnel = False
        self._continue: asyncio.Future[None] | None = None
        self.received = 0
        self.head: ResponseHead | None = None
        self.length: int | None = None
        self.complete = False
        self.exceeded = False
        self.fault: Exception | None = None

    # -- asking

    def ask(self, method: str, wire: bytes, on_interim: OnInterim | None, *, upgrade: bool, last: bool = False) -> None:
        """Send a request's head (and content, if it is in `wire`). last -- the connection is not to be used again."""
        self._begin(method, on_interim)
        self._last_asked = last
        self._upgrading = upgrade
        self._last = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._idle_timeout, self._check_silence)
        if self._transport is None or self._lost:
            self._fail(errors.OriginReset(f"{self._name} closed the connection"))
            return
        self._transport.write(wire)
        self._sent = True

    def send(self, content: AsyncIterator[bytes], *, chunked: bool, expect: bool) -> None:
        """Send content as it comes, beside the response. expect -- hold it back for a 100 (Continue)."""
        self._sent = False
        self._continue = self._loop.create_future() if expect else None
        self._pump = self._loop.create_task(self._send(content, chunked))

    async def _send(self, content: AsyncIterator[bytes], chunked: bool) -> None:
        try:
            if self._continue is not None:
                await asyncio.wait((self._continue,), timeout=CONTINUE_SECONDS)
                if self.head is not None:
                    return
            async for piece in content:
                if piece:
                    await self.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                await self.write(b"0\r\n\r\n")
            self._sent = True
        except errors.OriginError:
            # the connection is gone; what the origin had said before stays good
            return
        except Exception as fault:
            # the client's fault (it left, sent too much, or nonsense), or ours: the request cannot be completed
            self._fail(fault)
            self.abort()

    async def write(self, data: bytes) -> None:
        """Send octets, waiting while the origin is slow to read. Raises OriginReset."""
        if self._transport is None or self._lost:
            raise errors.OriginReset(f"{self._name} closed the connection")
        self._transport.write(data)
        self._last = self._loop.time()
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._last = self._loop.time()

    # -- reading

    async def wait(self) -> None:
        """Until something changed."""
        if self._waiter is None:
            self._waiter = self._loop.create_future()
        await asyncio.shield(self._waiter)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def response(self) -> ResponseHead:
        """The final response's head. Raises OriginError, or what broke the request's content."""
        while self.head is None:
            if self.fault is not None:
                raise self.fault
            await self.wait()
        return self.head

    def take(self) -> bytes:
        """The content at hand; b"" when there is none now."""
        if not self._size:
            return b""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._last = self._loop.time()
            self._transport.resume_reading()
        return data

    @property
    def size(self) -> int:
        """Octets of content at hand."""
        return self._size

    @property
    def reusable(self) -> bool:
        """Whether the next request may be sent: both messages complete, and neither side wants to close."""
        return self.complete and self._sent and self._keep and not self._lost and self.fault is None

    @property
    def alive(self) -> bool:
        """Whether the socket is open as far as is known."""
        return not self._lost and self._transport is not None and not self._transport.is_closing()

    def has_news(self) -> bool:
        """Whether there is something to read while idle: its end, or what nobody asked for."""
        if self._poll is None:
            sock = self._transport.get_extra_info("socket") if self._transport is not None else None
            if sock is None or sock.fileno() < 0:
                return True
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    # -- ending

    def rest(self, now: float, life: float) -> None:
        """Idle from now on; `life` seconds unless the origin announced fewer."""
        self.idle_since = now
        if self.head is not None and self.head is not _NO_HEAD:
            life = min(life, _announced_life(self.head.fields))
        self.idle_until = now + life
        self._asked = self.complete = False
        self.head = self._on_interim = None
        if self._size:
            self._pieces.clear()
            self._size = 0
        if self._paused and self._transport is not None:
            # its content was complete, and nobody had read to the end: hear of the origin's closing again
            self._transport.resume_reading()
        self._paused = False

    def abort(self) -> None:
        """Close at once, whatever is under way. Idempotent."""
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()
        self._pump = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None and not self._lost:
            self._transport.abort()

    def abandon(self) -> None:
        """Close at once; nobody asks, or reads any more. Idempotent."""
        self.abort()
        self._let_go()

    def _let_go(self) -> None:
        """Keep nothing that keeps this, and would go only when cycles are looked for.

        A parser keeps whom it calls back; what was raised keeps, by its traceback, those who waited for it.
        """
        if isinstance(self.fault, errors.SidingError):
            self.fault.__traceback__ = None
        self._parser = None
        self._on_interim = None
        if self._size:
            # whoever still reads must not take what he had for the whole
            self.complete = False
            if self.fault is None:
                self.fault = errors.OriginReset(f"the answer of {self._name} was given up")
            self._pieces.clear()
            self._size = 0

    def on_interim(self, callback: OnInterim) -> None:
        """Who takes interim responses from now on."""
        self._on_interim = callback

    def finish(self) -> None:
        """A shortcut has dealt with the whole response: the connection may be used again."""
        self.shortcut = None
        self.complete = self._keep = True
        self.head = _NO_HEAD

    def _fail(self, fault: Exception) -> None:
        if self.fault is None and not self.complete:
            self.fault = fault
            if self.shortcut is not None:
                shortcut, self.shortcut = self.shortcut, None
                shortcut(b"")
                if self._early:
                    # what came before stays good for the ordinary way
                    self.go_on()
        self._release_continue()
        self._wake()

    def _release_continue(self) -> None:
        if self._continue is not None and not self._continue.done():
            self._continue.set_result(None)

    def _check_silence(self) -> None:
        """One timer for the whole exchange; it runs out only after real silence of the origin."""
        self._timer = None
        if self._tunnel or not self._asked or self.complete or self.fault is not None:
            return
        now = self._loop.time()
        if self._paused or self._waiting_for_client():
            self._last = now
        left = self._last + self._idle_timeout - now
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_silence)
            return
        self._fail(errors.OriginTimeout(f"{self._name} sent nothing for {self._idle_timeout:g} s"))
        self.abort()

    def _waiting_for_client(self) -> bool:
        """Content is still owed and the origin would take it: the silence is the client's."""
        return not self._sent and self._writing is None and self.head is None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._timer is not None and not self._asked:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None and not self._writing.done():
            self._writing.set_exception(errors.OriginReset(f"{self._name} closed the connection"))
            self._writing.exception()
        if not self._asked:
            if self.on_idle_lost is not None:
                self.on_idle_lost(self)
            self._let_go()
        if self._tunnel or (self._until_close and exc is None):
            self.complete = True
            self._wake()
        elif not self.complete:
            when = "before it answered" if self.head is None else "before its answer was complete"
            self._fail(errors.OriginReset(f"{self._name} closed the connection {when}"))

    def eof_received(self) -> None:
        """Nothing more comes: the transport closes, and says so."""

    def pause_writing(self) -> None:
        if self._writing is None:
            self._writing = self._loop.create_future()

    def resume_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None and not writing.done():
            writing.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._last = self._loop.time()
        if self._tunnel:
            self._add(data)
            return
        if not self._asked or self.complete:
            # nothing was asked for: whoever reads this next must not take it for an answer
            self._keep, self.exceeded = False, True
            self.abort()
            return
        self.received += len(data)
        if self.shortcut is not None:
            data = self._early + data
            done = self.shortcut(data)
            self._early = data if done is None else b""
            if done is not False:
                return
            self.shortcut = None
        self._parse(data)

    def go_on(self) -> None:
        """The shortcut waits no longer: what it has been shown is parsed, as is all that comes."""
        early, self._early = self._early, b""
        self.shortcut = None
        self._parse(early)

    def _parse(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._become_tunnel(data[upgrade.args[0] :])
        except httptools.HttpParserError as fault:
            self._not_http(fault)
        else:
            if self.head is None and self._head_bytes > MAX_HEAD_BYTES:
                self._not_http(None)

    def _not_http(self, fault: httptools.HttpParserError | None) -> None:
        context = fault.__context__ if fault is not None else None
        if isinstance(context, errors.OriginError):
            self._fail(context)
        elif fault is None:
            self._fail(self._too_large())
        else:
            self._fail(errors.OriginMalformed(f"{self._name}'s answer is not HTTP/1.1"))
        self.abort()

    def _too_large(self) -> errors.OriginMalformed:
        return errors.OriginMalformed(f"the head of {self._name}'s answer is larger than {MAX_HEAD_BYTES} bytes")

    def _become_tunnel(self, rest: bytes) -> None:
        self._tunnel = True
        if rest:
            self._add(rest)
        self._wake()

    def _add(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self.head is not None or self.complete:
            # a second answer to one question
            self._keep, self.exceeded = False, True
            raise errors.OriginMalformed(f"{self._name} answered twice")
        self._lines = []
        self._reason = b""

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:
            self._lines.append((name.decode("latin-1"), value.strip(_OWS).decode("latin-1")))

    def on_headers_complete(self) -> None:
        if sum(len(name) + len(value) for name, value in self._lines) > MAX_HEAD_BYTES:
            raise self._too_large()
        parser = self._parser
        if parser is None:
            return
        status, version = parser.get_status_code(), parser.get_http_version()
        if status < 100 or not version.startswith("1."):
            # llhttp reads other protocols' status lines as well (RFC 9112 2.3, RFC 9110 15)
            raise errors.OriginMalformed(f"{self._name}'s answer is not HTTP/1.1")
        # llhttp takes controls in it, and whoever reads it is to ignore it anyway (RFC 9112 4)
        reason = self._reason if _REASON.fullmatch(self._reason) else b""
        head = ResponseHead(status, reason.decode("latin-1"), Fields(self._lines))
        if status == 101:
            # no other upgrade is ever offered (see `forwarding.wants_websocket`)
            if not self._upgrading or (head.fields.get("upgrade") or "").lower() != "websocket":
                raise errors.OriginMalformed(f"{self._name} switched protocols without being asked to")
            self.head = head
            self._wake()
            return
        if status < 200:
            self._head_bytes = 0
            if status == 100:
                self._release_continue()
            if self._on_interim is not None:
                self._on_interim(head)
            return
        self._head_complete(head, version)

    def _head_complete(self, head: ResponseHead, version: str) -> None:
        fields, status = head.fields, head.status
        transfer = (fields.get("transfer-encoding") or "").lower()
        codings = split_list(transfer)
        if not _COMPRESSING.isdisjoint(codings) or ("chunked" in transfer and not transfer.endswith("chunked")):
            raise errors.OriginMalformed(f"{self._name}'s answer is in a transfer coding that would be lost here")
        declared = fields.all("content-length")
        without = self.method == "HEAD" or status in _WITHOUT_CONTENT
        if declared and not codings:
            self.length = int(declared[0]) if declared[0].isdecimal() else None
        elif without:
            self.length = None if self.method == "HEAD" else 0
        self._until_close = not without and not declared and codings[-1:] != ["chunked"]
        self._keep = not (self._until_close or self._last_asked) and _keeps_alive(version, fields)
        self.head = head
        self._release_continue()
        if self.method == "HEAD":
            # llhttp would wait for the content that Content-Length speaks of
            self.complete = True
            self._parser = _parser_for(self)
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self.complete:
            self._keep, self.exceeded = False, True
            return
        if self.head is None:
            # where the final response begins is not certain: for llhttp it is behind what a Content-Length counts
            raise errors.OriginMalformed(f"{self._name} sent an interim response with content (RFC 9112 6.3)")
        self._add(body)

    def on_message_complete(self) -> None:
        if self.head is not None and not self._tunnel and self.head.status != 101:
            self.complete = True
            self._wake()


def _parser_for(connection: OriginConnection) -> httptools.HttpResponseParser:
    """llhttp, taking what browsers and nginx take as well: lines ended by LF alone, a later minor version (RFC 9112
    2.2, 2.3), and the spaces that old servers write behind the size of a chunk."""
    parser = httptools.HttpResponseParser(connection)
    parser.set_dangerous_leniencies(
        lenient_optional_cr_before_lf=True, lenient_version=True, lenient_spaces_after_chunk_size=True
    )
    return parser


def _keeps_alive(version: str, fields: Fields) -> bool:
    options = {option.lower() for line in fields.all("connection") for option in split_list(line)}
    if "close" in options:
        return False
    # where HTTP/1.0 has a transfer coding its framing may not be what it seems (RFC 9112 6.1)
    return version == "1.1" or (version == "1.0" and "keep-alive" in options and "transfer-encoding" not in fields)


def _announced_life(fields: Fields) -> float:
    """Seconds of idleness that `Keep-Alive: timeout=N` allows, less one for the way; endless without it."""
    for parameter in split_list(fields.get("keep-alive") or ""):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "timeout" and value.strip().isdecimal():
            # which may be endless, too
            return max(0.0, float(value) - 1.0)
    return float("inf")
