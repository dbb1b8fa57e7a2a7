"""Connections on both sides: clients that leave or do not wait, and what is used again or sent again."""

from __future__ import annotations

import asyncio
import json

import pytest

from config import room
from proxy.server import protocol
from tests.fast.passing import connection_of, one_that_does_not_read
from tests.fast.sides import server_of
from tests.support import Client, Gate, Message, Origin, Proxy, Turn, holds, running_proxy, until


async def test_a_client_that_leaves_cancels_its_request(origin: Origin) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        asked.set()
        assert await turn.reader.read(1) == b""
        left.set()

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(10):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\nCache-Control: no-store\r\n\r\n")
        await asked.wait()
        client.close()
        await left.wait()


async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_it(origin: Origin) -> None:
    left = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert await turn.reader.read(1) == b""
        left.set()

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(10):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await client.head()
        client.close()
        await left.wait()


async def test_connections_to_the_origin_are_kept_and_used_again(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        for _ in range(5):
            await proxy.get("/a")
    assert len(origin.requests) == 5
    assert origin.connections == 1


async def test_a_stale_idle_connection_is_replaced_by_one_safe_retry(origin: Origin) -> None:
    async def closing(turn: Turn) -> None:
        if len(origin.requests) == 2:
            turn.writer.close()
            return
        await turn.answer("hello")

    origin.script = closing
    async with running_proxy(origin.url) as proxy:
        assert (await proxy.get("/a")).status == 200
        assert (await proxy.get("/b")).status == 200
    assert [request.target for request in origin.requests] == ["/a", "/b", "/b"]


async def test_a_post_is_never_sent_twice(origin: Origin) -> None:
    async def closing(turn: Turn) -> None:
        if turn.request.method == "POST":
            turn.writer.close()
            return
        await turn.answer("hello")

    origin.script = closing
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        answer = await proxy.request("POST", "/b", content=b"x")
    assert answer.status == 502
    assert [request.method for request in origin.requests] == ["GET", "POST"]


async def pipeline(proxy: Proxy, data: bytes, count: int) -> list[Message]:
    client = await proxy.connect()
    await client.send(data)
    return [await client.response() for _ in range(count)]


async def test_pipelined_requests_are_answered_in_order(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer(turn.request.target)

    origin.script = script
    lines = b"".join(b"GET /%d HTTP/1.1\r\nHost: app.example\r\n\r\n" % number for number in range(4))
    async with running_proxy(origin.url) as proxy:
        answers = await pipeline(proxy, lines, 4)
    assert [answer.content for answer in answers] == [b"/0", b"/1", b"/2", b"/3"]


async def test_content_that_nobody_read_is_not_taken_for_the_next_request(origin: Origin) -> None:
    """A hit on a request with content (Pingora CVE-2025-4366)."""
    origin.respond("stored", "Cache-Control: max-age=60")
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: app.example\r\n\r\n"
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        first = b"GET /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: %d\r\n\r\n%b" % (len(smuggled), smuggled)
        second = b"GET /next HTTP/1.1\r\nHost: app.example\r\n\r\n"
        await pipeline(proxy, first + second, 2)
    assert "/smuggled" not in [request.target for request in origin.requests]


async def connected(proxy: Proxy, number: int) -> Client:
    """One client more, with which there are so many."""
    server = proxy.worker._server
    assert server is not None
    client = await proxy.connect()
    await until(lambda: len(server.connections) == number)
    return client


async def test_where_descriptors_run_out_who_never_asked_makes_room_and_then_who_was_idle_longest(
    origin: Origin, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "ARRIVAL_SECONDS", 0)
    async with running_proxy(origin.url) as proxy:
        server = proxy.worker._server
        assert server is not None
        server.room.most = 3
        first, second, third = [await connected(proxy, number) for number in (1, 2, 3)]
        assert (await first.request("GET", "/a")).status == 200
        assert (await second.request("GET", "/a")).status == 200
        fourth = await proxy.connect()
        assert await third.at_end()
        assert (await fourth.request("GET", "/a")).status == 200
        fifth = await proxy.connect()
        assert await first.at_end()
        for client in (second, fourth, fifth):
            assert (await client.request("GET", "/a")).status == 200
    assert [record.levelname for record in caplog.records if "file descriptors" in record.message] == ["ERROR"]


async def test_who_never_asked_makes_room_before_who_did_once(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ARRIVAL_SECONDS", 0)
    async with running_proxy(origin.url) as proxy:
        server_of(proxy).room.most = 2
        first = await connected(proxy, 1)
        assert (await first.request("GET", "/a")).status == 200
        silent = await connected(proxy, 2)
        assert (await (await proxy.connect()).request("GET", "/a")).status == 200
        assert await silent.at_end()
        assert (await first.request("GET", "/a")).status == 200


async def test_who_has_just_come_makes_no_room_for_who_comes_next(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands who come at once each would be cut for the next, with its request unread."""
    monkeypatch.setattr(room, "LOOK_SHARE", 0)
    async with running_proxy(origin.url) as proxy:
        server_of(proxy).room.most = 3
        clients = [await proxy.connect() for _ in range(20)]
        for client in clients:
            await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        answers = [await client.response() for client in clients]
    assert sorted(answer.status for answer in answers) == [200] * 3 + [503] * 17


async def test_whose_request_has_not_been_read_makes_no_room(origin: Origin) -> None:
    """However long the loop was busy with others."""
    async with running_proxy(origin.url) as proxy:
        client = await connected(proxy, 1)
        assert (await client.request("GET", "/a")).status == 200
        connection = connection_of(proxy)
        assert connection.transport is not None
        await until(lambda: connection.idle)
        connection.transport.pause_reading()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await until(lambda: not connection.idle)
        connection.transport.resume_reading()
        assert (await client.response()).status == 200
        await until(lambda: connection.idle)


async def test_who_has_not_read_an_answer_makes_no_room_for_more(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep its descriptor until it has, and be one more for each newcomer that does the same."""
    monkeypatch.setattr(room, "LOOK_SHARE", 0)
    async with running_proxy(origin.url) as proxy, one_that_does_not_read(origin, proxy) as (_, connection):
        server = server_of(proxy)
        server.room.most = 1
        for _ in range(2):
            refused = await (await proxy.connect()).response()
            assert json.loads(refused.content)["error"]["code"] == "out-of-descriptors"
        await holds(lambda: server.connections == [connection])


async def test_where_all_are_busy_the_newcomer_is_told_so(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_SHARE", 0)
    gate = Gate(origin)
    async with running_proxy(origin.url) as proxy:
        server = proxy.worker._server
        assert server is not None
        server.room.most = 2
        busy = [await connected(proxy, number) for number in (1, 2)]
        for number, client in enumerate(busy):
            await client.send(f"GET /{number} HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await gate.asked(2)
        for _ in range(2):
            client = await proxy.connect()
            refused = await client.response()
            assert (refused.status, refused.get("retry-after")) == (503, "1")
            assert json.loads(refused.content)["error"]["code"] == "out-of-descriptors"
            assert await client.at_end()
        gate.open.set()
        assert [(await client.response()).status for client in busy] == [200, 200]
        await holds(lambda: len(server.connections) == 2)
        assert (await (await proxy.connect()).request("GET", "/a")).status == 200
