"""The vendor's own way to do many: a file, a batch, a file of answers; through the SDK, in seconds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import resource
import tempfile
import threading
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from aiohttp import web

from pool_monitor.grading import batches
from pool_monitor.grading.batch_files import PIECE_BYTES, Files, Octets
from pool_monitor.grading.batch_form import Form, FormError
from pool_monitor.grading.batches import MOST_RUNNING
from tests.pool_monitor.grading.upstreams import Asked, completion, whole
from tests.pool_monitor.grading.wrapped import FULL, SAID, Wrapped, asked_for, says, wrapping
from tests.pool_monitor.support import running_monitor
from tests.support import until


async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
    """It has no batches of its own."""
    if asked.method == "GET":
        return await whole({"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False})
    answered: web.StreamResponse = await says(SAID)(asked, request)
    return answered


@pytest.fixture
def wrapped(wrapped: Wrapped) -> Wrapped:
    wrapped.upstream.answering = answering
    return wrapped


def line(number: int, **more: Any) -> bytes:
    body = asked_for(seed=number)
    given = {"custom_id": f"hw-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **more}
    return orjson.dumps(given)


async def theirs(asked: Asked, request: web.Request) -> web.StreamResponse:
    """The upstream's own files and batches."""
    if asked.path.startswith("/v1/files"):
        return await whole({"id": "file-theirs", "object": "file"})
    return await whole({"id": "batch_theirs", "object": "batch", "status": "validating"})


async def begun(sdk: openai.AsyncOpenAI, content: bytes, **more: Any) -> Any:
    file = await sdk.files.create(file=("homework.jsonl", content), purpose="batch")
    wanted = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return await sdk.batches.create(input_file_id=file.id, **wanted)


async def ended(sdk: openai.AsyncOpenAI, batch: Any) -> Any:
    async with asyncio.timeout(20):
        while batch.status not in {"completed", "failed", "cancelled", "expired"}:
            await asyncio.sleep(0.01)
            batch = await sdk.batches.retrieve(batch.id)
    return batch


async def lines_of(sdk: openai.AsyncOpenAI, file_id: str | None) -> list[Any]:
    assert file_id is not None
    content = await sdk.files.content(file_id)
    return [json.loads(one) for one in content.content.splitlines()]


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


async def test_a_waiting_batch_outlasts_its_file(wrapped: Wrapped) -> None:
    go = asyncio.Event()

    async def slowly(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = slowly
    async with wrapped.sdk() as sdk:
        running = [await begun(sdk, line(number)) for number in range(MOST_RUNNING)]
        await until(lambda: len(wrapped.upstream.asked) == MOST_RUNNING)
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
    go = asyncio.Event()

    async def slowly(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = slowly
    async with wrapped.sdk() as sdk:
        batches = [await begun(sdk, line(number)) for number in range(MOST_RUNNING)]
        await until(lambda: len(wrapped.upstream.asked) == MOST_RUNNING)
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


# -- what is not ours


def multipart(*parts: tuple[str, bytes], boundary: str = "xyz") -> bytes:
    content = b""
    for name, value in parts:
        file = b'; filename="f.bin"' if name == "file" else b""
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
        content += head % (boundary.encode(), name.encode(), file) + value + b"\r\n"
    return content + b"--%b--\r\n" % boundary.encode()


@pytest.mark.parametrize("file_first", [False, True])
@pytest.mark.parametrize("size", [0, 100, 1_000_000])
async def test_another_file_is_forwarded_octet_for_octet(wrapped: Wrapped, file_first: bool, size: int) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"id": "file-theirs"})

    wrapped.upstream.answering = answering
    parts = [("purpose", b"user_data"), ("file", bytes(range(256)) * (size // 256))]
    content = multipart(*(reversed(parts) if file_first else parts))
    headers = {"Content-Type": "multipart/form-data; boundary=xyz", "Authorization": "Bearer k"}
    async with wrapped.monitor.session.post("/v1/files", data=content, headers=headers) as answer:
        assert (await answer.json())["id"] == "file-theirs"
    [asked] = wrapped.upstream.asked
    assert asked.content == content
    assert dict(asked.fields)["Content-Length"] == str(len(content))


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


@pytest.mark.parametrize("file_first", [False, True])
async def test_a_file_for_a_batch_in_either_order(wrapped: Wrapped, file_first: bool) -> None:
    """The vendor's SDKs differ in it."""
    parts = [("purpose", b"batch"), ("file", line(0))]
    content = multipart(*(reversed(parts) if file_first else parts))
    headers = {"Content-Type": 'multipart/form-data; boundary="xyz"', "Authorization": "Bearer k"}
    async with wrapped.monitor.session.post("/v1/files", data=content, headers=headers) as answer:
        told = await answer.json()
    assert (told["bytes"], told["filename"]) == (len(line(0)), "f.bin")
    assert wrapped.upstream.asked == []


NO_FILE = multipart(("purpose", b"batch"))


@pytest.mark.parametrize("content", [b"", b"junk", NO_FILE, NO_FILE[:-5], multipart(("x", b"y"))])
async def test_what_is_no_form_is_the_upstreams_to_refuse(wrapped: Wrapped, content: bytes) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(status=400)

    wrapped.upstream.answering = answering
    headers = {"Content-Type": "multipart/form-data; boundary=xyz", "Authorization": "Bearer k"}
    async with wrapped.monitor.session.post("/v1/files", data=content, headers=headers) as answer:
        assert answer.status == 400
    assert wrapped.upstream.asked[0].content == content


async def test_a_batch_of_the_upstreams_files_is_the_upstreams(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"id": "batch_theirs", "object": "batch", "status": "validating"})

    wrapped.upstream.answering = answering
    async with wrapped.sdk() as sdk:
        batch = await sdk.batches.create(
            input_file_id="file-theirs", endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert batch.id == "batch_theirs"
        assert (await sdk.batches.retrieve("batch_theirs")).id == "batch_theirs"
    assert wrapped.upstream.asked[0].body["input_file_id"] == "file-theirs"


THEIRS = [{"id": f"batch_{number}", "object": "batch", "status": "completed"} for number in range(5)]


def lists(batches: list[dict[str, Any]]) -> Any:
    async def listing(asked: Asked, request: web.Request) -> web.StreamResponse:
        if not asked.path.startswith("/v1/batches"):
            return await answering(asked, request)
        begin = next((at for at, one in enumerate(batches, 1) if one["id"] == request.query.get("after")), 0)
        end = begin + int(request.query.get("limit", 20))
        return await whole({"object": "list", "data": batches[begin:end], "has_more": end < len(batches)})

    return listing


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
async def test_batches_of_both_are_listed(wrapped: Wrapped, limit: int) -> None:
    wrapped.upstream.answering = lists(THEIRS)
    async with wrapped.sdk() as sdk:
        ours = [(await ended(sdk, await begun(sdk, line(number)))).id for number in range(3)]
        wanted = [*reversed(ours), *(one["id"] for one in THEIRS)]
        assert [one.id async for one in sdk.batches.list(limit=limit)] == wanted
        page = await sdk.batches.list(limit=limit)
        assert ([one.id for one in page.data], page.has_more) == (wanted[:limit], limit < len(wanted))
        assert [one.id async for one in sdk.batches.list(limit=limit, after=ours[0])] == wanted[3:]
    async with wrapped.sdk("sk-two") as other:
        assert [one.id async for one in other.batches.list(limit=limit)] == wanted[3:]


async def test_batches_of_an_api_that_compresses_are_listed(wrapped: Wrapped) -> None:
    async def compressing(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.method == "POST":
            return await answering(asked, request)
        answer = await whole({"object": "list", "data": [{"id": "batch_theirs"}], "has_more": False})
        if request.headers.get("Accept-Encoding") != "identity":
            answer.enable_compression(web.ContentCoding.gzip)
        return answer

    wrapped.upstream.answering = compressing
    async with wrapped.sdk() as sdk:
        batch = await begun(sdk, line(0))
        assert [one.id async for one in await sdk.batches.list()] == [batch.id, "batch_theirs"]
        await ended(sdk, batch)


async def test_an_api_without_batches_lists_ours(wrapped: Wrapped) -> None:
    async def none(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(status=404) if asked.method == "GET" else await answering(asked, request)

    wrapped.upstream.answering = none
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, line(0)))
        assert [one.id async for one in sdk.batches.list(limit=1)] == [batch.id]


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "DELETE"])
async def test_what_is_no_asking_for_batches_is_the_upstreams(wrapped: Wrapped, method: str) -> None:
    wrapped.upstream.answering = theirs
    async with wrapped.monitor.session.request(method, "/v1/batches") as answer:
        assert answer.status == 200
    assert [asked.method for asked in wrapped.upstream.asked] == [method]


@pytest.mark.parametrize("limit", [1, 20, 0, 1000])
async def test_an_error_of_the_upstreams_list_is_the_callers(wrapped: Wrapped, limit: int) -> None:
    async def refuse(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.method == "GET":
            return await whole({"error": {"message": "no", "code": "c"}}, 429, retry_after="7")
        return await answering(asked, request)

    wrapped.upstream.answering = refuse
    async with wrapped.sdk() as sdk:
        await ended(sdk, await begun(sdk, line(0)))
        with pytest.raises(openai.RateLimitError) as fault:
            assert [one async for one in sdk.batches.list(limit=limit)]
    assert (fault.value.code, fault.value.response.headers["retry-after"]) == ("c", "7")


@pytest.mark.parametrize("how", ["setting", "bypass"])
async def test_switched_off_all_goes_to_the_upstream(how: str) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"id": "file-theirs", "object": "list", "data": []})

    async with wrapping(grading_batches="off" if how == "setting" else "on") as wrapped:
        await wrapped.flag(BYPASS=how == "bypass")
        wrapped.upstream.answering = answering
        async with wrapped.sdk() as sdk:
            assert (await sdk.files.create(file=("a.jsonl", line(0)), purpose="batch")).id == "file-theirs"
            assert [one async for one in await sdk.batches.list()] == []
        assert len(wrapped.upstream.asked) == 2


async def test_what_cannot_be_forwarded_is_told_of_with_its_status() -> None:
    async with running_monitor(None, grading_upstream_url="http://127.0.0.1:9/v1") as monitor:
        async with monitor.session.post("/v1/batches", json={"input_file_id": "file-theirs"}) as answer:
            assert answer.status == 502
        labels = {"what": "other", "found": "asked", "status": "5xx"}
        assert monitor.monitor._metrics.registry.get_sample_value("siding_grading_requests_total", labels) == 1


async def test_with_no_room_the_upstream_does_the_batch(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"id": "file-theirs"})

    wrapped.upstream.answering = answering
    wrapped.monitor.monitor.grading._files._budget = 100_000
    content = multipart(("purpose", b"batch"), ("file", b"x" * 600_000))
    headers = {"Content-Type": "multipart/form-data; boundary=xyz", "Authorization": "Bearer k"}
    async with wrapped.monitor.session.post("/v1/files", data=content, headers=headers) as answer:
        assert (await answer.json())["id"] == "file-theirs"
    assert wrapped.upstream.asked[0].content == content


async def test_what_is_on_disk_has_no_name_there(
    wrapped: Wrapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing is left of it however the process ends: SIGKILL, no memory, no power."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, line(0)))
        assert len(await lines_of(sdk, batch.output_file_id)) == 1
        assert os.listdir(tmp_path) == []
        for file in wrapped.monitor.monitor.grading._files._files.values():
            with file.octets.opened() as stream:
                assert os.fstat(stream.fileno()).st_nlink == 0


async def test_who_leaves_while_it_is_written_uses_up_no_room() -> None:
    files = Files(wall=lambda: 0.0)
    draft = files.draft()
    await draft.write(b"x")
    begins, go = threading.Event(), threading.Event()

    def slowly(*_: object) -> None:
        begins.set()
        go.wait(10)

    draft.octets.write = slowly  # type: ignore[method-assign,assignment]
    flushing = asyncio.create_task(draft.flush())
    await asyncio.to_thread(begins.wait, 10)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    go.set()
    draft.discard()
    assert files.bytes == 0


async def test_no_descriptor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with wrapping() as wrapped:
        wrapped.upstream.answering = says(SAID)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        async with wrapped.sdk() as sdk:
            files = wrapped.monitor.monitor.grading._files
            await ended(sdk, await begun(sdk, line(0)))
            octets = [one.octets for one in files._files.values()]
            assert len(octets) == 2
    for one in octets:
        with pytest.raises(ValueError, match="closed"):
            one.opened()


async def test_files_take_no_more_than_a_part_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (12, 12))
    async with wrapping() as wrapped, wrapped.sdk() as sdk:
        for number in range(3):
            await sdk.files.create(file=("a.jsonl", line(number)), purpose="batch")
        assert wrapped.upstream.asked == []
        wrapped.upstream.answering = theirs
        assert (await sdk.files.create(file=("a.jsonl", line(3)), purpose="batch")).id == "file-theirs"


# -- the form, as it arrives


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_form_is_read_however_it_arrives(size: int) -> None:
    file = b"\r\n--xy\r\n\r\n--xy-z"
    content = multipart(("purpose", b"batch"), ("file", file), ("expires_after[seconds]", b"60"))
    form = Form("xyz")
    for at in range(0, len(content), size):
        form.feed(content[at : at + size])
    assert form.ended
    assert form.values == {"purpose": "batch", "expires_after[seconds]": "60"}
    assert form.file is not None
    assert content[slice(*form.file)] == file


@pytest.mark.parametrize(
    "content",
    [
        b"--xyzjunk\r\n",
        b"--xyz\r\n\r\n\r\nno name",
        b"--xyz\r\n" + b"x" * 20_000,
        multipart(("a", b"1"), ("a", b"2")),
        multipart(("a", b"x" * 5000)),
        multipart(*((f"n{number}", b"") for number in range(200))),
    ],
)
def test_what_is_no_form(content: bytes) -> None:
    form = Form("xyz")
    with pytest.raises(FormError):
        form.feed(content)
