"""A known prompt is asked for less, and the caller cannot tell from the stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web

from tests.pool_monitor.grading.samples import minified, pretty
from tests.pool_monitor.grading.upstreams import Asked, chunks, streamed, whole
from tests.pool_monitor.grading.wrapped import BROKEN, FULL, SAID, Wrapped, asked_for, graded_in_a_stream, says


@pytest.mark.parametrize("usage", [False, True])
async def test_a_stream_is_expanded(wrapped: Wrapped, usage: bool) -> None:
    wrapped.upstream.answering = says(SAID)
    options = {"stream_options": {"include_usage": True}} if usage else {}
    text, got = await graded_in_a_stream(wrapped.sdk(), **options)
    assert text == pretty(FULL)
    assert got[0].choices[0].delta.role == "assistant"
    assert [one.choices[0].finish_reason for one in got if one.choices][-1] == "stop"
    assert (got[-1].usage is not None) is usage
    assert {one.id for one in got} == {"chatcmpl-1"}
    assert wrapped.metric("siding_grading_first_question_seconds_count") == 1


async def test_questions_are_told_as_they_come(wrapped: Wrapped) -> None:
    """The caller has the first question while the model is still at the second."""
    go = asyncio.Event()

    async def slowly(asked: Asked, request: web.Request) -> web.StreamResponse:
        at = SAID.index("[2,")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in chunks([SAID[:at]], None):
            await response.write(event)
        await go.wait()
        for event in chunks([SAID[at:]]):
            await response.write(event)
        return response

    wrapped.upstream.answering = slowly
    async with wrapped.sdk() as sdk:
        stream = await sdk.chat.completions.create(**asked_for(stream=True))
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if '"feedback": "Good."' in text:
                go.set()
    assert text == pretty(FULL)


async def test_the_sdks_stream_helper_works(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    async with wrapped.sdk() as sdk, sdk.chat.completions.stream(**asked_for()) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == pretty(FULL)


async def test_the_synchronous_sdk_works(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)

    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(api_key="k", base_url=f"{wrapped.url}/v1", max_retries=0) as sdk:
            body: Any = asked_for()
            answer = sdk.chat.completions.create(**body)
            parts = [one.choices[0].delta.content or "" for one in sdk.chat.completions.create(stream=True, **body)]
            return answer.choices[0].message.content, "".join(parts)

    assert await asyncio.to_thread(ask) == (pretty(FULL), pretty(FULL))


@pytest.mark.parametrize("said", [f"```json\n{SAID}\n```", SAID[:-1]], ids=["fenced", "no last bracket"])
async def test_a_stream_is_repaired(wrapped: Wrapped, said: str) -> None:
    wrapped.upstream.answering = says(said)
    assert (await graded_in_a_stream(wrapped.sdk()))[0] == pretty(FULL)


async def test_a_stream_in_the_full_form_is_left_as_it_is(wrapped: Wrapped) -> None:
    said = f"```json\n{minified(FULL)}\n```"
    wrapped.upstream.answering = says(said)
    assert (await graded_in_a_stream(wrapped.sdk()))[0] == said
    assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN)
async def test_a_stream_that_breaks_is_completed_from_the_original_prompt(wrapped: Wrapped, said: str) -> None:
    wrapped.upstream.answering = says(said)
    text, got = await graded_in_a_stream(wrapped.sdk(), stream_options={"include_usage": True})
    if said == BROKEN["half of the full form"]:
        # it was told as it came, as it would have been without us
        assert text == said
        return
    assert json.loads(text) == FULL
    assert len(wrapped.upstream.asked) == 2
    assert [one.choices[0].finish_reason for one in got if one.choices][-1] == "stop"
    assert got[-1].usage is not None


async def test_a_stream_that_can_be_neither_expanded_nor_completed_ends_with_an_error(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(BROKEN["an unknown grade"], "not JSON either")
    with pytest.raises(openai.APIError, match="could not be completed"):
        await graded_in_a_stream(wrapped.sdk())


async def test_a_stream_that_the_upstream_cuts_is_cut(wrapped: Wrapped) -> None:
    async def cut(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await streamed(request, chunks([SAID[:200]], None), cut=True)

    wrapped.upstream.answering = cut
    with pytest.raises((openai.APIConnectionError, httpx2.HTTPError)):
        await graded_in_a_stream(wrapped.sdk())


async def test_an_error_in_mid_stream_is_passed_on(wrapped: Wrapped) -> None:
    async def fail(asked: Asked, request: web.Request) -> web.StreamResponse:
        error = b'data: {"error":{"message":"overloaded","type":"server_error","code":null,"param":null}}\n\n'
        return await streamed(request, [*chunks([SAID[:200]], None), error])

    wrapped.upstream.answering = fail
    with pytest.raises(openai.APIError, match="overloaded"):
        await graded_in_a_stream(wrapped.sdk())
    assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("status", [429, 500])
async def test_an_error_before_the_stream_is_the_callers(wrapped: Wrapped, status: int) -> None:
    async def fail(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"error": {"message": "m", "type": "t", "code": "c"}}, status, retry_after="77")

    wrapped.upstream.answering = fail
    with pytest.raises(openai.APIStatusError) as fault:
        await graded_in_a_stream(wrapped.sdk())
    assert fault.value.status_code == status


async def test_a_refusal_in_a_stream_is_passed_on(wrapped: Wrapped) -> None:
    async def refuse(asked: Asked, request: web.Request) -> web.StreamResponse:
        first, *_ = chunks([], None)
        said = b'data: {"id":"1","choices":[{"index":0,"delta":{"refusal":"No."},"finish_reason":null}]}\n\n'
        return await streamed(request, [first, said, *chunks([])[1:]])

    wrapped.upstream.answering = refuse
    _, got = await graded_in_a_stream(wrapped.sdk())
    assert "".join(one.choices[0].delta.refusal or "" for one in got if one.choices) == "No."
    assert len(wrapped.upstream.asked) == 1


async def test_a_stream_cut_at_the_callers_own_limit_stays_cut(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID[: SAID.index(',"t"') - 20], finish="length")
    text, got = await graded_in_a_stream(wrapped.sdk())
    assert pretty(FULL).startswith(text)
    assert got[-1].choices[0].finish_reason == "length"
