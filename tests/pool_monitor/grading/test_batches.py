"""The vendor's own way to do many: a file, a batch, a file of answers; through the SDK, in seconds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
from typing import Any

import openai
import pytest
from aiohttp import web

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
