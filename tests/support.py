"""What scenarios are made of: a scripted origin, a proxy on free ports, and a client that sees octets.

The origin and the client speak raw HTTP/1.1 over sockets, so that what is asserted is what was on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from config.flags import Flags
from config.listen import open_socket, spare_port
from config.load import load
from config.rules import RouteTable
from config.settings import ProxySettings
from proxy.app import Worker, build_routes
from proxy.policy.messages import StoredResponse
from proxy.server.admin import admin_app
from proxy.siblings import Siblings

if TYPE_CHECKING:
    from config.otel import Tracing

PATIENCE = 10.0
"""Seconds after which a scenario that does not move is stuck."""


@dataclass
class Message:
    """A parsed head and its content: a request as the origin got it, or a response as the client got it."""

    start: str
    fields: list[tuple[str, str]]
    content: bytes = b""
    interim: list[Message] = field(default_factory=list)
    raw_head: bytes = b""

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    @property
    def names(self) -> list[str]:
        """Those of its fields, in lower case."""
        return [name.lower() for name, _ in self.fields]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return ", ".join(values) if values else None


async def read_head(reader: asyncio.StreamReader) -> Message | None:
    """The next message head, or None at the end of the connection."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        if end.partial:
            raise
        return None
    start, *lines = raw[:-4].decode("latin-1").split("\r\n")
    fields = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]
    return Message(start, fields, raw_head=raw)


async def read_chunked(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Chunk by chunk, as framed."""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        data = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield data[:-2]


async def read_content(reader: asyncio.StreamReader, head: Message, *, to_end: bool) -> bytes:
    if "chunked" in (head.get("transfer-encoding") or ""):
        return b"".join([chunk async for chunk in read_chunked(reader)])
    length = head.get("content-length")
    if length is not None:
        return await reader.readexactly(int(length))
    return await reader.read() if to_end else b""


class Turn:
    """One request at the origin, to be answered by the script."""

    def __init__(self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)
        await self.writer.drain()

    async def content(self) -> bytes:
        self.request.content = await read_content(self.reader, self.request, to_end=False)
        return self.request.content

    async def answer(self, content: bytes | str = b"", *fields: str, status: str = "200 OK") -> None:
        """A response with Content-Length; `fields` as `Name: value`."""
        body = content.encode() if isinstance(content, str) else content
        lines = [f"HTTP/1.1 {status}", *fields]
        if not status.startswith(("204", "304")):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        await self.send(head + (b"" if self.request.method == "HEAD" else body))


Script = Callable[[Turn], Awaitable[None]]


class Origin:
    """A raw HTTP/1.1 origin. Set `script`; every request is kept in `requests`."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.connections = 0
        self.script: Script = self._plain
        self.read_content = True
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = spare_port()

    @staticmethod
    async def _plain(turn: Turn) -> None:
        await turn.answer("hello", "Content-Type: text/plain")

    def respond(self, content: bytes | str = b"", *fields: str, status: str = "200 OK") -> None:
        """Answer every request from now on with this."""

        async def script(turn: Turn) -> None:
            await turn.answer(content, *fields, status=status)

        self.script = script

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (request := await read_head(reader)) is not None:
                turn = Turn(request, reader, writer)
                if self.read_content:
                    await turn.content()
                self.requests.append(request)
                await self.script(turn)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Client:
    """One raw connection to a proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)
        await self.writer.drain()

    async def request(
        self, method: str, target: str, *fields: str, content: bytes | None = None, host: str = "app.example"
    ) -> Message:
        """Send a request and read its response."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
        if content is not None:
            lines.append(f"Content-Length: {len(content)}")
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (content or b""))
        return await self.response(method)

    async def head(self) -> Message:
        """The head of the next final response; interim ones are kept with it."""
        interim: list[Message] = []
        while True:
            async with asyncio.timeout(PATIENCE):
                head = await read_head(self.reader)
            assert head is not None, "the proxy closed the connection without an answer"
            if head.status >= 200 or head.status == 101:
                head.interim = interim
                return head
            interim.append(head)

    async def response(self, method: str = "GET") -> Message:
        message = await self.head()
        if method != "HEAD" and message.status not in {204, 304, 101}:
            async with asyncio.timeout(PATIENCE):
                message.content = await read_content(self.reader, message, to_end=True)
        return message

    async def at_end(self) -> bool:
        """Whether the proxy closes the connection now."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.close()


class Clock:
    """A wall clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Proxy:
    """A proxy of one worker in this process, with its admin listener, on free ports."""

    def __init__(self, worker: Worker, flags: Flags, clock: Clock) -> None:
        self.worker = worker
        self.flags = flags
        self.clock = clock
        self.port = 0
        self.admin_port = 0
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    async def request(
        self, method: str, target: str, *fields: str, content: bytes | None = None, host: str = "app.example"
    ) -> Message:
        """One request on a connection of its own."""
        client = await self.connect()
        try:
            return await client.request(method, target, *fields, content=content, host=host)
        finally:
            client.close()

    async def get(self, target: str, *fields: str, host: str = "app.example") -> Message:
        return await self.request("GET", target, *fields, host=host)

    def stored(self) -> list[StoredResponse]:
        """Everything in the memory tier."""
        store = self.worker.store
        queues = (store._small, store._main)
        return [stored for queue in queues for slot in queue for stored in slot.variants]

    def store_nothing(self) -> None:
        """Take everything out of the memory tier."""
        for stored in self.stored():
            self.worker.store.remove(stored)

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"


@contextlib.asynccontextmanager
async def serving(app: web.Application, port: int = 0, **options: Any) -> AsyncIterator[str]:
    """The URL of an application that serves. port -- 0: a free one. options -- of `web.AppRunner`."""
    runner = web.AppRunner(app, access_log=None, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def settings_for(upstream: str, **changes: object) -> ProxySettings:
    environ = {"UPSTREAM_URL": upstream, "HOST": "127.0.0.1", "PORT": "0", "ADMIN_PORT": "0"}
    environ |= {name.upper(): str(value) for name, value in changes.items()}
    return load(ProxySettings, [], environ, prog="siding-proxy")


@contextlib.asynccontextmanager
async def running_proxy(
    upstream: str,
    *,
    rules: str | None = None,
    directory: Path | None = None,
    wall: Callable[[], float] | None = None,
    tracing: Tracing | None = None,
    siblings: Siblings | None = None,
    **changes: object,
) -> AsyncIterator[Proxy]:
    """A proxy in front of `upstream`; `changes` are settings, `rules` the text of a rules file.

    wall -- None: a clock that stands still. tracing -- where spans go. siblings -- other workers.
    """
    if rules is not None:
        assert directory is not None
        path = directory / "rules.toml"
        path.write_text(rules)
        changes["rules_file"] = path
    settings = settings_for(upstream, **changes)
    routes: RouteTable = build_routes(settings)
    flags, clock = Flags(settings), Clock()
    worker = Worker(settings, flags, routes, siblings=siblings, wall=wall or clock, tracing=tracing)
    proxy = Proxy(worker, flags, clock)
    public, admin = open_socket("127.0.0.1", 0), open_socket("127.0.0.1", 0)
    proxy.port, proxy.admin_port = public.getsockname()[1], admin.getsockname()[1]
    runner = web.AppRunner(admin_app(worker, settings.admin_token), access_log=None)
    await runner.setup()
    await web.SockSite(runner, admin).start()
    await worker.start(public)
    try:
        yield proxy
    finally:
        for client in proxy._clients:
            client.close()
        await worker.drain()
        await runner.cleanup()
        await worker.close()


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process can open nothing more, as long as it closes nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def gather(*awaitables: Awaitable[Message]) -> list[Message]:
    async with asyncio.timeout(PATIENCE):
        return list(await asyncio.gather(*awaitables))


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for is in the code under test, which has no event
            await asyncio.sleep(0)


def joined(values: Iterable[str]) -> str:
    return ", ".join(values)


class Gate:
    """An origin that holds every answer back until opened."""

    def __init__(self, origin: Origin, *fields: str, content: bytes = b"one") -> None:
        self.open = asyncio.Event()
        self.origin = origin
        self.fields = fields
        self.content = content
        origin.script = self.script

    async def script(self, turn: Turn) -> None:
        await self.open.wait()
        await turn.answer(self.content, *self.fields)

    async def asked(self, times: int = 1) -> None:
        await until(lambda: len(self.origin.requests) >= times)


async def answered_after_all(port: int, head: bytes, content: bytes) -> Message:
    """The head of the answer to a client that sends all that it has before it reads."""
    # who is connected for a second and has sent nothing yet may be closed
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(head)
    client.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(content)
    await writer.drain()
    answer = await read_head(reader)
    assert answer is not None
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


@contextlib.asynccontextmanager
async def answering_at_once(go: asyncio.Event, answer: bytes) -> AsyncIterator[str]:
    """The URL of an origin that answers all alike, but nobody before `go`, and reads what each sends to its end.

    Whoever asks it is to have left before it ends.
    """
    connected = 0

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        try:
            await go.wait()
            writer.write(answer)
            with contextlib.suppress(ConnectionError):
                # what it sends is not to be answered by a reset
                while await reader.read(2**16):
                    pass
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        finally:
            connected -= 1

    async with await asyncio.start_server(one, "127.0.0.1", 0, backlog=200) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await holds(lambda: not connected)


async def holds(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for what another process brings about, or time. condition -- may be asynchronous."""
    async with asyncio.timeout(seconds):
        while not (await so if inspect.isawaitable(so := condition()) else so):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.002)
