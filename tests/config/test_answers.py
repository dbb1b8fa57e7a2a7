"""What becomes of a fault, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from config.answers import application

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serving(handler: Handler) -> TestServer:
    app = application()
    app.router.add_route("*", "/", handler)
    return TestServer(app)


async def test_a_fault_within_an_answer_breaks_it_off(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begin")
        raise ValueError("a fault of ours")

    async with serving(failing) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        async with asyncio.timeout(10):
            try:
                while piece := await reader.read(65536):
                    got += piece
            except ConnectionError:
                pass
        writer.close()
    assert got.count(b"HTTP/1.1") <= 1
    assert b"internal-error" not in got
    assert not got.endswith(b"0\r\n\r\n")
    assert [record.getMessage() for record in caplog.records] == ["GET / failed"]


async def test_a_fault_before_an_answer_is_told() -> None:
    async def failing(request: web.Request) -> web.StreamResponse:
        raise ConnectionResetError("that of somebody else")

    async with (
        serving(failing) as server,
        aiohttp.ClientSession() as session,
        session.get(server.make_url("/")) as told,
    ):
        assert told.status == 500
        assert (await told.json())["error"]["code"] == "internal-error"


async def test_who_leaves_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    left: list[str] = []

    async def leaving(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        # as if the caller had, in the moment before it is written to
        request.transport.abort()
        try:
            await response.write(b"x")
        except ConnectionError as fault:
            left.append(str(fault))
            raise
        return response

    async with serving(leaving) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(server.make_url("/")) as answer:
                await answer.read()
    assert left == ["Cannot write to closing transport"]
    assert caplog.records == []


@pytest.mark.parametrize("at_once", [True, False])
async def test_no_trailer_field_is_one_of_the_next_request(at_once: bool) -> None:
    """Where an edge sends the requests of several callers on one connection, they are not the same caller's."""
    seen: list[str | None] = []

    async def reading(request: web.Request) -> web.StreamResponse:
        await request.read()
        seen.append(request.headers.get("Cookie"))
        return web.Response()

    first = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nCookie: another's\r\n\r\n"
    second = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(reading) as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(first + second if at_once else first)
        assert b"HTTP/1.1 200 OK\r\n" in await reader.read()
        writer.close()
    assert seen == [None]


@pytest.mark.parametrize("whole", [True, False])
async def test_that_nothing_is_processed_behind_chunks_is_said(whole: bool) -> None:
    """Who is not told sends its next request there, and it is lost (RFC 9112 9.6)."""

    async def reading(request: web.Request) -> web.StreamResponse:
        await request.read()
        if whole:
            return web.Response(text="x")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        return response

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    async with serving(reading) as server, aiohttp.ClientSession() as session:
        for content, said in ((chunks(), "close"), (b"x", None)):
            async with session.post(server.make_url("/"), data=content) as answer:
                assert (await answer.text(), answer.headers.get("Connection")) == ("x", said)


async def test_content_without_a_length_ends_the_connection_of_who_knows_no_chunks() -> None:
    """It could not be told that it is over: a caller that keeps its connection would wait."""

    async def streaming(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"hello")
        return response

    async with serving(streaming) as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert (content, b"onnection" in head) == (b"hello", False)


async def test_who_knows_no_chunks_keeps_the_connection_where_there_is_no_content() -> None:
    """It is told so, and would lose its next request."""

    async def nothing(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=204 if request.query_string else 200)
        await response.prepare(request)
        return response

    first = b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    async with serving(nothing) as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for each in (first, first.replace(b"HEAD / ", b"GET /?204 ")):
            writer.write(each)
            assert b"Connection: keep-alive\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HEAD / HTTP/1.0\r\n\r\n")
        assert b"keep-alive" not in await reader.read()
        writer.close()
