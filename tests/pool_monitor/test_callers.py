"""Callers that read nothing, or slowly, and those that come where descriptors run out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from config import ending, room
from pool_monitor import callers
from tests.pool_monitor.grading.upstreams import Asked, chunks, completion, streamed, whole
from tests.pool_monitor.grading.wrapped import SAID, Wrapped, asked_for, says, wrapping
from tests.pool_monitor.support import Client, running_monitor
from tests.support import read_content, read_head, until

LARGE = "x" * 8_000_000
MORE_THAN_IS_HELD = "x" * 500_000
"""By the kernel, for who `takes_little`."""


@pytest.fixture
async def wrapped() -> AsyncIterator[Wrapped]:
    async with wrapping() as one:
        yield one


@contextlib.asynccontextmanager
async def one_that_asks(monitor: Client, path: str, body: Any, *fields: str) -> AsyncIterator[socket.socket]:
    """A caller that has sent this, and has room for little of the answer."""
    loop = asyncio.get_running_loop()
    content = orjson.dumps(body)
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *fields]
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
    with socket.socket() as caller:
        caller.setblocking(False)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(caller, ("127.0.0.1", monitor.port))
        await loop.sock_sendall(caller, head.encode() + content)
        yield caller


def connected(monitor: Client) -> int:
    runner = monitor.monitor._runner
    assert runner is not None
    assert runner.server is not None
    return len(runner.server.connections)


async def endless(asked: Asked, request: web.Request) -> web.StreamResponse:
    """Chunks of a stream, until whoever asked leaves."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        for event in chunks(["x" * 60_000], None):
            await response.write(event)


async def test_a_stream_whose_caller_stops_reading_lets_the_upstream_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "SEND_SECONDS", 0.05)
    left = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        try:
            return await endless(asked, request)
        finally:
            left.set()

    async with wrapping() as wrapped:
        wrapped.upstream.answering = answering
        body = asked_for("Tell a joke.", stream=True)
        async with one_that_asks(wrapped.monitor, "/v1/chat/completions", body), asyncio.timeout(10):
            await left.wait()
            await until(lambda: not connected(wrapped.monitor))


@pytest.mark.parametrize("what", ["known", "shared", "close", "batch"])
async def test_an_answer_that_nobody_reads_is_not_held(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(ending, "SEND_SECONDS", 0.05)
    prompt: dict[str, Any] = {"prompt": "Tell a joke.", "temperature": 0} if what == "shared" else {}
    fields = ["Connection: close"] if what == "close" else []
    async with wrapping() as wrapped:
        wrapped.upstream.answering = says("", MORE_THAN_IS_HELD)
        path, body = ("batch/", [asked_for()]) if what == "batch" else ("", asked_for(**prompt))
        async with one_that_asks(wrapped.monitor, f"/v1/{path}chat/completions", body, *fields):
            await until(lambda: connected(wrapped.monitor) == 1)
            caller = takes_little(wrapped.monitor)
            await until(lambda: caller._connected.get_write_buffer_size() > 0)
            await until(lambda: not connected(wrapped.monitor))


def held(monitor: Client) -> list[callers.Caller]:
    runner = monitor.monitor._runner
    assert runner is not None
    assert runner.server is not None
    return [one for one in runner.server.connections if isinstance(one, callers.Caller)]


def takes_little(monitor: Client) -> callers.Caller:
    """The only caller; of what it is sent from now on the kernel holds as little as it can."""
    [caller] = held(monitor)
    caller._connected.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return caller


async def test_what_is_left_of_one_that_has_ended_is_not_held_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be too little for anybody to wait until it is taken."""
    monkeypatch.setattr(ending, "SEND_SECONDS", 0.05)
    asked_it, go = asyncio.Event(), asyncio.Event()

    async def little(asked: Asked, request: web.Request) -> web.StreamResponse:
        asked_it.set()
        await go.wait()
        return await whole(completion("x" * 30_000))

    async with wrapping() as wrapped:
        wrapped.upstream.answering = little
        body = asked_for("Tell a joke.")
        async with one_that_asks(wrapped.monitor, "/v1/chat/completions", body, "Connection: close"):
            await asked_it.wait()
            caller = takes_little(wrapped.monitor)
            go.set()
            await until(lambda: caller._connected.get_write_buffer_size() > 0)
            await until(lambda: not connected(wrapped.monitor))


async def test_rows_that_nobody_reads_give_their_connection_back(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "SEND_SECONDS", 0.05)
    queries = (
        '[[query]]\nname = "many"\nsql = "SELECT repeat(\'x\', 1000) FROM generate_series(1, 100000)"\nrows = 100000\n'
    )
    async with running_monitor(database, queries, tmp_path) as monitor:
        fields = "Accept: application/x-ndjson"
        async with one_that_asks(monitor, "/api/queries/many", {}, fields):
            pool = monitor.monitor._pool
            assert pool is not None
            await until(lambda: any(one.name == "many" for one in pool.numbers().holders))
            await until(lambda: not connected(monitor))
        await until(lambda: not pool.numbers().holders)


async def test_who_reads_slowly_but_reads_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2_000_000

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await streamed(request, chunks(["x" * 1000] * (size // 1000)))

    # more than two of TCP's own timeouts
    monkeypatch.setattr(ending, "SEND_SECONDS", 1.5)
    body = asked_for("Tell a joke.", stream=True)
    loop, got = asyncio.get_running_loop(), b""
    async with wrapping() as wrapped:
        wrapped.upstream.answering = answering
        async with one_that_asks(wrapped.monitor, "/v1/chat/completions", body, "Connection: close") as caller:
            while piece := await loop.sock_recv(caller, 20_000):
                got += piece
                await asyncio.sleep(0.01)
    assert got.endswith(b"\r\n0\r\n\r\n")
    assert got.count(b"x") >= size


async def test_a_drain_does_not_wait_for_who_is_refused_and_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "SILENT_SECONDS", 0.05)
    async with asyncio.timeout(10):
        async with wrapping() as wrapped:
            reader, writer = await asyncio.open_connection("127.0.0.1", wrapped.monitor.port)
            writer.write(b"POST /v1/batch/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
            head = await read_head(reader)
            assert head is not None
            assert head.status == 413
        writer.close()


async def test_a_drain_of_no_time_waits_for_nobody() -> None:
    asked_it = asyncio.Event()

    async def silent(asked: Asked, request: web.Request) -> web.StreamResponse:
        asked_it.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(10):
        async with wrapping(drain_seconds=0) as wrapped:
            wrapped.upstream.answering = silent
            async with one_that_asks(wrapped.monitor, "/v1/chat/completions", asked_for()):
                await asked_it.wait()
                await wrapped.monitor.monitor.close()


@pytest.mark.parametrize("rest", [b"", b"not the size of a chunk\r\n"], ids=["whole", "malformed"])
async def test_a_drain_takes_the_rest_of_what_is_sent(wrapped: Wrapped, rest: bytes) -> None:
    wrapped.upstream.answering = says(SAID)
    content = orjson.dumps(asked_for())
    reader, writer = await asyncio.open_connection("127.0.0.1", wrapped.monitor.port)
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    writer.write("\r\n".join([*lines, "Transfer-Encoding: chunked", "", f"{len(content):x}\r\n"]).encode())
    writer.write(content[:10])
    await until(lambda: wrapped.monitor.monitor.grading.grading._room.held > 0)
    [caller] = held(wrapped.monitor)
    closing = asyncio.create_task(wrapped.monitor.monitor.close())
    await until(lambda: caller._close)
    writer.write(content[10:] + b"\r\n" + (rest or b"0\r\n\r\n"))
    async with asyncio.timeout(10):
        head = await read_head(reader)
        await closing
    assert (head.status if head is not None else None) == (None if rest else 200)
    writer.close()
    await writer.wait_closed()


async def test_a_drain_takes_its_time_once(wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp takes what it is given for the handler, and again for the task that has run it."""
    asked_it, given = asyncio.Event(), list[float | None]()
    shutdown = RequestHandler.shutdown

    async def silent(asked: Asked, request: web.Request) -> web.StreamResponse:
        asked_it.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def noted(connection: RequestHandler, timeout: float | None = None) -> None:  # noqa: ASYNC109
        given.append(timeout)
        await shutdown(connection, timeout)

    monkeypatch.setattr(RequestHandler, "shutdown", noted)
    wrapped.upstream.answering = silent
    async with one_that_asks(wrapped.monitor, "/v1/chat/completions", asked_for()), asyncio.timeout(10):
        await asked_it.wait()
        [caller] = held(wrapped.monitor)
        await caller.shutdown(0.05)
    # until it is over, which it is not; and then at once
    assert given == [None, 0.001]


async def test_the_head_of_the_next_request_is_not_held_either(wrapped: Wrapped) -> None:
    asked_it, go = asyncio.Event(), asyncio.Event()

    async def slowly(asked: Asked, request: web.Request) -> web.StreamResponse:
        asked_it.set()
        await go.wait()
        return await whole({"object": "list", "data": []})

    wrapped.upstream.answering = slowly
    reader, writer = await asyncio.open_connection("127.0.0.1", wrapped.monitor.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    await asked_it.wait()
    [caller] = held(wrapped.monitor)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + 3 * (b"X-More: " + b"x" * 30_000 + b"\r\n"))
    await until(lambda: caller._close)
    go.set()
    head = await read_head(reader)
    assert head is not None
    assert head.status == 200
    await read_content(reader, head, to_end=False)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_head_without_an_end_is_not_held(wrapped: Wrapped) -> None:
    line = b"X-More: " + b"x" * 30_000 + b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", wrapped.monitor.port)
    await until(lambda: connected(wrapped.monitor) == 1)
    [caller] = held(wrapped.monitor)
    for _ in range(3):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + line)
        await until(lambda: caller._head > len(line))
        writer.write(b"\r\n")
        head = await read_head(reader)
        assert head is not None
        assert head.status == 200
        await read_content(reader, head, to_end=False)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + 3 * line)
    head = await read_head(reader)
    assert head is not None
    assert head.status == 431
    content = orjson.loads(await read_content(reader, head, to_end=False))
    assert content["error"]["code"] == "fields-too-large"
    # what it still sends is read
    writer.write(LARGE.encode())
    await writer.drain()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


# -- where descriptors run out


async def at_end(caller: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    async with asyncio.timeout(10):
        return await caller[0].read() == b""


async def asked(caller: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str = "/healthz") -> int:
    reader, writer = caller
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await read_head(reader)
    assert head is not None
    await read_content(reader, head, to_end=False)
    return head.status


async def test_who_never_asked_makes_room_and_then_who_was_idle_longest(
    wrapped: Wrapped, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "ARRIVAL_SECONDS", 0)
    monitor = wrapped.monitor
    monitor.monitor.room.most = 3

    async def come(number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        caller = await asyncio.open_connection("127.0.0.1", monitor.port)
        await until(lambda: connected(monitor) == number)
        return caller

    first, second, third = [await come(number) for number in (1, 2, 3)]
    assert [await asked(caller) for caller in (first, second)] == [200, 200]
    fourth = await asyncio.open_connection("127.0.0.1", monitor.port)
    assert await at_end(third)
    assert await asked(fourth) == 200
    fifth = await asyncio.open_connection("127.0.0.1", monitor.port)
    assert await at_end(first)
    for caller in (second, fourth, fifth):
        assert await asked(caller) == 200
    for _, writer in (first, second, third, fourth, fifth):
        writer.close()
        await writer.wait_closed()
    assert [record.levelname for record in caplog.records if "file descriptors" in record.message] == ["ERROR"]


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0)


async def test_who_has_just_come_makes_no_room_for_who_comes_next(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands who come at once each would be cut for the next, with its request unread."""
    monkeypatch.setattr(room, "LOOK_SHARE", 0)
    monkeypatch.setattr(callers, "ARRIVAL_SECONDS", 1000)
    monitor = wrapped.monitor
    monitor.monitor.room.most = 4
    come: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    while len(come) < 6:
        come.append(await asyncio.open_connection("127.0.0.1", monitor.port))
        await until(lambda: connected(monitor) == len(come))
    # half as many are listened to as there is room for: of more the first are answered unheard
    come += [await asyncio.open_connection("127.0.0.1", monitor.port) for _ in range(2)]
    for reader, writer in come[4:6]:
        head = await read_head(reader)
        assert head is not None
        assert (head.status, head.get("Retry-After")) == (503, "1")
        content = orjson.loads(await read_content(reader, head, to_end=False))
        assert content["error"]["code"] == "out-of-descriptors"
        assert await reader.read() == b""
        # what it still sends is read
        writer.write(LARGE.encode())
        await writer.drain()
    assert connected(monitor) == 8
    # who was refused first makes room
    come.append(await asyncio.open_connection("127.0.0.1", monitor.port))
    with pytest.raises(ConnectionError):
        await send_for_ever(come[4][1])
    assert connected(monitor) == 8
    for caller in (*come[:4], *come[7:]):
        # an operator's
        assert await asked(caller) == 200
    for _, writer in come:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_who_came_as_one_too_many_is_served_once_there_is_room(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_SHARE", 0)
    monkeypatch.setattr(callers, "ARRIVAL_SECONDS", 1000)

    async def models(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"object": "list", "data": []})

    wrapped.upstream.answering = models
    monitor = wrapped.monitor
    monitor.monitor.room.most = 1

    within = await asyncio.open_connection("127.0.0.1", monitor.port)
    await until(lambda: connected(monitor) == 1)
    one = await asyncio.open_connection("127.0.0.1", monitor.port)
    assert await asked(one) == 200
    assert [caller.too_many for caller in held(monitor)] == [False, True]
    within[1].close()
    await within[1].wait_closed()
    await until(lambda: connected(monitor) == 1)
    assert await asked(one, "/v1/models") == 200
    one[1].close()
    await one[1].wait_closed()


async def test_who_is_refused_may_send_as_long_as_who_is_turned_away_unheard(wrapped: Wrapped) -> None:
    """Of aiohttp it has 10 s; slower than that it would lose the answer."""
    caller = await asyncio.open_connection("127.0.0.1", wrapped.monitor.port)
    assert await asked(caller) == 200
    [connection] = held(wrapped.monitor)
    assert connection._lingering_time == ending.LINGER_SECONDS
    caller[1].close()
    await caller[1].wait_closed()


async def test_whose_request_is_about_to_be_handled_makes_no_room(wrapped: Wrapped) -> None:
    go = asyncio.Event()

    async def slowly(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole({"object": "list", "data": []})

    wrapped.upstream.answering = slowly
    reader, writer = await asyncio.open_connection("127.0.0.1", wrapped.monitor.port)
    assert await asked((reader, writer)) == 200
    [caller] = held(wrapped.monitor)
    await until(lambda: caller.idle)
    caller.data_received(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        while not wrapped.upstream.asked:
            assert not caller.idle
            await asyncio.sleep(0)
    go.set()
    head = await read_head(reader)
    assert head is not None
    assert head.status == 200
    writer.close()
    await writer.wait_closed()


async def test_whose_request_has_not_been_read_makes_no_room(wrapped: Wrapped) -> None:
    """However long the loop was busy with others."""
    caller = await asyncio.open_connection("127.0.0.1", wrapped.monitor.port)
    assert await asked(caller) == 200
    [connection] = held(wrapped.monitor)
    await until(lambda: connection.idle)
    connection._connected.pause_reading()
    asking = asyncio.create_task(asked(caller))
    await until(lambda: not connection.idle)
    connection._connected.resume_reading()
    assert await asking == 200
    await until(lambda: connection.idle)
    caller[1].close()
    await caller[1].wait_closed()


async def test_where_all_are_busy_the_metrics_are_answered_alone(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_SHARE", 0)
    go = asyncio.Event()

    async def slowly(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        answered: web.StreamResponse = await says(SAID)(asked, request)
        return answered

    wrapped.upstream.answering = slowly
    wrapped.monitor.monitor.room.most = 2
    async with wrapped.sdk() as sdk:
        busy = [asyncio.create_task(sdk.chat.completions.create(**asked_for(seed=number))) for number in range(2)]
        await until(lambda: len(wrapped.upstream.asked) == 2)
        for path in ("/v1/chat/completions", "/api/queries/x"):
            refused = await wrapped.monitor.ask("POST", path, json={})
            assert (refused.status, refused.fields["Retry-After"]) == (503, "1")
            assert refused.document["error"]["code"] == "out-of-descriptors"
            await until(lambda: connected(wrapped.monitor) == 2)
        for path in ("/healthz", "/readyz", "/api/metrics/database-pool", "/api/flags"):
            assert (await wrapped.monitor.get(path)).status == 200
        told = (await wrapped.monitor.get("/metrics")).content
        assert b"siding_callers 3.0" in told
        assert b"siding_callers_max 2.0" in told
        go.set()
        assert len(await asyncio.gather(*busy)) == 2
    assert len(wrapped.upstream.asked) == 2
