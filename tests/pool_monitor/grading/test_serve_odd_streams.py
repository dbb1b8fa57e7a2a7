"""Streams as compatible APIs send them, and those that nobody should: expanded, asked for again, or passed on."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from aiohttp import web

from pool_monitor.grading.calls import CHAT
from pool_monitor.grading.sse import MAX_EVENT_BYTES, Decoder
from tests.pool_monitor.grading.samples import pretty
from tests.pool_monitor.grading.upstreams import Asked, chunks, completion, streamed, whole
from tests.pool_monitor.grading.wrapped import FULL, SAID, Wrapped, asked_for, graded, graded_in_a_stream, says


def with_no_error(answered: bytes) -> bytes:
    """As some compatible APIs say that there is none."""
    return answered.replace(b'"object"', b'"error":null,"object"')


async def test_an_error_that_is_null_is_none(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body.get("stream"):
            return await streamed(request, [with_no_error(event) for event in chunks([SAID])])
        content = with_no_error(orjson.dumps(completion(SAID)))
        return web.Response(body=content, content_type="application/json")

    wrapped.upstream.answering = answering
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    for _ in range(2):
        assert (await graded_in_a_stream(wrapped.sdk(), temperature=0))[0] == pretty(FULL)
        assert (await graded(wrapped.sdk(), temperature=0)).choices[0].message.content == pretty(FULL)
    # both were kept
    assert len(wrapped.upstream.asked) == 2


def odd(change: Any) -> list[bytes]:
    """The chunks of a compact answer, each changed; the last says that the stream is over."""
    *events, last = chunks([SAID[at : at + 9] for at in range(0, len(SAID), 9)])
    return [*(b"data: " + orjson.dumps(change(orjson.loads(event[6:]))) + b"\n\n" for event in events), last]


def with_choice(change: Any) -> list[bytes]:
    return odd(lambda chunk: {**chunk, "choices": [change(choice) for choice in chunk["choices"]]})


def text_in(choice: dict[str, Any]) -> str:
    text: str = choice["delta"].get("content") or ""
    return text


PLAIN_CHUNKS = odd(lambda chunk: chunk)
ODD_STREAMS = {
    "the text in other members as well": with_choice(
        lambda one: {**one, "text": text_in(one), "message": {"content": text_in(one)}}
    ),
    "an empty reason to end": with_choice(lambda one: {**one, "finish_reason": one["finish_reason"] or ""}),
    "a byte order mark": [b"\xef\xbb\xbf" + PLAIN_CHUNKS[1], *PLAIN_CHUNKS[2:]],
    "ends of lines that are not alike": [event[:-1] + b"\r\n" for event in PLAIN_CHUNKS],
    "no choices": [b'data: {"id":"a","choices":null,"usage":null}\n\n', *PLAIN_CHUNKS],
    "more after its end": [*PLAIN_CHUNKS, *PLAIN_CHUNKS[1:]],
}
DOUBTFUL_STREAMS = {
    "half a character": [event.replace(b'"content":"', b'"content":"\xe2\x88') for event in PLAIN_CHUNKS],
    "text that is no chunk": [*PLAIN_CHUNKS[:9], b"data: " + orjson.dumps(SAID) + b"\n\n", *PLAIN_CHUNKS[9:]],
    "two choices": odd(
        lambda chunk: {**chunk, "choices": [one | {"index": at} for at in range(2) for one in chunk["choices"]]}
    ),
    "another choice": [part for event in PLAIN_CHUNKS for part in (event, event.replace(b'"index":0', b'"index":1'))],
}


async def told_raw(wrapped: Wrapped, events: list[bytes]) -> tuple[str, bytes]:
    """The text that the caller reads, and all that he gets."""

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if not asked.compact:
            return await says(SAID)(asked, request)  # type: ignore[no-any-return]
        return await streamed(request, events)

    wrapped.upstream.answering = answering
    async with wrapped.monitor.session.post(CHAT, json=asked_for(stream=True)) as answer:
        content = await answer.read()
    documents = [event.document or {} for event in Decoder().feed(content)]
    choices = [choice for document in documents for choice in document.get("choices") or []]
    return "".join(choice["delta"].get("content") or "" for choice in choices), content


@pytest.mark.parametrize("events", ODD_STREAMS.values(), ids=ODD_STREAMS)
async def test_streams_of_compatible_apis_are_expanded(wrapped: Wrapped, events: list[bytes]) -> None:
    text, content = await told_raw(wrapped, events)
    assert text == pretty(FULL)
    assert content.count(b"Solve for x") == pretty(FULL).count("Solve for x")
    assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("text", ["", SAID[200:]])
async def test_usage_that_is_stated_with_the_end_is_told_once(wrapped: Wrapped, text: str) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        *events, end, done = chunks([SAID[:200]] if text else [SAID[:200], SAID[200:]])
        last = json.loads(end.removeprefix(b"data: "))
        last["choices"][0]["delta"] = {"content": text}
        last["usage"] = completion("")["usage"]
        return await streamed(request, [*events, b"data: " + orjson.dumps(last) + b"\n\n", done])

    wrapped.upstream.answering = answering
    told, got = await graded_in_a_stream(wrapped.sdk())
    assert json.loads(told) == FULL
    assert [chunk.choices[0].finish_reason for chunk in got if chunk.usage is not None] == ["stop"]


@pytest.mark.parametrize("events", DOUBTFUL_STREAMS.values(), ids=DOUBTFUL_STREAMS)
async def test_what_is_no_chunk_of_one_answer_is_not_passed_on(wrapped: Wrapped, events: list[bytes]) -> None:
    text, content = await told_raw(wrapped, events)
    assert json.loads(text) == FULL
    assert b'[1,\\"1. Solve' not in content
    assert len(wrapped.upstream.asked) == 2


def ends(*choices: dict[str, Any]) -> list[bytes]:
    """A compact answer that ends so in its middle, and goes on all the same."""
    given = [b"data: " + orjson.dumps({"id": "1", "choices": [{"index": 0, **choice}]}) + b"\n\n" for choice in choices]
    return [*PLAIN_CHUNKS[:-12], *given, *PLAIN_CHUNKS[-12:]]


@pytest.mark.parametrize(
    "events",
    [
        ends({"delta": {"content": "[2,"}, "finish_reason": "content_filter"}),
        ends({"delta": {"content": "[2,", "refusal": "No."}, "finish_reason": None}),
        [*ends(), b'data: {"error":{"message":"m"},"choices":[{"delta":{"content":"[2,"}}]}\n\n'],
    ],
    ids=["filtered", "refused", "failed"],
)
async def test_a_stream_that_is_stopped_tells_no_rows(wrapped: Wrapped, events: list[bytes]) -> None:
    text, content = await told_raw(wrapped, events)
    assert pretty(FULL).startswith(text)
    assert b"[2," not in content
    assert len(wrapped.upstream.asked) == 1


async def test_what_is_passed_on_may_be_no_events(wrapped: Wrapped) -> None:
    long = pretty(FULL) + " " * MAX_EVENT_BYTES

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion(SAID if asked.compact else long))

    wrapped.upstream.answering = answering
    async with wrapped.monitor.session.post(CHAT, json=asked_for(stream=True)) as answer:
        assert (await answer.json())["choices"][0]["message"]["content"] == long
