"""Equal requests: they ask once, or are answered with what is kept."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from tests.pool_monitor.grading.samples import pretty
from tests.pool_monitor.grading.upstreams import Asked, chunks, completion, streamed, whole
from tests.pool_monitor.grading.wrapped import (
    FULL,
    SAID,
    Wrapped,
    asked_for,
    graded,
    graded_in_a_stream,
    says,
    together,
)
from tests.support import until

# -- equal requests


async def test_a_hundred_equal_requests_ask_once(wrapped: Wrapped) -> None:
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    async with wrapped.sdk() as sdk:
        tasks = [asyncio.create_task(sdk.chat.completions.create(**asked_for())) for _ in range(100)]
        await until(lambda: len(wrapped.monitor.monitor.grading.grading.collapse) == 1)
        asking = next(iter(wrapped.monitor.monitor.grading.grading.collapse._askings.values()))
        await until(lambda: asking.listeners == 100)
        go.set()
        answers = await asyncio.gather(*tasks)
    assert {one.choices[0].message.content for one in answers} == {pretty(FULL)}
    assert len(wrapped.upstream.asked) == 1
    assert wrapped.metric("siding_grading_requests_total", what="compact", found="collapsed", status="2xx") == 99


async def test_equal_streams_ask_once(wrapped: Wrapped) -> None:
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await streamed(request, chunks([SAID]))

    wrapped.upstream.answering = answering
    tasks = [asyncio.create_task(graded_in_a_stream(wrapped.sdk())) for _ in range(5)]
    collapse = wrapped.monitor.monitor.grading.grading.collapse
    await until(lambda: sum(one.listeners for one in collapse._askings.values()) == 5)
    go.set()
    assert {text for text, _ in await asyncio.gather(*tasks)} == {pretty(FULL)}
    assert len(wrapped.upstream.asked) == 1


async def test_callers_are_kept_apart(wrapped: Wrapped) -> None:
    assert await together(wrapped, graded(wrapped.sdk("sk-one")), graded(wrapped.sdk("sk-two"))) == 2


async def test_other_requests_are_others(wrapped: Wrapped) -> None:
    assert await together(wrapped, graded(wrapped.sdk()), graded(wrapped.sdk(), seed=1)) == 2


async def test_with_the_flag_off_each_asks(wrapped: Wrapped) -> None:
    await wrapped.flag(ENABLE_DEDUP=False)
    assert await together(wrapped, graded(wrapped.sdk()), graded(wrapped.sdk())) == 2


async def test_samples_of_an_unknown_prompt_are_not_shared_unless_it_is_at_temperature_0(wrapped: Wrapped) -> None:
    two = [graded(wrapped.sdk(), prompt="Tell a joke.", temperature=1) for _ in range(2)]
    assert await together(wrapped, *two) == 2
    wrapped.upstream.asked.clear()
    two = [graded(wrapped.sdk(), prompt="Tell a joke.", temperature=0) for _ in range(2)]
    assert await together(wrapped, *two) == 1


# -- kept answers


async def test_answers_at_temperature_0_are_kept_when_that_is_wanted(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    for temperature in (0, 0, 0.5, 0.5):
        answer = await graded(wrapped.sdk(), temperature=temperature)
        assert json.loads(answer.choices[0].message.content) == FULL
    assert len(wrapped.upstream.asked) == 3
    await graded(wrapped.sdk("sk-two"), temperature=0)
    assert len(wrapped.upstream.asked) == 4
    async with wrapped.sdk() as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(**asked_for(temperature=0))
    assert raw.headers["cache-status"].startswith("siding; hit; ttl=")
    await wrapped.flag(ENABLE_COMPLETION_CACHE=False)
    await graded(wrapped.sdk(), temperature=0)
    assert len(wrapped.upstream.asked) == 5


async def test_kept_streams_are_told_again(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    texts = [(await graded_in_a_stream(wrapped.sdk(), temperature=0))[0] for _ in range(2)]
    assert texts == [pretty(FULL)] * 2
    assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_what_is_not_whole_is_not_kept(wrapped: Wrapped, finish: str) -> None:
    wrapped.upstream.answering = says(SAID, finish=finish)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    for _ in range(2):
        await graded(wrapped.sdk(), temperature=0)
    assert len(wrapped.upstream.asked) == 2


async def test_secrets_are_in_no_metric_and_no_log(wrapped: Wrapped, caplog: pytest.LogCaptureFixture) -> None:
    wrapped.upstream.answering = says("no JSON")
    with caplog.at_level("DEBUG", logger="siding"):
        await graded(wrapped.sdk("sk-very-secret"))
    metrics = await wrapped.monitor.get("/metrics")
    assert b"sk-very-secret" not in metrics.content
    assert "sk-very-secret" not in caplog.text
