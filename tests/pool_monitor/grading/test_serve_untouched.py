"""What is not known, or not to be touched, goes to the upstream and back octet for octet."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from yarl import URL

from pool_monitor.grading import receiving
from pool_monitor.grading.calls import CHAT
from pool_monitor.grading.jsons import MOST_VALUES
from tests.pool_monitor.grading.samples import pretty
from tests.pool_monitor.grading.upstreams import Asked, completion, whole
from tests.pool_monitor.grading.wrapped import (
    FULL,
    SAID,
    Wrapped,
    asked_for,
    begun_and_left,
    graded,
    messages,
    says,
    wrapping,
)
from tests.pool_monitor.support import running_monitor
from tests.support import PATIENCE, until

JSON = {"Content-Type": "application/json"}


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
        ("odd-stream", {"stream": 0}),
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


@pytest.mark.parametrize("tiny", [b"[],", b"[[[[[[[[]]]]]]]],"])
async def test_what_has_too_many_values_to_look_into_is_forwarded(tiny: bytes) -> None:
    """They would hold everybody up, however few octets they are."""
    content = b'{"temperature":0,"messages":[' + tiny * (MOST_VALUES // tiny.count(b"[")) + b"1]}"

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"error": {"message": "no", "code": "c"}}, 400)

    async with wrapping() as wrapped:
        wrapped.upstream.answering = answering
        async with wrapped.monitor.session.post(CHAT, data=content, headers=JSON) as answer:
            assert answer.status == 400
        assert [asked.content for asked in wrapped.upstream.asked] == [content]
        assert wrapped.metric("siding_grading_requests_total", what="too-large", found="asked", status="4xx") == 1


async def test_what_there_is_no_room_to_look_into_is_forwarded(caplog: pytest.LogCaptureFixture) -> None:
    """However many callers are slow to send what they ask."""
    begin = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 8000\r\n\r\n"
    async with wrapping(grading_max_request_bytes=8000) as wrapped:
        room = wrapped.monitor.monitor.grading.grading._room
        assert room.most == 32_000
        slow = [await asyncio.open_connection("127.0.0.1", wrapped.monitor.port) for _ in range(4)]
        for _, writer in slow:
            writer.write(begin.encode() + b" " * 7900)
        await until(lambda: room.held == 4 * 7900)
        wrapped.upstream.answering = says(SAID)
        await graded(wrapped.sdk())
        assert [asked.body for asked in wrapped.upstream.asked] == [asked_for()]
        for _, writer in slow:
            writer.close()
        await until(lambda: not room.held)
        # it comes and goes
        assert [room.take(octets) for octets in (1, room.most)] == [True, False]
    told = "requests of 32000 bytes (4 times GRADING_MAX_REQUEST_BYTES) are on their way: others are forwarded without"
    assert caplog.text.count(told) == 1


async def test_what_was_read_in_vain_is_let_go_of_once_it_is_sent() -> None:
    """Though its caller stops in the middle."""
    size, came = 1024 * 1024, asyncio.Event()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = 2 * size
        while piece := await reader.read(65536):
            left -= piece.count(b" ")
            if left <= 0:
                came.set()
        writer.close()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, running_monitor(None, grading_upstream_url=url, grading_max_request_bytes=size) as client:
        room = client.monitor.grading.grading._room
        tracemalloc.start()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(head.encode() + f"{3 * size:x}\r\n".encode() + b" " * 2 * size)
            await asyncio.wait_for(came.wait(), PATIENCE)
            here = tracemalloc.Filter(inclusive=True, filename_pattern=receiving.__file__)
            held = tracemalloc.take_snapshot().filter_traces([here]).statistics("filename")
        finally:
            tracemalloc.stop()
            writer.close()
        assert sum(one.size for one in held) < size // 10
        assert not room.held


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"Questions"', b'{"messages":[{"Questions":1}]}'])
async def test_content_that_is_no_request_is_the_upstreams_to_refuse(wrapped: Wrapped, content: bytes) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, body=b"no")

    wrapped.upstream.answering = answering
    async with wrapped.monitor.session.post("/v1/chat/completions", data=content, headers=JSON) as answer:
        assert (answer.status, await answer.read()) == (400, b"no")
    assert wrapped.upstream.asked[0].content == content


ZEROS = "0" * 5000
"""More than Python reads as a number."""


@pytest.mark.parametrize(
    ("target", "content"),
    [
        ("/v1/chat/completions", orjson.dumps(asked_for())),
        ("/v1/batch/chat/completions", orjson.dumps([asked_for()])),
        ("/v1/files", b"--xyz--"),
        ("/v1/batches", b"{}"),
        ("/v1/embeddings", b"{}"),
    ],
)
async def test_a_length_may_have_any_number_of_zeros(
    wrapped: Wrapped, target: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9110 8.6."""

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(wrapped.url).port)
    kind = "multipart/form-data; boundary=xyz" if target == "/v1/files" else "application/json"
    head = f"POST {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\nAuthorization: Bearer k\r\n"
    fields = f"Content-Type: {kind}\r\nContent-Length: {ZEROS}{len(content)}\r\n\r\n"
    writer.write((head + fields).encode() + content)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    [asked] = wrapped.upstream.asked
    assert target.endswith("/chat/completions") or asked.content == content
    assert caplog.records == []


async def test_who_stops_sending_a_completion_is_told(wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "READ_SECONDS", 0.0)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with wrapped.monitor.session.post("/v1/chat/completions", data=never(), headers=JSON) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (408, "request_timeout")
    assert wrapped.upstream.asked == []


async def test_when_the_caller_leaves_the_upstream_is_no_longer_asked(wrapped: Wrapped) -> None:
    await begun_and_left(wrapped, graded(wrapped.sdk()))
    labels = {"found": "asked", "status": "none"}
    await until(lambda: wrapped.metric("siding_grading_requests_total", what="client-gone", **labels) == 1)
    assert wrapped.metric("siding_grading_requests_total", what="failed", **labels) == 0
