"""What goes wrong at the origin, at the client and inside, and what the client is told of it."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading

import aiohappyeyeballs
import aiohttp
import pytest
from prometheus_client.exposition import choose_encoder

from config.listen import spare_port
from config.untaken import untaken
from proxy.origin.client import OriginClient
from proxy.policy.messages import Fields
from proxy.store.memory import MemoryStore
from tests.fast.passing import one_that_does_not_read
from tests.fast.sides import server_of
from tests.support import (
    PATIENCE,
    Gate,
    Message,
    Origin,
    Turn,
    gather,
    no_descriptor_left,
    read_chunked,
    running_proxy,
    until,
)

FRESH = "Cache-Control: max-age=60"
LARGE_FIELDS = f"X-Large: {'x' * 1000}\r\n" * 80
"""Each of them, and their number, would do."""


def code_of(answer: Message) -> str:
    document = json.loads(answer.content)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message"}
    assert document["error"]["message"]
    assert answer.get("content-type") == "application/json"
    assert answer.get("cache-control") == "no-store"
    return str(document["error"]["code"])


# -- the origin


async def test_an_origin_that_is_not_there_is_a_502() -> None:
    async with running_proxy(f"http://127.0.0.1:{spare_port()}") as proxy:
        answer = await proxy.get("/a")
    assert (answer.status, code_of(answer)) == (502, "origin-refused")
    assert answer.get("cache-status") == "siding; fwd=uri-miss"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_descriptor_it_is_a_503_and_no_error_of_the_origin(origin: Origin, method: str) -> None:
    async with running_proxy(origin.url, public_metrics=True) as proxy:
        client = await proxy.connect()
        assert (await client.request("GET", "/api/metrics/report-cache")).status == 200
        with no_descriptor_left():
            answer = await client.request(method, "/a")
        metrics = (await proxy.worker.metrics(""))[0].decode()
        assert (await client.request(method, "/a")).content == b"hello"
    assert (answer.status, code_of(answer)) == (503, "out-of-descriptors")
    assert f'{{method="{method}",outcome="internal-error",route="other",status="5xx"}} 1.0' in metrics
    assert "siding_origin_errors_total{" not in metrics
    assert 'outcome="origin-error"' not in metrics


async def test_without_a_descriptor_a_stale_response_stands_in(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    origin.respond("one", "Cache-Control: max-age=1, stale-if-error=60", "Connection: close")
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        assert (await client.request("GET", "/a")).content == b"one"
        proxy.clock.now += 5
        monkeypatch.setattr(aiohappyeyeballs, "start_connection", full)
        answers = [await client.request(method, "/a") for method in ("GET", "HEAD")]
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert [(one.status, one.get("cache-status")) for one in answers] == [
        (200, "siding; fwd=stale; detail=stale-if-error")
    ] * 2
    assert 'outcome="stale-if-error"' in metrics
    assert "siding_origin_errors_total{" not in metrics


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("", "origin-reset"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "origin-reset"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "origin-malformed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "origin-malformed"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "origin-malformed"),
        (f"HTTP/1.1 200 OK\r\nX-Long: {'x' * 70_000}\r\n\r\n", "origin-malformed"),
        ("HTTP/1.1 199 X\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 204 No Content\r\n\r\n", "origin-malformed"),
        ("HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nhi", "origin-malformed"),
        ("HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "origin-malformed"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_502(origin: Origin, sent: str, code: str) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(sent)
        turn.writer.close()

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.request("POST", "/a", content=b"x")
    assert (answer.status, code_of(answer)) == (502, code)


async def test_a_silent_origin_is_a_504(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url, upstream_timeout_ms=50) as proxy:
        answer = await proxy.get("/a")
    assert (answer.status, code_of(answer)) == (504, "origin-timeout")


async def test_an_origin_that_falls_silent_in_its_answer_cuts_the_client(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nContent-Length: 100000\r\n\r\nonly this")
        await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url, upstream_timeout_ms=50) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await client.head()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.reader.readexactly(100_000)


async def test_an_origin_that_comes_back_is_used_at_once(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        assert (await proxy.get("/a")).status == 200
        await origin.stop()
        assert (await proxy.get("/a")).status == 502
        await origin.start()
        assert (await proxy.get("/a")).status == 200


# -- the client


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        ("GET /a HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n", 400, "malformed-request"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed-request"),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "malformed-request",
        ),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "malformed-request"),
        ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "malformed-request"),
        ("GET /a HTTP/1.1\r\n\r\n", 400, "malformed-request"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "malformed-request"),
        ("GET relative HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed-request"),
        ("GET nonsense\r\n\r\n", 400, "malformed-request"),
        ("GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed-request"),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed-request"),
        ("GET /a?b# HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed-request"),
        ("GET http://a/b#c HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed-request"),
        ("GET /a HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version-not-supported"),
        ("POST /a HTTP/2.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 505, "version-not-supported"),
        ("GET /a HTTP/0.9\r\nHost: a\r\n\r\n", 505, "version-not-supported"),
        (f"GET /{'x' * 20_000} HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target-too-long"),
        (f"GET /a HTTP/1.1\r\nHost: a\r\nX-Long: {'x' * 40_000}\r\n\r\n", 431, "fields-too-large"),
        ("GET /a HTTP/1.1\r\nHost: a\r\n" + "X-Many: x\r\n" * 300 + "\r\n", 431, "fields-too-large"),
        (f"GET /{'x' * 100_000} HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target-too-long"),
        ("GET /a HTTP/1.1\r\nHost: a\r\n" + LARGE_FIELDS + "\r\n", 431, "fields-too-large"),
        ("GET /a HTTP/1.1\r\nHost: a\r\n" + LARGE_FIELDS, 431, "fields-too-large"),
        ("\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n" + LARGE_FIELDS, 431, "fields-too-large"),
    ],
)
async def test_what_the_client_did_wrong_is_said(origin: Origin, request_head: str, status: int, code: str) -> None:
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send(request_head)
        answer = await client.response()
        assert await client.at_end()
    assert (answer.status, code_of(answer)) == (status, code)
    assert origin.requests == []


async def test_a_head_may_be_as_large_as_nobody_needs(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        for _ in range(2):
            assert (await client.request("GET", "/a", *[f"X-Large: {'x' * 1000}"] * 63)).content == b"hello"


@pytest.mark.parametrize("framing", ["Content-Length: 2000", "Transfer-Encoding: chunked"])
async def test_too_much_content_is_a_413(origin: Origin, framing: str) -> None:
    async def script(turn: Turn) -> None:
        await turn.content()
        await turn.answer("stored")

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url, max_request_bytes=1000) as proxy:
        client = await proxy.connect()
        await client.send(f"POST /a HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")
        if "chunked" in framing:
            await client.send(b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n")
        answer = await client.response()
    assert (answer.status, code_of(answer)) == (413, "content-too-large")


async def test_broken_chunks_fail_the_request_and_end_the_connection(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """The log is not told of it as of a fault of Siding's."""

    async def script(turn: Turn) -> None:
        await turn.content()
        await turn.answer("fooled")

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n")
        answer = await client.response()
        assert await client.at_end()
    assert (answer.status, code_of(answer)) == (400, "malformed-request")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("framing", "status"),
    [("HTTP/1.1|Transfer-Encoding: gzip, chunked", 501), ("HTTP/1.0|Transfer-Encoding: chunked", 400)],
)
async def test_a_transfer_coding_that_would_be_lost_is_not_taken(origin: Origin, framing: str, status: int) -> None:
    version, _, field = framing.partition("|")
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send(f"POST /a {version}\r\nHost: a\r\n{field}\r\n\r\n0\r\n\r\n")
        assert (await client.response()).status == status
        assert await client.at_end()
    assert origin.requests == []


async def test_a_client_that_was_not_told_to_send_is_not_waited_for(origin: Origin) -> None:
    """Its next octets may be the content it announced or another request: nobody can tell (RFC 9110 10.1.1)."""
    origin.respond("no", status="401 Unauthorized")
    origin.read_content = False
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 44\r\n\r\n")
        answer = await client.response()
    assert (answer.status, answer.get("connection")) == (401, "close")


async def test_interim_responses_do_not_pile_up_before_a_client_that_does_not_read(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        early = "HTTP/1.1 103 Early Hints\r\nConnection: X-Hop\r\nX-Hop: 1\r\nLink: " + "x" * 1000 + "\r\n\r\n"
        for _ in range(400):
            await turn.send(early * 50)
        await turn.answer("at last")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await until(lambda: proxy.worker._origin.in_use == 0 and bool(origin.requests))
        answer = await client.response()
    assert answer.content == b"at last"
    assert 0 < len(answer.interim) < 19_000
    assert answer.interim[0].get("x-hop") is None
    assert answer.interim[0].get("connection") is None


async def test_a_client_that_reads_slowly_but_reads_is_served(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its pace is bounded, but how long it takes nothing at all."""
    size = 4_000_000
    origin.respond(b"x" * size, FRESH)
    loop = asyncio.get_running_loop()
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await until(lambda: not proxy.worker.handler.fetches.running)
        monkeypatch.setattr("config.ending.SEND_SECONDS", 1.5)  # more than two of TCP's own timeouts
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            await loop.sock_connect(client, ("127.0.0.1", proxy.port))
            await loop.sock_sendall(client, b"GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
            got = b""
            while len(got) < size:
                piece = await loop.sock_recv(client, 20_000)
                assert piece, f"cut after {len(got)} octets"
                got += piece
                await asyncio.sleep(0.02)
    assert b"hit" in got[:500]


@pytest.mark.parametrize("refused", [False, True])
async def test_a_connection_that_ends_waits_only_so_long_for_the_client_to_read(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """Nobody else does by then: the answer is given, and its request over."""
    loop = asyncio.get_running_loop()
    async with running_proxy(origin.url) as proxy, one_that_does_not_read(origin, proxy) as (client, connection):
        monkeypatch.setattr("config.ending.SEND_SECONDS", 0.05)
        if refused:
            await loop.sock_sendall(client, b"GET\r\n\r\n")
        else:
            connection.end_when_idle()
        await until(lambda: not server_of(proxy).connections)


async def test_what_the_kernel_holds_for_a_client_counts_as_not_taken() -> None:
    """Or a client that reads a little at a time looks, between two refills of that buffer, as if it took nothing."""
    here, there = socket.socketpair()
    with there:
        _, writer = await asyncio.open_connection(sock=here)
        transport = writer.transport
        assert untaken(transport) == 0
        transport.write(b"x" * 1_000_000)
        assert transport.get_write_buffer_size() < untaken(transport)
        await asyncio.to_thread(there.recv, 1_000_000, socket.MSG_WAITALL)
        await until(lambda: untaken(transport) == 0)
        writer.close()
        await writer.wait_closed()
        assert untaken(transport) == 0


@pytest.mark.parametrize("limit", [0, 1000, 100_000])
async def test_what_cannot_be_kept_still_arrives_whole(origin: Origin, limit: int) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(
            f"HTTP/1.1 200 OK\r\n{FRESH}\r\nTransfer-Encoding: chunked\r\n\r\n"
            + "".join(f"{40_000:x}\r\n{letter * 40_000}\r\n" for letter in "abcdefghij")
            + "0\r\n\r\n"
        )

    origin.script = script
    async with running_proxy(origin.url, cache_max_bytes=limit) as proxy:
        answers = await gather(*(proxy.get("/a") for _ in range(5)))
    assert {answer.content for answer in answers} == {b"".join(letter.encode() * 40_000 for letter in "abcdefghij")}


async def test_answers_on_their_way_do_not_fill_the_memory(origin: Origin) -> None:
    """However many clients do not read: what is kept to be stored is bounded for all of them together."""
    size, copies = 7_000_000, 2_500_000

    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n")
        for _ in range(70):
            await turn.send(b"x" * (size // 70))
        await turn.send("\r\n0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url, cache_max_bytes=4 * copies) as proxy:
        clients = [await proxy.connect() for _ in range(20)]
        for number, client in enumerate(clients):
            await client.send(f"GET /{number} HTTP/1.1\r\nHost: app.example\r\n\r\n")
        most = 0

        def held() -> int:
            return sum(map(len, (piece for fetch in proxy.worker.handler.fetches.running for piece in fetch._pieces)))

        for client in clients:
            await client.head()
            most = max(most, held())
        for client in clients:
            async with asyncio.timeout(PATIENCE):
                content = b"".join([chunk async for chunk in read_chunked(client.reader)])
            most = max(most, held())
            assert len(content) == size
        await until(lambda: not proxy.worker.handler.fetches.running)
        assert proxy.worker.handler._shared.copies.held == 0
    assert most < copies + 20 * 700_000


async def test_one_slow_client_does_not_hold_up_the_others_for_ever(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.origin.fetch.LAG_SECONDS", 0.2)
    size = 20_000_000

    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n")
        for _ in range(200):
            await turn.send(b"x" * (size // 200))
        await turn.send("\r\n0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url, cache_max_object_bytes=1_000_000) as proxy:
        slow, fast = await proxy.connect(), await proxy.connect()
        for client in (slow, fast):
            await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        assert len((await fast.response()).content) == size
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await slow.response()
    assert len(origin.requests) == 1


async def test_a_connection_left_with_content_unread_serves_the_next(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held back because nobody read, and then complete: whoever comes next must hear the origin again."""
    monkeypatch.setattr("proxy.origin.connection.HIGH_WATER_BYTES", 10)
    origin.respond("x" * 1000)
    origin_client = OriginClient(origin.url, connect_timeout=5, idle_timeout=0.2)
    try:
        first = await origin_client.request("GET", "/a", Fields([("Host", "a")]), None, None)
        assert first._connection is not None
        await until(lambda: first._connection is not None and first._connection.complete)
        assert first._connection._paused
        first.close()
        async with asyncio.timeout(PATIENCE):
            second = await origin_client.request("POST", "/a", Fields([("Host", "a")]), None, None)
            assert await second.read() == b"x" * 1000
        second.close()
    finally:
        await origin_client.close()
    assert origin.connections == 1


async def test_a_head_is_answered_stale_when_the_origin_fails(origin: Origin) -> None:
    origin.respond("one", "Cache-Control: max-age=1, stale-if-error=600")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 60
        origin.respond("broken", status="503 Service Unavailable")
        refused = await proxy.request("HEAD", "/a")
        await origin.stop()
        gone = await proxy.request("HEAD", "/a")
    assert [(answer.status, answer.get("content-length")) for answer in (refused, gone)] == [(200, "3")] * 2
    assert all("stale-if-error" in (answer.get("cache-status") or "") for answer in (refused, gone))


async def test_a_head_keeps_the_length_that_the_origin_gave(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 500\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.request("HEAD", "/a", "Accept-Encoding: gzip")
    assert answer.get("content-length") == "500"


async def test_a_request_right_after_the_last_client_left_is_not_failed(origin: Origin) -> None:
    gate = Gate(origin, FRESH)
    async with running_proxy(origin.url) as proxy:
        first = await proxy.connect()
        await first.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await gate.asked()
        (fetch,) = proxy.worker.handler.fetches.running
        first.writer.transport.abort()
        await until(lambda: proxy.worker.handler.in_flight == 0)
        await until(lambda: not fetch.open)
        gate.open.set()
        assert (await proxy.get("/a")).content == b"one"


# -- inside (law 6)


@pytest.mark.parametrize("method", ["get", "put"])
async def test_a_store_that_fails_costs_nobody_an_answer(
    origin: Origin, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("the store is broken")

    monkeypatch.setattr(MemoryStore, method, broken)
    origin.respond("one", FRESH)
    async with running_proxy(origin.url) as proxy:
        answers = [await proxy.get("/a") for _ in range(2)]
    assert [answer.content for answer in answers] == [b"one", b"one"]
    assert "the store is broken" in caplog.text


async def test_metrics_that_fail_cost_nobody_an_answer(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_proxy(origin.url) as proxy:
        monkeypatch.delattr("proxy.observe.metrics.Metrics.observe")
        answer = await proxy.get("/a")
    assert answer.content == b"hello"
    assert "could not be recorded" in caplog.text


async def test_metrics_that_take_long_to_write_out_hold_nobody_up(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thousand rules they are 5 MB, and take half a second."""
    writing, served = threading.Event(), threading.Event()

    def slow(accept: str) -> object:
        writing.set()
        assert served.wait(PATIENCE / 2)
        return choose_encoder(accept)

    monkeypatch.setattr("config.metrics.choose_encoder", slow)
    async with running_proxy(origin.url) as proxy, aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.get(f"{proxy.admin}/metrics"))
        await until(writing.is_set)
        assert (await proxy.get("/a")).status == 200
        served.set()
        async with await asking as answer:
            assert answer.status == 200
            assert "siding_requests_total{" not in await answer.text()
