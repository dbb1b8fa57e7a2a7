"""Requests that arrive together: each is answered in its turn, whatever follows it and wherever the segments end."""

from __future__ import annotations

import asyncio

import pytest

from proxy.server.protocol import EARLY_BYTES
from tests.fast.passing import connection_of
from tests.fast.sides import server_of
from tests.support import PATIENCE, Client, Origin, Turn, running_proxy, until

FIELDS = "Host: app.example\r\n"
ODD = "Connection: X-Own\r\nX-Own: 1\r\n"
"""Not for the short ways."""
FIRST = {
    "get": f"GET /1 HTTP/1.1\r\n{FIELDS}\r\n",
    "post": f"POST /1 HTTP/1.1\r\n{FIELDS}Content-Length: 2\r\n\r\nhi",
    "odd get": f"GET /1 HTTP/1.1\r\n{FIELDS}{ODD}\r\n",
    "odd post": f"POST /1 HTTP/1.1\r\n{FIELDS}{ODD}Content-Length: 2\r\n\r\nhi",
    "chunks": f"POST /1 HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "odd chunks": f"POST /1 HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n00;c\r\n\r\n",
    "upgrade": f"GET /1 HTTP/1.1\r\n{FIELDS}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}


WRONG = ["GET /3 HTTP/1.1\r\nHost : a\r\n\r\n", "NOT HTTP\r\n\r\n", "\x16\x03\x01"]


async def tell(turn: Turn) -> None:
    await turn.answer(f"{turn.request.target} {turn.request.content.decode()}")


async def send(client: Client, data: str, cut: int) -> None:
    """In two segments."""
    if cut:
        await client.send(data[:cut])
        await asyncio.sleep(0.01)
    await client.send(data[cut:])


@pytest.mark.parametrize("cut", [0, 30, 70])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("first", FIRST)
async def test_what_follows_costs_no_request_its_answer(origin: Origin, first: str, wrong: str, cut: int) -> None:
    """Each in its turn, and the refusal last (RFC 9112 9.3.2)."""
    origin.script = tell
    sent, expected = FIRST[first], ["/1 hi" if "hi" in FIRST[first] else "/1 "]
    sent += f"POST /2 HTTP/1.1\r\n{FIELDS}{ODD}Content-Length: 2\r\n\r\nho" + f"GET /3 HTTP/1.1\r\n{FIELDS}\r\n"
    expected += ["/2 ho", "/3 "]
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await send(client, sent + wrong, cut)
        answers = [await client.response() for _ in [*expected, wrong]]
        assert await client.at_end()
    assert [answer.content.decode() for answer in answers[:-1]] == expected
    assert answers[-1].status in {400, 501}
    assert len(origin.requests) == len(expected)


@pytest.mark.parametrize("cut", [0, 30, 70, 115])
@pytest.mark.parametrize("first", FIRST)
async def test_what_follows_the_last_request_is_not_looked_at(origin: Origin, first: str, cut: int) -> None:
    """Connection: close makes it the last (RFC 9112 9.6)."""
    origin.script = tell
    sent = FIRST[first].replace("Connection: ", "Connection: close, ")
    if "close" not in sent:
        sent = sent.replace(FIELDS, f"{FIELDS}Connection: close\r\n")
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await send(client, f"{sent}GET /2 HTTP/1.1\r\n{FIELDS}\r\n", cut)
        answer = await client.response()
        assert await client.at_end()
    assert answer.content == (b"/1 hi" if "hi" in sent else b"/1 ")
    assert (answer.status, answer.get("connection"), len(origin.requests)) == (200, "close", 1)


async def test_requests_are_told_apart_wherever_they_are_cut(origin: Origin) -> None:
    origin.script = tell
    names = [*FIRST, *reversed(FIRST), "chunks", "get"]
    stream = "".join(
        FIRST[name].replace("hi", str(number)).replace("POST", "\r\nPOST") for number, name in enumerate(names, 10)
    )
    expected = [f"/1 {number}" if "hi" in FIRST[name] else "/1 " for number, name in enumerate(names, 10)]
    async with running_proxy(origin.url) as proxy:
        for cut in range(0, len(stream), 3):
            client = await proxy.connect()
            await client.send(stream[:cut])
            await asyncio.sleep(0)
            await client.send(stream[cut:])
            assert [(await client.response()).content.decode() for _ in names] == expected
            client.close()


@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.parametrize("content", ["\r\n\r\n", "\n0\r\n\r\n"], ids=["lines", "ends"])
async def test_what_looks_like_the_end_of_chunks_is_not(origin: Origin, times: int, content: str) -> None:
    chunks = f"{len(content) * times:x}\r\n{content * times}\r\n0\r\n\r\n"
    sent = f"PUT /1 HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n{chunks}"
    for cut in {0, *range(len(sent) - 12, len(sent), 2)}:
        async with running_proxy(origin.url) as proxy:
            client = await proxy.connect()
            await send(client, 3 * sent + WRONG[0], cut)
            assert [(await client.response()).status for _ in range(4)] == [200, 200, 200, 400]
            assert await client.at_end()
    assert {request.content.decode() for request in origin.requests} == {content * times}


TRAILED = f"POST /1 HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\nCookie: a=b\r\n\r\n"


@pytest.mark.parametrize("cut", range(0, len(TRAILED) + 1, 3))
@pytest.mark.parametrize("following", ["get", "odd get", "chunks"])
async def test_no_trailer_field_becomes_one_of_the_next_request(origin: Origin, following: str, cut: int) -> None:
    """Behind trailer fields nothing is processed."""
    origin.script = tell
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await send(client, TRAILED + FIRST[following], cut)
        answer = await client.response()
        assert (answer.content, answer.get("connection")) == (b"/1 hi", "close")
        assert await client.at_end()
    assert [request.method for request in origin.requests] == ["POST"]


@pytest.mark.parametrize("following", ["get", "odd get", "chunks"])
async def test_trailer_fields_that_come_after_the_answer(origin: Origin, following: str) -> None:
    """The client was not told that it is the last."""

    async def script(turn: Turn) -> None:
        await turn.answer("early")

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        end = TRAILED.index("0\r\nX")
        await client.send(TRAILED[:end])
        assert (await client.response()).content == b"early"
        await client.send(TRAILED[end:] + FIRST[following])
        assert await client.at_end()
    assert len(origin.requests) == 1


@pytest.mark.parametrize("trailer", ["", "Cookie: a=b\r\n"])
@pytest.mark.parametrize("size", [3 * 2**18 + 1, 2**23])
async def test_chunks_that_are_read_slowly(origin: Origin, size: int, trailer: str) -> None:
    """The parser stops meanwhile, before their end: what follows waits, and is not processed behind a trailer field."""
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        await asked.wait()
        await turn.answer(str(len(await turn.content())))

    origin.script, origin.read_content = script, False
    head = f"POST /1 HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n"
    sent = f"{head}{size:x}\r\n{'x' * size}\r\n0\r\n{trailer}\r\n"
    async with running_proxy(origin.url) as proxy, asyncio.timeout(2 * PATIENCE):
        client = await proxy.connect()
        sending = asyncio.create_task(client.send(2 * sent + FIRST["odd get"]))
        await until(lambda: bool(origin.requests))
        asked.set()
        expected = [str(size)] if trailer else [str(size), str(size), "0"]
        assert [(await client.response()).content.decode() for _ in expected] == expected
        if trailer:
            assert await client.at_end()
        await asyncio.gather(sending, return_exceptions=True)
    assert [request.get("cookie") for request in origin.requests] == [None] * len(expected)


@pytest.mark.parametrize("size", [2**19 + 1, 2**20])
@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: {}"])
@pytest.mark.parametrize("following", ["get", "odd get", "chunks"])
async def test_content_that_nobody_reads(origin: Origin, following: str, framing: str, size: int) -> None:
    """The parser stops, and what it has not got yet waits; it is read before what follows is answered."""
    origin.script = tell
    content = f"{size:x}\r\n{'x' * size}\r\n0\r\n\r\n" if "chunked" in framing else "x" * size
    asked = f"GET /api/metrics/report-cache HTTP/1.1\r\n{FIELDS}{framing.format(size)}\r\n\r\n{content}"
    async with running_proxy(origin.url, public_metrics=True) as proxy:
        client = await proxy.connect()
        await until(lambda: len(server_of(proxy).connections) == 1)
        connection_of(proxy).data_received(f"{asked}{asked}{FIRST[following]}".encode())
        assert connection_of(proxy)._reading_paused
        assert [(await client.response()).status for _ in range(2)] == [200, 200]
        assert (await client.response()).content == (b"/1 hi" if "hi" in FIRST[following] else b"/1 ")
    assert len(origin.requests) == 1


@pytest.mark.parametrize("second", ["odd post", "odd chunks", "odd get"])
async def test_the_third_may_begin_while_the_second_waits(origin: Origin, second: str) -> None:
    """Who has answered the first, which was about to be served then, leaves the third to whoever answers the second."""
    origin.script = tell
    stream = FIRST["odd post"] + FIRST[second] + FIRST["odd get"] + FIRST["chunks"] + FIRST["get"]
    cut = len(FIRST["odd post"] + FIRST[second]) + 10
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await until(lambda: len(server_of(proxy).connections) == 1)
        connection = connection_of(proxy)
        connection.data_received(stream[: len(FIRST["odd post"]) - 1].encode())
        # aiohttp takes the first, and goes on with it in a task
        await asyncio.sleep(0)
        connection.data_received(stream[len(FIRST["odd post"]) - 1 : cut].encode())
        await until(lambda: len(origin.requests) >= 2)
        await client.send(stream[cut:])
        expected = [b"/1 hi", b"/1 " if "get" in second else b"/1 hi", b"/1 ", b"/1 hi", b"/1 "]
        assert [(await client.response()).content for _ in expected] == expected


async def test_what_follows_an_upgrade_waits_until_it_was_declined(origin: Origin) -> None:
    """Also what comes in the moment before it is served: chunks, and behind them what could have got their trailers."""
    origin.script = tell
    follows = FIRST["chunks"] + FIRST["odd post"] + FIRST["get"]
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await until(lambda: len(server_of(proxy).connections) == 1)
        connection = connection_of(proxy)
        connection.data_received(FIRST["upgrade"].encode())
        # aiohttp takes it, and goes on with it in a task
        await asyncio.sleep(0)
        for part in (follows[: len(FIRST["chunks"]) - 1], follows[len(FIRST["chunks"]) - 1 :]):
            connection.data_received(part.encode())
        expected = [b"/1 ", b"/1 hi", b"/1 hi", b"/1 "]
        assert [(await client.response()).content for _ in expected] == expected


@pytest.mark.parametrize("first", ["post", "odd post", "odd get"])
async def test_much_that_comes_early_is_held_back_and_nothing_lost(origin: Origin, first: str) -> None:
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        await asked.wait()
        await turn.answer(str(len(turn.request.content)))

    origin.script = script
    size = 4 * EARLY_BYTES
    more = f"POST /2 HTTP/1.1\r\n{FIELDS}{ODD}Content-Length: {size}\r\n\r\n" + "x" * size
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        sending = asyncio.create_task(client.send(FIRST[first] + 3 * more))
        await until(lambda: bool(origin.requests))
        asked.set()
        answers = [await client.response() for _ in range(4)]
        await sending
    assert [answer.content for answer in answers[1:]] == [str(size).encode()] * 3
