"""What goes over the wire to the grading upstream, and what comes back, whatever the upstream does."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import openai
import pytest

from config.listen import spare_port
from pool_monitor.grading.calls import Answer, Lane, UpstreamFault
from pool_monitor.grading.care import BreakerState
from pool_monitor.grading.upstream import Outcome, Retried, Upstream
from tests.pool_monitor.grading.upstream_bench import (
    BODY,
    MEGABYTE,
    SECRET,
    Bench,
    Clock,
    Held,
    Seen,
    completing,
    completion,
    cut,
    forwarding,
    one_after_another,
    running,
    streaming,
)
from tests.support import Origin, Turn, read_chunked, until

# -- chat completions


async def test_the_callers_fields_go_as_they_are_and_no_others(bench: Bench) -> None:
    completion(bench.origin)
    await bench.upstream.complete(
        bench.call(
            ("Authorization", SECRET),
            ("User-Agent", "AsyncOpenAI/Python 1.2.3"),
            ("OpenAI-Organization", "org-1"),
            ("x-stainless-lang", "js"),
            ("X-Stainless-Retry-Count", "1"),
            ("Idempotency-Key", "k"),
            ("X-Twice", "a"),
            ("X-Twice", "b"),
        )
    )
    [request] = bench.origin.requests
    assert request.start == "POST /v1/chat/completions HTTP/1.1"
    assert {name.lower(): value for name, value in request.fields} == {
        "host": f"127.0.0.1:{bench.origin.port}",
        "authorization": SECRET,
        "user-agent": "AsyncOpenAI/Python 1.2.3",
        "openai-organization": "org-1",
        "x-stainless-lang": "js",
        "x-stainless-retry-count": "1",
        "idempotency-key": "k",
        "x-twice": "a, b",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "content-length": str(len(request.content)),
    }
    assert json.loads(request.content) == BODY


async def test_nothing_of_the_environment_is_sent(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Own: from-the-environment")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{spare_port()}")
    completion(origin)
    async with running(origin) as bench:
        assert (await bench.upstream.complete(bench.call())).ok
        await bench.forward("GET", "/models")
    for request in origin.requests:
        assert b"environment" not in request.raw_head
        assert request.get("authorization") is None


@pytest.mark.parametrize("given", ["true", "stream", "nonsense", None])
@pytest.mark.parametrize("streamed", [False, True])
async def test_fields_that_the_sdk_obeys_do_no_harm(bench: Bench, given: str | None, streamed: bool) -> None:
    body = completion(bench.origin)
    raw = () if given is None else (("X-Stainless-Raw-Response", given),)
    call = bench.call(("____stainless_override_cast_to", "int"), *raw)
    content = await bench.stream(call) if streamed else (await bench.upstream.complete(call)).content
    assert content == body
    assert bench.origin.requests[0].get("x-stainless-raw-response") == given
    assert bench.origin.requests[0].get("____stainless_override_cast_to") is None


async def test_our_key_is_for_callers_without_one(origin: Origin) -> None:
    completion(origin)
    async with running(origin, api_key="sk-ours") as bench:
        for fields in ((), (("authorization", SECRET),)):
            await bench.upstream.complete(bench.call(*fields))
            await bench.forward("GET", "/models", *fields)
    assert [request.all("authorization") for request in origin.requests] == [
        *[["Bearer sk-ours"]] * 2,
        *[[SECRET]] * 2,
    ]


async def test_an_error_is_an_answer_with_the_upstreams_own_fields(bench: Bench) -> None:
    body = completion(
        bench.origin,
        *("x-request-id: req_1", "x-ratelimit-remaining-requests: 0", "Connection: X-Hop", "X-Hop: 1", "x-a: caf\xe9"),
        status="400 Bad Request",
        content={"error": {"message": "no"}},
    )
    answer = await bench.upstream.complete(bench.call())
    assert answer == Answer(
        400,
        (
            ("Content-Type", "application/json"),
            ("x-request-id", "req_1"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-a", "caf\xe9"),
        ),
        body,
    )
    assert bench.seen.outcomes == [Outcome.ERROR]
    assert len(bench.origin.requests) == 1


@pytest.mark.parametrize(
    "status", ["500 Oops", "502 Oops", "504 Oops", "408 Oops", "409 Oops", "301 Moved", "307 Moved"]
)
async def test_what_may_have_been_processed_is_asked_once(bench: Bench, status: str) -> None:
    completion(bench.origin, "Location: /v1/other", "retry-after: 1", status=status)
    assert (await bench.upstream.complete(bench.call())).status == int(status[:3])
    async with bench.upstream.stream(bench.call()) as streamed:
        assert streamed.status == int(status[:3])
    assert len(bench.origin.requests) == 2
    assert bench.clock.slept == []


async def test_a_coded_answer_is_decoded(bench: Bench) -> None:
    bench.origin.respond(gzip.compress(b'{"id":1}'), "Content-Type: application/json", "Content-Encoding: gzip")
    answer = await bench.upstream.complete(bench.call())
    assert (answer.content, answer.fields) == (b'{"id":1}', (("Content-Type", "application/json"),))
    assert await bench.stream(bench.call()) == b'{"id":1}'


async def test_large_requests_go_in_pieces_of_known_length(bench: Bench) -> None:
    completion(bench.origin)
    body = BODY | {"image": "x" * (3 * MEGABYTE)}
    assert (await bench.upstream.complete(bench.call(body=body))).ok
    [request] = bench.origin.requests
    assert request.get("content-length") == str(len(request.content))
    assert request.get("transfer-encoding") is None
    assert json.loads(request.content) == body


async def test_no_cookie_of_one_caller_goes_with_another(origin: Origin) -> None:
    completion(origin, "Set-Cookie: __cf_bm=secret; Path=/")
    # by a name: cookies of an address would not be kept anyhow
    async with running(origin, f"http://localhost:{origin.port}/v1") as bench:
        answer = await bench.upstream.complete(bench.call())
        assert ("Set-Cookie", "__cf_bm=secret; Path=/") in answer.fields
        await bench.upstream.complete(bench.call())
        await bench.forward("GET", "/models")
        await bench.forward("GET", "/models")
    assert [request.get("cookie") for request in origin.requests] == [None] * 4


async def test_connections_are_used_again_by_all(bench: Bench) -> None:
    completion(bench.origin)
    for _ in range(3):
        await bench.upstream.complete(bench.call())
        await bench.forward("POST", "/embeddings", content=b"{}")
        assert await bench.stream(bench.call())
    assert len(bench.origin.requests) == 9
    assert bench.origin.connections == 1


# -- streams

SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nx-request-id: r\r\n\r\n"
)


async def test_pieces_of_a_stream_arrive_before_its_end(bench: Bench) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send(SSE_HEAD + b"9\r\ndata: 1\n\n\r\n")
        await go.wait()
        await turn.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    bench.origin.script = script
    async with bench.upstream.stream(bench.call()) as streamed:
        assert streamed.status == 200
        assert streamed.fields == (("Content-Type", "text/event-stream"), ("x-request-id", "r"))
        async with aclosing(streamed.pieces()) as pieces:
            assert await anext(pieces) == b"data: 1\n\n"
            assert bench.upstream.in_use == 1
            go.set()
            assert [piece async for piece in pieces] == [b"data: 2\n\n"]
    assert bench.upstream.in_use == 0
    assert bench.seen.outcomes == [Outcome.ANSWERED]


async def test_the_error_of_a_stream_is_whole(bench: Bench) -> None:
    body = completion(bench.origin, status="401 Unauthorized", content={"error": {"code": "invalid_api_key"}})
    async with bench.upstream.stream(bench.call()) as streamed, aclosing(streamed.pieces()) as pieces:
        assert streamed.status == 401
        assert [piece async for piece in pieces] == [body]


async def test_a_stream_that_breaks_off(bench: Bench) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(SSE_HEAD + b"9\r\ndata: 1\n\n\r\n")
        turn.writer.close()

    bench.origin.script = script
    with pytest.raises(UpstreamFault) as fault:
        await bench.stream(bench.call())
    assert (fault.value.status, fault.value.code) == (502, "upstream_cut")
    assert bench.upstream.in_use == 0
    assert bench.seen.outcomes == [Outcome.CUT]


async def test_a_stream_ends_with_its_deadline(bench: Bench) -> None:
    bench.origin.script = held = Held(SSE_HEAD + b"9\r\ndata: 1\n\n\r\n")
    with pytest.raises(UpstreamFault) as fault:
        await bench.stream(bench.call(seconds=0.2))
    assert fault.value.status == 504
    await asyncio.wait_for(held.left.wait(), 5)


# -- faults and deadlines


async def test_a_refused_connection_is_tried_again_and_then_told(origin: Origin) -> None:
    async with running(origin, f"http://127.0.0.1:{spare_port()}/v1") as bench:
        with pytest.raises(UpstreamFault) as fault:
            await bench.upstream.complete(bench.call())
        assert (fault.value.status, fault.value.code) == (502, "upstream_unreachable")
        assert bench.clock.slept == [0.25, 0.5]
        assert bench.seen.retries == [Retried.NEVER_SENT] * 2
        with pytest.raises(UpstreamFault) as fault:
            await bench.forward("POST", "/files", content=b"x")
        assert fault.value.code == "upstream_unreachable"
        assert (bench.seen.outcomes, bench.seen.forwards) == ([Outcome.UNREACHABLE], [Outcome.UNREACHABLE])
        assert bench.upstream.in_use == 0


@pytest.mark.parametrize("forwarded", [False, True])
async def test_an_upstream_that_comes_back_meanwhile_answers(forwarded: bool) -> None:
    origin = await Origin().start()
    await origin.stop()
    body = completion(origin)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await origin.start()

    async def content() -> AsyncIterator[bytes]:
        yield b"whole"

    async with running(origin, sleep=sleep) as bench:
        if forwarded:
            assert (await bench.forward("POST", "/files", content=content()))[2] == body
            assert origin.requests[0].content == b"whole"
        else:
            assert (await bench.upstream.complete(bench.call())).content == body
    await origin.stop()
    assert slept == [0.25]


async def test_a_connection_that_ends_without_an_answer_is_not_asked_again(bench: Bench) -> None:
    bench.origin.script = cut
    for ask in (bench.stream, bench.upstream.complete):
        with pytest.raises(UpstreamFault) as fault:
            await ask(bench.call())
        assert (fault.value.status, fault.value.code) == (502, "upstream_cut")
    with pytest.raises(UpstreamFault) as fault:
        await bench.forward("POST", "/embeddings", content=b"{}")
    assert fault.value.code == "upstream_cut"
    assert len(bench.origin.requests) == 3
    assert bench.clock.slept == []


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nCont"]
)
async def test_what_is_no_whole_answer(bench: Bench, answer: bytes) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(answer)
        turn.writer.close()

    bench.origin.script = script
    with pytest.raises(UpstreamFault) as fault:
        await bench.upstream.complete(bench.call())
    assert (fault.value.status, fault.value.code) == (502, "upstream_cut")
    with pytest.raises(UpstreamFault) as fault:
        await bench.forward("POST", "/embeddings", content=b"{}")
    assert (fault.value.status, fault.value.code) == (502, "upstream_cut")


async def test_no_answer_by_the_deadline(bench: Bench) -> None:
    bench.origin.script = held = Held()
    with pytest.raises(UpstreamFault) as fault:
        await bench.upstream.complete(bench.call(seconds=0.1))
    assert (fault.value.status, fault.value.code) == (504, "upstream_timeout")
    assert set(fault.value.document["error"]) == {"message", "type", "param", "code"}
    await asyncio.wait_for(held.left.wait(), 5)
    assert bench.upstream.in_use == 0
    assert bench.seen.outcomes == [Outcome.TIMED_OUT]
    with pytest.raises(UpstreamFault):
        await bench.upstream.complete(bench.call(seconds=-1))
    assert len(bench.origin.requests) == 1


async def test_no_connection_in_time(origin: Origin) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            async with running(origin, f"http://127.0.0.1:{port}/v1", connect_seconds=0.05) as bench:
                with pytest.raises(UpstreamFault) as fault:
                    await bench.upstream.complete(bench.call())
                assert (fault.value.status, fault.value.code) == (504, "upstream_timeout")
                assert bench.seen.retries == [Retried.NEVER_SENT] * 2
                with pytest.raises(UpstreamFault) as fault:
                    await bench.forward("GET", "/models")
                assert fault.value.status == 504
        finally:
            for filler in fillers:
                filler.close()


async def test_a_silent_upstream_is_not_waited_for_for_ever(origin: Origin) -> None:
    origin.script = held = Held()
    async with running(origin, silence_seconds=0.1, connect_seconds=0.1) as bench:
        for content in (None, b"{}", b"x" * MEGABYTE):
            with pytest.raises(UpstreamFault) as fault:
                await bench.forward("POST", "/embeddings", content=content)
            assert fault.value.status == 504
        origin.script = Held(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegin")
        with pytest.raises(UpstreamFault) as fault:
            await bench.forward("GET", "/models")
        assert fault.value.status == 504
        # and one that does not read
        origin.read_content = False
        origin.script = unread = Stuck()
        with pytest.raises(UpstreamFault) as fault:
            await bench.forward("POST", "/files", content=b"x" * (30 * MEGABYTE))
        assert fault.value.status == 504
        unread.go.set()
    assert held.left.is_set()


class Stuck:
    """A script that reads nothing until told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, turn: Turn) -> None:
        await self.go.wait()
        turn.writer.close()


@pytest.mark.parametrize("size", [MEGABYTE // 2, 20 * MEGABYTE])
async def test_an_answer_that_does_not_wait_for_the_content(bench: Bench, size: int) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("too large", "Connection: close", status="413 Too Large")
        # neither read nor closed before the client has the answer
        await told.wait()
        turn.writer.close()

    bench.origin.read_content, bench.origin.script = False, script
    told = asyncio.Event()
    assert (await bench.upstream.complete(bench.call(body={"x": "x" * size}))).content == b"too large"
    assert await bench.stream(bench.call(body={"x": "x" * size})) == b"too large"
    assert (await bench.forward("POST", "/files", content=b"x" * size))[2] == b"too large"
    told.set()


# -- care


async def test_a_rate_limit_is_waited_for_as_told(bench: Bench) -> None:
    bench.origin.script = one_after_another(
        ("429 Too Many Requests", '{"error": {"code": "rate_limit_exceeded"}}', ("retry-after-ms: 1500",)),
        ("503 Service Unavailable", "{}", ("retry-after: 2",)),
        ("200 OK", "{}", ()),
    )
    assert (await bench.upstream.complete(bench.call())).ok
    assert bench.clock.slept == [1.5, 2.0]
    assert bench.seen.retries == [Retried.RATE_LIMITED, Retried.UNAVAILABLE]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ('{"error": {"code": "insufficient_quota"}}', "retry-after: 1"),
        ('{"error": {"code": null, "type": "insufficient_quota"}}', "retry-after: 1"),
        ('{"error": "busy"}', "retry-after: 60"),
        ("busy", "x-should-retry: false"),
    ],
)
async def test_a_rate_limit_that_is_told_to_the_caller(bench: Bench, content: str, field: str) -> None:
    bench.origin.script = one_after_another(("429 Too Many Requests", content, (field,)))
    answer = await bench.upstream.complete(bench.call(seconds=100))
    assert (answer.status, answer.content) == (429, content.encode())
    assert tuple(field.split(": ")) in answer.fields
    assert bench.clock.slept == []


async def test_a_stream_is_asked_again_as_well(bench: Bench) -> None:
    bench.origin.script = one_after_another(("429 Slow Down", "{}", ("retry-after: 1",)), ("200 OK", "data: 1\n\n", ()))
    assert await bench.stream(bench.call()) == b"data: 1\n\n"
    assert bench.clock.slept == [1.0]


async def test_a_batch_waits_for_the_limit_that_another_met_and_a_caller_does_not(bench: Bench) -> None:
    limited = (
        "x-ratelimit-limit-requests: 60",
        "x-ratelimit-remaining-requests: 0",
        "x-ratelimit-reset-requests: 1m0s",
    )
    completion(bench.origin, *limited)
    mine, other = ("Authorization", SECRET), ("Authorization", "Bearer other")
    await bench.upstream.complete(bench.call(mine))
    await bench.upstream.complete(bench.call(mine))
    await bench.upstream.complete(bench.call(other, lane=Lane.BATCH))
    assert bench.clock.slept == []
    await bench.upstream.complete(bench.call(mine, lane=Lane.BATCH))
    assert sum(bench.clock.slept) == pytest.approx(1, abs=0.2)
    with pytest.raises(UpstreamFault) as fault:
        await bench.upstream.complete(bench.call(mine, lane=Lane.SHADOW, seconds=0.1))
    assert (fault.value.status, fault.value.code) == (504, "upstream_timeout")
    assert len(bench.origin.requests) == 4


async def test_an_upstream_that_is_gone_is_left_alone_for_a_while_and_then_tried() -> None:
    origin = await Origin().start()
    await origin.stop()
    async with running(origin) as bench:
        outcomes = []
        for _ in range(3):
            with pytest.raises(UpstreamFault) as fault:
                await bench.upstream.complete(bench.call())
            outcomes.append((fault.value.status, fault.value.code))
        assert outcomes == [
            (502, "upstream_unreachable"),
            (503, "upstream_circuit_open"),
            (503, "upstream_circuit_open"),
        ]
        assert fault.value.retry_after is not None
        completion(origin)
        await origin.start()
        with pytest.raises(UpstreamFault):
            await bench.upstream.complete(bench.call())
        assert origin.requests == []
        bench.clock.jumped += 1
        assert (await bench.upstream.complete(bench.call())).ok
        assert bench.upstream.breaker_state is BreakerState.CLOSED
        assert bench.seen.states == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]
        assert bench.upstream.in_use == 0
    await origin.stop()


async def test_what_the_upstream_itself_does_does_not_open_the_breaker(bench: Bench) -> None:
    completion(bench.origin, status="500 Oops")
    for _ in range(6):
        assert (await bench.upstream.complete(bench.call())).status == 500
    bench.origin.script = cut
    for _ in range(6):
        with pytest.raises(UpstreamFault):
            await bench.upstream.complete(bench.call())
    assert bench.upstream.breaker_state is BreakerState.CLOSED


@pytest.mark.parametrize(("silence", "state"), [(0.1, BreakerState.OPEN), (1.0, BreakerState.CLOSED)])
async def test_who_has_little_time_left_does_not_open_the_breaker(
    origin: Origin, silence: float, state: BreakerState
) -> None:
    origin.script = Held()
    async with running(origin, silence_seconds=silence) as bench:
        for _ in range(5):
            with pytest.raises(UpstreamFault) as fault:
                await bench.upstream.complete(bench.call(seconds=0.1))
            assert fault.value.code == "upstream_timeout"
        assert bench.upstream.breaker_state is state


async def test_who_waits_for_a_turn_is_counted_and_leaves_by_the_deadline(origin: Origin) -> None:
    origin.script = held = Held()
    async with running(origin, capacity=1, most_waiting=1) as bench:
        first = asyncio.create_task(bench.upstream.complete(bench.call()))
        await asyncio.wait_for(held.asked.wait(), 5)
        second = asyncio.create_task(bench.upstream.complete(bench.call(("Authorization", SECRET), seconds=0.2)))
        await until(lambda: bench.upstream.waiting[Lane.CALLER] == 1)
        assert SECRET not in repr(vars(bench.upstream._turns._lanes[Lane.CALLER]))
        assert bench.upstream.in_use == 1
        with pytest.raises(UpstreamFault) as fault:
            await bench.upstream.complete(bench.call())
        assert (fault.value.status, fault.value.code) == (503, "too_many_waiting")
        with pytest.raises(UpstreamFault) as fault:
            await second
        assert (fault.value.status, fault.value.code) == (504, "upstream_timeout")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert bench.upstream.in_use == 0
        assert sorted(bench.seen.outcomes) == [Outcome.LEFT, Outcome.TIMED_OUT, Outcome.TOO_MANY_WAITING]


# -- callers that leave


@pytest.mark.parametrize("ask", [streaming, completing, forwarding])
@pytest.mark.parametrize("beginning", [b"", SSE_HEAD, SSE_HEAD + b"9\r\ndata: 1\n\n\r\n"])
async def test_a_caller_that_leaves_ends_the_connection(
    bench: Bench, ask: Callable[[Bench], Awaitable[None]], beginning: bytes
) -> None:
    bench.origin.script = held = Held(beginning)
    task = asyncio.ensure_future(ask(bench))
    await asyncio.wait_for(held.asked.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(held.left.wait(), 5)
    assert bench.upstream.in_use == 0
    assert bench.seen.outcomes + bench.seen.forwards == [Outcome.LEFT]


async def test_a_caller_that_leaves_while_its_content_is_sent(bench: Bench) -> None:
    bench.origin.read_content = False
    bench.origin.script = stuck = Stuck()
    task = asyncio.create_task(bench.forward("POST", "/files", content=b"x" * (30 * MEGABYTE)))
    await until(lambda: len(bench.origin.requests) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stuck.go.set()


async def test_content_that_breaks_off_is_its_own_fault(bench: Bench) -> None:
    class Gone(Exception):
        pass

    async def content() -> AsyncIterator[bytes]:
        yield b"begin"
        raise Gone

    with pytest.raises(Gone):
        await bench.forward("POST", "/files", ("Content-Length", "10"), content=content())
    assert bench.seen.forwards == [Outcome.LEFT]
    assert bench.upstream.breaker_state is BreakerState.CLOSED


# -- octet for octet


async def test_a_target_is_forwarded_octet_for_octet(bench: Bench) -> None:
    for path in ("/files/a%2Fb%20c/content?x=%20+%27&y=[1]&z=%c3%bc", "/models", "/a//b/../c;d=e?q=1?2", "?x", ""):
        await bench.forward("GET", path)
    assert [request.target for request in bench.origin.requests] == [
        "/v1/files/a%2Fb%20c/content?x=%20+%27&y=[1]&z=%c3%bc",
        "/v1/models",
        "/v1/a//b/../c;d=e?q=1?2",
        "/v1?x",
        "/v1",
    ]
    with pytest.raises(UpstreamFault) as fault:
        await bench.forward("GET", "@other.example/")
    assert fault.value.status == 404


async def test_fields_are_forwarded_without_those_of_one_hop(bench: Bench) -> None:
    bench.origin.respond(
        b"{}",
        "X-Request-Id: r",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "x-latin: caf\xe9",
        status="299 All Fine",
    )
    sent = (
        ("Host", "monitor:8081"),
        ("accept-ENCODING", "gzip, br"),
        ("Connection", "close, X-Mine, authorization"),
        ("X-Mine", "1"),
        ("TE", "trailers"),
        ("Expect", "100-continue"),
        ("Authorization", SECRET),
        ("X-Name", "Zo\xeb"),
        ("X-Latin", "caf\udce9"),
        ("X-Twice", "a"),
        ("X-Twice", "b"),
        ("Content-Length", "2"),
    )
    status, fields, content = await bench.forward("POST", "/embeddings", *sent, content=b"{}")
    assert (status, content) == (299, b"{}")
    assert fields == (
        ("X-Request-Id", "r"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("x-latin", "caf\xe9"),
        ("Content-Length", "2"),
    )
    [request] = bench.origin.requests
    assert request.fields == [
        ("Host", f"127.0.0.1:{bench.origin.port}"),
        ("accept-ENCODING", "gzip, br"),
        ("Authorization", SECRET),
        ("X-Name", "Zo\xeb".encode().decode("latin-1")),
        ("X-Latin", "caf\xe9".encode().decode("latin-1")),
        ("X-Twice", "a"),
        ("X-Twice", "b"),
        ("Content-Length", "2"),
    ]


async def test_framing_is_the_callers(bench: Bench) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    await bench.forward("POST", "/files", ("Content-Length", "6"), content=content())
    await bench.forward("POST", "/files", ("Transfer-Encoding", "chunked"), content=content())
    await bench.forward("PUT", "/files", content=b"onetwo")
    await bench.forward("GET", "/files")
    lengths = [(request.get("content-length"), request.get("transfer-encoding")) for request in bench.origin.requests]
    assert lengths == [("6", None), (None, "chunked"), ("6", None), (None, None)]
    assert [request.content for request in bench.origin.requests] == [b"onetwo"] * 3 + [b""]


async def test_coded_content_redirects_and_heads_are_left_as_they_are(bench: Bench) -> None:
    coded = gzip.compress(b"hello")
    bench.origin.respond(coded, "Content-Encoding: gzip")
    _, fields, content = await bench.forward("GET", "/models", ("Accept-Encoding", "gzip"))
    assert content == coded
    assert ("Content-Encoding", "gzip") in fields
    assert ("Content-Length", str(len(coded))) in fields
    status, fields, content = await bench.forward("HEAD", "/models")
    assert (status, content) == (200, b"")
    assert ("Content-Length", str(len(coded))) in fields
    bench.origin.respond(b"", "Location: /v1/elsewhere", status="302 Found")
    status, fields, _ = await bench.forward("GET", "/models")
    assert status == 302
    assert ("Location", "/v1/elsewhere") in fields
    assert len(bench.origin.requests) == 3


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_for_a_get(bench: Bench) -> None:
    await bench.forward("GET", "/models")

    async def closed(turn: Turn) -> None:
        bench.origin.respond(b"again")
        turn.writer.close()

    bench.origin.script = closed
    assert (await bench.forward("GET", "/models"))[2] == b"again"
    assert len(bench.origin.requests) == 3
    bench.origin.script = cut
    with pytest.raises(UpstreamFault):
        await bench.forward("POST", "/embeddings", content=b"{}")
    assert len(bench.origin.requests) == 4


async def test_content_is_uploaded_no_faster_than_it_is_read(bench: Bench) -> None:
    go = asyncio.Event()
    size, given = 20 * MEGABYTE, 0
    received = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal given
        while given < size:
            given += 65_536
            yield b"x" * 65_536

    async def script(turn: Turn) -> None:
        nonlocal received
        await go.wait()
        async for chunk in read_chunked(turn.reader):
            received += len(chunk)
        await turn.answer(b"done")

    bench.origin.read_content, bench.origin.script = False, script
    task = asyncio.create_task(bench.forward("POST", "/files", content=content()))
    await until(lambda: len(bench.origin.requests) == 1)
    await stands_still(lambda: given)
    assert 0 < given < size - 4 * MEGABYTE
    go.set()
    assert (await task)[2] == b"done"
    assert received == size


async def test_an_answer_is_downloaded_no_faster_than_it_is_taken(bench: Bench) -> None:
    size, sent = 20 * MEGABYTE, 0

    async def script(turn: Turn) -> None:
        nonlocal sent
        await turn.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
        while sent < size:
            await turn.send(b"x" * 65_536)
            sent += 65_536

    bench.origin.script = script
    async with bench.upstream.forward("GET", "/files/f/content", (), None) as answer:
        await stands_still(lambda: sent)
        assert 0 < sent < size - 4 * MEGABYTE
        received = largest = 0
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                received += len(piece)
                largest = max(largest, len(piece))
    assert received == size
    assert largest <= MEGABYTE


async def stands_still(count: Callable[[], int]) -> None:
    """Wait until a count that has begun does not grow any more."""
    before = 0
    while count() == 0 or count() != before:
        before = count()
        for _ in range(50):
            await asyncio.sleep(0.001)


async def test_one_that_was_never_started_can_be_closed() -> None:
    bounds: dict[str, Any] = {"capacity": 1, "connect_seconds": 1.0, "silence_seconds": 1.0}
    await Upstream("http://127.0.0.1/v1", None, clock=Clock(), observe=Seen(), **bounds).close()


async def test_the_official_sdk_reads_our_faults() -> None:
    """A fault of ours, served as it is, is what the SDK makes its exceptions of."""
    origin = await Origin().start()
    fault = UpstreamFault(504, "upstream_timeout", "late", "timeout", 3)
    answer = fault.answer
    origin.respond(answer.content, *(f"{name}: {value}" for name, value in answer.fields), status="504 Late")
    async with openai.AsyncOpenAI(api_key="k", base_url=origin.url, max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as told:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert told.value.code == "upstream_timeout"
    assert told.value.response.headers["retry-after"] == "3"
    await origin.stop()
