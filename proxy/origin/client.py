"""The client to the one origin: connections kept and used again, waits bounded, faults in our words.

Octets pass as they are: no field is added but the framing, no target is quoted anew, nothing is decoded.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final, cast
from urllib.parse import urlsplit

import aiohappyeyeballs

from proxy import errors
from proxy.origin.connection import Content, OnInterim, OriginConnection, Shortcut
from proxy.policy.messages import Fields, ResponseHead

log = logging.getLogger("siding.origin")

IDLE_SECONDS = 4.0
"""Less than the 5 s after which Node closes an idle connection, so that it is hardly ever met while closing."""
HEAD_SECONDS = 0.05
"""After HEAD a connection is left alone for so long: content that some origins send all the same has come by then."""
UNREPEATABLE_IDLE_SECONDS = 1.0
"""A request that cannot be sent twice uses only a connection that was idle for less."""
SWEEP_SECONDS = 1.0
MAX_CONNECTIONS: Final = 1024
NEXT_ADDRESS_SECONDS = 0.25
"""Head start of one address over the next (RFC 8305 5)."""
AGAIN_SECONDS = 5.0
"""How long the log is not told once more why there is no connection: every request finds it out anew."""
LOOK_UP: Final = "look up"
CONNECT: Final = "connect"
AGREE_ON_TLS: Final = "agree on TLS"
"""What making a connection consists of."""
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PROPFIND", "REPORT", "SEARCH"})
"""Methods that may be sent again (RFC 9110 9.2.2)."""
WITHOUT_MEANING: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})
"""Methods whose content means nothing (RFC 9110 9.3). Some origins do not read it, and take it for the next request: so
it has a connection of its own."""


class OriginClient:
    """See the module. All times in seconds.

    url -- `http(s)://host:port`; the certificate of an https origin is verified.
    connect_timeout -- bound on waiting for a free connection, and on making one.
    idle_timeout -- the longest silence of the origin. max_connections -- in use at once; more requests wait in turn,
    up to max_waiting of them. name -- what it is called in words, where that is not the origin.
    logs -- why there is no connection; without it that is left to whoever asks.
    in_use, idle, waiting -- connections, and requests that wait for one.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float,
        idle_timeout: float,
        max_connections: int = MAX_CONNECTIONS,
        max_waiting: int = 10_000,
        ssl_context: ssl.SSLContext | None = None,
        name: str = "the origin",
        logs: bool = True,
    ) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._ssl = ssl_context or (_verified() if secure else None)
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._max = max_connections
        self._max_waiting = max_waiting
        self._resting: list[OriginConnection] = []
        self._queue: deque[asyncio.Future[None]] = deque()
        self._busy: set[OriginConnection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._spare: asyncio.Task[None] | None = None
        self._no_spare_until = 0.0
        self._name = name
        self._logs = logs
        self._told_until: dict[str, float] = {}
        self._closed = False
        self._heads_exceed = False
        self.in_use = 0

    def __repr__(self) -> str:
        return f"<OriginClient in_use={self.in_use} idle={self.idle} waiting={self.waiting}>"

    @property
    def idle(self) -> int:
        """Open connections that wait for a request."""
        return len(self._resting)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._queue)

    # -- asking

    async def request(
        self,
        method: str,
        target: str,
        fields: Fields,
        content: Content,
        length: int | None,
        on_interim: OnInterim | None = None,
        *,
        upgrade: bool = False,
        on_sent: Callable[[], None] | None = None,
    ) -> OriginResponse:
        """Send a request and wait for the head of its final response.

        fields -- without framing. content -- octets, or pieces of `length` octets altogether (None: chunked).
        on_interim -- is given each 1xx. on_sent -- called once its head is on the way, and not before.
        Raises NoAnswer, and whatever `content` raises.
        """
        last = method in WITHOUT_MEANING and content is not None and content != b""
        wire = _wire(method, target, fields, content, length, last=last and not upgrade)
        repeatable = method in IDEMPOTENT and not isinstance(content, AsyncIterator)
        await self._enter()
        connection: OriginConnection | None = None
        try:
            connection = None if last else self._take(repeatable, time.monotonic())
            reused = connection is not None
            while True:
                if connection is None:
                    connection = await self._connect()
                self._busy.add(connection)
                connection.ask(method, wire, on_interim, upgrade=upgrade, last=last)
                if on_sent is not None:
                    on_sent()
                if isinstance(content, AsyncIterator):
                    connection.send(content, chunked=length is None, expect="expect" in fields)
                try:
                    head = await connection.response()
                except errors.OriginReset:
                    if not (reused and repeatable and connection.received == 0):
                        raise
                    # it had been closing already: once more, on a new one (RFC 9112 9.3.1)
                    self._drop(connection)
                    connection, reused = None, False
                    continue
                return OriginResponse(self, connection, head)
        except BaseException:
            if connection is not None:
                self._drop(connection)
            self._leave()
            raise

    def ask_now(
        self, method: str, wire: bytes, shortcut: Shortcut, on_interim: OnInterim, now: float
    ) -> OriginConnection | None:
        """Send a whole request on an idle connection, if there is one that needs no waiting for.

        now -- on the monotonic clock. shortcut -- shown the response as it arrives. Afterwards the connection is to be
        given to `done`, `drop` or `response_on`.
        """
        if self._closed or self._queue or self.in_use >= self._max:
            return None
        connection = self._take(method in IDEMPOTENT, now)
        if connection is None:
            if self.in_use and not self._resting:
                self._add_spare()
            return None
        self.in_use += 1
        self._busy.add(connection)
        connection.ask(method, wire, on_interim, upgrade=False)
        if connection.fault is not None:
            self.drop(connection)
            return None
        connection.shortcut = shortcut
        return connection

    async def response_on(self, connection: OriginConnection) -> OriginResponse:
        """The response on a connection that `ask_now` has asked. Raises OriginError."""
        try:
            return OriginResponse(self, connection, await connection.response())
        except BaseException:
            self.drop(connection)
            raise

    def drop(self, connection: OriginConnection) -> None:
        """Give up what was asked on a connection of `ask_now`."""
        self._drop(connection)
        self._leave()

    async def _enter(self) -> None:
        """Wait for one of `max_connections` turns, first come first served."""
        if self._closed:
            raise errors.OriginRefused("the proxy is stopping")
        if self.in_use < self._max and not self._queue:
            self.in_use += 1
            return
        if len(self._queue) >= self._max_waiting:
            raise errors.OriginOverloaded(
                f"{self._max_waiting} requests wait for {self._name} already; try again later"
            )
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await turn
        except BaseException as fault:
            if turn.done() and not turn.cancelled():
                # it was given a turn in the same moment: pass it on
                self._leave()
            elif turn in self._queue:
                self._queue.remove(turn)
            if isinstance(fault, TimeoutError):
                raise errors.OriginOverloaded(
                    f"all {self._max} connections to {self._name} stayed in use for {self._connect_timeout:g} s"
                ) from None
            raise

    def _leave(self) -> None:
        """Give the turn to who waits longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_use -= 1

    def _take(self, repeatable: bool, now: float) -> OriginConnection | None:
        """The idle connection used last of those that may be used for this request."""
        resting = self._resting
        at = len(resting)
        while at:
            at -= 1
            connection = resting[at]
            after_head = connection.method == "HEAD"
            if after_head and now - connection.idle_since < HEAD_SECONDS:
                continue
            if not connection.alive or connection.idle_until <= now:
                del resting[at]
                connection.abandon()
                continue
            if not repeatable and now - connection.idle_since > UNREPEATABLE_IDLE_SECONDS:
                return None
            if (not repeatable or after_head) and connection.has_news():
                del resting[at]
                connection.abandon()
                continue
            del resting[at]
            return connection
        return None

    def _new_connection(self) -> asyncio.Protocol:
        return cast("asyncio.Protocol", OriginConnection(self._idle_timeout, self._name))

    async def _connect(self) -> OriginConnection:
        if len(self._resting) + len(self._busy) >= self._max and self._resting:
            self._resting.pop(0).abandon()
        loop = asyncio.get_running_loop()
        step = LOOK_UP
        try:
            async with asyncio.timeout(self._connect_timeout):
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                step = CONNECT
                sock = await aiohappyeyeballs.start_connection(
                    found, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, loop=loop
                )
                step = CONNECT if self._ssl is None else AGREE_ON_TLS
                try:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    _, protocol = await loop.create_connection(
                        self._new_connection,
                        sock=sock,
                        ssl=self._ssl,
                        server_hostname=self._host if self._ssl is not None else None,
                    )
                except BaseException:
                    sock.close()
                    raise
        except OSError as fault:
            raise self._unconnected(step, fault) from fault
        connection = cast("OriginConnection", protocol)
        connection.on_idle_lost = self._idle_lost
        return connection

    def _unconnected(self, step: str, fault: OSError) -> errors.NoAnswer:
        """The error that says what has failed; the log is told, with host and port."""
        if _out_of_descriptors(fault):
            full = errors.OutOfDescriptors(
                "Siding is out of file descriptors; try again later",
                f"Siding is out of file descriptors and cannot connect to {self._name}: raise their limit",
            )
            if self._logs:
                self._tell(full.detail, logging.ERROR)
            return full
        name, late = self._name, isinstance(fault, TimeoutError)
        within = f"within {self._connect_timeout:g} s"
        if step == LOOK_UP:
            message = f"{name}'s host name " + (f"was not resolved {within}" if late else "cannot be resolved")
        elif step == AGREE_ON_TLS:
            message = f"{name} did not agree on TLS {within}" if late else f"TLS with {name} failed"
        elif late:
            message = f"{name} accepted no connection {within}"
        elif isinstance(fault, ConnectionRefusedError):
            message = f"{name} refused the connection"
        else:
            message = f"{name} cannot be reached"
        host = f"[{self._host}]" if ":" in self._host else self._host
        detail = f"cannot connect to {name} at {host}:{self._port}: {str(fault) or message}"
        if self._logs:
            self._tell(detail)
        return errors.OriginTimeout(message, detail) if late else errors.OriginRefused(message, detail)

    def _tell(self, detail: str, level: int = logging.WARNING) -> None:
        """Log it, unless that was done less than AGAIN_SECONDS ago."""
        now = time.monotonic()
        self._told_until = {told: until for told, until in self._told_until.items() if until > now}
        if detail not in self._told_until:
            self._told_until[detail] = now + AGAIN_SECONDS
            log.log(level, "%s", detail)

    def _add_spare(self) -> None:
        """Have one connection more, for who comes next; when it can be had."""
        room = len(self._resting) + len(self._busy) < self._max
        if room and self._spare is None and time.monotonic() >= self._no_spare_until:
            self._spare = asyncio.get_running_loop().create_task(self._connect_spare())

    async def _connect_spare(self) -> None:
        try:
            self._rest(await self._connect(), time.monotonic())
        except errors.NoAnswer:
            # who needs one finds out why by themselves
            self._no_spare_until = time.monotonic() + SWEEP_SECONDS
        finally:
            self._spare = None

    def _rest(self, connection: OriginConnection, now: float) -> None:
        connection.rest(now, IDLE_SECONDS)
        self._resting.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    # -- after the answer

    def _idle_lost(self, connection: OriginConnection) -> None:
        if connection.exceeded:
            self._note_excess(connection)
        if connection in self._resting:
            self._resting.remove(connection)

    def _note_excess(self, connection: OriginConnection) -> None:
        """An origin that sends the content in answer to HEAD may also send it late, when the next request is there.

        It would be taken for the answer to that (RFC 9110 9.3.2): from now on there is none on such a connection.
        """
        if connection.method == "HEAD" and not self._heads_exceed:
            self._heads_exceed = True
            log.warning(
                "%s sends more than a head in answer to HEAD: no connection is used again after one", self._name
            )
            for resting in [one for one in self._resting if one.method == "HEAD"]:
                self._resting.remove(resting)
                resting.abandon()

    def _drop(self, connection: OriginConnection) -> None:
        self._busy.discard(connection)
        connection.abandon()

    def done(self, connection: OriginConnection, now: float) -> None:
        """An exchange is over: keep its connection if it can be used again. now -- on the monotonic clock."""
        self._busy.discard(connection)
        if connection.exceeded:
            self._note_excess(connection)
        if connection.reusable and not self._closed and not (self._heads_exceed and connection.method == "HEAD"):
            self._rest(connection, now)
        else:
            connection.abandon()
        self._leave()

    def _sweep(self) -> None:
        """Close what was idle for too long."""
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        for connection in [one for one in self._resting if one.idle_until <= now]:
            self._resting.remove(connection)
            connection.abandon()
        self._sweeper = loop.call_later(SWEEP_SECONDS, self._sweep) if self._resting else None

    async def close(self) -> None:
        """Close every connection; requests under way fail."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.cancel()
            await asyncio.wait((spare,))
        for connection in [*self._resting, *self._busy]:
            connection.abandon()
        self._resting.clear()
        # transports are closed in the next turn of the loop
        await asyncio.sleep(0)


class OriginResponse:
    """The origin's response, whose content is read as it arrives. `close` it in any case.

    head -- the final response's. length -- octets of content as declared (for HEAD: of what GET would bring);
    None when unknown.
    """

    __slots__ = ("_client", "_connection", "head", "length")

    def __init__(self, client: OriginClient, connection: OriginConnection, head: ResponseHead) -> None:
        self._client = client
        self._connection: OriginConnection | None = connection
        self.head = head
        self.length = connection.length

    async def read(self) -> bytes:
        """The next octets of content; b"" at the end. Raises OriginError when it is cut short or too slow."""
        connection = self._open()
        while not connection.size:
            if connection.complete:
                return b""
            if connection.fault is not None:
                raise connection.fault
            await connection.wait()
        return connection.take()

    async def settle(self, limit: int, seconds: float) -> bytes | None:
        """The whole content, if it is at most `limit` octets and arrives within `seconds`; otherwise None.

        Nothing is lost by asking: `read` goes on where the response stands.
        """
        connection = self._open()
        if self.length is not None and self.length > limit and not connection.complete:
            return None
        if not self._settled(connection, limit) and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    while not self._settled(connection, limit):
                        await connection.wait()
            except TimeoutError:
                return None
        if connection.complete and connection.size <= limit:
            return connection.take()
        return None

    @staticmethod
    def _settled(connection: OriginConnection, limit: int) -> bool:
        return connection.complete or connection.fault is not None or connection.size > limit

    def _open(self) -> OriginConnection:
        if self._connection is None:
            raise RuntimeError("the response is closed")
        return self._connection

    def tunnel(self) -> OriginTunnel:
        """The connection itself, after a 101 (Switching Protocols). Closing it closes the response."""
        return OriginTunnel(self)

    def close(self) -> None:
        """Give the connection back, or end it when its content was not read to the end. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.done(connection, time.monotonic())


class OriginTunnel:
    """Octets both ways (RFC 9110 7.8). There is no bound on silence; TCP keep-alive finds dead peers."""

    def __init__(self, response: OriginResponse) -> None:
        self._response = response

    async def read(self) -> bytes:
        """What the origin sent since; b"" once it has closed."""
        return await self._response.read()

    async def write(self, data: bytes) -> None:
        """Send to the origin, waiting while it is slow. Raises OriginReset."""
        await self._response._open().write(data)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._response.close()


def _wire(method: str, target: str, fields: Fields, content: Content, length: int | None, *, last: bool) -> bytes:
    """The request's head with its framing, and the content if it is at hand (RFC 9112 6). last -- none follows it."""
    framing, body = "", b""
    if isinstance(content, bytes):
        framing, body = f"Content-Length: {len(content)}\r\n", content
    elif content is not None:
        framing = "Transfer-Encoding: chunked\r\n" if length is None else f"Content-Length: {length}\r\n"
    if last:
        framing += "Connection: close\r\n"
    return f"{method} {target} HTTP/1.1\r\n".encode("latin-1") + fields.wire() + f"{framing}\r\n".encode() + body


def _out_of_descriptors(fault: OSError) -> bool:
    """Whether that is why there is no connection."""
    number = fault.errno
    if isinstance(fault, socket.gaierror):
        # looking up a name takes descriptors as well, but does not say what it has failed of
        try:
            socket.socket().close()
        except OSError as other:
            number = other.errno
    return number in {errno.EMFILE, errno.ENFILE}


def _verified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
