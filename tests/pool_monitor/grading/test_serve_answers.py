"""A known prompt is asked for less, and the caller cannot tell from the answer."""

from __future__ import annotations

import json
from typing import Any

import openai
import orjson
import pytest
from aiohttp import web
from multidict import CIMultiDict

from pool_monitor.grading.calls import CHAT
from tests.pool_monitor.grading.samples import minified, pretty
from tests.pool_monitor.grading.upstreams import COMPACT, Asked, chunks, completion, whole
from tests.pool_monitor.grading.wrapped import (
    BROKEN,
    FULL,
    SAID,
    Wrapped,
    asked_for,
    graded,
    graded_in_a_stream,
    says,
    wrapping,
)
from tests.pool_monitor.support import running_monitor
from tests.sdk import sdk


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
        with pytest.raises(openai.APIStatusError) as fault:
            await graded(sdk(f"{monitor.session._base_url}/v1"))
        assert (fault.value.status_code, fault.value.code) == (502, "upstream_unreachable")


async def test_a_template_whose_answers_keep_failing_is_left_alone(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = says("no JSON at all")
    for number in range(11):
        await graded(wrapped.sdk(), seed=number)
    assert [asked.compact for asked in wrapped.upstream.asked] == [True, False] * 10 + [False]
    assert wrapped.metric("siding_grading_template", template="homework-grading", state="off") == 1
    assert wrapped.metric("siding_grading_requests_total", what="template-off", found="asked", status="2xx") == 1


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
