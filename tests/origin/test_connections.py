"""Connections to the origin: used again where they can be trusted, with one safe retry, bounded, and one to spare."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from proxy import errors
from proxy.origin import client as module
from tests.origin.support import FIELDS, ask, at_rest, client_of, pieces, read_all
from tests.support import PATIENCE, Origin, Turn, until

# -- connections that are kept


async def test_a_connection_is_used_again(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        for _ in range(3):
            assert await read_all(await ask(client)) == b"hello"
            assert client.idle == 1
    assert origin.connections == 1


async def test_content_without_meaning_ends_no_connection_that_others_use(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        assert await read_all(await ask(client)) == b"hello"
        for _ in range(2):
            response = await client.request("DELETE", "/a", FIELDS, b"{}", 2)
            assert await read_all(response) == b"hello"
            assert client.idle == 1
        assert await read_all(await ask(client)) == b"hello"
    assert origin.connections == 3


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


async def test_after_content_of_an_answer_to_head_those_that_rest_are_not_used_either(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.0)
    heads: list[asyncio.StreamWriter] = []
    both, wrong = asyncio.Event(), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"

    async def script(turn: Turn) -> None:
        if turn.request.method == "HEAD":
            heads.append(turn.writer)
            if len(heads) == 2:
                both.set()
            await both.wait()
            await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n")
        else:
            await turn.send(wrong * (turn.writer in heads))
            await turn.answer("right")

    origin.script = script
    async with client_of(origin.url) as client:
        for response in await asyncio.gather(ask(client, "HEAD"), ask(client, "HEAD")):
            response.close()
        assert client.idle == 2
        heads[0].write(wrong)
        await until(lambda: client.idle < 2)
        assert await read_all(await ask(client)) == b"right"
        assert at_rest(client)


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


async def test_the_origin_may_announce_any_life(origin: Origin) -> None:
    """Python reads no whole number of more than 4300 digits."""
    origin.respond("a", f"Keep-Alive: timeout={'9' * 5000}")
    async with client_of(origin.url) as client:
        for _ in range(2):
            assert await read_all(await ask(client)) == b"a"
        assert at_rest(client)
    assert origin.connections == 1


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
