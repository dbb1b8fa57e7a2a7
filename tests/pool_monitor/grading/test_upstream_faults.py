"""Upstreams that refuse, break off or stay silent, deadlines, and callers that leave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import openai
import pytest

from config.listen import spare_port
from pool_monitor.grading.asking import Ended, Retried
from pool_monitor.grading.calls import UpstreamFault
from pool_monitor.grading.care import BreakerState
from tests.pool_monitor.grading.upstream_bench import (
    LIMITS,
    MEGABYTE,
    SSE_HEAD,
    Bench,
    Held,
    completing,
    completion,
    cut,
    forwarding,
    running,
    streaming,
)
from tests.sdk import sdk
from tests.support import Origin, Turn, until

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
        assert (bench.seen.outcomes, bench.seen.forwards) == ([Ended.UNREACHABLE], [Ended.UNREACHABLE])
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
    assert bench.seen.outcomes == [Ended.TIMED_OUT]
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
            async with running(
                origin, f"http://127.0.0.1:{port}/v1", limits=replace(LIMITS, connect_seconds=0.05)
            ) as bench:
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
    async with running(origin, limits=replace(LIMITS, seconds=0.1, connect_seconds=0.1)) as bench:
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


async def test_the_official_sdk_reads_our_faults() -> None:
    """A fault of ours, served as it is, is what the SDK makes its exceptions of."""
    origin = await Origin().start()
    fault = UpstreamFault(504, "upstream_timeout", "late", "timeout", 3)
    answer = fault.answer
    origin.respond(answer.content, *(f"{name}: {value}" for name, value in answer.fields), status="504 Late")
    async with sdk(origin.url) as client:
        with pytest.raises(openai.InternalServerError) as told:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert told.value.code == "upstream_timeout"
    assert told.value.response.headers["retry-after"] == "3"
    await origin.stop()


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
    assert bench.seen.outcomes + bench.seen.forwards == [Ended.LEFT]


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
    assert bench.seen.forwards == [Ended.LEFT]
    assert bench.upstream.breaker_state is BreakerState.CLOSED
