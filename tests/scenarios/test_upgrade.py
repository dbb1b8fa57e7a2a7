"""Upgraded connections: a tunnel only after the origin's 101, both ways, and ended from both sides."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import PATIENCE, Client, Origin, Proxy, Turn, running_proxy, until

ASK = (
    "GET /ws HTTP/1.1\r\nHost: app.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
AGREED = (
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


async def upgraded(proxy: Proxy) -> Client:
    client = await proxy.connect()
    await client.send(ASK)
    head = await client.head()
    assert head.status == 101
    assert head.get("upgrade") == "websocket"
    assert head.get("connection") == "Upgrade"
    assert head.get("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    return client


async def test_octets_go_both_ways_unchanged(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        assert turn.request.get("upgrade") == "websocket"
        assert turn.request.get("connection") == "Upgrade"
        assert turn.request.get("sec-websocket-key") == "dGhlIHNhbXBsZSBub25jZQ=="
        await turn.send(AGREED + "greeting with the 101")
        while data := await turn.reader.read(2**16):
            await turn.send(data)
        turn.writer.close()

    origin.script = script
    payload = bytes(range(256)) * 4096
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await upgraded(proxy)
        assert await client.reader.readexactly(21) == b"greeting with the 101"
        sending = asyncio.create_task(client.send(payload))
        assert await client.reader.readexactly(len(payload)) == payload
        await sending


async def test_what_the_client_sends_with_its_request_is_not_lost(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(AGREED)
        assert await turn.reader.readexactly(5) == b"early"
        await turn.send("got it")

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send(ASK + "early")
        assert (await client.head()).status == 101
        assert await client.reader.readexactly(6) == b"got it"


async def test_without_the_origins_101_there_is_no_tunnel(origin: Origin) -> None:
    """What follows a refused upgrade is the next request, not a tunnel's payload (Pingora CVE-2026-2833)."""
    origin.respond("no", status="426 Upgrade Required")
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send(ASK)
        assert (await client.response()).status == 426
        assert (await client.request("GET", "/next")).status == 426
    assert [request.target for request in origin.requests] == ["/ws", "/next"]


@pytest.mark.parametrize("upgrade", ["Upgrade: h2c", "Upgrade: websocket, h2c", "Server: a"])
async def test_a_protocol_that_was_not_asked_for_is_no_tunnel(origin: Origin, upgrade: str) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{upgrade}\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        fields = ("Connection: Upgrade", "Upgrade: websocket")
        assert (await proxy.get("/ws", *fields)).status == 502


async def test_the_origin_closing_ends_the_client(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(AGREED)
        turn.writer.close()

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await upgraded(proxy)
        assert await client.at_end()


async def test_the_client_closing_ends_the_origin(origin: Origin) -> None:
    left = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send(AGREED)
        assert await turn.reader.read() == b""
        left.set()

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await upgraded(proxy)
        client.close()
        await left.wait()


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.2"])
async def test_other_protocols_are_not_offered_to_the_origin(origin: Origin, protocol: str) -> None:
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get(
            "/a", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: x"
        )
    assert answer.status == 200
    assert origin.requests[0].get("upgrade") is None
    assert origin.requests[0].get("http2-settings") is None


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.2", "tcp", "h2c, websocket", "websocket, h2c"])
@pytest.mark.parametrize("content", [None, "", "hi"])
async def test_content_behind_a_refused_upgrade_is_never_a_request(
    origin: Origin, protocol: str, content: str | None
) -> None:
    """What follows such a request in its segment does not reach aiohttp's parser, and the content of that would."""
    sent = asyncio.Event()

    async def script(turn: Turn) -> None:
        await sent.wait()
        await turn.answer("hello")

    origin.script = script
    method, framing = ("GET", "") if content is None else ("POST", f"Content-Length: {len(content)}\r\n")
    fields = f"Host: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{framing}"
    smuggled = "DELETE /smuggled HTTP/1.1\r\nHost: internal\r\n\r\n"
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send(
            f"{method} /1 HTTP/1.1\r\n{fields}\r\n{content or ''}"
            f"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: {len(smuggled)}\r\n\r\n"
        )
        await until(lambda: bool(origin.requests))
        await client.send(smuggled)
        sent.set()
        answer = await client.response()
        assert (answer.content, answer.get("connection")) == (b"hello", "close")
        assert await client.at_end()
    assert [(request.method, request.target) for request in origin.requests] == [(method, "/1")]


async def test_an_upgrade_that_connection_does_not_list_is_none(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a", "Upgrade: websocket")
    assert answer.status == 200
    assert origin.requests[0].get("upgrade") is None


async def test_an_unsafe_request_with_an_upgrade_still_invalidates(origin: Origin) -> None:
    origin.respond("old", "Cache-Control: max-age=60")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await proxy.request("DELETE", "/a", "Connection: upgrade", "Upgrade: websocket")
        origin.respond("new", "Cache-Control: max-age=60")
        assert (await proxy.get("/a")).content == b"new"
