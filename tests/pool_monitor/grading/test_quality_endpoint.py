"""Shadow comparison in a running wrapper: from either side, and visible."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from pool_monitor.grading.shadow import Shadowed
from tests.pool_monitor.grading.samples import pretty
from tests.pool_monitor.grading.upstreams import COMPACT, Asked, chunks, completion, streamed, whole
from tests.pool_monitor.grading.wrapped import (
    FULL,
    SAID,
    Wrapped,
    asked_for,
    graded,
    graded_in_a_stream,
    says,
    wrapping,
)
from tests.support import until


async def compared(wrapped: Wrapped, count: int) -> Any:
    shadow = wrapped.monitor.monitor.grading.shadow
    await until(lambda: shadow.tally[Shadowed.COMPARED] >= count)
    return (await wrapped.monitor.get("/api/metrics/grading-quality")).document


async def test_without_a_rate_nothing_is_asked_twice() -> None:
    async with wrapping() as wrapped:
        wrapped.upstream.answering = says(SAID)
        await graded(wrapped.sdk())
        told = (await wrapped.monitor.get("/api/metrics/grading-quality")).document
        assert told["enabled"] is False
        assert told["verdict"] == "not-enough"
        assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("on", [True, False])
async def test_the_other_prompt_is_asked_in_the_background(on: bool) -> None:
    """With the flag off too, so that the quality is known before it is switched on."""
    async with wrapping(shadow_sample_rate=1, use_optimized_prompts=on) as wrapped:
        wrapped.upstream.answering = says(SAID, pretty(FULL).replace("INCORRECT", "EMPTY"))
        await graded(wrapped.sdk())
        told = await compared(wrapped, 1)
        first, second = wrapped.upstream.asked
        assert (first.compact, second.compact) == (on, not on)
        assert {asked.body == asked_for(COMPACT) for asked in (first, second)} == {True, False}
        assert dict(second.fields)["Authorization"] == "Bearer sk-one"
        assert told["budget"]["callsToday"] == 1
        assert told["verdict"] == "not-enough"
        assert wrapped.metric("siding_grading_quality_offers_total", outcome="compared") == 1


async def test_the_other_prompt_is_asked_after_a_stream_as_well() -> None:
    async with wrapping(shadow_sample_rate=1, use_optimized_prompts="off") as wrapped:
        wrapped.upstream.answering = says(SAID)
        await graded_in_a_stream(wrapped.sdk())
        await compared(wrapped, 1)
        assert [asked.compact for asked in wrapped.upstream.asked] == [False, True]


async def refuses(asked: Asked, request: web.Request) -> web.StreamResponse:
    if not asked.body.get("stream"):
        return await whole(completion(None, refusal="No."))
    said = b'data: {"id":"1","choices":[{"index":0,"delta":{"refusal":"No."},"finish_reason":null}]}\n\n'
    return await streamed(request, [said, *chunks([])[1:]])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("on", [True, False])
async def test_a_refusal_is_told_apart(on: bool, stream: bool) -> None:
    """It is neither compared nor a fault of the prompt's."""
    async with wrapping(shadow_sample_rate=1, use_optimized_prompts=on) as wrapped:
        wrapped.upstream.answering = refuses
        await (graded_in_a_stream if stream else graded)(wrapped.sdk())
        told = (await wrapped.monitor.get("/api/metrics/grading-quality")).document
        assert {name: count for name, count in told["offers"].items() if count} == {"refused": 1}
        assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("answered", [[b"{}"], [b"data: {}\n\n", b"data: [DONE]\n\n"], chunks([])])
async def test_what_is_no_answer_is_not_compared(answered: list[bytes]) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await streamed(request, answered)

    async with wrapping(shadow_sample_rate=1, use_optimized_prompts="off") as wrapped:
        wrapped.upstream.answering = answering
        await wrapped.monitor.ask("POST", "/v1/chat/completions", json=asked_for())
        told = (await wrapped.monitor.get("/api/metrics/grading-quality")).document
        assert {name: count for name, count in told["offers"].items() if count} == {"unreadable": 1}
        assert len(wrapped.upstream.asked) == 1


async def test_a_caller_does_not_wait_for_it() -> None:
    go = asyncio.Event()
    answering = says(SAID)

    async def slow_original(asked: Any, request: Any) -> Any:
        if not asked.compact:
            await go.wait()
        return await answering(asked, request)

    async with wrapping(shadow_sample_rate=1) as wrapped:
        wrapped.upstream.answering = slow_original
        assert await graded(wrapped.sdk())
        await until(lambda: len(wrapped.upstream.asked) == 2)
        go.set()
        await compared(wrapped, 1)


async def test_bypass_compares_nothing() -> None:
    async with wrapping(shadow_sample_rate=1, bypass="on") as wrapped:
        wrapped.upstream.answering = says(SAID)
        await graded(wrapped.sdk())
        told = (await wrapped.monitor.get("/api/metrics/grading-quality")).document
        assert sum(told["offers"].values()) == 0
