"""The books of a running wrapper."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import brotli
import orjson
import pytest
from aiohttp import web
from backports import zstd

from pool_monitor.grading import bookkeeping, tokens
from pool_monitor.grading.bookkeeping import FILE, MOST_SEEN_BYTES, Bookkeeping, stated_in
from pool_monitor.grading.models import load_models
from tests.pool_monitor.grading.pictures import png, url
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
    wrapping,
)
from tests.support import until

USAGE = completion("")["usage"]
EVENTS = "text/event-stream"


async def told(wrapped: Wrapped) -> Any:
    await wrapped.monitor.monitor.grading.books.counted()
    return (await wrapped.monitor.get("/api/metrics/grading")).document


async def test_a_graded_homework_is_in_the_books() -> None:
    async with wrapping() as wrapped:
        wrapped.upstream.answering = says(SAID)
        image = {"type": "image_url", "image_url": {"url": url(png(1024, 1024)), "detail": "high"}}
        body = asked_for()
        body["messages"][1]["content"][1] = image
        async with wrapped.sdk() as sdk:
            await sdk.chat.completions.create(**body)
        books = await told(wrapped)
        assert books["enabled"]
        assert books["templates"]["homework-grading"]["state"] == "on"
        estimated = books["estimated"]
        assert estimated["prompt"]["before"] == 356
        assert estimated["prompt"]["after"] <= 142
        assert estimated["image"]["before"] == 2833 + 4 * 5667
        assert 0 < estimated["output"]["after"] < estimated["output"]["before"]
        assert books["reported"] | {"dollars": 0} == {
            "input": 100,
            "cached": 10,
            "output": 50,
            "audioInput": 0,
            "audioOutput": 0,
            "audioAtTextPrices": 0,
            "dollars": 0,
            "requestsWithout": 0,
        }
        labels = {"template": "homework-grading", "model": "gpt-4o-mini", "direction": "output"}
        for figure in ("before", "after"):
            counted = wrapped.metric("siding_grading_tokens_total", figure=figure, **labels)
            assert counted == estimated["output"][figure]
        assert wrapped.metric("siding_grading_tokens_total", figure="reported", **labels) == 50


async def test_a_lower_detail_is_asked_for_only_where_the_operator_says_so() -> None:
    async with wrapping(grading_image_detail="low") as wrapped:
        wrapped.upstream.answering = says(SAID)
        body = asked_for()
        body["messages"][1]["content"][1] = {"type": "image_url", "image_url": {"url": url(png(1024, 1024))}}
        async with wrapped.sdk() as sdk:
            await sdk.chat.completions.create(**body)
        await graded(wrapped.sdk(), prompt="Something else.")
        details = [
            asked.body["messages"][1]["content"][1]["image_url"].get("detail") for asked in wrapped.upstream.asked
        ]
        assert details == ["low", "high"]
        image = (await told(wrapped))["estimated"]["image"]
        assert (image["before"], image["after"]) == (2833 + 4 * 5667, 2833)


async def test_what_is_asked_again_and_what_is_spared() -> None:
    async with wrapping() as wrapped:
        wrapped.upstream.answering = says("no JSON")
        await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
        await graded(wrapped.sdk(), temperature=0)
        await graded(wrapped.sdk(), temperature=0)
        books = await told(wrapped)
    assert (books["requests"], books["askedAgain"], books["neverAsked"]) == (2, 1, 1)
    assert books["estimated"]["input"]["saved"] < 0
    assert (books["reported"]["input"], books["spared"]["input"]) == (200, 200)


async def test_a_stream_that_is_asked_again_is_in_the_books() -> None:
    async with wrapping() as wrapped:
        wrapped.upstream.answering = says("no JSON")
        text, _ = await graded_in_a_stream(wrapped.sdk(), stream_options={"include_usage": True})
        books = await told(wrapped)
    assert json.loads(text) == FULL
    assert books["askedAgain"] == 1
    assert books["estimated"]["output"]["before"] > 100
    assert books["estimated"]["output"]["saved"] < 0
    assert books["reported"]["output"] == 50


async def test_what_is_passed_on_is_in_the_books_as_it_was_reported() -> None:
    async def squeezed(asked: Asked, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=gzip.compress(orjson.dumps(completion(pretty(FULL)))), headers=headers)

    async with wrapping(use_optimized_prompts="off", enable_dedup="off") as wrapped:
        wrapped.upstream.answering = squeezed
        assert json.loads((await graded(wrapped.sdk())).choices[0].message.content) == FULL
        books = await told(wrapped)
    assert not books["enabled"]
    assert (books["reported"]["input"], books["reported"]["output"]) == (100, 50)
    assert books["days"][0]["template"] == "none"
    assert books["days"][0]["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kept", [True, False])
async def test_what_is_billed_at_another_tier_is_so_in_the_books(compact: bool, stream: bool, kept: bool) -> None:
    async def at_priority(asked: Asked, request: web.Request) -> web.StreamResponse:
        text = SAID if asked.compact else pretty(FULL)
        if not asked.body.get("stream"):
            return await whole({**completion(text), "service_tier": "priority"})
        tier = b'data: {"service_tier":"priority",'
        return await streamed(request, [one.replace(b"data: {", tier) for one in chunks([text], usage=True)])

    flags = {"enable_completion_cache": "on"} if kept else {}
    async with wrapping(use_optimized_prompts="on" if compact else "off", **flags) as wrapped:
        wrapped.upstream.answering = at_priority
        for _ in range(2):
            if stream:
                await graded_in_a_stream(wrapped.sdk(), temperature=0, stream_options={"include_usage": True})
            else:
                await graded(wrapped.sdk(), temperature=0)
        books = await told(wrapped)
        assert {day["model"] for day in books["days"]} == {"gpt-4o-mini priority"}
        asked = 1 if kept else 2
        bill = (90 * 0.25 + 10 * 0.125 + 50 * 1.00) / 1e6
        assert books["reported"]["dollars"] == pytest.approx(asked * bill, abs=1e-6)
        labels = {"model": "gpt-4o-mini priority", "figure": "reported", "direction": "output"}
        template = "homework-grading" if compact else "none"
        assert wrapped.metric("siding_grading_tokens_total", template=template, **labels) == asked * 50


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("asked_for_it", "answers", "billed"),
    [
        ("my-deployment", "gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-4o-mini", "my-deployment", "gpt-4o-mini"),
        ("my-deployment", "my-deployment", "other"),
    ],
)
async def test_the_model_that_answers_is_billed(stream: bool, asked_for_it: str, answers: str, billed: str) -> None:
    """A deployment, or a gateway's alias, has a name of its own."""

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        if asked.body.get("stream"):
            said = b'"model":"%b"' % answers.encode()
            return await streamed(request, [one.replace(b'"model":"gpt-4o-mini"', said) for one in chunks([SAID])])
        return await whole({**completion(SAID), "model": answers})

    async with wrapping() as wrapped:
        wrapped.upstream.answering = answering
        await (graded_in_a_stream if stream else graded)(wrapped.sdk(), model=asked_for_it)
        books = await told(wrapped)
    assert ([day["model"] for day in books["days"]], books["unpriced"]) == ([billed], int(billed == "other"))


async def test_what_is_asked_again_at_another_tier_is_so_in_the_books() -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole({**completion("no JSON" if asked.compact else pretty(FULL)), "service_tier": "flex"})

    async with wrapping() as wrapped:
        wrapped.upstream.answering = answering
        await graded(wrapped.sdk())
        books = await told(wrapped)
    assert (books["askedAgain"], books["unpriced"], books["reported"]["input"]) == (1, 1, 200)
    # the vendor has no such price for this model
    assert (books["days"][0]["model"], books["reported"]["dollars"]) == ("gpt-4o-mini flex", None)


async def test_an_answer_too_large_to_be_looked_at_is_in_the_books_as_one_that_states_nothing() -> None:
    async def large(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion("x" * MOST_SEEN_BYTES))

    async with wrapping() as wrapped:
        wrapped.upstream.answering = large
        await graded(wrapped.sdk(), prompt="Something else.")
        books = await told(wrapped)
    assert (books["requests"], books["reported"]["requestsWithout"]) == (1, 1)


async def test_a_long_stream_is_in_the_books_with_what_its_end_states() -> None:
    """OpenAI tells a token in some three hundred bytes: four thousand of them are more than is looked at."""
    pieces = ["x"] * (MOST_SEEN_BYTES // 100)

    async def long(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await streamed(request, chunks(pieces, usage=True))

    async with wrapping() as wrapped:
        wrapped.upstream.answering = long
        text, _ = await graded_in_a_stream(
            wrapped.sdk(), prompt="Something else.", stream_options={"include_usage": True}
        )
        books = await told(wrapped)
    assert text == "".join(pieces)
    assert (books["reported"]["output"], books["reported"]["requestsWithout"]) == (50, 0)


CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "br": partial(brotli.compress, quality=1),
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("coding", CODERS)
async def test_so_is_one_that_comes_in_a_content_coding(coding: str) -> None:
    content = CODERS[coding](b"".join(chunks([secrets.token_hex(2 * MOST_SEEN_BYTES)], usage=True)))
    assert len(content) > MOST_SEEN_BYTES

    async def coded(asked: Asked, request: web.Request) -> web.StreamResponse:
        return web.Response(body=io.BytesIO(content), headers={"Content-Encoding": coding}, content_type=EVENTS)

    async with wrapping() as wrapped:
        wrapped.upstream.answering = coded
        body = asked_for("Something else.", stream=True)
        async with (
            aiohttp.ClientSession(wrapped.monitor.session._base_url, auto_decompress=False) as session,
            session.post("/v1/chat/completions", json=body) as answer,
        ):
            assert (await answer.read(), answer.headers["Content-Encoding"]) == (content, coding)
        books = await told(wrapped)
    assert (books["reported"]["output"], books["reported"]["requestsWithout"], books["unpriced"]) == (50, 0, 0)


@pytest.mark.parametrize("more", [{"prompt": "Something else."}, {"prompt": "Something else.", "temperature": 0}, {}])
async def test_a_stream_that_its_caller_leaves_is_in_the_books(more: dict[str, Any]) -> None:
    """It is billed for what was said until then, which nobody states."""

    async def endless(asked: Asked, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        text = SAID if asked.compact else "A joke."
        for event in chunks([text[: text.rindex('],"t"')] if asked.compact else text], None):
            await response.write(event)
        await asyncio.Event().wait()
        raise AssertionError

    async with wrapping() as wrapped:
        wrapped.upstream.answering = endless
        async with wrapped.sdk() as sdk:
            stream = await sdk.chat.completions.create(**asked_for(stream=True, **more))
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            await stream.close()
        await until(lambda: bool(wrapped.monitor.monitor.grading.books.accounts.tallies))
        books = await told(wrapped)
    assert (books["requests"], books["reported"]["requestsWithout"], books["unpriced"]) == (1, 1, 0)
    if not more:
        assert books["estimated"]["output"]["after"] > 0


async def test_a_second_stream_that_its_caller_leaves_does_not_take_the_first_out_of_the_books() -> None:
    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        # compatible APIs state it with the end
        *events, end, _, last = chunks(["no JSON"], usage=True)
        stated = orjson.loads(end.removeprefix(b"data: ")) | {"usage": USAGE}
        for event in (*events, b"data: " + orjson.dumps(stated) + b"\n\n"):
            await response.write(event)
        if not asked.compact:
            await asyncio.Event().wait()
        await response.write(last)
        return response

    async with wrapping() as wrapped:
        wrapped.upstream.answering = answering
        async with wrapped.sdk() as sdk:
            stream = await sdk.chat.completions.create(**asked_for(stream=True))
            async for chunk in stream:
                if chunk.usage is not None:
                    break
            await stream.close()
        await until(lambda: bool(wrapped.monitor.monitor.grading.books.accounts.tallies))
        books = await told(wrapped)
    assert (books["requests"], books["askedAgain"], books["reported"]["output"]) == (1, 1, 100)


async def handed_in_at_once(wrapped: Wrapped, many: int) -> None:
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID))

    wrapped.upstream.answering = answering
    async with wrapped.sdk() as sdk:
        asking = [asyncio.create_task(sdk.chat.completions.create(**asked_for(seed=seed))) for seed in range(many)]
        await until(lambda: len(wrapped.upstream.asked) == many)
        go.set()
        await asyncio.gather(*asking)


async def test_homework_that_a_class_hands_in_at_once_is_in_the_books() -> None:
    async with wrapping() as wrapped:
        await handed_in_at_once(wrapped, 60)
        books = await told(wrapped)
    assert (books["requests"], books["uncounted"], books["reported"]["output"]) == (60, 0, 60 * 50)
    assert books["estimated"]["prompt"]["before"] == 60 * 356


@pytest.mark.parametrize("bound", ["MOST_WAITING_BYTES", "MOST_WAITING"])
async def test_of_what_cannot_wait_the_books_have_what_was_reported(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(bookkeeping, bound, 1)
    async with wrapping() as wrapped:
        await handed_in_at_once(wrapped, 20)
        books = await told(wrapped)
    assert (books["requests"], books["reported"]["output"], books["unpriced"]) == (20, 20 * 50, 0)
    assert 0 < books["uncounted"] < 20
    assert books["estimated"]["prompt"]["before"] == (20 - books["uncounted"]) * 356


async def test_so_have_they_of_what_waits_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(bookkeeping, "tally_of", lambda *_: go.wait(20))
    monkeypatch.setattr(bookkeeping, "CLOSE_SECONDS", 0.01)
    async with wrapping(grading_data_dir=tmp_path) as wrapped:
        await handed_in_at_once(wrapped, 3)
    go.set()
    saved = orjson.loads((tmp_path / FILE).read_bytes())
    [[*_, tally]] = saved["tallies"]
    assert (tally["requests"], tally["reported_output"], tally["prompt_before"]) == (3, 150, 0)


async def test_the_vocabulary_is_loaded_before_anybody_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """While that goes on no other thread runs."""
    loaded: list[bool] = []
    monkeypatch.setattr(tokens, "warm", lambda: loaded.append(True))
    books = Bookkeeping(load_models(), time.time, None, lambda *_: None)
    await books.start()
    assert loaded
    await books.close()


async def test_the_books_outlast_a_restart(tmp_path: Path) -> None:
    for number in (1, 2):
        async with wrapping(grading_data_dir=tmp_path) as wrapped:
            wrapped.upstream.answering = says(SAID)
            await graded(wrapped.sdk())
            assert (await told(wrapped))["requests"] == number


@pytest.mark.parametrize("content", [b"", b"{", b'{"version":99}', b"[]"])
async def test_broken_books_begin_anew(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(content)
    async with wrapping(grading_data_dir=tmp_path) as wrapped:
        assert (await told(wrapped))["requests"] == 0
    assert "begin anew" in caplog.text


async def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "below"
    async with wrapping(grading_data_dir=folder) as wrapped:
        refused = f"the books of grading cannot be saved in {folder}, so they end with this process: Not a directory"
        assert refused in caplog.messages
        wrapped.upstream.answering = says(SAID)
        assert await graded(wrapped.sdk())
        books = wrapped.monitor.monitor.grading.books
        await books.counted()
        for _ in range(2):
            await books._save(folder / FILE)
        assert [line for line in caplog.messages if "cannot be saved" in line] == [refused]
        (tmp_path / "file").unlink()
        await books._save(folder / FILE)
        assert (folder / FILE).exists()
        assert list(folder.iterdir()) == [folder / FILE]


async def test_seeing_whether_books_can_be_saved_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with wrapping(grading_data_dir=tmp_path / "new"):
        assert list((tmp_path / "new").iterdir()) == []
    assert "cannot be saved" not in caplog.text


@pytest.mark.parametrize(
    ("content", "coding", "found"),
    [
        (orjson.dumps(completion("x")), "", True),
        (gzip.compress(orjson.dumps(completion("x"))), "gzip", True),
        (brotli.compress(orjson.dumps(completion("x"))), "br", True),
        (zstd.compress(orjson.dumps(completion("x"))), "zstd", True),
        (orjson.dumps(completion('data: {"usage": 1}')), "", True),
        (b"".join(chunks(["x"], usage=True)), "", True),
        (b"".join(chunks(["x"], usage=True)).replace(b"data: ", b"data:").replace(b"\n", b"\r\n"), "", True),
        (b"".join(chunks(["x"], usage=True)).removesuffix(b"data: [DONE]\n\n").strip(), "", True),
        (b"2,3]}\n\n" + b"".join(chunks(["x"], usage=True)), "", True),
        (b"".join(chunks(["x"])), "", False),
        (b"not gzip", "gzip", False),
        (b"not br", "br", False),
        (orjson.dumps(completion("x")), "zstd", False),
        (orjson.dumps(completion("x")), "compress", False),
        (b"[]", "", False),
        (b"", "", False),
    ],
)
def test_what_an_answer_states(content: bytes, coding: str, found: bool) -> None:
    model, usage, tier = stated_in(content, coding)
    assert (usage == USAGE) is found
    assert model.startswith("gpt-4o-mini") or not found
    assert tier == ""
