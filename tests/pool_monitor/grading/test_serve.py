"""The wrapper between the vendor's SDK and an upstream that misbehaves on command."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
import openai
import orjson
import pytest
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from pool_monitor.grading.serve import CHAT
from pool_monitor.grading.sse import MAX_EVENT_BYTES, Decoder
from tests.pool_monitor.grading.samples import compact_by_hand, minified, pretty, two_questions
from tests.pool_monitor.grading.upstreams import (
    COMPACT,
    ORIGINAL,
    Asked,
    Upstream,
    chunks,
    completion,
    running_upstream,
    streamed,
    whole,
)
from tests.pool_monitor.support import Client, running_monitor
from tests.support import until

FULL = two_questions()
SAID = compact_by_hand()
JSON = {"Content-Type": "application/json"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"}}
BEFORE, AFTER = "The student is Zoë, grade 7.\n\n", "\n\nBe kind;  two spaces stay."


def messages(prompt: str = ORIGINAL) -> list[dict[str, Any]]:
    """As the plan's service sends it."""
    return [
        {"role": "system", "content": BEFORE + prompt + AFTER},
        {"role": "user", "content": [{"type": "text", "text": "Here it is."}, IMAGE]},
    ]


def asked_for(prompt: str = ORIGINAL, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": messages(prompt), "max_tokens": 4000, **more}


@dataclass
class Wrapped:
    """A monitor before an upstream, and what asks it."""

    upstream: Upstream
    monitor: Client

    @property
    def url(self) -> str:
        return str(self.monitor.session._base_url)

    def sdk(self, key: str = "sk-one", **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=0, **options)

    async def flag(self, **flags: bool) -> None:
        answered = await self.monitor.ask("PATCH", "/api/flags", json=flags)
        assert answered.status == 200

    def metric(self, name: str, **labels: str) -> float:
        return self.monitor.monitor._metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def wrapping(**settings: Any) -> AsyncIterator[Wrapped]:
    async with (
        running_upstream() as upstream,
        running_monitor(None, grading_upstream_url=upstream.url, **settings) as monitor,
    ):
        yield Wrapped(upstream, monitor)


@pytest.fixture
async def wrapped() -> AsyncIterator[Wrapped]:
    async with wrapping() as one:
        yield one


def says(compact: str, original: str = pretty(FULL), finish: str = "stop") -> Any:
    """An upstream that says the one to the compact prompt, and the other to the original."""

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        text, ends = (compact, finish) if asked.compact else (original, "stop")
        if asked.body.get("stream"):
            pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
            usage = bool((asked.body.get("stream_options") or {}).get("include_usage"))
            return await streamed(request, chunks(pieces, ends, usage))
        return await whole(completion(text, ends))

    return answering


async def graded(sdk: openai.AsyncOpenAI, **more: Any) -> Any:
    async with sdk:
        return await sdk.chat.completions.create(**asked_for(**more))


async def graded_in_a_stream(sdk: openai.AsyncOpenAI, **more: Any) -> tuple[str, list[Any]]:
    async with sdk:
        stream = await sdk.chat.completions.create(**asked_for(stream=True, **more))
        got = [chunk async for chunk in stream]
    return "".join(one.choices[0].delta.content or "" for one in got if one.choices), got


# -- a known prompt


async def test_the_upstream_is_asked_for_less_and_the_caller_cannot_tell(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    answer = await graded(wrapped.sdk())
    [asked] = wrapped.upstream.asked
    assert json.loads(answer.choices[0].message.content) == FULL
    assert answer.choices[0].message.content == pretty(FULL)
    assert asked.body == asked_for(COMPACT)
    assert list(asked.body) == list(asked_for())
    assert (answer.id, answer.usage.total_tokens, answer.choices[0].finish_reason) == ("chatcmpl-1", 150, "stop")
    assert answer._request_id == "req_1"


async def test_fields_of_the_caller_go_on_and_none_are_added(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    await graded(wrapped.sdk(organization="org-1", default_headers={"X-Own": "1"}))
    fields = {name.lower(): value for name, value in wrapped.upstream.asked[0].fields}
    assert fields["authorization"] == "Bearer sk-one"
    assert (fields["openai-organization"], fields["x-own"]) == ("org-1", "1")
    assert fields["user-agent"].startswith("AsyncOpenAI")
    assert fields["x-stainless-retry-count"] == "0"
    assert not {"via", "x-forwarded-for", "cookie", "forwarded"} & set(fields)


@pytest.mark.parametrize("stream", [False, True])
async def test_fields_that_speak_of_other_octets_are_left_out(wrapped: Wrapped, stream: bool) -> None:
    """A gateway or a caller that checks them would refuse what was made here."""
    fields = {"Content-Digest": "sha-256=:AAAA:", "ETag": '"x"', "X-Own": "1"}

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        answered = web.Response(body=orjson.dumps(completion(SAID)), content_type="application/json", headers=fields)
        if stream:
            events = b"".join(chunks([SAID]))
            answered = web.Response(body=events, content_type="text/event-stream", headers=fields)
        return answered

    wrapped.upstream.answering = answering
    async with wrapped.monitor.session.post(CHAT, json=asked_for(stream=stream), headers=fields) as answer:
        assert b"question_text" in await answer.read()
    for got in (answer.headers, CIMultiDict(wrapped.upstream.asked[0].fields)):
        assert (got["X-Own"], "Content-Digest" in got, "ETag" in got) == ("1", False, False)


@pytest.mark.parametrize(
    "said",
    [
        f"```json\n{SAID}\n```",
        f"Here is the grading:\n\n{SAID}\n\nAnything else?",
        SAID[:-1],
        SAID.replace('"C"', '"CORRECT"').replace('"Mathematics"', '"mathematics"'),
        json.dumps(json.loads(SAID), indent=2),
    ],
    ids=["fenced", "chatty", "no last bracket", "grade in words", "printed"],
)
async def test_what_is_certain_is_repaired(wrapped: Wrapped, said: str) -> None:
    wrapped.upstream.answering = says(said)
    answer = await graded(wrapped.sdk())
    assert json.loads(answer.choices[0].message.content) == FULL
    assert len(wrapped.upstream.asked) == 1


async def test_an_answer_in_the_full_form_is_left_as_it_is(wrapped: Wrapped) -> None:
    said = minified(FULL)
    wrapped.upstream.answering = says(said)
    assert (await graded(wrapped.sdk())).choices[0].message.content == said
    assert len(wrapped.upstream.asked) == 1


BROKEN = {
    "cut": SAID[:150],
    "cut between rows": SAID[: SAID.index(",[2,")],
    "a column less": SAID.replace(',"Good."', ""),
    "an unknown grade": SAID.replace('"I"', '"X"'),
    "a text for a number": SAID.replace("95", '"high"'),
    "no rows": '{"s":"Mathematics","c":98,"k":0,"t":"","n":""}',
    "another subject": SAID.replace("Mathematics", "Alchemy"),
    "no JSON": "I cannot read this image.",
    "empty": "",
    "another object": '{"questions":[]}',
    "half of the full form": pretty(FULL)[:300],
    "an array": "[1,2,3]",
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN)
async def test_what_is_not_certain_is_asked_again_with_the_original_prompt(wrapped: Wrapped, said: str) -> None:
    wrapped.upstream.answering = says(said)
    answer = await graded(wrapped.sdk())
    first, second = wrapped.upstream.asked
    assert json.loads(answer.choices[0].message.content) == FULL
    assert first.compact
    assert second.body == asked_for()
    assert answer.usage.total_tokens == 300
    assert answer.usage.prompt_tokens_details.cached_tokens == 20
    assert wrapped.metric("siding_grading_asked_again_total", template="homework-grading") == 1


def remembering(answering: Any) -> Any:
    """An upstream that gives the answer to the first request with an Idempotency-Key to all that have it."""
    first: dict[str, Asked] = {}

    async def remembered(asked: Asked, request: web.Request) -> web.StreamResponse:
        answered: web.StreamResponse = await answering(
            first.setdefault(request.headers["Idempotency-Key"], asked), request
        )
        return answered

    return remembered


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", [SAID, "no JSON", BROKEN["an unknown grade"]], ids=["compact", "none", "half"])
async def test_under_an_idempotency_key_both_prompts_have_their_own_answers(
    wrapped: Wrapped, stream: bool, said: str
) -> None:
    wrapped.upstream.answering = remembering(says(said))

    async def got() -> Any:
        sdk = wrapped.sdk(default_headers={"Idempotency-Key": "k-1"})
        if stream:
            return json.loads((await graded_in_a_stream(sdk))[0])
        return json.loads((await graded(sdk)).choices[0].message.content)

    for _ in range(2):
        assert await got() == FULL
    await wrapped.flag(USE_OPTIMIZED_PROMPTS=False)
    assert await got() == FULL
    bodies: dict[str, Any] = {}
    for asked in wrapped.upstream.asked:
        assert bodies.setdefault(CIMultiDict(asked.fields)["Idempotency-Key"], asked.body) == asked.body
    assert bodies["k-1"] == (asked_for(stream=True) if stream else asked_for())


@pytest.mark.parametrize("stream", [False, True])
async def test_half_a_surrogate_pair_is_no_obstacle(wrapped: Wrapped, stream: bool) -> None:
    """Strict parsers refuse it; models say it."""
    wrapped.upstream.answering = says(SAID.replace("Half right.", "Half \\ud83d right."))
    if stream:
        text, _ = await graded_in_a_stream(wrapped.sdk())
    else:
        text = (await graded(wrapped.sdk())).choices[0].message.content
    assert json.loads(text)["performance_summary"]["summary_text"] == "Half \ud83d right."
    assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"message":"x"}]}'])
async def test_what_is_no_completion_is_asked_again(wrapped: Wrapped, content: bytes) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.compact:
            return web.Response(body=content, content_type="application/json")
        return await whole(completion(pretty(FULL)))

    wrapped.upstream.answering = answering
    assert json.loads((await graded(wrapped.sdk())).choices[0].message.content) == FULL


async def test_with_a_query_it_is_another_resource(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    async with wrapped.monitor.session.post(f"{CHAT}?api-version=1", json=asked_for()) as answer:
        assert answer.status == 200
    [asked] = wrapped.upstream.asked
    assert (asked.path, asked.body) == (f"{CHAT}?api-version=1", asked_for())


async def test_a_refusal_is_passed_on(wrapped: Wrapped) -> None:
    async def refuse(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion(None, refusal="I'm sorry."))

    wrapped.upstream.answering = refuse
    message = (await graded(wrapped.sdk())).choices[0].message
    assert (message.content, message.refusal) == (None, "I'm sorry.")
    assert len(wrapped.upstream.asked) == 1


async def test_what_is_cut_at_the_callers_own_limit_stays_cut(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID[: SAID.index(',"t"') - 20], finish="length")
    choice = (await graded(wrapped.sdk())).choices[0]
    assert choice.finish_reason == "length"
    assert pretty(FULL).startswith(choice.message.content)
    assert '"question_number": 1' in choice.message.content
    assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_an_error_of_the_upstream_is_the_callers(status: int) -> None:
    async def fail(asked: Asked, request: web.Request) -> web.StreamResponse:
        error = {"message": "m", "type": "t", "param": None, "code": "c"}
        return await whole({"error": error}, status, retry_after="77", x_ratelimit_remaining_requests="0")

    async with wrapping() as wrapped:
        wrapped.upstream.answering = fail
        with pytest.raises(openai.APIStatusError) as fault:
            await graded(wrapped.sdk())
        headers = fault.value.response.headers
        assert (fault.value.status_code, fault.value.code) == (status, "c")
        assert (headers["retry-after"], headers["x-ratelimit-remaining-requests"]) == ("77", "0")
        assert headers["x-request-id"] == "req_1"
        assert len(wrapped.upstream.asked) == 1


async def test_a_request_that_is_refused_in_its_compact_form_is_asked_as_it_was(wrapped: Wrapped) -> None:
    async def refuse(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.compact:
            return await whole({"error": {"message": "no", "type": "invalid_request_error"}}, 400)
        return await whole(completion(pretty(FULL)))

    wrapped.upstream.answering = refuse
    assert json.loads((await graded(wrapped.sdk())).choices[0].message.content) == FULL


async def test_without_an_upstream_the_error_is_in_the_vendors_form() -> None:
    async with running_monitor(None, grading_upstream_url="http://127.0.0.1:1/v1") as monitor:
        sdk = openai.AsyncOpenAI(api_key="k", base_url=f"{monitor.session._base_url}/v1", max_retries=0)
        with pytest.raises(openai.APIStatusError) as fault:
            await graded(sdk)
        assert (fault.value.status_code, fault.value.code) == (502, "upstream_unreachable")


async def test_a_template_whose_answers_keep_failing_is_left_alone(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says("no JSON at all")
    for number in range(11):
        await graded(wrapped.sdk(), seed=number)
    assert [asked.compact for asked in wrapped.upstream.asked] == [True, False] * 10 + [False]
    assert wrapped.metric("siding_grading_template", template="homework-grading", state="off") == 1
    assert wrapped.metric("siding_grading_requests_total", what="template-off", found="asked", status="2xx") == 1


# -- streams


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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (completion(SAID[:150], "content_filter"), None),
        (completion(SAID[:150], refusal="No."), None),
        (completion("Filtered.", "content_filter"), "Filtered."),
        (completion("", "content_filter"), ""),
    ],
    ids=["filtered", "refused", "text of the filter", "nothing"],
)
async def test_an_answer_that_is_stopped_tells_no_rows(wrapped: Wrapped, said: Any, told: str | None) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(said)

    wrapped.upstream.answering = answering
    choice = (await graded(wrapped.sdk())).choices[0]
    content, given = choice.message.content, said["choices"][0]
    assert content == told if told is not None else pretty(FULL).startswith(content)
    assert (choice.finish_reason, choice.message.refusal) == (given["finish_reason"], given["message"]["refusal"])
    assert len(wrapped.upstream.asked) == 1


CHOICE = completion(SAID)["choices"][0]


@pytest.mark.parametrize(
    "choices",
    [
        [CHOICE, {**CHOICE, "index": 1}],
        [{**CHOICE, "message": {"role": "assistant", "content": [{"type": "text", "text": SAID}]}}],
        None,
    ],
    ids=["two", "parts", "none"],
)
async def test_other_choices_than_one_text_are_asked_for_again(wrapped: Wrapped, choices: Any) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({**completion(SAID), "choices": choices} if asked.compact else completion(pretty(FULL)))

    wrapped.upstream.answering = answering
    answer = await graded(wrapped.sdk())
    assert [json.loads(one.message.content or "") for one in answer.choices] == [FULL]


async def test_what_is_passed_on_may_be_no_events(wrapped: Wrapped) -> None:
    long = pretty(FULL) + " " * MAX_EVENT_BYTES

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion(SAID if asked.compact else long))

    wrapped.upstream.answering = answering
    async with wrapped.monitor.session.post(CHAT, json=asked_for(stream=True)) as answer:
        assert (await answer.json())["choices"][0]["message"]["content"] == long


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


# -- what is not known, or not to be touched


@pytest.mark.parametrize("target", [CHAT, f"{CHAT}?a=%2F&b=%c3%a9+x&a", f"{CHAT}/", "/v1/a%2Fb//c", "/v1/embeddings"])
async def test_what_is_forwarded_is_so_octet_for_octet(wrapped: Wrapped, target: str) -> None:
    seen: dict[str, Any] = {}

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        seen["asked"] = asked
        fields = [("x-request-id", "r"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Odd", " é ")]
        return web.Response(status=206, reason="Some of it", body=b"\x1f\x8b not gzip", headers=fields)

    wrapped.upstream.answering = answering
    content = b'{ "model" :\t"x",  "messages": [], "odd\\u00e9": 1e400 }'
    sent = {"Authorization": "Bearer k", "Content-Type": "application/json", "X-B": "2", "X-A": "1"}
    async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept", "User-Agent"]) as session:
        url = URL(wrapped.url + target, encoded=True)
        async with session.post(url, data=content, headers=sent) as answer:
            got = (answer.status, answer.reason, await answer.read(), list(answer.raw_headers))
    asked = seen["asked"]
    assert (asked.method, asked.path, asked.content) == ("POST", target, content)
    kept = [(name, value) for name, value in asked.fields if name not in {"Host", "Accept-Encoding"}]
    assert kept == [*sent.items(), ("Content-Length", str(len(content)))]
    assert got[:3] == (206, "Some of it", b"\x1f\x8b not gzip")
    names = [name.lower() for name, _ in got[3]]
    assert names.count(b"set-cookie") == 2
    assert b"cache-status" not in names
    assert b"via" not in names


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("structured-output", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}),
        ("several-choices", {"n": 2}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("sampling", {"logprobs": True}),
        ("unrecognised", {"prompt": "Grade this essay."}),
    ],
)
async def test_what_is_left_as_it_is_and_why(wrapped: Wrapped, what: str, more: dict[str, Any]) -> None:
    wrapped.upstream.answering = says(SAID)
    body = asked_for(**more)
    await graded(wrapped.sdk(), **more)
    [asked] = wrapped.upstream.asked
    assert asked.body == body
    assert wrapped.metric("siding_grading_requests_total", what=what, found="asked", status="2xx") == 1


async def test_json_mode_is_no_obstacle(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    answer = await graded(wrapped.sdk(), response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == FULL
    assert wrapped.upstream.asked[0].compact


async def test_the_flag_is_obeyed_from_the_next_request_on(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    await graded(wrapped.sdk())
    await wrapped.flag(USE_OPTIMIZED_PROMPTS=False)
    assert (await graded(wrapped.sdk())).choices[0].message.content == pretty(FULL)
    await wrapped.flag(USE_OPTIMIZED_PROMPTS=True)
    await graded(wrapped.sdk())
    assert [asked.compact for asked in wrapped.upstream.asked] == [True, False, True]


@pytest.mark.parametrize("flags", [{"USE_OPTIMIZED_PROMPTS": False}, {"BYPASS": True}])
async def test_with_the_flag_off_all_is_octet_for_octet(wrapped: Wrapped, flags: dict[str, bool]) -> None:
    answered = b'{"choices" : [ ] ,  "odd": 1.50 }'

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(body=answered, content_type="application/json")

    wrapped.upstream.answering = answering
    await wrapped.flag(**flags)
    content = orjson.dumps(asked_for(), option=orjson.OPT_INDENT_2)
    async with wrapped.monitor.session.post("/v1/chat/completions", data=content, headers=JSON) as answer:
        assert await answer.read() == answered
    assert wrapped.upstream.asked[0].content == content


async def test_a_flag_that_is_flipped_meanwhile_changes_nothing_of_what_is_under_way(wrapped: Wrapped) -> None:
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID if asked.compact else pretty(FULL)))

    wrapped.upstream.answering = answering
    task = asyncio.create_task(graded(wrapped.sdk()))
    await until(lambda: len(wrapped.upstream.asked) == 1)
    await wrapped.flag(USE_OPTIMIZED_PROMPTS=False)
    go.set()
    assert json.loads((await task).choices[0].message.content) == FULL


async def test_a_large_image_goes_through(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says(SAID)
    url = "data:image/png;base64," + "A" * 27_000_000
    asked = [messages()[0], {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    async with wrapped.sdk() as sdk:
        answer = await sdk.chat.completions.create(model="gpt-4o-mini", messages=asked)  # type: ignore[arg-type]
    assert json.loads(answer.choices[0].message.content or "") == FULL
    assert wrapped.upstream.asked[0].body["messages"][1] == asked[1]


async def test_what_is_too_large_to_look_into_is_forwarded() -> None:
    async with wrapping(grading_max_request_bytes=1000) as wrapped:
        wrapped.upstream.answering = says(SAID)
        await graded(wrapped.sdk())
        content = json.dumps(asked_for()).encode()

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(content), 700):
                yield content[at : at + 700]

        async with wrapped.monitor.session.post("/v1/chat/completions", data=pieces(), headers=JSON) as answer:
            assert answer.status == 200
        assert [asked.body for asked in wrapped.upstream.asked] == [asked_for(), asked_for()]
        assert wrapped.metric("siding_grading_requests_total", what="too-large", found="asked", status="2xx") == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"Questions"', b'{"messages":[{"Questions":1}]}'])
async def test_content_that_is_no_request_is_the_upstreams_to_refuse(wrapped: Wrapped, content: bytes) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, body=b"no")

    wrapped.upstream.answering = answering
    async with wrapped.monitor.session.post("/v1/chat/completions", data=content, headers=JSON) as answer:
        assert (answer.status, await answer.read()) == (400, b"no")
    assert wrapped.upstream.asked[0].content == content


async def test_when_the_caller_leaves_the_upstream_is_no_longer_asked(wrapped: Wrapped) -> None:
    left = asyncio.Event()

    async def forever(asked: Asked, request: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.set()
            raise
        raise AssertionError

    wrapped.upstream.answering = forever
    task = asyncio.create_task(graded(wrapped.sdk()))
    await until(lambda: len(wrapped.upstream.asked) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(10):
        await left.wait()


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


async def together(wrapped: Wrapped, *asked: Any) -> int:
    """How often the upstream was asked for these, all at once."""
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID if asked.compact else pretty(FULL)))

    wrapped.upstream.answering = answering
    tasks = [asyncio.create_task(one) for one in asked]
    monitored = wrapped.monitor.monitor.grading
    await until(
        lambda: (
            len(wrapped.upstream.asked) + sum(one.listeners - 1 for one in monitored.grading.collapse._askings.values())
            >= len(asked)
        )
    )
    go.set()
    await asyncio.gather(*tasks)
    return len(wrapped.upstream.asked)


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
