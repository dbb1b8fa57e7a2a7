"""What grows with what callers and the model say is done beside the event loop, which serves others meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from pool_monitor.app import THREADS, ThreadsError, started_threads
from pool_monitor.grading import batch_asking, batch_http, batch_running, completions, part, serve, stored
from pool_monitor.grading.answers import compact
from pool_monitor.grading.calls import Answer, Call
from pool_monitor.grading.expanding import Expander
from pool_monitor.grading.receiving import LARGE_BYTES, TIMES_SLOWER
from pool_monitor.grading.streamed import Streaming
from tests.pool_monitor.grading.batching import begun, ended, line
from tests.pool_monitor.grading.samples import answer, minified, pretty, question
from tests.pool_monitor.grading.upstreams import TEMPLATE, Asked, chunks, completion, streamed, whole
from tests.pool_monitor.grading.wrapped import Wrapped, asked_for, graded, graded_in_a_stream, says, wrapping
from tests.support import PATIENCE, until

LONG = answer([question(number, "2 + 2", "4", "4", "CORRECT", "Good.") for number in range(1, 801)], "Good.", "")
SAID = minified(compact(TEMPLATE.shape, LONG))


@pytest.fixture(autouse=True)
def _little_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "SHORT_BYTES", 1024)


@pytest.fixture
def where(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], set[bool]]:
    """Whether what is named so is done on the event loop's thread."""

    def watch(owner: Any, name: str) -> set[bool]:
        found: set[bool] = set()
        do = getattr(owner, name)

        def watched(*given: Any, **more: Any) -> Any:
            found.add(threading.current_thread() is threading.main_thread())
            return do(*given, **more)

        monkeypatch.setattr(owner, name, watched)
        return found

    return watch


Where = Callable[[Any, str], set[bool]]


async def looked_into(wrapped: Wrapped) -> None:
    """Until nothing that was told is looked into any more."""
    await until(lambda: not wrapped.monitor.monitor.grading.grading._looking)


async def test_a_long_answer_is_expanded_there(wrapped: Wrapped, where: Where) -> None:
    expands = where(completions, "expand")
    wrapped.upstream.answering = says(SAID)
    told = await graded(wrapped.sdk())
    assert told.choices[0].message.content == pretty(LONG)
    assert expands == {False}


async def test_a_long_piece_of_a_stream_is_expanded_there(wrapped: Wrapped, where: Where) -> None:
    feeds, finishes = where(Expander, "feed"), where(Expander, "finish")

    async def at_once(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await streamed(request, chunks([SAID]))

    wrapped.upstream.answering = at_once
    text, _ = await graded_in_a_stream(wrapped.sdk())
    assert text == pretty(LONG)
    assert feeds == finishes == {False}


async def test_a_long_request_is_looked_into_and_written_anew_there(wrapped: Wrapped, where: Where) -> None:
    reads, writes = where(serve, "_body_in"), where(Call, "asking_apart")

    async def cut(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await streamed(request, chunks([SAID[:150]])) if asked.compact else await whole(completion(pretty(LONG)))

    wrapped.upstream.answering = cut
    text, _ = await graded_in_a_stream(wrapped.sdk(), user="u" * (LARGE_BYTES // TIMES_SLOWER))
    assert text == pretty(LONG)
    assert len(wrapped.upstream.asked) == 2
    assert reads == writes == {False}


async def test_others_have_their_turn_while_events_are_there(wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many have come."""
    taken, most = 0, 0
    take = Streaming._take

    async def counted(self: Streaming, event: Any) -> None:
        nonlocal taken
        taken += 1
        await take(self, event)

    async def turns() -> None:
        nonlocal taken, most
        while True:
            taken = 0
            await asyncio.sleep(0)
            most = max(most, taken)

    monkeypatch.setattr(Streaming, "_take", counted)
    wrapped.upstream.answering = says(SAID)
    other = asyncio.create_task(turns())
    try:
        text, _ = await graded_in_a_stream(wrapped.sdk())
    finally:
        other.cancel()
    assert text == pretty(LONG)
    assert 0 < most <= 200


@pytest.mark.parametrize("stream", [False, True])
async def test_whether_an_answer_is_worth_keeping_is_found_out_there(
    wrapped: Wrapped, where: Where, stream: bool
) -> None:
    reads = where(serve, "is_whole")
    wrapped.upstream.answering = says(SAID)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    for _ in range(2):
        for prompt in ({}, {"prompt": "Tell a joke."}):
            await (graded_in_a_stream if stream else graded)(wrapped.sdk(), temperature=0, **prompt)
            await looked_into(wrapped)
    assert len(wrapped.upstream.asked) == 2
    assert reads == {False}


async def test_an_answer_for_which_there_is_no_room_is_not_even_read(where: Where) -> None:
    reads = where(serve, "is_whole")
    async with wrapping(completion_cache_max_bytes=8 * 1000, enable_completion_cache="on") as wrapped:
        wrapped.upstream.answering = says(SAID)
        for _ in range(2):
            await graded(wrapped.sdk(), temperature=0)
        assert len(wrapped.upstream.asked) == 2
    assert not reads


async def test_lines_of_a_batch_and_their_answers_are_read_there(wrapped: Wrapped, where: Where) -> None:
    loads, replies = where(batch_running, "asked_at"), where(batch_asking, "reply_of")

    async def at_length(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion("a" * LARGE_BYTES))

    wrapped.upstream.answering = at_length
    body = {"model": "m", "messages": [{"role": "user", "content": "b" * (LARGE_BYTES // TIMES_SLOWER)}]}
    async with wrapped.sdk() as sdk:
        batch = await ended(sdk, await begun(sdk, line(1, body=body)))
    assert batch.request_counts.completed == 1
    assert loads == replies == {False}


async def test_items_of_a_batch_are_read_and_found_equal_there(wrapped: Wrapped, where: Where) -> None:
    groups, loads = where(batch_http, "together"), where(batch_http, "loaded")
    item = {"model": "m", "messages": [{"role": "user", "content": "b" * (LARGE_BYTES // TIMES_SLOWER)}]}
    async with wrapped.monitor.session.post("/v1/batch/chat/completions", json=[item, item]) as told:
        assert (await told.json())["summary"]["total"] == 2
    assert groups == loads == {False}


async def test_no_thread_needs_to_be_started_later(wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is not failed by a machine that has none left."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def at_length(asked: Asked, request: web.Request) -> web.StreamResponse:
        return await whole(completion("a" * LARGE_BYTES))

    wrapped.upstream.answering = at_length
    lines = [line(number, body={**asked_for(), "user": "b" * LARGE_BYTES}) for number in range(8)]
    together = threading.Barrier(THREADS)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        await asyncio.gather(*(asyncio.to_thread(together.wait, 10) for _ in range(THREADS)))
        async with wrapped.sdk() as sdk:
            batch = await ended(sdk, await begun(sdk, b"\n".join(lines)))
    assert batch.request_counts.completed == 8


@pytest.fixture
def to_start(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One of these is taken for each thread that is started."""
    left: list[None] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    return left


@pytest.mark.parametrize("there", [0, 3])
def test_where_too_few_can_be_started_that_is_said(to_start: list[None], there: int) -> None:
    to_start += [None] * there
    with pytest.raises(ThreadsError, match=f"{THREADS + 2} threads are needed: can't start new thread; raise"):
        started_threads()


async def test_an_answer_to_compare_with_is_read_there(where: Where) -> None:
    reads = where(part, "told_by")
    async with wrapping(shadow_sample_rate=1, use_optimized_prompts="off") as wrapped:
        wrapped.upstream.answering = says(pretty(LONG))
        await graded(wrapped.sdk())
        await looked_into(wrapped)
    assert reads == {False}


async def not_whole(asked: Asked, request: web.Request) -> web.StreamResponse:
    """A stream without an end, or an answer with an error."""
    if asked.body.get("stream"):
        events = [event.replace(b'"finish_reason":"stop"', b'"finish_reason":null') for event in chunks([SAID])]
        return await streamed(request, events)
    return await whole({**completion(SAID), "error": {"message": "overloaded"}})


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until this is set no answer has been looked into."""
    going, is_whole = threading.Event(), stored.is_whole

    def slow(*given: Any, **more: Any) -> bool:
        assert going.wait(10)
        return is_whole(*given, **more)

    monkeypatch.setattr(serve, "is_whole", slow)
    monkeypatch.setattr(serve, "LOOKING_SECONDS", PATIENCE)
    yield going
    going.set()


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that were looked up among what is kept."""
    found: list[bytes] = []
    find = stored.Stored.find

    async def counted(self: stored.Stored, key: bytes) -> Any:
        found.append(key)
        return await find(self, key)

    monkeypatch.setattr(stored.Stored, "find", counted)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kept", [False, True])
async def test_nobody_waits_until_an_answer_was_looked_into_but_who_asks_again_meanwhile(
    wrapped: Wrapped, go: threading.Event, finds: list[bytes], stream: bool, kept: bool
) -> None:
    """And who leaves once it has been told takes nothing with it; what is not kept is asked for once more."""
    wrapped.upstream.answering = says(SAID) if kept else not_whole
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    ask = graded_in_a_stream if stream else graded
    told = [await ask(wrapped.sdk(), temperature=0)]
    late = [asyncio.create_task(ask(wrapped.sdk(), temperature=0)) for _ in range(2)]
    await until(lambda: len(finds) == 3)
    assert len(wrapped.upstream.asked) == 1
    go.set()
    told += await asyncio.gather(*late)
    await looked_into(wrapped)
    assert not wrapped.monitor.monitor.grading.grading.collapse._askings
    assert told == told[:1] * 3
    assert len(wrapped.upstream.asked) == (1 if kept else 2)


async def test_who_leaves_while_an_answer_is_looked_into_takes_nothing_with_it(
    wrapped: Wrapped, go: threading.Event, finds: list[bytes]
) -> None:
    grading = wrapped.monitor.monitor.grading.grading
    wrapped.upstream.answering = says(SAID)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    call = Call(asked_for(temperature=0), (("authorization", "Bearer sk-one"),), grading._clock() + 60)
    told = await grading.ask(call)
    leaves, stays = (asyncio.create_task(grading.ask(call)) for _ in range(2))
    await until(lambda: len(finds) == 3)
    leaves.cancel()
    await asyncio.wait([leaves])
    go.set()
    assert (await stays).content == told.content
    assert leaves.cancelled()
    assert len(wrapped.upstream.asked) == 1


async def test_nobody_waits_long_for_what_is_looked_into(
    wrapped: Wrapped, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upstream is asked instead."""
    monkeypatch.setattr(serve, "LOOKING_SECONDS", 0.01)
    wrapped.upstream.answering = says(SAID)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    told = [await graded(wrapped.sdk(), temperature=0) for _ in range(2)]
    assert told[0] == told[1]
    assert len(wrapped.upstream.asked) == 2


async def test_where_nothing_is_kept_any_more_nobody_waits_for_what_is_looked_into(
    wrapped: Wrapped, go: threading.Event
) -> None:
    wrapped.upstream.answering = says(SAID)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    await graded(wrapped.sdk(), temperature=0)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=False)
    await graded(wrapped.sdk(), temperature=0)
    assert len(wrapped.upstream.asked) == 2


async def test_what_cannot_be_looked_into_is_told_all_the_same(
    wrapped: Wrapped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: Any, **more: Any) -> bool:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(serve, "is_whole", broken)
    wrapped.upstream.answering = says(SAID)
    await wrapped.flag(ENABLE_COMPLETION_CACHE=True)
    text, _ = await graded_in_a_stream(wrapped.sdk(), temperature=0)
    assert text == pretty(LONG)
    await looked_into(wrapped)
    assert "could not be looked into" in caplog.text


async def test_of_answers_only_so_many_wait_to_be_looked_into(wrapped: Wrapped) -> None:
    go, looked = threading.Event(), list[bool]()
    told = Answer(200, (), SAID.encode())
    grading = wrapped.monitor.monitor.grading.grading
    for _ in range(serve.MOST_LOOKED_INTO + 5):
        grading.look_into(told, lambda: go.wait(10), looked.append, lambda: looked.append(False))
    go.set()
    await looked_into(wrapped)
    assert looked == [False] * 5 + [True] * serve.MOST_LOOKED_INTO
