"""What goes wrong between the wrapper, its caller and the upstream, seen on the wire."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from yarl import URL

from pool_monitor.grading import sse
from tests.pool_monitor.grading.samples import pretty
from tests.pool_monitor.grading.upstreams import Asked, chunks, completion, streamed, whole
from tests.pool_monitor.grading.wrapped import (
    FULL,
    SAID,
    Wrapped,
    asked_for,
    graded,
    graded_in_a_stream,
    says,
    together,
    wrapping,
)
from tests.support import until

ERROR = b'data: {"error":{"message":"The server had an error","type":"server_error"}}\n\n'
PLAIN: dict[str, Any] = {"model": "m", "temperature": 0, "messages": []}


async def sent(url: str, data: bytes) -> bytes:
    """Everything that comes back on a connection until its end; b"cut" where that is not an orderly one."""
    place = URL(url)
    reader, writer = await asyncio.open_connection(place.host, place.port)
    got = b""
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            while piece := await reader.read(65536):
                got += piece
    except ConnectionError:
        return got + b"cut"
    finally:
        writer.close()
    return got


def request(body: Any, *fields: bytes, path: bytes = b"/v1/chat/completions", method: bytes = b"POST") -> bytes:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    head = [method + b" " + path + b" HTTP/1.1", b"Host: x", b"Authorization: Bearer k", b"Connection: close", *fields]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(content), b"", content])


async def fine(asked: Asked, request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"fine")


# -- upstreams that break off


async def broken_off(request: web.Request, *, length: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"} if length else {})
    await response.prepare(request)
    await response.write(b"partial")
    assert request.transport is not None
    request.transport.abort()
    return response


@pytest.mark.parametrize("path", ["/v1/files", "/v1/chat/completions"])
@pytest.mark.parametrize("length", [True, False])
async def test_an_answer_that_breaks_off_is_seen_to_and_nothing_follows_it(
    wrapped: Wrapped, path: str, length: bool
) -> None:
    async def breaking(asked: Asked, request: web.Request) -> web.StreamResponse:
        if len(wrapped.upstream.asked) > 1:
            return web.Response(body=b"another's answer")
        return await broken_off(request, length=length)

    wrapped.upstream.answering = breaking
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.post(wrapped.url + path, data=b'{"n":1}') as answer:
                await answer.read()
        async with session.post(wrapped.url + path, data=b'{"n":1}') as answer:
            assert await answer.read() == b"another's answer"
    what = "not-json" if path.endswith("completions") else "other"
    if what == "other":
        assert wrapped.metric("siding_grading_requests_total", what=what, found="asked", status="5xx") == 1


async def test_two_requests_on_one_connection_are_not_mixed_up_by_a_break(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = lambda _, request: broken_off(request, length=True)
    one = b"GET /v1/files HTTP/1.1\r\nHost: x\r\n\r\n"
    got = await sent(wrapped.url, one + one)
    assert got.count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize("path", [b"/v1/files", b"/v1/../x"])
async def test_nothing_stands_between_the_answer_to_a_head_and_the_next(wrapped: Wrapped, path: bytes) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return await broken_off(request, length=False)
        return web.Response(body=b"the next")

    wrapped.upstream.answering = answering
    first = b"HEAD " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    got = await sent(wrapped.url, first + request(b"", path=b"/v1/files", method=b"GET"))
    heads = [part for part in got.split(b"\r\n\r\n") if part.startswith(b"HTTP/1.1 ")]
    assert [head[9:12] for head in heads] == [b"404" if b".." in path else b"502", b"200"]
    assert got.endswith(b"\r\n\r\nthe next")


async def test_a_second_head_is_not_written_into_a_batch_files_content(wrapped: Wrapped) -> None:
    wrapped.upstream.answering = lambda _, request: broken_off(request, length=False)
    got = await sent(wrapped.url, request(b"", path=b"/v1/files/f/content", method=b"GET"))
    assert got.count(b"HTTP/1.1") <= 1
    assert b"0\r\n\r\n" not in got


# -- requests that are odd


@pytest.mark.parametrize("body", [asked_for(), PLAIN, {"model": "m", "messages": []}], ids=["known", "plain", "other"])
@pytest.mark.parametrize("field", [b"X-Student: Zo\xeb", "X-Student: Zoë".encode()], ids=["latin-1", "utf-8"])
async def test_field_values_beyond_ascii_arrive(wrapped: Wrapped, body: Any, field: bytes) -> None:
    wrapped.upstream.answering = says(SAID)
    got = await sent(wrapped.url, request(body, field))
    assert got.startswith(b"HTTP/1.1 200")
    [asked] = wrapped.upstream.asked
    assert dict(asked.fields)["X-Student"] == "Zoë"


async def test_heads_may_be_as_large_as_before_the_proxy(wrapped: Wrapped) -> None:
    token = "t" * 30_000

    async def telling(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"X-Token": dict(asked.fields)["X-Token"]})

    wrapped.upstream.answering = telling
    got = await sent(wrapped.url, request(b"", f"X-Token: {token}".encode(), path=b"/v1/files?" + b"q" * 15_000))
    assert got.startswith(b"HTTP/1.1 200")
    assert f"X-Token: {token}\r\n".encode() in got


@pytest.mark.parametrize(("kind", "compact"), [(b"text/plain", False), (b"application/JSON; charset=utf-8", True)])
async def test_what_does_not_say_that_it_is_json_is_the_upstreams_to_refuse(
    wrapped: Wrapped, kind: bytes, compact: bool
) -> None:
    wrapped.upstream.answering = says(SAID)
    assert (await sent(wrapped.url, request(asked_for(), b"Content-Type: " + kind))).startswith(b"HTTP/1.1 200")
    [asked] = wrapped.upstream.asked
    assert asked.compact is compact
    assert compact or dict(asked.fields)["Content-Type"] == kind.decode()


@pytest.mark.parametrize("depth", [100, 300, 900, 5000])
async def test_deep_content_is_the_upstreams_to_judge(wrapped: Wrapped, depth: int) -> None:
    wrapped.upstream.answering = fine
    content = b'{"model":"m","temperature":0,"messages":[],"metadata":' + b"[" * depth + b"]" * depth + b"}"
    assert (await sent(wrapped.url, request(content))).startswith(b"HTTP/1.1 200")
    assert [asked.content for asked in wrapped.upstream.asked] == [content]


@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        (b"/v1?a=1", "/v1?a=1"),
        (b"/v1/", "/v1/"),
        (b"http://elsewhere/v1/files?x=%2F", "/v1/files?x=%2F"),
        (b"/v1//chat/completions", "/v1//chat/completions"),
        (b"/v1/a?b=%zz", "/v1/a?b=%zz"),
    ],
)
async def test_targets_arrive_as_they_were_written(wrapped: Wrapped, target: bytes, arrives: str) -> None:
    wrapped.upstream.answering = fine
    assert (await sent(wrapped.url, request(b"", path=target, method=b"GET"))).startswith(b"HTTP/1.1 200")
    assert [asked.path for asked in wrapped.upstream.asked] == [arrives]


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/..", False),
        ("/../admin", False),
        ("/files/../../admin", False),
        ("/%2e%2E/admin", False),
        ("/%252e%252e/admin", False),
        ("/..%2fadmin", False),
        ("/..\\admin", False),
        ("//..;x=1/admin", False),
        ("/files/../models", True),
        ("/files/..a/...", True),
        ("/models?x=/../../..", True),
    ],
)
async def test_what_is_above_the_base_of_the_api_is_not_below_v1(wrapped: Wrapped, path: str, there: bool) -> None:
    wrapped.upstream.answering = fine
    got = await sent(wrapped.url, request(b"", path=b"/v1" + path.encode(), method=b"GET"))
    assert got.startswith(b"HTTP/1.1 200" if there else b"HTTP/1.1 404")
    assert [asked.path for asked in wrapped.upstream.asked] == (["/v1" + path] if there else [])


async def test_what_the_vendor_keeps_is_asked_as_it_is_each_time(wrapped: Wrapped) -> None:
    assert await together(wrapped, graded(wrapped.sdk(), store=True), graded(wrapped.sdk(), store=True)) == 2
    assert not any(asked.compact for asked in wrapped.upstream.asked)


async def test_who_names_his_requests_apart_gets_an_answer_for_each(wrapped: Wrapped) -> None:
    two = [graded(wrapped.sdk(default_headers={"Idempotency-Key": key})) for key in ("a", "b")]
    assert await together(wrapped, *two) == 2


async def test_a_schema_with_other_order_is_another_request(wrapped: Wrapped) -> None:
    def body(*names: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        return {**PLAIN, "response_format": form}

    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion("".join(asked.body["response_format"]["json_schema"]["schema"]["properties"])))

    wrapped.upstream.answering = answering
    tasks = [
        asyncio.create_task(sent(wrapped.url, request(body(*names))))
        for names in (("reason", "answer"), ("answer", "reason"))
    ]
    await until(lambda: len(wrapped.upstream.asked) == 2)
    go.set()
    first, second = await asyncio.gather(*tasks)
    assert b"reasonanswer" in first
    assert b"answerreason" in second


async def test_a_listener_gets_no_cookie_of_anothers_connection(wrapped: Wrapped) -> None:
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID), Set_Cookie="__cf_bm=1")

    wrapped.upstream.answering = answering
    tasks = [asyncio.create_task(sent(wrapped.url, request(asked_for()))) for _ in range(2)]
    collapse = wrapped.monitor.monitor.grading.grading.collapse
    await until(lambda: sum(one.listeners for one in collapse._askings.values()) == 2)
    go.set()
    assert sorted(b"__cf_bm" in got for got in await asyncio.gather(*tasks)) == [False, True]


async def test_who_comes_late_has_time_of_his_own() -> None:
    # in this time the other has come, however busy this machine is
    async with wrapping(grading_timeout_ms=3000) as wrapped:
        first_asked = asyncio.Event()

        async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
            if len(wrapped.upstream.asked) == 1:
                first_asked.set()
                await asyncio.Event().wait()
            return await whole(completion(SAID))

        wrapped.upstream.answering = answering
        first = asyncio.create_task(sent(wrapped.url, request(asked_for())))
        await first_asked.wait()
        grading = wrapped.monitor.monitor.grading.grading
        grading._limits = replace(grading._limits, seconds=60.0)
        late = [asyncio.create_task(sent(wrapped.url, request(asked_for()))) for _ in range(2)]
        await until(lambda: [one.listeners for one in grading.collapse._askings.values()] == [3])
        assert (await first).startswith(b"HTTP/1.1 504")
        assert [got[:12] for got in await asyncio.gather(*late)] == [b"HTTP/1.1 200"] * 2
        assert len(wrapped.upstream.asked) == 2


@pytest.mark.parametrize("forwarded", [{"model": "m", "messages": []}, PLAIN])
async def test_what_is_forwarded_ends_when_the_upstream_is_silent_for_longer_than_it_may(forwarded: Any) -> None:
    async def silent(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def silent_within(asked: Asked, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begin")
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async with wrapping(grading_timeout_ms=200) as wrapped:
        wrapped.upstream.answering = silent
        got = await sent(wrapped.url, request(forwarded))
        assert got.startswith(b"HTTP/1.1 504")
        assert b"upstream_timeout" in got
        wrapped.upstream.answering = silent_within
        got = await sent(wrapped.url, request(forwarded))
        assert b"begin" in got
        assert not got.endswith(b"0\r\n\r\n")


# -- streams that end oddly


async def test_a_whole_answer_where_a_stream_was_asked_for_is_asked_again(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.compact:
            return await whole(completion(SAID))
        return await streamed(request, chunks([pretty(FULL)]))

    wrapped.upstream.answering = answering
    assert (await graded_in_a_stream(wrapped.sdk()))[0] == pretty(FULL)


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("cut", [True, False])
async def test_a_stream_that_does_not_say_how_it_ended(wrapped: Wrapped, done: bool, cut: bool) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        text = SAID if asked.compact else pretty(FULL)
        pieces = [text[:80], text[80:150] if cut and asked.compact else text[80:]]
        if not asked.body.get("stream"):
            return await whole(completion(text))
        return await streamed(request, chunks(pieces, None) + ([sse.DONE] if done else []))

    wrapped.upstream.answering = answering
    assert (await graded_in_a_stream(wrapped.sdk()))[0] == pretty(FULL)
    assert len(wrapped.upstream.asked) == (2 if cut else 1)


async def test_the_last_event_may_lack_its_blank_line(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        *events, finish, _ = chunks([SAID])
        return await streamed(request, [*events, finish.rstrip(b"\n") + b"\n"])

    wrapped.upstream.answering = answering
    assert (await graded_in_a_stream(wrapped.sdk()))[0] == pretty(FULL)
    assert len(wrapped.upstream.asked) == 1


async def test_a_role_that_comes_with_text_is_passed_on(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        _, first, *others = chunks([SAID[:5], SAID[5:]])
        document = orjson.loads(first[6:])
        document["choices"][0]["delta"]["role"] = "assistant"
        return await streamed(request, [sse.event(document), *others])

    wrapped.upstream.answering = answering
    text, got = await graded_in_a_stream(wrapped.sdk())
    assert text == pretty(FULL)
    assert got[0].choices[0].delta.role == "assistant"


async def test_an_endless_event_breaks_the_stream_off(wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await streamed(request, [b"data: " + b"x" * 5000])

    wrapped.upstream.answering = answering
    got = await sent(wrapped.url, request(asked_for(stream=True)))
    assert got.startswith(b"HTTP/1.1 502")
    assert b"upstream_answer_too_large" in got


# -- what is kept, judged, booked and logged


@pytest.mark.parametrize(
    ("stream", "first"),
    [
        (True, [*chunks(["hel"], None), ERROR]),
        (True, [*chunks(["hel"], None), ERROR, sse.DONE]),
        (True, chunks(["hel"], None)),
        (True, [*chunks(["hel"], None), sse.DONE]),
        (False, [b'{"error": {"message": "bad"}}']),
        (False, [b"<html>"]),
    ],
)
async def test_an_answer_that_is_not_whole_is_not_kept(wrapped: Wrapped, stream: bool, first: list[bytes]) -> None:
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if len(wrapped.upstream.asked) == 1:
            return await streamed(request, first)
        return await streamed(request, chunks(["hello"])) if stream else await whole(completion("hello"))

    wrapped.upstream.answering = answering
    for _ in range(3):
        got = await sent(wrapped.url, request({**PLAIN, "stream": stream}))
    assert b"hit" in got
    assert b"hello" in got
    assert len(wrapped.upstream.asked) == 2


async def test_a_stream_that_was_asked_again_and_failed_is_not_kept(wrapped: Wrapped) -> None:
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.compact:
            return await streamed(request, chunks(["no idea"]))
        return await streamed(request, [*chunks(["{"], None), ERROR])

    wrapped.upstream.answering = answering
    for _ in range(2):
        got = await sent(wrapped.url, request(asked_for(temperature=0, stream=True)))
        assert b"had an error" in got
    assert len(wrapped.upstream.asked) == 4


async def test_answers_whose_second_asking_fails_tell_against_the_template_and_are_booked(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.compact:
            return await whole(completion("nonsense"))
        return await whole({"error": {"message": "x"}}, 500)

    wrapped.upstream.answering = answering
    for seed in range(11):
        await sent(wrapped.url, request(asked_for(seed=seed)))
    assert [asked.compact for asked in wrapped.upstream.asked].count(True) == 10
    await wrapped.monitor.monitor.grading.books.counted()
    figures = (await wrapped.monitor.get("/api/metrics/grading")).document
    assert figures["templates"]["homework-grading"]["state"] == "off"
    assert figures["reported"]["output"] == 500


async def test_a_request_that_is_refused_in_either_form_does_not(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({"error": {"message": "no such model"}}, 400)

    wrapped.upstream.answering = answering
    for seed in range(12):
        await sent(wrapped.url, request(asked_for(seed=seed)))
    assert [asked.compact for asked in wrapped.upstream.asked] == [True, False] * 12


async def test_a_stream_that_was_asked_again_cost_both(wrapped: Wrapped) -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        text = "nonsense" if asked.compact else pretty(FULL)
        *events, done = chunks([text], usage=True)
        return await streamed(request, [events[-1], *events[:-1], done])

    wrapped.upstream.answering = answering
    assert (await graded_in_a_stream(wrapped.sdk()))[0] == pretty(FULL)
    await wrapped.monitor.monitor.grading.books.counted()
    assert (await wrapped.monitor.get("/api/metrics/grading")).document["reported"]["output"] == 100


async def test_no_log_tells_what_a_student_wrote(wrapped: Wrapped, caplog: pytest.LogCaptureFixture) -> None:
    wrapped.upstream.answering = says(SAID.replace('"C",95', '"John Smith got this",95'))
    with caplog.at_level("DEBUG", logger="siding"):
        answer = await graded(wrapped.sdk())
    assert json.loads(answer.choices[0].message.content) == FULL
    assert "asked for again" in caplog.text
    assert "John" not in caplog.text
