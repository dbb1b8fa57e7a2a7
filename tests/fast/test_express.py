"""Requests that pass without a task, when things go wrong or change: nobody is failed, and nothing is left behind."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from proxy.policy.passing import FIRST_SPAN, Replies
from proxy.server.express import Passing
from proxy.server.protocol import EARLY_BYTES
from tests.fast.passing import (
    ANSWERS,
    BYPASS,
    DATE,
    GET,
    JSON,
    LONG,
    POST,
    RULE,
    TEXT,
    begun,
    connection_of,
    nothing_left,
    reply,
    usual,
)
from tests.fast.sides import both, server_of, slowed
from tests.support import PATIENCE, Client, Origin, Proxy, Turn, running_proxy, until

# -- origins that fail


def taken(proxy: Proxy) -> Passing:
    passing = connection_of(proxy)._passing
    assert passing is not None
    return passing


async def silent_of_b(turn: Turn) -> None:
    """An origin that has its usual answer to everything else."""
    if turn.request.target == "/b":
        await turn.reader.read(1)
    else:
        await usual(turn)


async def who_waits_for_b(origin: Origin, proxy: Proxy) -> Client:
    """A client whose request of it passes, and has arrived."""
    client = await proxy.connect()
    await begun(client)
    await client.send(POST.replace(b"/a", b"/b"))
    await until(lambda: len(origin.requests) == 3)
    assert taken(proxy) is not None
    return client


@pytest.mark.parametrize(("method", "status", "times"), [("POST", 502, 1), ("PATCH", 502, 1), ("PUT", 200, 2)])
async def test_what_cannot_be_repeated_is_sent_once(origin: Origin, method: str, status: int, times: int) -> None:
    number = itertools.count()

    async def script(turn: Turn) -> None:
        if turn.request.target == "/b" and next(number) == 0:
            turn.writer.close()
        else:
            await usual(turn)

    origin.script = script
    content = b"x" * 600
    async with running_proxy(origin.url, max_request_bytes=1000) as proxy:
        client = await proxy.connect()
        await begun(client)
        answer = await client.request(method, "/b", content=content)
        await nothing_left(proxy)
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert answer.status == status
    assert [request.content for request in origin.requests if request.target == "/b"] == [content] * times
    assert f"siding_request_bytes_total {8 + len(content):.1f}\n" in metrics


async def test_an_origin_that_is_silent(origin: Origin) -> None:
    origin.script = silent_of_b
    async with running_proxy(origin.url, upstream_timeout_ms=150) as proxy:
        client = await proxy.connect()
        await begun(client)
        answer = await client.request("POST", "/b", content=b"x")
        await nothing_left(proxy)
        assert answer.status == 504
        assert answer.get("cache-status") == "siding; fwd=method"
        assert (await client.request("POST", "/a", content=b"x")).status == 200


async def test_content_that_comes_slowly_goes_on_as_it_comes(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        if turn.request.target != "/b":
            await usual(turn)
            return
        await turn.send(f"HTTP/1.1 200 OK\r\n{DATE}\r\nContent-Length: 10\r\n\r\nfirst")
        await go.wait()
        await turn.send("later")

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await begun(client)
        await client.send(POST.replace(b"/a", b"/b"))
        head = await client.head()
        assert head.status == 200
        assert await client.reader.readexactly(5) == b"first"
        go.set()
        assert await client.reader.readexactly(5) == b"later"
        await nothing_left(proxy)
        assert origin.connections == 1


async def test_a_stream_of_chunks_is_not_held_up_each_time(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is waited for as long as answers like it come whole."""
    monkeypatch.setattr("proxy.server.express.SMALL_SECONDS", PATIENCE)
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        head = f"HTTP/1.1 200 OK\r\n{DATE}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
        if turn.request.target != "/whole":
            await turn.send(head)
            await go.wait()
            go.clear()
            head = ""
        await turn.send(head + "5\r\nlater\r\n0\r\n\r\n")

    async def is_waited_for() -> None:
        await client.send(POST)
        await until(lambda: connection_of(proxy)._passing is not None and taken(proxy)._late is not None)
        go.set()
        assert (await client.response()).content == b"firstlater"

    async def comes_piece_by_piece() -> None:
        await client.send(POST)
        await client.reader.readuntil(b"first\r\n")
        go.set()
        await client.reader.readuntil(b"later\r\n0\r\n\r\n")

    origin.script = script
    monkeypatch.setattr("proxy.server.express.CHUNKS_SECONDS", PATIENCE)
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        for _ in range(2):
            assert (await client.request("POST", "/whole", content=b"body")).content == b"firstlater"
        for taken_for_streams in (FIRST_SPAN, 1):
            monkeypatch.setattr("proxy.server.express.CHUNKS_SECONDS", PATIENCE)
            await is_waited_for()
            monkeypatch.setattr("proxy.server.express.CHUNKS_SECONDS", 0.001)
            await comes_piece_by_piece()
            monkeypatch.setattr("proxy.server.express.CHUNKS_SECONDS", PATIENCE)
            for _ in range(taken_for_streams):
                await comes_piece_by_piece()
        assert (await client.request("POST", "/whole", host="a", content=b"body")).content == b"firstlater"
        await is_waited_for()
        await nothing_left(proxy)


# -- clients that leave


async def test_a_client_that_leaves_before_its_answer(origin: Origin) -> None:
    origin.script = silent_of_b
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await who_waits_for_b(origin, proxy)
        client.close()
        await nothing_left(proxy)
        assert proxy.worker._origin.idle == 0
        metrics = (await proxy.worker.metrics(""))[0].decode()
        assert 'siding_requests_total{method="POST",outcome="client-gone",route="other",status="none"} 1.0' in metrics


async def test_a_client_that_leaves_in_the_moment_its_request_is_handed_over(origin: Origin) -> None:
    """The handler's task is cancelled before it has begun: the origin's connection is let go of all the same."""
    origin.script = silent_of_b
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        await who_waits_for_b(origin, proxy)
        passing, connection = taken(proxy), connection_of(proxy)
        assert passing._connection is not None
        passing._serve_ordinarily(passing._connection)
        assert connection._task is not None
        connection._task.cancel()
        connection.force_close()
        await nothing_left(proxy)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ways", ["short", "ordinary"])
async def test_a_client_that_leaves_while_the_content_comes(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, method: str, ways: str
) -> None:
    """It is waited for, to be coded whole: the connection to the origin is let go of with the client."""
    monkeypatch.setattr("proxy.server.handing_on.SMALL_SECONDS", PATIENCE)
    monkeypatch.setattr("proxy.origin.fetch.SMALL_SECONDS", PATIENCE)
    monkeypatch.setattr("proxy.server.express.SMALL_SECONDS", 0.001)

    async def script(turn: Turn) -> None:
        head = reply(DATE, JSON, "Cache-Control: private", LONG, content=TEXT[:500])[0]
        await turn.send(head)
        if turn.request.target == "/a":
            await turn.send(TEXT[500:])
        else:
            await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        if ways == "ordinary":
            slowed(proxy)
        client = await proxy.connect()
        asked = b"%b %b HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
        for number in range(4):
            if number < 2:
                await client.send(asked % (method.encode(), b"/a"))
                await client.response()
            await client.send(asked % (method.encode(), b"/a?%d" % number))
            handling = proxy.worker.handler.requests
            await until(lambda: len(origin.requests) > 0 and origin.requests[-1].target.startswith("/a?"))
            await until(lambda: waits_for_content(proxy))
            client.close()
            client = await proxy.connect()
            await nothing_left(proxy)
            assert handling.count == 0


def waits_for_content(proxy: Proxy) -> bool:
    """Whether the first octets of an answer are there, and the handler has them."""
    return any(connection.head is not None for connection in proxy.worker._origin._busy)


async def test_whoever_goes_on_says_what_the_origin_was_told(origin: Origin, capfd: pytest.CaptureFixture[str]) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(ANSWERS["elsewhere"][0])

    origin.script = script
    async with running_proxy(origin.url, log_level="info", log_format="json") as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        for _ in range(4):
            await client.request("POST", "/a", content=b"x")
        await nothing_left(proxy)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    told = [(request.get("x-request-id"), request.get("traceparent")) for request in origin.requests]
    assert [(line["request_id"], line["traceparent"]) for line in lines] == told
    assert len(set(told)) == 4


# -- the connection


async def test_what_comes_early_waits_for_its_turn(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        if turn.request.target == "/b":
            await go.wait()
        await turn.answer(turn.request.content or turn.request.target, DATE)

    origin.script = script
    large = b"y" * 3 * EARLY_BYTES
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await who_waits_for_b(origin, proxy)
        head = b"PUT /c HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(large)
        sending = asyncio.create_task(client.send(POST.replace(b"body", b"next") + head + large + GET))
        await until(lambda: len(connection_of(proxy)._early) > EARLY_BYTES)
        transport = connection_of(proxy).transport
        assert transport is not None
        assert not transport.is_reading()
        go.set()
        answers = [(await client.response()).content for _ in range(4)]
        await sending
        assert answers == [b"body", b"next", large, b"/a"]
        await nothing_left(proxy)


async def test_a_drain_waits_for_it_and_ends_the_connection(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        if turn.request.target == "/b":
            await go.wait()
        await usual(turn)

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await who_waits_for_b(origin, proxy)
        draining = asyncio.create_task(proxy.worker.drain())
        await until(lambda: connection_of(proxy).closing)
        assert not draining.done()
        go.set()
        answer = await client.response()
        assert (answer.content, answer.get("connection")) == (b"hello", "close")
        assert await client.at_end()
        await draining
        await nothing_left(proxy)


async def test_a_drain_that_waited_long_enough_cuts_it(origin: Origin) -> None:
    origin.script = silent_of_b
    async with running_proxy(origin.url, drain_seconds=0.1) as proxy, asyncio.timeout(PATIENCE):
        client = await who_waits_for_b(origin, proxy)
        await proxy.worker.drain()
        assert await client.at_end()
        await nothing_left(proxy)
        metrics = (await proxy.worker.metrics(""))[0].decode()
        assert 'siding_requests_total{method="POST",outcome="cut",route="other",status="none"} 1.0' in metrics


# -- faults of its own, and switches


@pytest.mark.parametrize(
    ("owner", "name"), [(Replies, "read"), (Replies, "known"), (Passing, "ask"), (Passing, "_tell"), (Replies, "learn")]
)
async def test_a_fault_of_its_own_fails_nobody(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    origin.respond("hello", DATE)

    def fails(*_: object) -> None:
        raise RuntimeError("on purpose")

    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        if name != "learn":
            await begun(client)
        before = len(origin.requests)
        monkeypatch.setattr(owner, name, fails)
        for number in range(3):
            answer = await client.request("POST", f"/{number}", content=b"x")
            assert answer.content == b"hello"
        await nothing_left(proxy)
    assert len(origin.requests) - before == 3


@pytest.mark.parametrize("flag", ["BYPASS", "ENABLE_ETAG", "ENABLE_QUERY_CACHE", "ENABLE_COMPRESSION"])
async def test_what_was_answered_under_other_flags_is_not_learnt(origin: Origin, flag: str) -> None:
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):

        async def script(turn: Turn) -> None:
            if turn.request.target == "/b":
                proxy.flags.update({flag: not proxy.flags.as_dict()[flag]})
            await usual(turn)

        origin.script = script
        client = await proxy.connect()
        await begun(client, times=1)
        express = server_of(proxy).express
        assert express is not None
        await client.request("POST", "/b", content=b"x")
        assert express.replies._learnt == {}
        await client.request("POST", "/a", content=b"x")
        assert len(express.replies._learnt) == 1
        await client.request("POST", "/b", content=b"x")
        assert express.replies._learnt == {}


async def test_what_is_answered_here_is_so_under_bypass(origin: Origin) -> None:
    origin.respond("hello", DATE)
    async with running_proxy(origin.url, PUBLIC_METRICS="on") as proxy, asyncio.timeout(PATIENCE):
        proxy.flags.update(BYPASS)
        client = await proxy.connect()
        for _ in range(3):
            await begun(client, times=3)
            assert (await client.request("GET", "/a", host="a")).content == b"hello"
            assert (await client.request("GET", "/api/metrics/report-cache", host="a")).content.startswith(b"{")


async def test_a_flag_that_is_flipped_while_the_origin_thinks(origin: Origin) -> None:
    """What is told of a request is what was done with it, and so is what is told of those after it."""
    thought = asyncio.Event()

    async def script(turn: Turn) -> None:
        if turn.request.target == "/slow":
            await thought.wait()
        await usual(turn)

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        proxy.flags.update(BYPASS)
        waiting, client = await proxy.connect(), await proxy.connect()
        await begun(waiting)
        await waiting.send(POST.replace(b"/a", b"/slow"))
        await until(lambda: origin.requests[-1].target == "/slow")
        proxy.flags.update({"BYPASS": False})
        await begun(client)
        thought.set()
        answers = [await waiting.response()]
        for _ in range(2):
            await client.send(POST)
            answers.append(await client.response())
        assert {answer.get("cache-status") for answer in answers} == {"siding; fwd=method; fwd-status=200"}
        await nothing_left(proxy)
        proxy.worker._briefs.tell()
        counted = {outcome.value: number for outcome, number in proxy.worker._metrics._outcomes.items() if number}
        assert counted == {"bypass": 2, "pass": 5}


@pytest.mark.parametrize("path", ["/a", "/b"])
async def test_under_bypass_as_much_is_invalidated(origin: Origin, tmp_path: Path, path: str) -> None:
    """A rule's own POST leaves its URI as it is, another does not."""
    origin.respond("hello", DATE, "Cache-Control: max-age=60")
    async with both(origin, rules=RULE, directory=tmp_path) as sides:
        told = []
        for side in sides:
            get, post = (b"%b %b HTTP/1.1\r\nHost: a\r\n" % (name, path.encode()) for name in (b"GET", b"POST"))
            states = []
            for _ in range(4):
                side.proxy.flags.update({"BYPASS": False})
                answer, _ = await side.ask([get + b"\r\n"], "GET")
                assert answer is not None
                states.append(answer.get("cache-status"))
                side.proxy.flags.update(BYPASS)
                for _ in range(3):
                    await side.ask([post + b"Content-Length: 1\r\n\r\nx"], "POST")
            told.append(states)
    missed = "siding; fwd=uri-miss; fwd-status=200; stored"
    assert told[0] == told[1] == [missed, *["siding; hit; ttl=60" if path == "/a" else missed] * 3]


async def test_an_unsafe_request_invalidates_before_it_is_answered(origin: Origin) -> None:
    origin.respond("hello", DATE, "Cache-Control: max-age=60")
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        for _ in range(3):
            await begun(client)
            states = [(await client.request("GET", "/a", host="a")).get("cache-status") for _ in range(3)]
            assert states == [
                "siding; fwd=uri-miss; fwd-status=200; stored",
                *["siding; hit; ttl=60"] * 2,
            ]
