"""Rate limits, the breaker and the queue before the grading upstream."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pool_monitor.grading.asking import Ended, Retried
from pool_monitor.grading.calls import Lane, UpstreamFault
from pool_monitor.grading.care import BreakerState
from tests.pool_monitor.grading.upstream_bench import (
    LIMITS,
    SECRET,
    Bench,
    Held,
    completion,
    cut,
    one_after_another,
    running,
)
from tests.support import Origin, until


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
    async with running(origin, limits=replace(LIMITS, seconds=silence)) as bench:
        for _ in range(5):
            with pytest.raises(UpstreamFault) as fault:
                await bench.upstream.complete(bench.call(seconds=0.1))
            assert fault.value.code == "upstream_timeout"
        assert bench.upstream.breaker_state is state


async def test_who_waits_for_a_turn_is_counted_and_leaves_by_the_deadline(origin: Origin) -> None:
    origin.script = held = Held()
    async with running(origin, limits=replace(LIMITS, capacity=1, waiting=1)) as bench:
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
        assert sorted(bench.seen.outcomes) == [Ended.LEFT, Ended.TIMED_OUT, Ended.TOO_MANY_WAITING]
