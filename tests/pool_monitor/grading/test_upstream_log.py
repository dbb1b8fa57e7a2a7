"""What the log tells of the grading upstream: why there is no answer, once, and nothing secret."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count

import pytest
import trustme

from config.told import MOST_REASONS
from pool_monitor.grading import upstream
from pool_monitor.grading.calls import UpstreamFault
from tests.pool_monitor.grading.upstream_bench import (
    LIMITS,
    SECRET,
    Bench,
    Held,
    completing,
    completion,
    cut,
    forwarding,
    running,
    streaming,
)
from tests.support import Origin, Turn


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said since it was asked for last."""
    lines = [record.getMessage() for record in caplog.records if record.name == "siding.grading"]
    caplog.clear()
    return lines


async def fails(*askings: Awaitable[object]) -> None:
    for asking in askings:
        with pytest.raises(UpstreamFault):
            await asking


async def test_why_there_is_no_answer_is_told_once_and_again_after_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    origin = await Origin().start()
    await origin.stop()
    refused = (
        f"the grading upstream 127.0.0.1:{origin.port} gives no answer: "
        f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.1', {origin.port})"
    )
    async with running(origin, limits=replace(LIMITS, seconds=0.1)) as bench:
        await fails(bench.upstream.complete(bench.call()), bench.forward("GET", "/files/of-a-student"))
        first, opened = said(caplog)
        assert first == refused
        assert "several times in a row" in opened
        await fails(bench.forward("GET", "/models"), bench.upstream.complete(bench.call()))
        assert said(caplog) == []
        await origin.start()
        origin.script = Held()
        await fails(bench.forward("GET", "/files/of-a-student"))
        [line] = said(caplog)
        assert line.endswith(f":{origin.port} gives no answer: no answer in time (GRADING_TIMEOUT_MS is 100)")
        completion(origin)
        await bench.forward("GET", "/models")
        assert said(caplog) == [f"the grading upstream 127.0.0.1:{origin.port} answers again"]
        await origin.stop()
        await fails(bench.forward("GET", "/models"), bench.forward("GET", "/models"))
        assert said(caplog)[0] == refused


@pytest.mark.parametrize("ask", [completing, forwarding])
async def test_a_name_that_nobody_knows_is_told(
    origin: Origin,
    ask: Callable[[Bench], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with running(origin, "https://api.example/v1") as bench:
        monkeypatch.setattr(socket, "getaddrinfo", nobody)
        await fails(ask(bench))
    assert said(caplog) == [
        f"the grading upstream api.example gives no answer: [Errno {socket.EAI_NONAME}] Name or service not known"
    ]


@pytest.mark.parametrize("ask", [completing, forwarding])
async def test_a_certificate_for_another_name_is_told(
    origin: Origin, ask: Callable[[Bench], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("other.example").configure_cert(context)
    authority.configure_trust(trusting)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with running(origin, f"https://127.0.0.1:{port}/v1", ssl_context=trusting) as bench:
        await fails(ask(bench))
    server.close()
    [line] = said(caplog)
    assert line.startswith(f"the grading upstream 127.0.0.1:{port} gives no answer: ")
    assert "certificate is not valid for '127.0.0.1'" in line


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "the connection was closed without an answer"),
        (b"John Smith got this\r\n\r\n", "what came is no HTTP"),
        (b"HTTP/1.1 200 John\r\nContent-Length: 100\r\n\r\nJohn", "the answer broke off"),
    ],
)
async def test_what_came_instead_of_an_answer_is_told_without_its_content(
    bench: Bench, answer: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(answer)
        turn.writer.close()

    bench.origin.script = script
    await fails(bench.upstream.complete(bench.call()), bench.upstream.complete(bench.call()))
    assert said(caplog) == [f"the grading upstream 127.0.0.1:{bench.origin.port} gives no answer: {reason}"]


@pytest.mark.parametrize("ask", [streaming, forwarding])
async def test_an_answer_that_breaks_off_midway_is_told_once_and_again_after_a_whole_one(
    bench: Bench, ask: Callable[[Bench], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nJohn\r\n")
        turn.writer.close()

    broke = f"an answer of the grading upstream 127.0.0.1:{bench.origin.port} broke off midway: the answer broke off"
    for _ in range(2):
        bench.origin.script = script
        await fails(ask(bench), ask(bench))
        assert said(caplog) == [broke]
        completion(bench.origin)
        await ask(bench)
    assert said(caplog) == []


async def test_reasons_without_end_are_not_told(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count()
    monkeypatch.setattr(upstream, "reason_of", lambda *_: f"reason {next(numbers)}")
    bench.origin.script = cut
    await fails(*(bench.upstream.complete(bench.call()) for _ in range(MOST_REASONS + 2)))
    assert len(said(caplog)) == MOST_REASONS


@pytest.mark.parametrize("ask", [completing, streaming, forwarding])
async def test_that_our_own_key_is_refused_is_told_once_and_again_after_it_was_not(
    origin: Origin, ask: Callable[[Bench], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with running(origin, api_key="sk-our-secret") as bench:
        refused = f"the grading upstream 127.0.0.1:{origin.port} refuses GRADING_API_KEY (401)"
        for _ in range(2):
            completion(origin, status="401 Unauthorized", content={"error": {"message": "sk-our-secret is wrong"}})
            await ask(bench)
            await ask(bench)
            [line] = said(caplog)
            assert line.startswith(refused)
            assert "secret" not in line
            completion(origin, status="500 Oops")
            await ask(bench)
            completion(origin)
            await ask(bench)
        completion(origin, status="401 Unauthorized")
        await bench.upstream.complete(bench.call(("Authorization", SECRET)))
        await bench.forward("GET", "/models", ("authorization", SECRET))
        assert said(caplog) == []


async def test_secrets_are_not_logged(origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with running(origin, api_key="sk-our-secret") as bench:
            for fields in ((), (("Authorization", SECRET),)):
                completion(origin)
                call = bench.call(*fields)
                await bench.upstream.complete(call)
                await bench.forward("POST", "/embeddings", *fields, content=b"{}")
                origin.script = cut
                for fault in (bench.upstream.complete(call), bench.forward("POST", "/embeddings", *fields)):
                    with pytest.raises(UpstreamFault) as told:
                        await fault
                    assert "secret" not in f"{told.value!r} {told.value.document}"
            assert "secret" not in repr(vars(bench.upstream._limits)) + repr(vars(bench.upstream._turns))
    assert caplog.records
    assert "secret" not in caplog.text
