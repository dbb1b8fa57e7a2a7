"""What is forwarded to the grading upstream, octet for octet."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from pool_monitor.grading.calls import UpstreamFault
from tests.pool_monitor.grading.upstream_bench import MEGABYTE, SECRET, Bench, cut
from tests.support import Turn, read_chunked, until


async def test_a_target_is_forwarded_octet_for_octet(bench: Bench) -> None:
    for path in (
        "/files/a%2Fb%20c/content?x=%20+%27&y=[1]&z=%c3%bc",
        "/models",
        "/a//b/../c;d=e?q=1?2",
        "?x",
        "",
        "/a?",
        "?",
    ):
        await bench.forward("GET", path)
    assert [request.target for request in bench.origin.requests] == [
        "/v1/files/a%2Fb%20c/content?x=%20+%27&y=[1]&z=%c3%bc",
        "/v1/models",
        "/v1/a//b/../c;d=e?q=1?2",
        "/v1?x",
        "/v1",
        "/v1/a?",
        "/v1?",
    ]
    with pytest.raises(UpstreamFault) as fault:
        await bench.forward("GET", "@other.example/")
    assert fault.value.status == 404


async def test_fields_are_forwarded_without_those_of_one_hop(bench: Bench) -> None:
    bench.origin.respond(
        b"{}",
        "X-Request-Id: r",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "x-latin: caf\xe9",
        status="299 All Fine",
    )
    sent = (
        ("Host", "monitor:8081"),
        ("accept-ENCODING", "gzip, br"),
        ("Connection", "close, X-Mine, authorization"),
        ("X-Mine", "1"),
        ("TE", "trailers"),
        ("Expect", "100-continue"),
        ("Authorization", SECRET),
        ("X-Name", "Zo\xeb"),
        ("X-Latin", "caf\udce9"),
        ("X-Twice", "a"),
        ("X-Twice", "b"),
        ("Content-Length", "2"),
    )
    status, fields, content = await bench.forward("POST", "/embeddings", *sent, content=b"{}")
    assert (status, content) == (299, b"{}")
    assert fields == (
        ("X-Request-Id", "r"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("x-latin", "caf\xe9"),
        ("Content-Length", "2"),
    )
    [request] = bench.origin.requests
    assert request.fields == [
        ("Host", f"127.0.0.1:{bench.origin.port}"),
        ("accept-ENCODING", "gzip, br"),
        ("Authorization", SECRET),
        ("X-Name", "Zo\xeb".encode().decode("latin-1")),
        ("X-Latin", "caf\xe9".encode().decode("latin-1")),
        ("X-Twice", "a"),
        ("X-Twice", "b"),
        ("Content-Length", "2"),
    ]


async def test_the_reason_is_sendable(bench: Bench) -> None:
    bench.origin.respond(status="299 Tout va tr\xe8s bien")
    async with bench.upstream.forward("GET", "/models", (), None) as answer:
        assert answer.reason == "Tout va tr\xe8s bien"


async def test_framing_is_the_callers(bench: Bench) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    await bench.forward("POST", "/files", ("Content-Length", "6"), content=content())
    await bench.forward("POST", "/files", ("Transfer-Encoding", "chunked"), content=content())
    await bench.forward("PUT", "/files", content=b"onetwo")
    await bench.forward("GET", "/files")
    lengths = [(request.get("content-length"), request.get("transfer-encoding")) for request in bench.origin.requests]
    assert lengths == [("6", None), (None, "chunked"), ("6", None), (None, None)]
    assert [request.content for request in bench.origin.requests] == [b"onetwo"] * 3 + [b""]


async def test_coded_content_redirects_and_heads_are_left_as_they_are(bench: Bench) -> None:
    coded = gzip.compress(b"hello")
    bench.origin.respond(coded, "Content-Encoding: gzip")
    _, fields, content = await bench.forward("GET", "/models", ("Accept-Encoding", "gzip"))
    assert content == coded
    assert ("Content-Encoding", "gzip") in fields
    assert ("Content-Length", str(len(coded))) in fields
    status, fields, content = await bench.forward("HEAD", "/models")
    assert (status, content) == (200, b"")
    assert ("Content-Length", str(len(coded))) in fields
    bench.origin.respond(b"", "Location: /v1/elsewhere", status="302 Found")
    status, fields, _ = await bench.forward("GET", "/models")
    assert status == 302
    assert ("Location", "/v1/elsewhere") in fields
    assert len(bench.origin.requests) == 3


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_for_a_get(bench: Bench) -> None:
    await bench.forward("GET", "/models")

    async def closed(turn: Turn) -> None:
        bench.origin.respond(b"again")
        turn.writer.close()

    bench.origin.script = closed
    assert (await bench.forward("GET", "/models"))[2] == b"again"
    assert len(bench.origin.requests) == 3
    bench.origin.script = cut
    with pytest.raises(UpstreamFault):
        await bench.forward("POST", "/embeddings", content=b"{}")
    assert len(bench.origin.requests) == 4


async def test_content_is_uploaded_no_faster_than_it_is_read(bench: Bench) -> None:
    go = asyncio.Event()
    size, given = 20 * MEGABYTE, 0
    received = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal given
        while given < size:
            given += 65_536
            yield b"x" * 65_536

    async def script(turn: Turn) -> None:
        nonlocal received
        await go.wait()
        async for chunk in read_chunked(turn.reader):
            received += len(chunk)
        await turn.answer(b"done")

    bench.origin.read_content, bench.origin.script = False, script
    task = asyncio.create_task(bench.forward("POST", "/files", content=content()))
    await until(lambda: len(bench.origin.requests) == 1)
    await stands_still(lambda: given)
    assert 0 < given < size - 4 * MEGABYTE
    go.set()
    assert (await task)[2] == b"done"
    assert received == size


async def test_an_answer_is_downloaded_no_faster_than_it_is_taken(bench: Bench) -> None:
    size, sent = 20 * MEGABYTE, 0

    async def script(turn: Turn) -> None:
        nonlocal sent
        await turn.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
        while sent < size:
            await turn.send(b"x" * 65_536)
            sent += 65_536

    bench.origin.script = script
    async with bench.upstream.forward("GET", "/files/f/content", (), None) as answer:
        await stands_still(lambda: sent)
        assert 0 < sent < size - 4 * MEGABYTE
        received = largest = 0
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                received += len(piece)
                largest = max(largest, len(piece))
    assert received == size
    assert largest <= MEGABYTE


async def stands_still(count: Callable[[], int]) -> None:
    """Wait until a count that has begun does not grow any more."""
    before = 0
    while count() == 0 or count() != before:
        before = count()
        for _ in range(50):
            await asyncio.sleep(0.001)
