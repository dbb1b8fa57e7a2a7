"""A gigabyte each way in constant memory, and clients that read slowly."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.e2e.proxies import Running, proxy_process
from tests.support import Origin, Turn

GIGABYTE = 1024**3
PIECE = bytes(1024 * 1024)
ROOM = 24 * 1024 * 1024
"""How much the process may grow; the gigabyte is forty times as large."""

pytestmark = pytest.mark.timeout(120)


async def _download(proxy: Running, framing: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=2**20)
    try:
        writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert framing.lower().encode() in head.lower()
        received = 0
        while data := await reader.read(2**20):
            received += len(data)
        return received
    finally:
        writer.close()


@pytest.mark.parametrize("framing", [f"Content-Length: {GIGABYTE}", "Transfer-Encoding: chunked"])
async def test_a_gigabyte_down(origin: Origin, framing: str) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{framing}\r\n\r\n")
        chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if "chunked" in framing else PIECE
        for _ in range(GIGABYTE // len(PIECE)):
            await turn.send(chunk)
        if "chunked" in framing:
            await turn.send("0\r\n\r\n")

    origin.script = script
    async with proxy_process(origin.url, cache_max_object_bytes="1MiB") as proxy:
        before = proxy.peak_bytes()
        assert await _download(proxy, framing) >= GIGABYTE
        assert proxy.peak_bytes() - before < ROOM


@pytest.mark.parametrize("framing", [f"Content-Length: {GIGABYTE}", "Transfer-Encoding: chunked"])
async def test_a_gigabyte_up(origin: Origin, framing: str) -> None:
    received = 0

    async def script(turn: Turn) -> None:
        nonlocal received
        end = b""
        while received < GIGABYTE or ("chunked" in framing and end != b"\r\n0\r\n\r\n"):
            data = await turn.reader.read(2**20)
            received += len(data)
            end = (end + data)[-7:]
        await turn.answer("thanks")

    origin.script, origin.read_content = script, False
    async with proxy_process(origin.url, max_request_bytes="2GiB") as proxy:
        before = proxy.peak_bytes()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(f"PUT /big HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
        chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if "chunked" in framing else PIECE
        for _ in range(GIGABYTE // len(PIECE)):
            writer.write(chunk)
            await writer.drain()
        if "chunked" in framing:
            writer.write(b"0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        assert proxy.peak_bytes() - before < ROOM


async def test_a_client_that_does_not_read_holds_the_origin_back(origin: Origin) -> None:
    sent, blocked = 0, asyncio.Event()

    async def script(turn: Turn) -> None:
        nonlocal sent
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        while True:
            turn.writer.write(PIECE)
            sent += len(PIECE)
            drained = asyncio.ensure_future(turn.writer.drain())
            done, _ = await asyncio.wait([drained], timeout=1)
            if not done:
                drained.cancel()
                blocked.set()
                return

    origin.script = script
    async with proxy_process(origin.url) as proxy, asyncio.timeout(60):
        before = proxy.peak_bytes()
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=2**16)
        writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        await blocked.wait()
        writer.close()
        assert proxy.peak_bytes() - before < ROOM
    assert sent < 64 * 1024 * 1024


@pytest.mark.parametrize("ranges", ["", "Range: bytes=1-\r\n", "Range: bytes=0-4000000,5000000-\r\n"])
async def test_clients_that_do_not_read_a_stored_response_hold_no_copy_of_it_each(origin: Origin, ranges: str) -> None:
    origin.respond(bytes(8 * 1024 * 1024), "Cache-Control: max-age=60", 'ETag: "v1"', "Content-Type: image/x-icon")
    async with proxy_process(origin.url) as proxy, asyncio.timeout(60):
        await _download(proxy, "content-length")
        before = proxy.peak_bytes()
        with contextlib.ExitStack() as clients:
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=2**16)
                clients.callback(writer.close)
                writer.write(f"GET /big HTTP/1.1\r\nHost: a\r\n{ranges}\r\n".encode())
                assert b"siding; hit" in await reader.readuntil(b"\r\n\r\n")
            assert proxy.peak_bytes() - before < ROOM
    assert len(origin.requests) == 1


async def test_a_client_that_sends_no_more_gets_what_is_stored_whole(origin: Origin) -> None:
    origin.respond(bytes(8 * 1024 * 1024), "Cache-Control: max-age=60", 'ETag: "v1"')
    async with proxy_process(origin.url) as proxy, asyncio.timeout(60):
        await _download(proxy, "content-length")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=2**16)
        writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        writer.write_eof()
        assert b"siding; hit" in await reader.readuntil(b"\r\n\r\n")
        # the proxy has seen to all that came before
        await _download(proxy, "content-length")
        assert len(await reader.read()) == 8 * 1024 * 1024
        writer.close()
    assert len(origin.requests) == 1
