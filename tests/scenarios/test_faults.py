"""What goes wrong at the origin, at the client and inside, and what the client is told of it."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from proxy.store.memory import MemoryStore
from tests.support import PATIENCE, Message, Origin, Turn, running_proxy

FRESH = "Cache-Control: max-age=60"


def code_of(answer: Message) -> str:
    document = json.loads(answer.content)
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message"}
    assert document["error"]["message"]
    assert answer.get("content-type") == "application/json"
    assert answer.get("cache-control") == "no-store"
    return str(document["error"]["code"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- the origin


async def test_an_origin_that_is_not_there_is_a_502() -> None:
    async with running_proxy(f"http://127.0.0.1:{free_port()}") as proxy:
        answer = await proxy.get("/a")
    assert (answer.status, code_of(answer)) == (502, "origin-refused")
    assert answer.get("cache-status") == "siding; fwd=uri-miss"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("", "origin-reset"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "origin-reset"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "origin-malformed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "origin-malformed"),
        (f"HTTP/1.1 200 OK\r\nX-Long: {'x' * 70_000}\r\n\r\n", "origin-malformed"),
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
        (f"GET /{'x' * 20_000} HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target-too-long"),
        (f"GET /a HTTP/1.1\r\nHost: a\r\nX-Long: {'x' * 40_000}\r\n\r\n", 431, "fields-too-large"),
        ("GET /a HTTP/1.1\r\nHost: a\r\n" + "X-Many: x\r\n" * 300 + "\r\n", 431, "fields-too-large"),
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


async def test_broken_chunks_fail_the_request_and_end_the_connection(origin: Origin) -> None:
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
