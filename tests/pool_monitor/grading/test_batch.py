"""Many homeworks in one request: as they finish or in order, once each, and again after a broken line."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from multidict import CIMultiDict

from pool_monitor.grading.batch_http import form_asked
from pool_monitor.grading.batch_items import MOST_IN_ARRAY
from pool_monitor.grading.calls import Answer, Call
from pool_monitor.grading.observed import Found
from tests.pool_monitor.grading.samples import pretty
from tests.pool_monitor.grading.upstreams import Asked, completion, whole
from tests.pool_monitor.grading.wrapped import FULL, SAID, Wrapped, asked_for, begun_and_left, says
from tests.support import until

BATCH = "/v1/batch/chat/completions"
LINES = "application/x-ndjson"


@pytest.fixture
def wrapped(wrapped: Wrapped) -> Wrapped:
    wrapped.upstream.answering = says(SAID)
    return wrapped


async def send(wrapped: Wrapped, items: Any, key: str = "sk-one", **fields: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    async with wrapped.monitor.session.post(BATCH, data=io.BytesIO(orjson.dumps(items)), headers=headers) as answer:
        return answer.status, await answer.json()


def content_of(result: dict[str, Any]) -> Any:
    return json.loads(result["response"]["choices"][0]["message"]["content"])


async def test_an_array_is_answered_in_order(wrapped: Wrapped) -> None:
    items = [asked_for(seed=number) for number in range(20)]
    status, told = await send(wrapped, items)
    assert status == 200
    assert [one["index"] for one in told["results"]] == list(range(20))
    assert all(one["status"] == 200 and content_of(one) == FULL for one in told["results"])
    summary = told["summary"]
    assert (summary["total"], summary["succeeded"], summary["failed"]) == (20, 20, 0)
    assert summary["tokens"]["total"] == 20 * 150
    assert all(asked.compact for asked in wrapped.upstream.asked)


@pytest.mark.parametrize(("status", "others"), [(401, 401), (403, 200)])
async def test_what_is_refused_again_and_again_is_not_asked_to_the_end(
    wrapped: Wrapped, status: int, others: int
) -> None:
    """The key, or a model that it may not use; each item is told so all the same."""

    async def refusing(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["model"] == "o3" or status == 401:
            return await whole({"error": {"message": "no", "code": "c"}}, status)
        return await whole(completion(SAID))

    wrapped.upstream.answering = refusing
    items = [asked_for(seed=number, model="o3") for number in range(50)]
    _, told = await send(wrapped, [*items, asked_for(seed=99)])
    assert [one["status"] for one in told["results"]] == [status] * 50 + [others]
    assert {one["error"]["code"] for one in told["results"][:50]} == {"c"}
    assert len(wrapped.upstream.asked) == told["summary"]["upstream_calls"] < 20


async def test_usage_that_no_answer_can_have_is_none(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        usage = {"prompt_tokens": 10, "completion_tokens": 2**64 - 1}
        return await whole({**completion(SAID), "usage": usage})

    wrapped.upstream.answering = answering
    status, told = await send(wrapped, [asked_for(seed=number) for number in range(3)])
    assert (status, told["summary"]["succeeded"]) == (200, 3)
    assert told["summary"]["tokens"] == {"prompt": 30, "completion": 0, "total": 30}
    await wrapped.monitor.monitor.grading.books.counted()
    books = await wrapped.monitor.get("/api/metrics/grading")
    assert (books.status, books.document["reported"]["requestsWithout"]) == (200, 3)


async def test_lines_are_answered_as_they_finish(wrapped: Wrapped) -> None:
    first = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["seed"] == 0:
            await first.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    lines = b"\n".join(
        orjson.dumps({"custom_id": f"hw-{number}", "body": asked_for(seed=number)}) for number in range(3)
    )
    headers = {"Content-Type": LINES, "Authorization": "Bearer k"}
    async with wrapped.monitor.session.post(BATCH, data=lines, headers=headers) as answer:
        assert answer.content_type == LINES
        got = [json.loads(await answer.content.readline()) for _ in range(2)]
        assert {one["custom_id"] for one in got} == {"hw-1", "hw-2"}
        first.set()
        last, summary = [json.loads(await answer.content.readline()) for _ in range(2)]
    assert last["custom_id"] == "hw-0"
    assert summary["summary"]["succeeded"] == 3


async def test_equal_items_are_asked_once(wrapped: Wrapped) -> None:
    item = asked_for()
    other_order = dict(reversed(item.items()))
    _, told = await send(wrapped, [item, other_order, item, asked_for(seed=1)])
    assert len(wrapped.upstream.asked) == 2
    assert told["summary"]["collapsed"] == 2
    assert [content_of(one) for one in told["results"]] == [FULL] * 4


SCHEMA = {"type": "object", "properties": {"reasoning": {"type": "string"}, "answer": {"type": "string"}}}


def with_schema(schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return asked_for("Tell a joke.", temperature=0, response_format=form)


JOKE = asked_for("Tell a joke.", temperature=1)
OTHERS = {
    "samples": (JOKE, JOKE),
    "without a temperature": (asked_for("Tell a joke."), asked_for("Tell a joke.")),
    "stored": (asked_for(temperature=0, store=True), asked_for(temperature=0, store=True)),
    "a schema in another order": (
        with_schema(SCHEMA),
        with_schema({**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}),  # type: ignore[attr-defined]
    ),
}


@pytest.mark.parametrize("items", OTHERS.values(), ids=OTHERS)
async def test_what_is_not_shared_outside_of_batches_is_not_shared_in_them(wrapped: Wrapped, items: Any) -> None:
    _, told = await send(wrapped, [asked_for(seed=1), *items, asked_for(seed=1)])
    assert [one["index"] for one in told["results"]] == [0, 1, 2, 3]
    assert (len(wrapped.upstream.asked), told["summary"]["collapsed"]) == (3, 1)


async def test_items_at_temperature_0_are_asked_once(wrapped: Wrapped) -> None:
    _, told = await send(wrapped, [with_schema(SCHEMA)] * 3)
    assert (len(wrapped.upstream.asked), told["summary"]["collapsed"]) == (1, 2)


@pytest.mark.parametrize("found", [Found.HIT, Found.SHARED])
async def test_answers_that_are_kept_are_told_of_by_where_they_were(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch, found: Found
) -> None:
    async def find(key: bytes) -> tuple[Answer, Found, float]:
        return Answer(200, (), json.dumps(completion("kept")).encode()), found, 9.0

    monkeypatch.setattr(wrapped.monitor.monitor.grading.stored, "find", find)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    status, told = await send(wrapped, [asked_for(temperature=0)])
    assert (status, told["results"][0]["response"]["choices"][0]["message"]["content"]) == (200, "kept")
    labels = {"what": "compact", "found": found, "status": "2xx"}
    assert wrapped.metric("siding_grading_requests_total", **labels) == 1
    assert wrapped.upstream.asked == []


async def test_with_dedup_off_each_is_asked(wrapped: Wrapped) -> None:
    await wrapped.flag(ENABLE_DEDUP=False)
    await send(wrapped, [asked_for()] * 3)
    assert len(wrapped.upstream.asked) == 3


async def test_what_is_wrong_with_one_is_told_of_that_one(wrapped: Wrapped) -> None:
    items = [asked_for(), 7, {"model": "m"}, asked_for(stream=True), {"custom_id": 1, "body": asked_for()}]
    status, told = await send(wrapped, items)
    assert status == 200
    assert [one["status"] for one in told["results"]] == [200, 400, 400, 400, 400]
    assert all(one["error"]["message"] for one in told["results"][1:])
    assert told["summary"]["by_status"] == {"200": 1, "400": 4}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (orjson.dumps(completion("a joke")).replace(b"joke", b"j\\ud83d"), "a j\ud83d"),
        (b"\xef\xbb\xbf" + orjson.dumps(completion("a joke")), "a joke"),
    ],
    ids=["half a surrogate pair", "a byte order mark"],
)
async def test_json_that_strict_parsers_refuse_is_an_answer(wrapped: Wrapped, content: bytes, said: str) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type="application/json")

    wrapped.upstream.answering = answering
    _, told = await send(wrapped, [asked_for("Tell a joke.")])
    assert told["results"][0]["status"] == 200
    assert told["results"][0]["response"]["choices"][0]["message"]["content"] == said


async def test_an_error_of_the_upstream_is_that_items(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["seed"] == 1:
            return await whole({"error": {"message": "m", "type": "t", "code": "c"}}, 500)
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    _, told = await send(wrapped, [asked_for(seed=number) for number in range(3)])
    assert [one["status"] for one in told["results"]] == [200, 500, 200]
    assert told["results"][1]["error"]["code"] == "c"


async def test_an_error_that_no_strict_printer_writes_is_that_items(wrapped: Wrapped) -> None:
    """Where it tells again what it was asked, cut within a pair."""

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["seed"] == 1:
            content = b'{"error":{"message":"j\\ud83d","type":"t","code":"c"}}'
            return web.Response(status=400, body=content, content_type="application/json")
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    _, told = await send(wrapped, [asked_for(seed=number) for number in range(3)])
    assert [one["status"] for one in told["results"]] == [200, 400, 200]
    assert told["results"][1]["error"]["message"] == "j\ud83d"


async def test_a_rate_limit_holds_all_up_and_nothing_fails(wrapped: Wrapped) -> None:
    refused: list[int] = []

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if len(refused) < 3:
            refused.append(asked.body["seed"])
            return await whole(
                {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429, retry_after="0.05"
            )
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    _, told = await send(wrapped, [asked_for(seed=number) for number in range(10)])
    assert told["summary"]["by_status"] == {"200": 10}


async def test_not_more_than_so_many_at_once(wrapped: Wrapped) -> None:
    now, most = 0, 0

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    await send(wrapped, [asked_for(seed=number) for number in range(40)])
    assert 1 < most <= 8


async def test_a_thousand_and_no_more(wrapped: Wrapped) -> None:
    status, told = await send(wrapped, [asked_for(seed=number % 50) for number in range(1000)])
    assert (status, told["summary"]["succeeded"], told["summary"]["upstream_calls"]) == (200, 1000, 50)
    status, told = await send(wrapped, [{}] * 1001)
    assert status == 413
    assert "1000" in told["error"]["message"].replace(",", "")


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'"x"', b"[[" + b"1," * MOST_IN_ARRAY + b"1]]"])
async def test_what_is_no_batch(wrapped: Wrapped, content: bytes) -> None:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer k"}
    async with wrapped.monitor.session.post(BATCH, data=io.BytesIO(content), headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["message"]
    assert wrapped.upstream.asked == []


async def test_who_leaves_ends_what_is_asked(wrapped: Wrapped) -> None:
    await begun_and_left(wrapped, send(wrapped, [asked_for()]))
    labels = {"what": "client-gone", "found": "asked", "status": "none"}
    await until(lambda: wrapped.metric("siding_grading_requests_total", **labels) == 1)


async def test_what_is_given_up_when_its_time_is_over_is_not_the_callers_doing(wrapped: Wrapped) -> None:
    grading = wrapped.monitor.monitor.grading.grading
    call = Call(asked_for(), (), time.monotonic())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await grading.ask(call)
    assert wrapped.metric("siding_grading_requests_total", what="failed", found="asked", status="5xx") == 1


async def test_a_fault_of_our_own_is_no_caller_that_left(wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    grading = wrapped.monitor.monitor.grading.grading
    monkeypatch.setattr(grading, "_kept", None)
    _, told = await send(wrapped, [asked_for(seed=1)])
    assert told["results"][0]["error"]["code"] == "internal_error"
    assert wrapped.metric("siding_grading_requests_total", what="failed", found="asked", status="5xx") == 1


async def test_with_a_key_what_is_done_survives_a_broken_line(wrapped: Wrapped) -> None:
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["seed"] > 0:
            await go.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    items = [asked_for(seed=number) for number in range(3)]
    headers = {"Authorization": "Bearer sk-one", "Idempotency-Key": "monday", "Accept": LINES}
    async with (
        aiohttp.ClientSession(wrapped.url) as session,
        session.post(BATCH, json=items, headers=headers) as answer,
    ):
        assert json.loads(await answer.content.readline())["index"] == 0
        answer.close()
    again = asyncio.create_task(send(wrapped, items, Idempotency_Key="monday"))
    go.set()
    status, told = await again
    assert (status, told["summary"]["succeeded"]) == (200, 3)
    # it speaks of all items together
    assert not any("Idempotency-Key" in CIMultiDict(asked.fields) for asked in wrapped.upstream.asked)
    assert len(wrapped.upstream.asked) == 3
    status, told = await send(wrapped, items[:2], Idempotency_Key="monday")
    assert (status, told["error"]["code"]) == (422, "idempotency_key_reused")
    status, told = await send(wrapped, items, key="sk-two", Idempotency_Key="monday")
    assert status == 200
    assert len(wrapped.upstream.asked) == 6


@pytest.mark.parametrize("field", ["api-key", "X-Api-Key"])
async def test_a_key_is_its_callers(wrapped: Wrapped, field: str) -> None:
    for caller in ("one", "two"):
        headers = {field: caller, "Idempotency-Key": "monday"}
        async with wrapped.monitor.session.post(BATCH, json=[asked_for()], headers=headers) as answer:
            assert "Idempotent-Replayed" not in answer.headers
            assert (await answer.json())["summary"]["succeeded"] == 1
    assert [CIMultiDict(asked.fields)[field] for asked in wrapped.upstream.asked] == ["one", "two"]


async def test_with_a_key_what_failed_is_asked_again(wrapped: Wrapped) -> None:
    failing = True

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if failing and asked.body["seed"] == 1:
            return await whole({"error": {"message": "m", "code": "c"}}, 500)
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    items = [asked_for(seed=number) for number in range(2)]
    _, told = await send(wrapped, items, Idempotency_Key="k")
    assert told["summary"]["by_status"] == {"200": 1, "500": 1}
    failing = False
    _, told = await send(wrapped, items, Idempotency_Key="k")
    assert told["summary"]["by_status"] == {"200": 2}
    assert len(wrapped.upstream.asked) == 3


async def test_under_bypass_items_are_asked_as_they_are(wrapped: Wrapped) -> None:
    await wrapped.flag(BYPASS=True)
    _, told = await send(wrapped, [asked_for()] * 2)
    assert [one["response"]["choices"][0]["message"]["content"] for one in told["results"]] == [pretty(FULL)] * 2
    assert [asked.body for asked in wrapped.upstream.asked] == [asked_for()] * 2


async def test_under_bypass_nothing_is_kept(wrapped: Wrapped) -> None:
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True, BYPASS=True)
    await send(wrapped, [asked_for(prompt="Tell a joke.", temperature=0)])
    await wrapped.flag(BYPASS=False)
    for _ in range(2):
        await send(wrapped, [asked_for(prompt="Tell a joke.", temperature=0)])
    assert len(wrapped.upstream.asked) == 2


@pytest.mark.parametrize(
    ("accept", "sent", "answered"),
    [
        ([], "application/json", "application/json"),
        ([], LINES, LINES),
        (["*/*"], LINES, LINES),
        (["application/json"], LINES, "application/json"),
        ([LINES], "application/json", LINES),
        (["application/json;q=0.5, application/x-ndjson"], "application/json", LINES),
        (["application/jsonl"], "application/json", "application/jsonl"),
        (["text/html"], "application/json", "application/json"),
        (["application/json;q=x"], LINES, LINES),
    ],
)
def test_the_form_of_the_answer(accept: list[str], sent: str, answered: str) -> None:
    assert form_asked(accept, sent) == answered
