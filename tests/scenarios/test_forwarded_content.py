"""Content on its way through, either way: framed as it came, whole, and as it comes."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import Origin, Turn, running_proxy


@pytest.mark.parametrize(("status", "fields"), [("204 No Content", []), ("304 Not Modified", ['ETag: "x"'])])
async def test_responses_without_content_keep_the_connection_in_step(
    origin: Origin, status: str, fields: list[str]
) -> None:
    origin.respond("", *fields, status=status)
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        first = await client.request("GET", "/a", 'If-None-Match: "x"')
        second = await client.request("GET", "/b", 'If-None-Match: "x"')
    assert first.status == second.status == int(status[:3])
    assert "content-length" not in first.names
    assert "transfer-encoding" not in first.names
    assert origin.connections == 1


async def test_head_keeps_the_declared_length_and_has_no_content(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.origin.client.HEAD_SECONDS", 0.0)

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nContent-Type: text/plain\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        first = await client.request("HEAD", "/a")
        second = await client.request("HEAD", "/a")
    assert first.get("content-length") == second.get("content-length") == "1234"
    assert origin.connections == 1


async def test_interim_responses_are_passed_on(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        await turn.send("HTTP/1.1 102 Processing\r\n\r\n")
        await turn.answer("x")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a")
    assert [hint.status for hint in answer.interim] == [103, 102]
    assert answer.interim[0].get("link") == "</a.css>; rel=preload"
    assert answer.content == b"x"


async def test_an_http_1_0_client_gets_no_chunks_and_no_interim_responses(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 103 Early Hints\r\n\r\n")
        await turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.0\r\nHost: app.example\r\n\r\n")
        answer = await client.response()
        closed = await client.at_end()
    assert (answer.content, closed, answer.interim) == (b"hello", True, [])
    assert "transfer-encoding" not in answer.names


@pytest.mark.parametrize("ended", ["cut", "silent"])
async def test_an_http_1_0_client_never_takes_a_part_for_the_whole(origin: Origin, ended: str) -> None:
    """Without chunks the end of the connection is the end of the content: in good order only if it is (RFC 9112 8)."""
    read = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await read.wait()
        if ended == "cut":
            turn.writer.close()
        else:
            await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url, upstream_timeout_ms=200) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.0\r\nHost: app.example\r\n\r\n")
        await client.head()
        assert await client.reader.readexactly(5) == b"hello"
        read.set()
        with pytest.raises(ConnectionResetError):
            await client.reader.read(1)


async def test_an_http_1_0_client_that_reads_late_gets_all_of_it(origin: Origin) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await turn.send(chunk * 64 + b"0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.0\r\nHost: app.example\r\n\r\n")
        await asyncio.sleep(0.2)
        assert len((await client.response()).content) == 64 * 65536


async def test_expect_100_continue_waits_for_the_origin(origin: Origin) -> None:
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        asked.set()
        assert turn.request.get("expect") == "100-continue"
        await turn.send("HTTP/1.1 100 Continue\r\n\r\n")
        await turn.answer(await turn.content())

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await asked.wait()
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await client.send(b"hello")
        answer = await client.response()
    assert answer.content == b"hello"


async def test_an_expectation_that_the_origin_turns_down_costs_no_upload(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("no", "Connection: close", status="413 Content Too Large")
        turn.writer.close()

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        answer = await client.response()
    assert (answer.status, answer.content, answer.interim) == (413, b"no", [])


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_request_content_arrives_whole_and_framed_as_it_came(origin: Origin, framing: str) -> None:
    content = bytes(range(256)) * 1000
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        if framing == "length":
            await client.request("PUT", "/a", content=content)
        else:
            await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(content), 10_000):
                piece = content[start : start + 10_000]
                await client.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
            await client.send("0\r\nX-Trailer: dropped\r\n\r\n")
            await client.response()
    request = origin.requests[0]
    assert request.content == content
    assert request.get("content-length") == (str(len(content)) if framing == "length" else None)
    assert request.get("transfer-encoding") == (None if framing == "length" else "chunked")
    assert request.get("x-trailer") is None


async def test_an_empty_post_says_so(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        await proxy.request("POST", "/a", content=b"")
        await proxy.request("DELETE", "/a")
    assert [request.get("content-length") for request in origin.requests] == ["0", None]


async def test_trailers_of_the_origin_are_dropped_properly(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        await turn.send("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        first = await client.request("GET", "/a")
        second = await client.request("GET", "/b")
    assert first.content == second.content == b"hello"
    assert not {"trailer", "x-sum"} & set(first.names)
    assert origin.connections == 1


async def test_pieces_of_the_origin_reach_the_client_as_they_come(origin: Origin) -> None:
    """Server-sent events: each one is read by the client before the origin sends the next."""
    turns: asyncio.Queue[Turn] = asyncio.Queue()
    done = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await turns.put(turn)
        await done.wait()

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(10):
        client = await proxy.connect()
        await client.send("GET /events HTTP/1.1\r\nHost: app.example\r\nAccept-Encoding: gzip, br\r\n\r\n")
        head = await client.head()
        turn = await turns.get()
        assert head.get("content-encoding") is None
        for octet in b"data: 1\n\n":
            await turn.send(b"1\r\n%c\r\n" % octet)
            assert await client.reader.readexactly(6) == b"1\r\n%c\r\n" % octet
        await turn.send("0\r\n\r\n")
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"
        done.set()


async def test_trickled_request_content_reaches_the_origin_as_it_comes(origin: Origin) -> None:
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        for _ in range(5):
            await seen.put(await turn.reader.readexactly(1))
        await turn.answer("done")

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy, asyncio.timeout(10):
        client = await proxy.connect()
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 5\r\n\r\n")
        for octet in b"hello":
            await client.send(bytes([octet]))
            assert await seen.get() == bytes([octet])
        assert (await client.response()).content == b"done"


async def test_an_early_answer_reaches_a_client_that_is_still_sending(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("unauthorized", "Connection: close", status="401 Unauthorized")
        turn.writer.close()

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 50000\r\n\r\nabc")
        answer = await client.response()
    assert (answer.status, answer.content) == (401, b"unauthorized")
