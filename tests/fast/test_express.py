"""Requests that pass without a task: the same answers as through the handler, and nothing is left behind."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from proxy.policy.passing import Replies
from proxy.server.exchange import Exchange
from proxy.server.express import Passing
from proxy.server.protocol import EARLY_BYTES, ClientConnection
from tests.fast.sides import Side, both, seen, server_of, slowed
from tests.scenarios.test_coding import DECODERS
from tests.support import PATIENCE, Client, Origin, Proxy, Turn, running_proxy, until

DATE = "Date: Fri, 15 Jan 2027 08:00:00 GMT"
JSON = "Content-Type: application/json"
TEXT = '{"text": "' + "lorem ipsum " * 150 + '"}'
POST = b"POST /a HTTP/1.1\r\nHost: a\r\nX-Request-Id: i\r\nContent-Length: 4\r\n\r\nbody"
GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
CONDITIONAL = b'GET /a HTTP/1.1\r\nHost: a\r\nIf-None-Match: "a"\r\n\r\n'
CODED = b"GET /a HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
HEAD = b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n"


def connection_of(proxy: Proxy) -> ClientConnection:
    """The proxy's side of the one connection that is open."""
    (connection,) = server_of(proxy).connections
    assert isinstance(connection, ClientConnection)
    return connection


async def nothing_left(proxy: Proxy) -> None:
    """No request is counted, and no connection to the origin is in use."""
    worker = proxy.worker
    await until(lambda: (worker.handler.in_flight, worker._origin.in_use, len(worker._origin._busy)) == (0, 0, 0))


def reply(*lines: str, status: str = "200 OK", content: str = "hello") -> list[str]:
    return ["\r\n".join([f"HTTP/1.1 {status}", *lines, "", content])]


HELLO = "Content-Length: 5"
LONG = f"Content-Length: {len(TEXT)}"
ANSWERS: dict[str, list[str]] = {
    "usual": reply(DATE, JSON, HELLO),
    "private": reply(DATE, "Cache-Control: private", HELLO),
    "with a cookie": reply(DATE, "Set-Cookie: a=b", "set-cookie: c=%d", "Cache-Control: max-age=9", HELLO),
    "with a validator": reply(DATE, "Cache-Control: private", 'ETag: "a"', HELLO),
    "of old": reply(DATE, "Age: 100", "Cache-Control: max-age=9", HELLO),
    "not dated": reply(JSON, HELLO),
    "dated twice": reply(DATE, "Date: x", HELLO),
    "empty": reply(DATE, "Content-Length: 0", content=""),
    "long, to be coded": reply(DATE, JSON, "Cache-Control: private", f"Content-Length: {len(TEXT)}", content=TEXT),
    "long, that varies": reply(
        DATE, JSON, "Vary: Origin", "Cache-Control: private", f"Content-Length: {len(TEXT)}", content=TEXT
    ),
    "long, no more said": reply(DATE, JSON, LONG, content=TEXT),
    "long, a strong tag": reply(DATE, JSON, 'eTag: "%d"', LONG, content=TEXT),
    "long, a weak tag": reply(DATE, JSON, 'ETag: W/"%d"', LONG, content=TEXT),
    "long, no tag": reply(DATE, JSON, "ETag: %d", LONG, content=TEXT),
    "long, two tags": reply(DATE, JSON, 'ETag: "a"', 'ETag: "b"', LONG, content=TEXT),
    "long, with ranges": reply(DATE, JSON, "Accept-Ranges: bytes", "X-A: b", "Vary: Origin", LONG, content=TEXT),
    "long, that varies twice": reply(DATE, JSON, "Vary: a", "X-A: b", "vary: b", LONG, content=TEXT),
    "long, that varies in vain": reply(DATE, JSON, "Vary: a", "X-A: b", "Vary: a", LONG, content=TEXT),
    "long, not to be changed": reply(DATE, JSON, "Cache-Control: no-transform", LONG, content=TEXT),
    "long, coded already": reply(DATE, JSON, "Content-Encoding: br", LONG, content=TEXT),
    "long, that is not text": reply(DATE, "Content-Type: image/png", LONG, content=TEXT),
    "too long": reply(DATE, JSON, f"Content-Length: {len(TEXT) * 20}", content=TEXT * 20),
    "chunked": reply(DATE, "Transfer-Encoding: chunked", content="5\r\nhello\r\n0\r\n\r\n"),
    "chunked and measured": reply(DATE, HELLO, "Transfer-Encoding: chunked", content="5\r\nhello\r\n0\r\n\r\n"),
    "until it closes": [*reply(DATE, JSON), ""],
    "closing": [*reply(DATE, HELLO, "Connection: close"), ""],
    "naming a field": reply(DATE, HELLO, "X-Own: 1", "Connection: X-Own"),
    "kept for long": reply(DATE, HELLO, "Connection: keep-alive", "Keep-Alive: timeout=60, max=7"),
    "kept for a moment": reply(DATE, HELLO, "Keep-Alive: timeout=1"),
    "hints before it": ["HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", *reply(DATE, HELLO)],
    "continue before it": ["HTTP/1.1 100 Continue\r\n\r\n", *reply(DATE, HELLO)],
    "no content": reply(DATE, status="204 No Content", content=""),
    "nothing new": reply(DATE, 'ETag: "a"', status="304 Not Modified", content=""),
    "nothing new, of that length": reply(DATE, 'ETag: "a"', HELLO, status="304 Not Modified", content=""),
    "nothing new, of a private one": reply(
        DATE, "Cache-Control: private", "Vary: Origin", 'ETag: W/"%d"', status="304 Not Modified", content=""
    ),
    "no content, but some": reply(DATE, status="204 No Content", content="hello"),
    "a part": reply(DATE, HELLO, "Content-Range: bytes 0-4/9", status="206 Partial Content"),
    "elsewhere": reply(DATE, HELLO, "Location: /b", status="303 See Other"),
    "gone wrong": reply(DATE, HELLO, status="500 " + "long " * 100),
    "without a reason": reply(DATE, HELLO, status="200 "),
    "without even a space": reply(DATE, HELLO, status="200"),
    "an odd reason": reply(DATE, HELLO, status="200  O\tK "),
    "measured twice": reply(DATE, HELLO, HELLO),
    "measured in two ways": reply(DATE, HELLO, "Content-Length: 4"),
    "measured oddly": reply(DATE, "Content-Length: +5"),
    "more than it says": reply(DATE, HELLO, content="hello, world"),
    "fewer than it says": [*reply(DATE, "Content-Length: 9"), ""],
    "cut in its head": ["HTTP/1.1 200 OK\r\nDate", ""],
    "nothing at all": [""],
    "no HTTP": ["SSH-2.0-x\r\n\r\n", ""],
    "a space before the colon": reply(DATE, HELLO, "X : 1"),
    "folded": reply(DATE, HELLO, "X: 1", " 2"),
    "a control": reply(DATE, HELLO, "X: \x00"),
    "bare line feeds": ["HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"],
    "in pieces": ["HTTP/1.1 200 OK\r\n", f"{DATE}\r\nX:", f" 1\r\n{HELLO}\r\n\r", "\nhel", "lo"],
    "odd fields": reply(DATE, HELLO, "x-ODD:\t \xe9%d \t", "X-Empty:", "X:a:b"),
    "a large head": reply(DATE, HELLO, "X: " + "a" * 9000),
    "passed before": reply(DATE, HELLO, "Via: 1.0 x", "Cache-Status: x; hit"),
    "invalidating": reply(DATE, HELLO, 'Cache-Group-Invalidation: "a"', "Content-Location: /b"),
    "switching": reply("Upgrade: x", "Connection: upgrade", status="101 Switching", content=""),
}


ACCEPTING = b"\r\nAccept-Encoding: deflate, zstd;q=0.5\r\n"
ASKED = {"post": POST, "get": GET, "if": CONDITIONAL, "coded": CODED, "head": HEAD}
OFF = {"ENABLE_QUERY_CACHE": False}
BYPASS = {"BYPASS": True}


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        *[pytest.param(asked, {}, id=name) for name, asked in ASKED.items()],
        *[pytest.param(asked, BYPASS, id=f"{name} under BYPASS") for name, asked in ASKED.items() if name != "head"],
        pytest.param(GET, OFF, id="get with nothing stored"),
    ],
)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_the_same_as_the_ordinary_way(
    origin: Origin, answer: str, asked: bytes, flags: dict[str, object]
) -> None:
    """Three times: the first on a connection of its own, the third when all that can be learnt is."""
    method, turns = asked.partition(b" ")[0].decode(), 0

    async def script(turn: Turn) -> None:
        nonlocal turns
        turns += 1
        if turn.request.target == "/first":
            await turn.answer("", DATE)
            return
        pieces = [piece.replace("%d", str(turns)) for piece in ANSWERS[answer]]
        for number, piece in enumerate(pieces):
            bodiless = method == "HEAD" and number == len(pieces) - 1
            await turn.send(piece.partition("\r\n\r\n")[0] + "\r\n\r\n" if bodiless and piece else piece)
            await asyncio.sleep(0)
        if pieces[-1] == "":
            turn.writer.close()

    origin.script = script
    async with both(origin) as sides:
        told = []
        for side in sides:
            side.proxy.flags.update(flags)
            found, turns = [], 0
            for _ in range(3):
                await side.ask([b"DELETE /first HTTP/1.1\r\nHost: a\r\n\r\n"], "DELETE")
                got, requests = await side.ask([asked], method)
                found.append((seen(got), [request.replace(b"\nX-Request-Id: i", b"") for request in requests]))
                await nothing_left(side.proxy)
            told.append(found)
    assert told[0] == told[1]


# -- origins that fail


async def usual(turn: Turn) -> None:
    await turn.answer("hello", DATE)


async def begun(proxy: Proxy, client: Client, times: int = 2) -> None:
    """There is an idle connection to the origin, and what becomes of its usual answer is known."""
    for _ in range(times):
        await client.send(POST)
        await client.response()


def taken(proxy: Proxy) -> Passing:
    passing = connection_of(proxy)._passing
    assert passing is not None
    return passing


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
        await begun(proxy, client)
        answer = await client.request(method, "/b", content=content)
        await nothing_left(proxy)
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert answer.status == status
    assert [request.content for request in origin.requests if request.target == "/b"] == [content] * times
    assert f"siding_request_bytes_total {8 + len(content):.1f}\n" in metrics


async def test_an_origin_that_is_silent(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.target == "/b":
            await turn.reader.read(1)
        else:
            await usual(turn)

    origin.script = script
    async with running_proxy(origin.url, upstream_timeout_ms=150) as proxy:
        client = await proxy.connect()
        await begun(proxy, client)
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
        await begun(proxy, client)
        await client.send(POST.replace(b"/a", b"/b"))
        head = await client.head()
        assert head.status == 200
        assert await client.reader.readexactly(5) == b"first"
        go.set()
        assert await client.reader.readexactly(5) == b"later"
        await nothing_left(proxy)
        assert origin.connections == 1


# -- clients that leave


async def test_a_client_that_leaves_before_its_answer(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.target == "/b":
            await turn.reader.read(1)
        else:
            await usual(turn)

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await begun(proxy, client)
        await client.send(POST.replace(b"/a", b"/b"))
        await until(lambda: len(origin.requests) == 3)
        assert connection_of(proxy)._passing is not None
        client.close()
        await nothing_left(proxy)
        assert proxy.worker._origin.idle == 0
        metrics = (await proxy.worker.metrics(""))[0].decode()
        assert 'siding_requests_total{method="POST",outcome="client-gone",route="other",status="none"} 1.0' in metrics


async def test_a_client_that_leaves_in_the_moment_its_request_is_handed_over(origin: Origin) -> None:
    """The handler's task is cancelled before it has begun: the origin's connection is let go of all the same."""

    async def script(turn: Turn) -> None:
        if turn.request.target == "/b":
            await turn.reader.read(1)
        else:
            await usual(turn)

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await begun(proxy, client)
        await client.send(POST.replace(b"/a", b"/b"))
        await until(lambda: len(origin.requests) == 3)
        passing, connection = taken(proxy), connection_of(proxy)
        assert passing._connection is not None
        passing._serve_ordinarily(passing._connection)
        assert connection._task is not None
        connection._task.cancel()
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
        await turn.send(ANSWERS["chunked"][0])

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
        client = await proxy.connect()
        await begun(proxy, client)
        await client.send(POST.replace(b"/a", b"/b"))
        await until(lambda: len(origin.requests) == 3)
        assert connection_of(proxy)._passing is not None
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
        client = await proxy.connect()
        await begun(proxy, client)
        await client.send(POST.replace(b"/a", b"/b"))
        await until(lambda: len(origin.requests) == 3)
        assert taken(proxy) is not None
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
    async def script(turn: Turn) -> None:
        if turn.request.target == "/b":
            await turn.reader.read(1)
        else:
            await usual(turn)

    origin.script = script
    async with running_proxy(origin.url, drain_seconds=0.1) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await begun(proxy, client)
        await client.send(POST.replace(b"/a", b"/b"))
        await until(lambda: len(origin.requests) == 3)
        assert taken(proxy) is not None
        await proxy.worker.drain()
        assert await client.at_end()
        await nothing_left(proxy)


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
            await begun(proxy, client)
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
        await begun(proxy, client, times=1)
        express = server_of(proxy).express
        assert express is not None
        await client.request("POST", "/b", content=b"x")
        assert express.replies._learnt == {}
        await client.request("POST", "/a", content=b"x")
        assert len(express.replies._learnt) == 1
        await client.request("POST", "/b", content=b"x")
        assert express.replies._learnt == {}


RULE = """
[[route]]
match = "/a"
methods = ["POST"]
key = ["body"]
public = true
"""


@pytest.mark.parametrize(("flags", "asked"), [(BYPASS, GET), (BYPASS, POST), (BYPASS, CONDITIONAL), (OFF, GET)])
async def test_with_the_cache_off_there_is_a_short_way(
    origin: Origin, tmp_path: Path, flags: dict[str, object], asked: bytes
) -> None:
    origin.respond("hello", DATE, "Cache-Control: private")
    await goes_the_short_way(origin, tmp_path, flags, asked)


@pytest.mark.parametrize("more", [(), ("Vary: Origin",), ('ETag: "a"',), ("Accept-Ranges: bytes",)])
@pytest.mark.parametrize("asked", [CODED, CODED.replace(b"gzip", b"br"), POST.replace(b"\r\n", ACCEPTING, 1)])
async def test_there_is_a_short_way_for_what_is_coded(
    origin: Origin, tmp_path: Path, asked: bytes, more: tuple[str, ...]
) -> None:
    origin.respond(TEXT, DATE, JSON, "Cache-Control: private", *more)
    await goes_the_short_way(origin, tmp_path, {}, asked.replace(b"/a", b"/b"), TEXT.encode())


@pytest.mark.parametrize(
    ("asked", "status"),
    [(CONDITIONAL, "304 Not Modified"), (GET.replace(b"GET", b"OPTIONS"), "204 No Content"), (POST, "204 No Content")],
)
async def test_there_is_a_short_way_for_what_has_no_content(
    origin: Origin, tmp_path: Path, asked: bytes, status: str
) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.get("accept") == "a private answer":
            await turn.answer("hello", DATE, "Cache-Control: private")
        else:
            await turn.send(reply(DATE, "Cache-Control: private", status=status, content="")[0])

    origin.script = script
    before = GET.replace(b"\r\n\r\n", b"\r\nAccept: a private answer\r\n\r\n").replace(b"/a", b"/b")
    await goes_the_short_way(origin, tmp_path, {}, asked.replace(b"/a", b"/b"), b"", before)


async def goes_the_short_way(
    origin: Origin,
    directory: Path,
    flags: dict[str, object],
    asked: bytes,
    content: bytes = b"hello",
    before: bytes = b"",
) -> None:
    """Once there is a connection to the origin, and its answer is known. before -- asked first."""
    async with running_proxy(origin.url, rules=RULE, directory=directory) as proxy, asyncio.timeout(PATIENCE):
        proxy.flags.update(flags)
        client = await proxy.connect()
        handled = 0

        async def counted(exchange: Exchange) -> None:
            nonlocal handled
            handled += 1
            await proxy.worker.handler(exchange)

        server_of(proxy).serve = counted
        if before:
            await client.send(before)
            await client.response()
        for _ in range(5):
            await client.send(asked)
            answer = await client.response()
            decoded = DECODERS[coding](answer.content) if (coding := answer.get("content-encoding")) else answer.content
            assert decoded == content
        assert handled == 2
        await nothing_left(proxy)
    assert len(origin.requests) == 5 + bool(before)


async def test_what_is_answered_here_is_so_under_bypass(origin: Origin) -> None:
    origin.respond("hello", DATE)
    async with running_proxy(origin.url, PUBLIC_METRICS="on") as proxy, asyncio.timeout(PATIENCE):
        proxy.flags.update(BYPASS)
        client = await proxy.connect()
        for _ in range(3):
            await begun(proxy, client, times=3)
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
        await begun(proxy, waiting)
        await waiting.send(POST.replace(b"/a", b"/slow"))
        await until(lambda: origin.requests[-1].target == "/slow")
        proxy.flags.update({"BYPASS": False})
        await begun(proxy, client)
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
            await begun(proxy, client)
            states = [(await client.request("GET", "/a", host="a")).get("cache-status") for _ in range(3)]
            assert states == [
                "siding; fwd=uri-miss; fwd-status=200; stored",
                *["siding; hit; ttl=60"] * 2,
            ]


async def test_two_sides_are_there(origin: Origin) -> None:
    """What is compared above is what it is called."""
    origin.respond("hello", DATE)
    async with both(origin) as (fast, slow):
        for side in (fast, slow):
            for _ in range(3):
                await side.ask([POST], "POST")
        assert isinstance(fast, Side)
        express = server_of(fast.proxy).express
        assert express is not None
        assert express.replies._learnt
        assert server_of(slow.proxy).express is None
