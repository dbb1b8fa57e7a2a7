"""What goes through Siding is held to what goes past it: exchanges made from seeds, on real sockets."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from tests.support import Client, Message, Origin, Turn, running_proxy

EXCHANGES = 150
OF_ONE_HOP = {"connection", "keep-alive", "te", "trailer", "upgrade", "transfer-encoding", "content-length"}
ADDED = {
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "traceparent", "cdn-loop"),
    *("via", "cache-status", "date"),
}
MADE = {"age", "etag", "vary"}
"""By the cache, unless it is bypassed."""

METHODS = ["GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"]
TARGETS = ["", "?", "?a=%20&a=2&&=", "??b?c", "/%2e%2E/%zz%", "//b/../c/./d", "/[x]|{y}^`\"<>'", ";p=1,2/@:!$*()+"]
ASKED = [
    *("Cookie: a=1", "Cookie: b=2", "Authorization: Bearer x", "X-Latin: caf\xe9 \xff", "X-Empty:", "x-ODD:\t1 "),
    *(
        "Accept: text/html;q=0.1, */*",
        "Connection: keep-alive",
        "TE: trailers",
        "Upgrade: h2c",
        "X_Under: 1",
        "X-a!#$: 1",
    ),
]
ANSWERED = [
    *("Set-Cookie: a=1", "Set-Cookie: b=2", "Cache-Control: no-store", "Cache-Control: max-age=60", 'ETag: W/"a"'),
    *("Vary: X", "X-Latin: caf\xe9 \xff", "X-Empty:", "x-ODD:\t1 ", "Content-Encoding: gzip", "Location: /b", "Age: x"),
    *("Retry-After: 5", "Content-Type: text/plain", "Keep-Alive: timeout=5", "Upgrade: h2c", "Trailer: X", "X-a!#$: 1"),
]
STATUSES = [
    *(
        "200 OK",
        "200 OK",
        "200 OK",
        "200",
        "200 ",
        "201 a  b",
        "203 \xe4\xf6",
        "204 No Content",
        "301 Moved",
        "304 Same",
    ),
    *("401 No", "404 Not Found", "418 I'm: (a) teapot", "429 Slow", "500 Oops", "503 Later", "599 Odd"),
]
INTERIM = ["HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Empty:\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"]
CONTENTS = [b"", b"x", b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", bytes(range(256)) * 40]


@dataclass(frozen=True)
class Exchange:
    """What is sent by client and origin, each in two pieces. closes -- the answer ends with the connection."""

    method: str
    asked: tuple[bytes, bytes]
    answered: tuple[bytes, bytes]
    closes: bool


def chunks(draw: random.Random, content: bytes, ends: list[str]) -> bytes:
    framed, at = b"", 0
    while at < len(content):
        piece = content[at : at + draw.choice([1, 15, 16, 5000])]
        size = draw.choice([b"%x", b"%X", b"00%x", b'%x;a="b;c"']) % len(piece)
        framed, at = framed + size + b"\r\n" + piece + b"\r\n", at + len(piece)
    return framed + draw.choice(ends).encode()


def cut(draw: random.Random, wire: bytes) -> tuple[bytes, bytes]:
    at = draw.randrange(len(wire))
    return wire[:at], wire[at:]


def made_from(seed: int) -> Exchange:
    draw = random.Random(seed)  # noqa: S311 - repeatable on purpose
    method, status, content = draw.choice(METHODS), draw.choice(STATUSES), draw.choice(CONTENTS)
    lines = [f"{method} /{seed}{draw.choice(TARGETS)} HTTP/1.1", "Host: App.Example:80", *draw.sample(ASKED, 4)]
    if method in {"POST", "PUT", "PATCH", "PROPFIND", "QUERY"}:
        in_chunks = draw.random() < 0.4
        lines.append("Transfer-Encoding: chunked" if in_chunks else f"Content-Length: 0{len(content)}")
        asked = chunks(draw, content, ["0\r\n\r\n"]) if in_chunks else content
    else:
        asked = b""
    request = "\r\n".join([*lines, "", ""]).encode("latin-1") + asked
    version, framing = draw.choice(["1.1", "1.1", "1.0"]), draw.choice(["length", "chunks", "end"])
    lines = [f"HTTP/{version} {status}", *draw.sample(ANSWERED, 5)]
    content = draw.choice(CONTENTS)
    if status[:3] in {"204", "304"}:
        framing, content = "none", b""
    elif framing == "chunks":
        lines.append("transfer-encoding: chunked")
        content = chunks(draw, content, ["0\r\n\r\n", "0 \r\n\r\n", "000;x\r\nX: 1\r\nY:\r\n\r\n"])
    elif framing == "length":
        lines.insert(1, f"content-length:\t{len(content)} ")
    answer = "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else content)
    if draw.random() < 0.2:
        answer = draw.choice(INTERIM).encode() + answer
    return Exchange(method, cut(draw, request), cut(draw, answer), closes=framing == "end" or version == "1.0")


def kept(message: Message, without: set[str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in message.fields if name.lower() not in without]


async def exchanged(origin: Origin, port: int, exchange: Exchange, without: set[str]) -> list[object]:
    """What both sides have got."""

    async def script(turn: Turn) -> None:
        for piece in exchange.answered:
            await turn.send(piece)
            await asyncio.sleep(0)
        if exchange.closes:
            turn.writer.close()

    origin.script = script
    client = Client(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))
    try:
        for piece in exchange.asked:
            await client.send(piece)
            await asyncio.sleep(0)
        answer = await client.response(exchange.method)
    finally:
        client.close()
    request = origin.requests[-1]
    told = [(one.start, kept(one, without)) for one in answer.interim]
    said = answer.start.partition(" ")[2].strip()
    return [request.start, kept(request, without), request.content, told, said, kept(answer, without), answer.content]


@pytest.mark.parametrize("bypass", [True, False])
async def test_what_goes_through_is_what_goes_past(origin: Origin, bypass: bool) -> None:
    without = OF_ONE_HOP | ADDED | (set() if bypass else MADE)
    async with running_proxy(origin.url, bypass=bypass) as proxy:
        for seed in range(EXCHANGES):
            exchange = made_from(seed)
            past = await exchanged(origin, origin.port, exchange, without)
            through = await exchanged(origin, proxy.port, exchange, without)
            assert through == past, f"seed {seed}"
