"""The client to the origin: its accounts after every way an exchange can end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable

import pytest
import trustme

from proxy import errors
from proxy.origin import client as module
from proxy.origin.client import OriginClient, OriginResponse
from proxy.policy.messages import Fields, ResponseHead
from tests.support import PATIENCE, Origin, Turn, no_descriptor_left, until

FIELDS = Fields([("Host", "app.example")])


@contextlib.asynccontextmanager
async def client_of(
    url: str,
    *,
    connect_timeout: float = 5.0,
    idle_timeout: float = 5.0,
    max_connections: int = 1024,
    max_waiting: int = 10_000,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[OriginClient]:
    client = OriginClient(
        url,
        connect_timeout=connect_timeout,
        idle_timeout=idle_timeout,
        max_connections=max_connections,
        max_waiting=max_waiting,
        ssl_context=ssl_context,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield client
    finally:
        await client.close()


async def ask(client: OriginClient, method: str = "GET", target: str = "/a") -> OriginResponse:
    return await client.request(method, target, FIELDS, None, None)


async def read_all(response: OriginResponse) -> bytes:
    pieces = []
    try:
        while piece := await response.read():
            pieces.append(piece)
    finally:
        response.close()
    return b"".join(pieces)


def at_rest(client: OriginClient) -> bool:
    return client.in_use == 0 and client.waiting == 0 and not client._busy


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


# -- framing, whatever the pieces the network makes of it

ANSWERS: dict[str, tuple[bytes, bytes]] = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n",
        b"hello",
    ),
    "until-close": (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello"),
    "http-1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "interim": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", b"a"),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "empty-reason": (b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\na", b"a"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_cut_at_every_octet_reads_the_same(origin: Origin, name: str) -> None:
    wire, expected = ANSWERS[name]
    cuts = iter(range(1, len(wire)))

    async def script(turn: Turn) -> None:
        cut = next(cuts)
        turn.writer.write(wire[:cut])
        await turn.writer.drain()
        await asyncio.sleep(0)
        turn.writer.write(wire[cut:])
        if name == "until-close":
            turn.writer.close()

    origin.script = script
    async with client_of(origin.url) as client:
        for _ in range(len(wire) - 1):
            assert await read_all(await ask(client)) == expected
        assert at_rest(client)


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (b"", errors.OriginReset),
        (b"HTTP/1.1 200 OK\r\nContent-Le", errors.OriginReset),
        (b"hello\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", errors.OriginMalformed),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            errors.OriginMalformed,
        ),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, errors.OriginMalformed),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nhi", errors.OriginMalformed),
        (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", errors.OriginMalformed),
        (b"HTTP/1.1 199 X\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 204 No Content\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 105 X\r\nContent-Length: 27\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", errors.OriginMalformed),
        (
            b"HTTP/1.1 199 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            errors.OriginMalformed,
        ),
    ],
)
async def test_heads_that_are_no_answer(origin: Origin, wire: bytes, fault: type[Exception]) -> None:
    async def script(turn: Turn) -> None:
        turn.writer.write(wire)
        turn.writer.close()

    origin.script = script
    async with client_of(origin.url) as client:
        with pytest.raises(fault):
            await ask(client, "POST")
        assert at_rest(client)
        assert client.idle == 0


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
)
async def test_content_cut_short_is_never_taken_for_complete(origin: Origin, wire: bytes) -> None:
    async def script(turn: Turn) -> None:
        turn.writer.write(wire)
        turn.writer.close()

    origin.script = script
    async with client_of(origin.url) as client:
        response = await ask(client)
        with pytest.raises(errors.OriginReset):
            await read_all(response)
        assert at_rest(client)


async def test_nonsense_after_the_head_is_a_fault(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await turn.send(b"zz\r\n")

    origin.script = script
    async with client_of(origin.url) as client:
        with pytest.raises(errors.OriginMalformed):
            await read_all(await ask(client))


async def test_interim_responses_are_told(origin: Origin) -> None:
    told: list[ResponseHead] = []

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await turn.answer("a")

    origin.script = script
    async with client_of(origin.url) as client:
        response = await client.request("GET", "/a", FIELDS, None, None, told.append)
        assert await read_all(response) == b"a"
    assert [(head.status, head.fields.get("link")) for head in told] == [(103, "</a>"), (100, None)]


# -- connections that are kept


async def test_a_connection_is_used_again(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        for _ in range(3):
            assert await read_all(await ask(client)) == b"hello"
            assert client.idle == 1
    assert origin.connections == 1


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb",
    ],
)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(origin: Origin, wire: bytes) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(wire)

    origin.script = script
    async with client_of(origin.url) as client:
        for _ in range(2):
            with contextlib.suppress(errors.OriginMalformed):
                assert await read_all(await ask(client)) == b"a"
        assert at_rest(client)
    assert origin.connections == 2


async def test_what_comes_unasked_ends_an_idle_connection(origin: Origin) -> None:
    pushed = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.answer("a")
        if len(origin.requests) == 1:
            await pushed.wait()
            await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    origin.script = script
    async with client_of(origin.url) as client:
        assert await read_all(await ask(client)) == b"a"
        pushed.set()
        await until(lambda: client.idle == 0)
        assert await read_all(await ask(client)) == b"a"


async def test_content_of_an_answer_to_head_is_not_the_next_answer(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there before the next request is sent, and has not been read yet."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.0)
    writers: list[asyncio.StreamWriter] = []

    async def script(turn: Turn) -> None:
        writers.append(turn.writer)
        if turn.request.method == "HEAD":
            await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n")
        else:
            await turn.answer("right")

    origin.script = script
    async with client_of(origin.url) as client:
        (await ask(client, "HEAD")).close()
        assert client.idle == 1
        writers[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
        assert await read_all(await ask(client)) == b"right"
        assert at_rest(client)


@pytest.mark.parametrize("first", ["at once", "while idle"])
async def test_after_content_of_an_answer_to_head_none_is_waited_for(
    origin: Origin, first: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next time it comes only when the next request is there: what came then would be its answer."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.0)
    late, wrong = set(), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    writers: list[asyncio.StreamWriter] = []

    async def script(turn: Turn) -> None:
        writers.append(turn.writer)
        if turn.request.method == "HEAD":
            await turn.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n" + wrong * (turn.request.target == "/first")
            )
            late.add(turn.writer)
        else:
            await turn.send(wrong * (turn.writer in late))
            await turn.answer("right")

    origin.script = script
    async with client_of(origin.url) as client:
        (await ask(client, "HEAD", "/first" if first == "at once" else "/a")).close()
        if first == "while idle":
            writers[0].write(wrong)
            await until(lambda: client.idle == 0)
        for _ in range(2):
            (await ask(client, "HEAD")).close()
            assert await read_all(await ask(client)) == b"right"
        assert at_rest(client)
    assert len(caplog.records) == 1


async def test_an_answer_left_before_its_end_ends_its_connection(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")

    origin.script = script
    async with client_of(origin.url) as client:
        (await ask(client)).close()
        assert at_rest(client)
        assert client.idle == 0


async def test_what_is_unread_when_the_client_closes_is_not_taken_for_complete(origin: Origin) -> None:
    origin.respond(b"hello")
    async with client_of(origin.url) as client:
        response = await ask(client)
        connection = response._connection
        assert connection is not None
        await until(lambda: connection.complete)
    with pytest.raises(errors.OriginReset):
        await response.read()


async def test_after_head_a_connection_rests_a_moment(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are used meanwhile, and it is itself afterwards."""
    monkeypatch.setattr(module, "HEAD_SECONDS", PATIENCE)

    async def script(turn: Turn) -> None:
        if turn.request.method == "HEAD":
            heads.add(turn.writer)
        elif turn.writer in heads:
            await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
        await turn.answer("right")

    heads: set[asyncio.StreamWriter] = set()
    origin.script = script
    async with client_of(origin.url) as client:
        for _ in range(2):
            (await ask(client, "HEAD")).close()
            assert await read_all(await ask(client)) == b"right"
            assert await read_all(await ask(client)) == b"right"
        assert (origin.connections, client.idle) == (3, 3)
        monkeypatch.setattr(module, "HEAD_SECONDS", 0.0)
        for _ in range(3):
            (await ask(client, "HEAD")).close()
        assert origin.connections == 3


async def test_a_head_answer_with_a_length_leaves_the_connection_usable(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.0)
    async with client_of(origin.url) as client:
        for _ in range(3):
            response = await ask(client, "HEAD")
            assert response.length == 5
            assert await read_all(response) == b""
    assert origin.connections == 1


async def test_idle_connections_are_closed_in_time(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    async with client_of(origin.url) as client:
        await read_all(await ask(client))
        assert client.idle == 1
        await until(lambda: client.idle == 0)


async def test_the_origins_announced_life_is_believed(origin: Origin) -> None:
    origin.respond("a", "Keep-Alive: timeout=1")
    async with client_of(origin.url) as client:
        await read_all(await ask(client))
        await read_all(await ask(client))
    assert origin.connections == 2


# -- one safe retry


def _closing_after_the_first(origin: Origin) -> None:
    """Answer once on each connection, then close it when the next request arrives."""
    seen: set[asyncio.StreamWriter] = set()

    async def script(turn: Turn) -> None:
        if turn.writer in seen:
            turn.writer.close()
            return
        seen.add(turn.writer)
        await turn.answer("a")

    origin.script = script


async def test_an_idempotent_request_is_sent_once_more(origin: Origin) -> None:
    _closing_after_the_first(origin)
    async with client_of(origin.url) as client:
        await read_all(await ask(client))
        assert await read_all(await ask(client)) == b"a"
        assert at_rest(client)
    assert len(origin.requests) == 3


async def test_an_unrepeatable_request_is_not(origin: Origin) -> None:
    _closing_after_the_first(origin)
    async with client_of(origin.url) as client:
        await read_all(await ask(client))
        with pytest.raises(errors.OriginReset):
            await ask(client, "POST")
        assert at_rest(client)
    assert len(origin.requests) == 2


async def test_a_request_on_a_new_connection_is_not_sent_again(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        turn.writer.close()

    origin.script = script
    async with client_of(origin.url) as client:
        with pytest.raises(errors.OriginReset):
            await ask(client)
    assert len(origin.requests) == 1


async def test_streamed_content_is_not_sent_again(origin: Origin) -> None:
    _closing_after_the_first(origin)
    async with client_of(origin.url) as client:
        await read_all(await ask(client))
        with pytest.raises(errors.OriginReset):
            await client.request("PUT", "/a", FIELDS, pieces(b"a"), 1)


# -- a bound on connections


async def test_requests_wait_their_turn(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await go.wait()
        await turn.answer(turn.request.target)

    origin.script = script
    async with client_of(origin.url, max_connections=2) as client:
        tasks = [asyncio.create_task(ask(client, target=f"/{number}")) for number in range(6)]
        await until(lambda: client.waiting == 4)
        assert client.in_use == 2
        go.set()
        answers = [await read_all(await task) for task in tasks]
        assert answers == [f"/{number}".encode() for number in range(6)]
        assert at_rest(client)
    assert origin.connections == 2


async def test_the_queue_is_bounded_and_so_is_the_wait(origin: Origin) -> None:
    async with client_of(origin.url, max_connections=1, max_waiting=1, connect_timeout=0.05) as client:
        held = await ask(client)
        waiting = asyncio.create_task(ask(client))
        await until(lambda: client.waiting == 1)
        with pytest.raises(errors.OriginOverloaded, match="try again"):
            await ask(client)
        with pytest.raises(errors.OriginOverloaded, match="stayed in use"):
            await waiting
        held.close()
        assert at_rest(client)
        assert await read_all(await ask(client)) == b"hello"


async def test_who_gives_up_waiting_holds_nobody_up(origin: Origin) -> None:
    async with client_of(origin.url, max_connections=1) as client:
        held = await ask(client)
        tasks = [asyncio.create_task(ask(client)) for _ in range(3)]
        await until(lambda: client.waiting == 3)
        tasks[0].cancel()
        held.close()
        tasks[1].cancel()
        assert await read_all(await tasks[2]) == b"hello"
        assert at_rest(client)


# -- cancelled at every stage


async def test_cancelled_while_connecting(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        task = asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(client)


@pytest.mark.parametrize("sent", ["", "HTTP/1.1 200 OK\r\nContent-Le"])
async def test_cancelled_while_the_origin_thinks(origin: Origin, sent: str) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send(sent)
        asked.set()
        with contextlib.suppress(ConnectionError):
            await turn.reader.read(1)
        gone.set()

    origin.script = script
    async with client_of(origin.url) as client:
        task = asyncio.create_task(ask(client))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(client)
        assert client.idle == 0
        await gone.wait()


async def test_cancelled_while_reading(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")

    origin.script = script
    async with client_of(origin.url) as client:
        response = await ask(client)
        task = asyncio.create_task(read_all(response))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(client)
        assert client.idle == 0


async def test_settling_loses_nothing(origin: Origin) -> None:
    more = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await more.wait()
        await turn.send("five")

    origin.script = script
    async with client_of(origin.url) as client:
        response = await ask(client)
        assert await response.settle(100, 0.01) is None
        assert await response.settle(3, 1.0) is None
        more.set()
        assert await response.settle(100, 5.0) == b"hellofive"
        assert await response.read() == b""
        response.close()
        assert client.idle == 1


# -- silence


async def test_a_silent_origin_times_out(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.reader.read(1)

    origin.script = script
    async with client_of(origin.url, idle_timeout=0.05) as client:
        with pytest.raises(errors.OriginTimeout, match=r"0\.05 s"):
            await ask(client)
        assert at_rest(client)


async def test_silence_within_content_times_out(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await turn.reader.read(1)

    origin.script = script
    async with client_of(origin.url, idle_timeout=0.05) as client:
        with pytest.raises(errors.OriginTimeout):
            await read_all(await ask(client))


async def test_nobody_listening() -> None:
    server = await Origin().start()
    await server.stop()
    async with client_of(server.url) as client:
        with pytest.raises(errors.OriginRefused, match="refused"):
            await ask(client)
        assert at_rest(client)


async def test_a_name_that_does_not_exist(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of("http://nowhere.invalid:80") as client:
        with pytest.raises(errors.OriginRefused, match="host name cannot be resolved"):
            await ask(client)
    (told,) = caplog.messages
    assert told.startswith("cannot connect to the origin at nowhere.invalid:80: ")


async def test_an_origin_that_accepts_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address: tuple[str, int] = full.getsockname()
        for _ in range(4):
            # whom it has no room for hears nothing
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        async with client_of(f"http://127.0.0.1:{address[1]}", connect_timeout=0.1) as client:
            with pytest.raises(errors.OriginTimeout, match=r"accepted no connection within 0\.1 s"):
                await ask(client)
    (told,) = caplog.messages
    assert told.startswith(f"cannot connect to the origin at 127.0.0.1:{address[1]}: ")
    assert told.endswith("accepted no connection within 0.1 s")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_without_a_descriptor_it_is_not_the_origin_that_refuses(
    origin: Origin, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    async with client_of(f"http://{host}:{origin.port}") as client:
        with no_descriptor_left():
            for _ in range(2):
                with pytest.raises(errors.OutOfDescriptors):
                    await ask(client)
        assert at_rest(client)
        assert await read_all(await ask(client)) == b"hello"
    assert caplog.messages == ["Siding is out of file descriptors and cannot connect to the origin: raise their limit"]


@pytest.mark.parametrize(("again", "times"), [(60.0, 1), (0.0, 3)])
async def test_how_often_the_log_is_told_of_a_lasting_fault(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, again: float, times: int
) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", again)
    server = await Origin().start()
    await server.stop()
    async with client_of(server.url) as client:
        for _ in range(3):
            with pytest.raises(errors.OriginRefused):
                await ask(client)
    assert len(caplog.messages) == times


# -- content of requests


async def test_content_is_framed_as_it_is_known(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        await read_all(await client.request("PUT", "/a", FIELDS, b"whole", None))
        await read_all(await client.request("PUT", "/a", FIELDS, pieces(b"in", b"", b"pieces"), 8))
        await read_all(await client.request("PUT", "/a", FIELDS, pieces(b"in", b"", b"chunks"), None))
        await read_all(await client.request("PUT", "/a", FIELDS, b"", None))
        await read_all(await client.request("GET", "/a", FIELDS, None, None))
    framing = [(one.get("content-length"), one.get("transfer-encoding"), one.content) for one in origin.requests]
    assert framing == [
        ("5", None, b"whole"),
        ("8", None, b"inpieces"),
        (None, "chunked", b"inchunks"),
        ("0", None, b""),
        (None, None, b""),
    ]


async def test_content_that_fails_fails_the_request(origin: Origin) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise errors.MalformedRequest("the client talks nonsense")

    async with client_of(origin.url) as client:
        with pytest.raises(errors.MalformedRequest):
            await client.request("PUT", "/a", FIELDS, broken(), None)
        assert at_rest(client)


async def test_an_early_answer_does_not_wait_for_the_content(origin: Origin) -> None:
    origin.read_content = False
    never = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"abc"
        await never.wait()

    origin.respond("too much", status="413 Content Too Large")
    async with client_of(origin.url) as client:
        response = await client.request("PUT", "/a", FIELDS, endless(), None)
        assert response.head.status == 413
        assert await read_all(response) == b"too much"
        assert client.idle == 0


@pytest.mark.parametrize(("status", "content"), [("100 Continue", b"abc"), ("417 Expectation Failed", b"")])
async def test_content_is_held_back_for_a_continue(origin: Origin, status: str, content: bytes) -> None:
    origin.read_content = False
    sent: list[bytes] = []

    async def script(turn: Turn) -> None:
        if status.startswith("100"):
            await turn.send(f"HTTP/1.1 {status}\r\n\r\n")
            sent.append(await turn.content())
            await turn.answer("ok")
        else:
            await turn.answer("no", status=status)

    origin.script = script
    fields = FIELDS.adding(("Expect", "100-continue"))
    async with client_of(origin.url) as client:
        response = await client.request("PUT", "/a", fields, pieces(b"abc"), 3)
        await read_all(response)
    assert b"".join(sent) == content


# -- TLS


@contextlib.asynccontextmanager
async def secure_origin() -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """An https origin on 127.0.0.1, and a context that trusts it."""
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trusting)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], trusting
    finally:
        server.close()


async def test_a_trusted_certificate() -> None:
    async with (
        secure_origin() as (port, trusting),
        client_of(f"https://127.0.0.1:{port}", ssl_context=trusting) as client,
    ):
        for _ in range(2):
            assert await read_all(await ask(client)) == b"secret"
        assert client.idle == 1


async def test_a_certificate_nobody_vouches_for() -> None:
    async with secure_origin() as (port, _), client_of(f"https://127.0.0.1:{port}") as client:
        with pytest.raises(errors.OriginRefused, match="TLS"):
            await ask(client)
        assert at_rest(client)


async def test_a_certificate_for_another_name() -> None:
    async with (
        secure_origin() as (port, trusting),
        client_of(f"https://localhost:{port}", ssl_context=trusting) as client,
    ):
        with pytest.raises(errors.OriginRefused, match="TLS"):
            await ask(client)


async def test_a_port_that_accepts_and_says_nothing_of_tls(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with client_of(f"https://127.0.0.1:{port}", connect_timeout=0.2) as client:
            with pytest.raises(errors.OriginTimeout, match=r"did not agree on TLS within 0\.2 s"):
                await ask(client)
            assert at_rest(client)
    assert [f"127.0.0.1:{port}" in told for told in caplog.messages] == [True]


# -- the end


async def test_closing_fails_what_is_under_way(origin: Origin) -> None:
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        asked.set()
        await turn.reader.read(1)

    origin.script = script
    async with client_of(origin.url) as client:
        task = asyncio.create_task(ask(client, "POST"))
        await asked.wait()
        await client.close()
        with pytest.raises(errors.OriginReset):
            await task
        with pytest.raises(errors.OriginRefused, match="stopping"):
            await ask(client)


@pytest.mark.parametrize("use", [lambda response: response.read(), lambda response: response.settle(1, 1)])
async def test_a_closed_response_is_not_read(origin: Origin, use: Callable[[OriginResponse], object]) -> None:
    async with client_of(origin.url) as client:
        response = await ask(client)
        response.close()
        response.close()
        with pytest.raises(RuntimeError, match="closed"):
            await use(response)  # type: ignore[misc]
        assert at_rest(client)


# -- a spare connection for who comes while all are in use


async def test_who_finds_every_connection_in_use_brings_another(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        busy = await ask(client)
        assert client.ask_now("GET", b"", lambda _: False, lambda _: None, time.monotonic()) is None
        await until(lambda: client.idle == 1)
        assert client.in_use == 1
        busy.close()
    assert at_rest(client)


async def test_nobody_brings_one_while_none_is_in_use_or_there_may_be_no_more(origin: Origin) -> None:
    async with client_of(origin.url, max_connections=1) as client:
        assert client.ask_now("GET", b"", lambda _: False, lambda _: None, time.monotonic()) is None
        assert client._spare is None
        busy = await ask(client)
        assert client.ask_now("GET", b"", lambda _: False, lambda _: None, time.monotonic()) is None
        assert client._spare is None
        busy.close()


async def test_a_spare_connection_that_cannot_be_had_is_not_tried_for_again_at_once(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        busy = await ask(client)
        client._port = 1
        assert client.ask_now("GET", b"", lambda _: False, lambda _: None, time.monotonic()) is None
        await until(lambda: client._spare is None)
        assert client.idle == 0
        assert client.ask_now("GET", b"", lambda _: False, lambda _: None, time.monotonic()) is None
        assert client._spare is None
        busy.close()
    assert at_rest(client)


async def test_closing_ends_a_connection_that_is_being_made(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        busy = await ask(client)
        assert client.ask_now("GET", b"", lambda _: False, lambda _: None, time.monotonic()) is None
        making = client._spare
        assert making is not None
        busy.close()
        await client.close()
        assert making.done()
        assert client.idle == 0
