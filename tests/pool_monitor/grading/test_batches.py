"""The vendor's own way to do many: a file, a batch, a file of answers; through the SDK, in seconds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import threading
from typing import Any

import openai
import pytest
from aiohttp import web

from pool_monitor.grading import batches
from pool_monitor.grading.batch_files import PIECE_BYTES, Octets
from pool_monitor.grading.batches import MOST_RUNNING
from tests.pool_monitor.grading.batching import answering, begun, ended, line, lines_of, multipart, theirs
from tests.pool_monitor.grading.upstreams import Asked, completion, whole
from tests.pool_monitor.grading.wrapped import FULL, SAID, Wrapped, asked_for
from tests.pool_monitor.support import running_monitor
from tests.support import until


@pytest.fixture
def wrapped(wrapped: Wrapped) -> Wrapped:
    wrapped.upstream.answering = answering
    return wrapped


async def test_a_batch_by_the_sdk(wrapped: Wrapped) -> None:
    async with wrapped.sdk() as sdk:
        batch = await begun(sdk, b"\n".join(line(number) for number in range(20)), metadata={"class": "7b"})
        assert batch.id.startswith("batch_siding-")
        batch = await ended(sdk, batch)
        assert batch.status == "completed"
        assert (batch.request_counts.total, batch.request_counts.completed) == (20, 20)
        assert batch.metadata == {"class": "7b"}
        assert batch.usage.total_tokens == 20 * 150
        lines = await lines_of(sdk, batch.output_file_id)
        listed = [one.id async for one in await sdk.batches.list(limit=1)]
    assert {one["custom_id"] for one in lines} == {f"hw-{number}" for number in range(20)}
    for one in lines:
        assert one["response"]["status_code"] == 200
        assert json.loads(one["response"]["body"]["choices"][0]["message"]["content"]) == FULL
    assert listed == [batch.id]
    assert all(asked.compact for asked in wrapped.upstream.asked if asked.method == "POST")


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


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"not JSON", "invalid_json_line"),
        (b"[]", "invalid_item"),
        (b'{"method": "POST", "url": "/v1/chat/completions", "body": {}}', "missing_required_parameter"),
        (line(0), "duplicate_custom_id"),
        (line(2, url="/v1/embeddings"), "invalid_url"),
        (line(2, body=None), "invalid_body"),
    ],
)
async def test_one_line_that_is_wrong_fails_the_batch_before_anything_is_asked(
    wrapped: Wrapped, wrong: bytes, code: str
) -> None:
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, b"\n".join([line(0), b"", wrong, line(1)])))
    assert (batch.status, batch.request_counts.completed) == ("failed", 0)
    [error] = batch.errors.data
    assert (error.code, error.line) == (code, 3)
    assert not [asked for asked in wrapped.upstream.asked if asked.method == "POST"]


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


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not JSON", b'{"custom_id":"a"}'])
async def test_a_file_without_requests_fails(wrapped: Wrapped, content: bytes) -> None:
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, content))
    assert batch.status == "failed"
    assert batch.errors.data[0].message


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
    monkeypatch.setattr(batches, "CANCEL_SECONDS", 0.01)
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


async def test_nobody_sees_anothers(wrapped: Wrapped) -> None:
    async with wrapped.sdk("sk-one") as one, wrapped.sdk("sk-two") as two:
        batch = await ended(one, await begun(one, line(0)))
        for asked in (
            two.batches.retrieve(batch.id),
            two.batches.cancel(batch.id),
            two.files.retrieve(batch.input_file_id),
            two.files.content(batch.output_file_id),
            two.files.delete(batch.output_file_id),
            two.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                await asked
        assert [found.id async for found in await two.batches.list()] == []


@pytest.mark.parametrize("field", ["api-key", "X-Api-Key"])
async def test_whom_another_field_names_is_kept_apart_too(wrapped: Wrapped, field: str) -> None:
    """As compatible APIs have it, where Authorization says nothing."""
    one, two = (wrapped.sdk("none", default_headers={field: caller}) for caller in ("one", "two"))
    async with one, two:
        batch = await ended(one, await begun(one, line(0)))
        assert [found.id async for found in one.batches.list()] == [batch.id]
        assert [found.id async for found in two.batches.list()] == []
        with pytest.raises(openai.NotFoundError):
            await two.files.content(batch.output_file_id)


async def test_files_can_be_looked_at_and_deleted(wrapped: Wrapped) -> None:
    async with wrapped.sdk() as sdk:
        file = await sdk.files.create(file=("a.jsonl", line(0)), purpose="batch")
        assert file.id.startswith("file-siding-")
        assert (await sdk.files.retrieve(file.id)).filename == "a.jsonl"
        assert (await sdk.files.content(file.id)).content == line(0)
        assert (await sdk.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await sdk.files.content(file.id)


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


async def test_one_caller_does_not_take_all_the_batches(wrapped: Wrapped) -> None:
    held = wrapped.monitor.monitor.grading._batches
    held._most = 4
    async with wrapped.sdk() as one, wrapped.sdk("sk-two") as two:
        for _ in range(2):
            await ended(one, await begun(one, line(0)))
        with pytest.raises(openai.RateLimitError, match="there are 2 batches of yours"):
            await begun(one, line(0))
        for _ in range(2):
            await ended(two, await begun(two, line(0)))
        held._batches.popitem()
        with pytest.raises(openai.RateLimitError, match="of yours"):
            await begun(one, line(0))
        await ended(two, await begun(two, line(0)))


async def as_many_as_run(wrapped: Wrapped, sdk: openai.AsyncOpenAI) -> tuple[list[Any], asyncio.Event]:
    """Batches that are all being asked, and what their answers wait for."""
    go = asyncio.Event()

    async def slowly(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = slowly
    running = [await begun(sdk, line(number)) for number in range(MOST_RUNNING)]
    await until(lambda: len(wrapped.upstream.asked) == MOST_RUNNING)
    return running, go


async def test_a_waiting_batch_outlasts_its_file(wrapped: Wrapped) -> None:
    async with wrapped.sdk() as sdk:
        running, go = await as_many_as_run(wrapped, sdk)
        waiting = await begun(sdk, b"\n".join([line(98), line(99)]))
        files = wrapped.monitor.monitor.grading._files
        room = files.bytes
        assert (await sdk.files.delete(waiting.input_file_id)).deleted
        assert waiting.status == "validating"
        assert files.bytes == room
        go.set()
        batch = await ended(sdk, waiting)
        assert (batch.status, batch.errors) == ("completed", None)
        assert len(await lines_of(sdk, batch.output_file_id)) == 2
        for one in running:
            await ended(sdk, one)
        await until(lambda: files._on_disk == len(files))


async def one_that_runs(wrapped: Wrapped, sdk: openai.AsyncOpenAI) -> tuple[Any, asyncio.Event]:
    """The only batch that may, and what its answer waits for."""
    go = asyncio.Event()

    async def slowly(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = slowly
    wrapped.monitor.monitor.grading._batches._turns.capacity = 1
    running = await begun(sdk, line(0))
    await until(lambda: len(wrapped.upstream.asked) == 1)
    return running, go


async def test_callers_whose_batches_wait_take_turns(wrapped: Wrapped) -> None:
    async with wrapped.sdk() as one, wrapped.sdk("sk-two") as two:
        _, go = await one_that_runs(wrapped, one)
        many = [await begun(one, line(1 + number)) for number in range(3)]
        last = await begun(two, line(9))
        go.set()
        await ended(two, last)
        for batch in many:
            await ended(one, batch)
    assert [asked.body["seed"] for asked in wrapped.upstream.asked] == [0, 1, 9, 2, 3]


async def test_one_whose_turn_does_not_come_in_time_expires(wrapped: Wrapped) -> None:
    async with wrapped.sdk() as sdk:
        running, go = await one_that_runs(wrapped, sdk)
        wrapped.monitor.monitor.grading._batches._window = 0.01
        batch = await ended(sdk, await begun(sdk, b"\n".join(line(1 + number) for number in range(2))))
        assert (batch.status, batch.request_counts.failed) == ("expired", 2)
        assert {one["error"]["code"] for one in await lines_of(sdk, batch.error_file_id)} == {"batch_expired"}
        go.set()
        assert (await ended(sdk, running)).status == "completed"
    assert len(wrapped.upstream.asked) == 1


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
async def test_an_upstream_that_answers_before_it_has_everything(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()

    content = multipart(("purpose", b"assistants"), ("file", b"x" * 20_000_000))
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with (
            running_monitor(None, grading_upstream_url=url) as monitor,
            monitor.session.post(path, data=io.BytesIO(content), headers=headers) as answer,
        ):
            assert (answer.status, await answer.read()) == (413, b"no")
    assert "failed" not in caplog.text


async def test_a_waiting_batch_takes_no_descriptor(wrapped: Wrapped) -> None:
    async with wrapped.sdk() as sdk:
        batches, go = await as_many_as_run(wrapped, sdk)
        before = len(os.listdir("/dev/fd"))
        for _ in range(20):
            source = batches[0].input_file_id
            batches.append(
                await sdk.batches.create(input_file_id=source, endpoint="/v1/chat/completions", completion_window="24h")
            )
        assert len(os.listdir("/dev/fd")) < before + 10
        go.set()
        assert {(await ended(sdk, one)).status for one in batches} == {"completed"}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"}),
        ("/v1/responses", {"model": "gpt-4o", "input": "x"}),
        ("/chat/completions", asked_for()),
    ],
)
async def test_a_batch_for_another_endpoint_is_the_upstreams(wrapped: Wrapped, endpoint: Any, body: Any) -> None:
    wrapped.upstream.answering = theirs
    content = b"\n".join([b"", line(0, url=endpoint, body=body), line(1, url=endpoint, body=body)])
    async with wrapped.sdk() as sdk:
        batch = await begun(sdk, content, endpoint=endpoint)
        assert batch.id == (await sdk.batches.retrieve(batch.id)).id == (await sdk.batches.cancel(batch.id)).id
        await sdk.files.content("file-theirs")
    uploaded, created, *others = wrapped.upstream.asked
    assert (uploaded.path, created.path) == ("/v1/files", "/v1/batches")
    assert content in uploaded.content
    assert dict(uploaded.fields)["Content-Length"] == str(len(uploaded.content))
    assert (created.body["input_file_id"], created.body["endpoint"]) == ("file-theirs", endpoint)
    assert [asked.path for asked in others] == [
        "/v1/batches/batch_theirs",
        "/v1/batches/batch_theirs/cancel",
        "/v1/files/file-theirs/content",
    ]
    assert len(wrapped.monitor.monitor.grading._files) == 0


@pytest.mark.parametrize(("endpoint", "window"), [("/v1/embeddings", "24h"), ("/v1/chat/completions", "1h")])
async def test_what_a_batch_cannot_be(wrapped: Wrapped, endpoint: Any, window: Any) -> None:
    """A file of chat completions, which is here, as anything else."""
    async with wrapped.sdk() as sdk:
        file = await sdk.files.create(file=("a.jsonl", line(0)), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="must be"):
            await sdk.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window)


@pytest.mark.parametrize("seconds", ["-inf", "nan", -5, 3599, "9" * 4000, "x"])
async def test_a_file_cannot_be_kept_for_any_time(wrapped: Wrapped, seconds: Any) -> None:
    wanted: Any = {"anchor": "created_at", "seconds": seconds}
    async with wrapped.sdk() as sdk:
        with pytest.raises(openai.BadRequestError, match="3600"):
            await sdk.files.create(file=("a.jsonl", line(1)), purpose="batch", expires_after=wanted)
        with pytest.raises(openai.BadRequestError, match="3600"):
            await begun(sdk, line(1), output_expires_after=wanted)
        batch = await ended(sdk, await begun(sdk, line(1), output_expires_after={**wanted, "seconds": 3600}))
        output = await sdk.files.retrieve(batch.output_file_id)
        assert output.expires_at == output.created_at + 3600
