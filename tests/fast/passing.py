"""What tests of requests that pass have in common."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from proxy.server.protocol import ClientConnection
from tests.fast.sides import server_of
from tests.support import Client, Origin, Proxy, Turn, until

DATE = "Date: Fri, 15 Jan 2027 08:00:00 GMT"
JSON = "Content-Type: application/json"
TEXT = '{"text": "' + "lorem ipsum " * 150 + '"}'
POST = b"POST /a HTTP/1.1\r\nHost: a\r\nX-Request-Id: i\r\nContent-Length: 4\r\n\r\nbody"
GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
CONDITIONAL = b'GET /a HTTP/1.1\r\nHost: a\r\nIf-None-Match: "a"\r\n\r\n'
CODED = b"GET /a HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
OFF = {"ENABLE_QUERY_CACHE": False}
BYPASS = {"BYPASS": True}

RULE = """
[[route]]
match = "/a"
methods = ["POST"]
key = ["body"]
public = true
"""


def connection_of(proxy: Proxy) -> ClientConnection:
    """The proxy's side of the one connection that is open."""
    (connection,) = server_of(proxy).connections
    assert isinstance(connection, ClientConnection)
    return connection


@contextlib.asynccontextmanager
async def one_that_does_not_read(origin: Origin, proxy: Proxy) -> AsyncIterator[tuple[socket.socket, ClientConnection]]:
    """The only client, which has asked for more than it is sent, and the proxy's side of it, with an answer unsent."""
    origin.respond(b"x" * 60_000, "Cache-Control: max-age=60")
    loop = asyncio.get_running_loop()
    for _ in range(2):
        await proxy.get("/a")
    await until(lambda: not server_of(proxy).connections)
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, ("127.0.0.1", proxy.port))
        await until(lambda: bool(server_of(proxy).connections))
        connection = connection_of(proxy)
        assert connection.transport is not None
        while not connection.transport.get_write_buffer_size():
            before = connection._seat.ended
            await loop.sock_sendall(client, b"GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
            await until(lambda: connection._seat.ended != before)  # noqa: B023 - it is awaited here
        yield client, connection


async def one_that_holds_little(proxy: Proxy) -> Client:
    """A client for whom the kernel takes little of what it has not read."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", proxy.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    client = Client(reader, writer)
    proxy._clients.append(client)
    return client


async def nothing_left(proxy: Proxy) -> None:
    """No request is counted, and no connection to the origin is in use."""
    worker = proxy.worker
    await until(lambda: (worker.handler.in_flight, worker._origin.in_use, len(worker._origin._busy)) == (0, 0, 0))


async def usual(turn: Turn) -> None:
    await turn.answer("hello", DATE)


async def begun(client: Client, times: int = 2) -> None:
    """There is an idle connection to the origin, and what becomes of its usual answer is known."""
    for _ in range(times):
        await client.send(POST)
        await client.response()


def reply(*lines: str, status: str = "200 OK", content: str = "hello") -> list[str]:
    return ["\r\n".join([f"HTTP/1.1 {status}", *lines, "", content])]


def in_chunks(*contents: str) -> str:
    """Framed so (RFC 9112 7.1)."""
    return "".join([f"{len(content):x}\r\n{content}\r\n" for content in contents]) + "0\r\n\r\n"


HELLO = "Content-Length: 5"
LONG = f"Content-Length: {len(TEXT)}"
CHUNKED = "Transfer-Encoding: chunked"
ANSWERS: dict[str, list[str]] = {
    "usual": reply(DATE, JSON, HELLO),
    "private": reply(DATE, "Cache-Control: private", HELLO),
    "with a cookie": reply(DATE, "Set-Cookie: a=b", "set-cookie: c=%d", "Cache-Control: max-age=9", HELLO),
    "with a validator": reply(DATE, "Cache-Control: private", 'ETag: "a"', HELLO),
    "of old": reply(DATE, "Age: 100", "Cache-Control: max-age=9", HELLO),
    "not dated": reply(JSON, HELLO),
    "dated twice": reply(DATE, "Date: x", HELLO),
    "empty": reply(DATE, "Content-Length: 0", content=""),
    "long, to be coded": reply(DATE, JSON, "Cache-Control: private", f"Content-Length: {len(TEXT)}", content=TEXT),
    "long, that varies": reply(
        DATE, JSON, "Vary: Origin", "Cache-Control: private", f"Content-Length: {len(TEXT)}", content=TEXT
    ),
    "long, no more said": reply(DATE, JSON, LONG, content=TEXT),
    "long, a strong tag": reply(DATE, JSON, 'eTag: "%d"', LONG, content=TEXT),
    "long, a weak tag": reply(DATE, JSON, 'ETag: W/"%d"', LONG, content=TEXT),
    "long, no tag": reply(DATE, JSON, "ETag: %d", LONG, content=TEXT),
    "long, two tags": reply(DATE, JSON, 'ETag: "a"', 'ETag: "b"', LONG, content=TEXT),
    "long, with ranges": reply(DATE, JSON, "Accept-Ranges: bytes", "X-A: b", "Vary: Origin", LONG, content=TEXT),
    "long, that varies twice": reply(DATE, JSON, "Vary: a", "X-A: b", "vary: b", LONG, content=TEXT),
    "long, that varies in vain": reply(DATE, JSON, "Vary: a", "X-A: b", "Vary: a", LONG, content=TEXT),
    "long, not to be changed": reply(DATE, JSON, "Cache-Control: no-transform", LONG, content=TEXT),
    "long, coded already": reply(DATE, JSON, "Content-Encoding: br", LONG, content=TEXT),
    "long, that is not text": reply(DATE, "Content-Type: image/png", LONG, content=TEXT),
    "too long": reply(DATE, JSON, f"Content-Length: {len(TEXT) * 20}", content=TEXT * 20),
    "chunked": reply(DATE, CHUNKED, content=in_chunks("hello")),
    "chunked, private": reply(DATE, CHUNKED, "Cache-Control: private", content=in_chunks("he", "llo")),
    "chunked, with a validator": reply(DATE, CHUNKED, 'ETag: "%d"', content=in_chunks("hello")),
    "chunked, empty": reply(DATE, CHUNKED, "Cache-Control: private", content=in_chunks()),
    "chunked, long": reply(DATE, JSON, CHUNKED, content=in_chunks(TEXT)),
    "chunked, long, a strong tag": reply(DATE, JSON, CHUNKED, 'ETag: "%d"', content=in_chunks(TEXT[:9], TEXT[9:])),
    "chunked, long, not to be changed": reply(
        DATE, JSON, CHUNKED, "Cache-Control: private, no-transform", "Last-Modified: x", content=in_chunks(TEXT)
    ),
    "chunked, too long": reply(DATE, JSON, CHUNKED, content=in_chunks(TEXT * 20)),
    "chunked, in pieces": [*reply(DATE, CHUNKED, content="5\r\nhel"), "lo\r\n", "0\r\n\r\n"],
    "chunked, its end alone": [*reply(DATE, CHUNKED, content="5\r\nhello\r\n"), "0\r\n\r\n"],
    "chunked, extended": reply(DATE, CHUNKED, content="5;a=b\r\nhello\r\n0;c\r\n\r\n"),
    "chunked, with a trailer": reply(DATE, CHUNKED, content="5\r\nhello\r\n0\r\nX: y\r\n\r\n"),
    "chunked, announcing a trailer": reply(DATE, CHUNKED, "Trailer: X", content=in_chunks("hello")),
    "chunked, and more": reply(DATE, CHUNKED, content=in_chunks("hello") + "HTTP/1.1 200 OK\r\n"),
    "chunked wrongly": [*reply(DATE, CHUNKED, content="6\r\nhello\r\n0\r\n\r\n"), ""],
    "chunked, cut": [*reply(DATE, CHUNKED, content="5\r\nhello\r\n"), ""],
    "chunked oddly": [*reply(DATE, CHUNKED, content="+5\r\nhello\r\n0\r\n\r\n"), ""],
    "chunked, and coded": [*reply(DATE, "Transfer-Encoding: gzip, chunked", content=in_chunks("hello")), ""],
    "chunked twice": [*reply(DATE, CHUNKED, CHUNKED, content=in_chunks("hello")), ""],
    "chunked and measured": reply(DATE, HELLO, CHUNKED, content=in_chunks("hello")),
    "chunked, without content": reply(DATE, CHUNKED, status="204 No Content", content=""),
    "until it closes": [*reply(DATE, JSON), ""],
    "closing": [*reply(DATE, HELLO, "Connection: close"), ""],
    "naming a field": reply(DATE, HELLO, "X-Own: 1", "Connection: X-Own"),
    "kept for long": reply(DATE, HELLO, "Connection: keep-alive", "Keep-Alive: timeout=60, max=7"),
    "kept for a moment": reply(DATE, HELLO, "Keep-Alive: timeout=1"),
    "hints before it": ["HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", *reply(DATE, HELLO)],
    "continue before it": ["HTTP/1.1 100 Continue\r\n\r\n", *reply(DATE, HELLO)],
    "something before it, with content": [f"HTTP/1.1 199 X\r\n{HELLO}\r\n\r\n", "hello", *reply(DATE, HELLO), ""],
    "of no class": [*reply(DATE, HELLO, status="099 Low"), ""],
    "another protocol": [f"HTTP/2.0 200 OK\r\n{DATE}\r\n{HELLO}\r\n\r\nhello", ""],
    "no content": reply(DATE, status="204 No Content", content=""),
    "nothing new": reply(DATE, 'ETag: "a"', status="304 Not Modified", content=""),
    "nothing new, of that length": reply(DATE, 'ETag: "a"', HELLO, status="304 Not Modified", content=""),
    "nothing new, of a private one": reply(
        DATE, "Cache-Control: private", "Vary: Origin", 'ETag: W/"%d"', status="304 Not Modified", content=""
    ),
    "no content, but some": reply(DATE, status="204 No Content", content="hello"),
    "a part": reply(DATE, HELLO, "Content-Range: bytes 0-4/9", status="206 Partial Content"),
    "elsewhere": reply(DATE, HELLO, "Location: /b", status="303 See Other"),
    "gone wrong": reply(DATE, HELLO, status="500 " + "long " * 100),
    "without a reason": reply(DATE, HELLO, status="200 "),
    "without even a space": reply(DATE, HELLO, status="200"),
    "an odd reason": reply(DATE, HELLO, status="200  O\tK "),
    "measured twice": reply(DATE, HELLO, HELLO),
    "measured in two ways": reply(DATE, HELLO, "Content-Length: 4"),
    "measured oddly": reply(DATE, "Content-Length: +5"),
    "more than it says": reply(DATE, HELLO, content="hello, world"),
    "fewer than it says": [*reply(DATE, "Content-Length: 9"), ""],
    "cut in its head": ["HTTP/1.1 200 OK\r\nDate", ""],
    "nothing at all": [""],
    "no HTTP": ["SSH-2.0-x\r\n\r\n", ""],
    "a space before the colon": reply(DATE, HELLO, "X : 1"),
    "folded": reply(DATE, HELLO, "X: 1", " 2"),
    "a control": reply(DATE, HELLO, "X: \x00"),
    "bare line feeds": ["HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"],
    "in pieces": ["HTTP/1.1 200 OK\r\n", f"{DATE}\r\nX:", f" 1\r\n{HELLO}\r\n\r", "\nhel", "lo"],
    "odd fields": reply(DATE, HELLO, "x-ODD:\t \xe9%d \t", "X-Empty:", "X:a:b"),
    "a large head": reply(DATE, HELLO, "X: " + "a" * 9000),
    "passed before": reply(DATE, HELLO, "Via: 1.0 x", "Cache-Status: x; hit"),
    "invalidating": reply(DATE, HELLO, 'Cache-Group-Invalidation: "a"', "Content-Location: /b"),
    "switching": reply("Upgrade: x", "Connection: upgrade", status="101 Switching", content=""),
}
