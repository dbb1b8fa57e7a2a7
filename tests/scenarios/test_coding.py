"""Content codings applied here: negotiated, stored once, streamed, and never twice."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib

import pytest

from tests.codings import DECODERS
from tests.support import PATIENCE, Origin, Turn, running_proxy

JSON = "Content-Type: application/json"
FRESH = "Cache-Control: max-age=60"
GRADING = json.dumps(
    {
        "answers": [
            {"question": f"Question {number}", "correct": number % 3 == 0, "feedback": "Show each step of your work."}
            for number in range(60)
        ]
    }
)


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("gzip, br;q=0.5, zstd;q=0.2", "gzip"),
        ("gzip;q=0, *", "br"),
        ("br;q=0, zstd;q=0, *", "gzip"),
        ("identity", None),
        ("gzip;q=0", None),
        ("deflate", None),
        ("", None),
        (None, None),
    ],
)
async def test_the_coding_is_negotiated_for_misses_and_hits(
    origin: Origin, accepted: str | None, expected: str | None
) -> None:
    origin.respond(GRADING, JSON, FRESH, 'ETag: "v1"')
    fields = [] if accepted is None else [f"Accept-Encoding: {accepted}"]
    async with running_proxy(origin.url) as proxy:
        miss, hit = await proxy.get("/a", *fields), await proxy.get("/a", *fields)
    for answer in (miss, hit):
        assert answer.get("content-encoding") == expected
        decoded = DECODERS[expected](answer.content) if expected else answer.content
        assert decoded == GRADING.encode()
        assert answer.get("vary") == "Accept-Encoding"
        assert answer.get("etag") == ('W/"v1"' if expected else '"v1"')
        assert int(answer.get("content-length") or 0) == len(answer.content)
    assert len(origin.requests) == 1
    if expected:
        assert len(miss.content) <= 0.4 * len(GRADING)


async def test_each_coding_is_made_once_and_kept(origin: Origin) -> None:
    origin.respond(GRADING, JSON, FRESH)
    async with running_proxy(origin.url) as proxy:
        first = await proxy.get("/a", "Accept-Encoding: gzip")
        (stored,) = proxy.stored()
        assert list(stored.codings) == ["gzip"]
        await proxy.get("/a", "Accept-Encoding: br")
        made = dict(stored.codings)
        for coding in ("br", "gzip", "br"):
            await proxy.get("/a", f"Accept-Encoding: {coding}")
        assert made.keys() == stored.codings.keys() == {"gzip", "br"}
        assert all(stored.codings[coding] is made[coding] for coding in made)
        again = await proxy.get("/a", "Accept-Encoding: gzip")
    assert first.content == again.content


@pytest.mark.parametrize(
    "fields",
    [
        [JSON, "Content-Encoding: br"],
        [JSON, "Cache-Control: no-transform"],
        [JSON, "Content-Range: bytes 0-10/20"],
        ["Content-Type: image/png"],
        ["Content-Type: text/event-stream"],
        [],
    ],
)
async def test_what_must_not_be_coded_is_not(origin: Origin, fields: list[str]) -> None:
    origin.respond(GRADING, *fields)
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a", "Accept-Encoding: gzip")
    assert answer.content == GRADING.encode()
    assert answer.all("content-encoding") == [line.partition(": ")[2] for line in fields if "Encoding" in line]


async def test_small_content_is_not_coded(origin: Origin) -> None:
    origin.respond("x" * 1023, JSON)
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a", "Accept-Encoding: gzip")
        assert answer.get("content-encoding") is None
        origin.respond("x" * 1024, JSON)
        assert (await proxy.get("/a", "Accept-Encoding: gzip")).get("content-encoding") == "gzip"


async def test_a_stream_is_coded_piece_by_piece(origin: Origin) -> None:
    """Each piece can be decoded by the client before the origin sends the next."""
    pieces = [f'{{"line": {number}}}\n' for number in range(10)]
    received: asyncio.Queue[str] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await turn.send(f"{len(piece):x}\r\n{piece}\r\n")
            assert await received.get() == piece
        await turn.send("0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\nAccept-Encoding: gzip\r\n\r\n")
        head = await client.head()
        assert head.get("content-encoding") == "gzip"
        decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        text = ""
        while not decoder.eof:
            size = int(await client.reader.readuntil(b"\r\n"), 16)
            text += decoder.decompress((await client.reader.readexactly(size + 2))[:-2]).decode()
            while text.endswith("\n"):
                await received.put(text)
                text = ""
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


async def test_a_client_polling_with_the_coded_validator_gets_304(origin: Origin) -> None:
    origin.respond(GRADING, JSON, FRESH, 'ETag: "v1"')
    async with running_proxy(origin.url) as proxy:
        full = await proxy.get("/a", "Accept-Encoding: gzip")
        tag = full.get("etag")
        again = await proxy.get("/a", "Accept-Encoding: gzip", f"If-None-Match: {tag}")
    assert (again.status, again.content, again.get("etag")) == (304, b"", tag)
    assert again.get("vary") == "Accept-Encoding"


async def test_head_describes_what_get_would_send(origin: Origin) -> None:
    origin.respond(GRADING, JSON, FRESH)
    async with running_proxy(origin.url) as proxy:
        get = await proxy.get("/a", "Accept-Encoding: gzip")
        head = await proxy.request("HEAD", "/a", "Accept-Encoding: gzip")
    for name in ("content-encoding", "content-length", "etag", "vary"):
        assert head.get(name) == get.get(name)


async def test_a_range_is_of_the_uncoded_content(origin: Origin) -> None:
    origin.respond(GRADING, JSON, FRESH, 'ETag: "v1"')
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Accept-Encoding: gzip")
        part = await proxy.get("/a", "Accept-Encoding: gzip", "Range: bytes=10-19")
    assert (part.status, part.content, part.get("content-encoding")) == (206, GRADING[10:20].encode(), None)


async def test_a_part_varies_as_the_whole_does(origin: Origin) -> None:
    """RFC 9110 15.3.7; else a cache behind this one that joins it with others no longer knows of the coding."""
    origin.respond(GRADING, JSON, FRESH, 'ETag: "v1"')
    async with running_proxy(origin.url) as proxy:
        for accepted in ("gzip", "identity"):
            whole = await proxy.get("/a", f"Accept-Encoding: {accepted}")
            one = await proxy.get("/a", f"Accept-Encoding: {accepted}", "Range: bytes=0-9")
            several = await proxy.get("/a", f"Accept-Encoding: {accepted}", "Range: bytes=0-9,20-29")
            assert [answer.status for answer in (whole, one, several)] == [200, 206, 206]
            assert [answer.get("vary") for answer in (whole, one, several)] == ["Accept-Encoding"] * 3


@pytest.mark.parametrize("storable", [FRESH, "Cache-Control: no-store"])
async def test_a_part_of_the_origins_varies_as_the_whole_would(origin: Origin, storable: str) -> None:
    part, span = GRADING[:10], f"Content-Range: bytes 0-9/{len(GRADING)}"
    origin.respond(part, JSON, storable, 'ETag: "v1"', span, status="206 Partial Content")
    async with running_proxy(origin.url) as proxy:
        answers = [await proxy.get("/a", "Accept-Encoding: gzip", "Range: bytes=0-9") for _ in range(2)]
        origin.respond(part, "Content-Type: image/png", storable, span, status="206 Partial Content")
        picture = await proxy.get("/b", "Range: bytes=0-9")
    assert [(answer.status, answer.content, answer.get("vary")) for answer in answers] == [
        (206, part.encode(), "Accept-Encoding")
    ] * 2
    assert (picture.status, picture.get("vary")) == (206, None)


async def test_content_for_one_client_is_coded_too(origin: Origin) -> None:
    origin.respond(GRADING, JSON, "Cache-Control: private")
    async with running_proxy(origin.url) as proxy:
        posted = await proxy.request("POST", "/a", "Accept-Encoding: gzip", content=b"{}")
        got = await proxy.get("/a", "Accept-Encoding: gzip", "Cookie: me=1")
    for answer in (posted, got):
        assert gzip.decompress(answer.content) == GRADING.encode()
