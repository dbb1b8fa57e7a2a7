"""One batch of the batches API while it runs: what is refused, what fails, and how it is cancelled."""

from __future__ import annotations

import asyncio
import json
import threading

import openai
import pytest
from aiohttp import web

from pool_monitor.grading import batch_running
from pool_monitor.grading.batch_files import PIECE_BYTES, Octets
from tests.pool_monitor.grading.batching import answering, begun, ended, line, lines_of
from tests.pool_monitor.grading.upstreams import Asked, completion, whole
from tests.pool_monitor.grading.wrapped import FULL, SAID, Wrapped, asked_for
from tests.support import until


@pytest.fixture
def wrapped(wrapped: Wrapped) -> Wrapped:
    wrapped.upstream.answering = answering
    return wrapped


async def test_what_fails_is_in_the_other_file(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["seed"] == 1:
            return await whole({"error": {"message": "m", "code": "c"}}, 400)
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    content = b"\n".join([line(0), line(1), line(2, body=asked_for(messages="none"))])
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, content))
        assert batch.status == "completed"
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
        [good] = await lines_of(sdk, batch.output_file_id)
        bad = await lines_of(sdk, batch.error_file_id)
    assert good["custom_id"] == "hw-0"
    assert {one["custom_id"]: one["response"]["status_code"] for one in bad} == {"hw-1": 400, "hw-2": 400}


async def test_with_a_key_that_the_upstream_refuses_it_is_not_asked_for_all(
    wrapped: Wrapped, caplog: pytest.LogCaptureFixture
) -> None:
    async def refusing(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}, 401)

    wrapped.upstream.answering = refusing
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, b"\n".join(line(number) for number in range(100))))
        lines = await lines_of(sdk, batch.error_file_id)
    assert (batch.status, batch.output_file_id, [one.code for one in batch.errors.data]) == (
        "failed",
        None,
        ["invalid_api_key"],
    )
    assert 0 < len(wrapped.upstream.asked) < 20
    assert len(lines) == batch.request_counts.failed == 100
    told = {one["response"]["status_code"] if one["response"] else one["error"]["code"] for one in lines}
    assert told == {401, "batch_failed"}
    assert not [record for record in caplog.records if record.exc_info]


async def test_one_that_is_refused_among_others_is_so_alone(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["seed"] == 20:
            return await whole({"error": {"message": "no", "code": None}}, 401)
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, b"\n".join(line(number) for number in range(40))))
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 39, 1)


async def test_one_that_is_refused_before_any_is_answered_is_so_alone(wrapped: Wrapped) -> None:
    """Upstreams refuse a good key now and then."""
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["seed"] == 0:
            return await whole({"error": {"message": "no", "code": None}}, 401)
        await go.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    async with wrapped.sdk() as sdk:
        batch = await begun(sdk, b"\n".join(line(number) for number in range(40)))
        while not batch.request_counts.failed:
            batch = await sdk.batches.retrieve(batch.id)
        go.set()
        batch = await ended(sdk, batch)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 39, 1)


async def test_a_key_that_is_revoked_meanwhile_is_not_asked_with_to_the_end(wrapped: Wrapped) -> None:
    answered = 0

    async def revoking(asked: Asked, request: web.Request) -> web.StreamResponse:
        nonlocal answered
        if answered < 20:
            answered += 1
            return await whole(completion(SAID))
        return await whole({"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}, 401)

    wrapped.upstream.answering = revoking
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, b"\n".join(line(number) for number in range(100))))
        good, bad = await lines_of(sdk, batch.output_file_id), await lines_of(sdk, batch.error_file_id)
    assert (batch.status, [one.code for one in batch.errors.data]) == ("completed", ["invalid_api_key"])
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(good), len(bad)) == (20, 80)
    assert {one["custom_id"] for one in good + bad} == {f"hw-{number}" for number in range(100)}
    assert {one["response"]["status_code"] if one["response"] else one["error"]["code"] for one in bad} == {
        401,
        "batch_failed",
    }
    assert len(wrapped.upstream.asked) < 20 + 20


async def test_only_what_asks_a_model_that_is_forbidden_is_left(wrapped: Wrapped) -> None:
    async def forbidding(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["model"] == "o3":
            return await whole({"error": {"message": "no access to model o3", "code": "model_not_found"}}, 403)
        return await whole(completion(SAID))

    wrapped.upstream.answering = forbidding
    forbidden = [line(number, body=asked_for(seed=number, model="o3")) for number in range(100, 150)]
    content = b"\n".join([line(0), *forbidden, *map(line, range(1, 20))])
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, content))
    assert (batch.status, [one.code for one in batch.errors.data]) == ("completed", ["permission_denied"])
    assert "'o3'" in batch.errors.data[0].message
    assert (batch.request_counts.completed, batch.request_counts.failed) == (20, 50)
    assert len(wrapped.upstream.asked) < 20 + 20


@pytest.mark.parametrize("status", [401, 403])
async def test_refusals_among_answers_end_nothing(wrapped: Wrapped, status: int) -> None:
    async def now_and_then(asked: Asked, request: web.Request) -> web.StreamResponse:
        told = {0: status, 1: 200, 2: 400}[asked.body["seed"] % 3]
        return await whole(completion(SAID) if told == 200 else {"error": {"message": "no", "code": None}}, told)

    wrapped.upstream.answering = now_and_then
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, b"\n".join(line(number) for number in range(60))))
    assert (batch.status, batch.errors) == ("completed", None)
    assert {one.body["seed"] for one in wrapped.upstream.asked} == set(range(60))


async def test_a_batch_is_cancelled(wrapped: Wrapped) -> None:
    async def forever(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body["seed"] == 0:
            return await whole(completion(SAID))
        await asyncio.sleep(0.2)
        return await whole(completion(SAID))

    wrapped.upstream.answering = forever
    async with wrapped.sdk() as sdk:
        batch = await begun(sdk, b"\n".join(line(number) for number in range(100)))
        await until(lambda: len(wrapped.upstream.asked) >= 8)
        batch = await sdk.batches.cancel(batch.id)
        assert batch.status == "cancelling"
        batch = await ended(sdk, batch)
        assert batch.status == "cancelled"
        lines = await lines_of(sdk, batch.error_file_id)
        assert lines[-1]["error"]["code"] == "batch_cancelled"
        with pytest.raises(openai.ConflictError):
            await sdk.batches.cancel(batch.id)
    assert len(wrapped.upstream.asked) < 100


async def test_who_is_given_up_while_his_answer_is_written_has_one_line(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writes, go, write = threading.Event(), threading.Event(), Octets.write

    def slowly(octets: Octets, content: bytes, at: int) -> None:
        if b"batch_req_siding" in content:
            writes.set()
            go.wait(20)
        write(octets, content, at)

    async def much(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion("x" * PIECE_BYTES))

    monkeypatch.setattr(Octets, "write", slowly)
    monkeypatch.setattr(batch_running, "CANCEL_SECONDS", 0.01)
    wrapped.upstream.answering = much
    body = asked_for("Tell a joke.", temperature=0)
    async with wrapped.sdk() as sdk:
        batch = await begun(sdk, b"\n".join(line(number, body=body) for number in range(3)))
        await asyncio.to_thread(writes.wait, 20)
        await sdk.batches.cancel(batch.id)
        await until(lambda: "gives up 1 request" in caplog.text)
        go.set()
        batch = await ended(sdk, batch)
        assert batch.status == "cancelled"
        lines = [*await lines_of(sdk, batch.output_file_id), *await lines_of(sdk, batch.error_file_id)]
    assert sorted(one["custom_id"] for one in lines) == ["hw-0", "hw-1", "hw-2"]
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)


async def test_samples_of_an_unknown_prompt_are_each_asked(wrapped: Wrapped) -> None:
    numbers = iter(range(10))

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion(SAID if asked.compact else f"joke {next(numbers)}"))

    wrapped.upstream.answering = answering
    joke = asked_for("Tell a joke.", temperature=1)
    content = b"\n".join([line(0), line(1, body=joke), line(2, body=joke), line(3, body=asked_for(seed=0))])
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, content))
        lines = await lines_of(sdk, batch.output_file_id)
    said = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in lines}
    assert {said["hw-1"], said["hw-2"]} == {"joke 0", "joke 1"}
    assert json.loads(said["hw-0"]) == json.loads(said["hw-3"]) == FULL
    assert len(wrapped.upstream.asked) == 3
    assert batch.usage.total_tokens == 3 * 150
