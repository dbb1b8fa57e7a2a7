"""Files and batches that are the upstream's, and those that it does for us."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from aiohttp import web

from tests.pool_monitor.grading.batching import answering, begun, ended, line, multipart, theirs
from tests.pool_monitor.grading.upstreams import Asked, whole
from tests.pool_monitor.grading.wrapped import Wrapped, wrapping
from tests.pool_monitor.support import running_monitor


@pytest.fixture
def wrapped(wrapped: Wrapped) -> Wrapped:
    wrapped.upstream.answering = answering
    return wrapped


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


async def test_a_limit_that_is_no_number_for_us_is_the_upstreams_to_refuse(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = theirs
    for limit in ("-1", "²", "9" * 5000):
        async with wrapped.monitor.session.get("/v1/batches", params={"limit": limit}) as answer:
            assert answer.status == 200
    assert [asked.method for asked in wrapped.upstream.asked] == ["GET"] * 3


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
