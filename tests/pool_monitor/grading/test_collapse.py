"""One asking for many who ask the same, and nobody is held up by another."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pool_monitor.grading import collapse as module
from pool_monitor.grading.calls import Answer, UpstreamFault
from pool_monitor.grading.collapse import Collapse, Telling
from tests.support import until

FIELDS = (("Content-Type", "text/event-stream"),)


class Story:
    """An asking that goes on when it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.cancelled = asyncio.Event()
        self.go: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def produce(self, telling: Telling) -> None:
        self.runs += 1
        try:
            telling.begin(200, FIELDS)
            while (piece := await self.go.get()) is not None:
                telling.write(piece)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def heard(collapse: Collapse, story: Story, key: bytes | None = b"k") -> tuple[bytes, bool]:
    async with collapse.join(key, story.produce) as (telling, collapsed):
        return (await telling.answer()).content, collapsed


async def test_a_hundred_share_one() -> None:
    collapse, story = Collapse(), Story()
    tasks = [asyncio.create_task(heard(collapse, story)) for _ in range(100)]
    for piece in (b"a", b"b", None):
        story.go.put_nowait(piece)
    answers = await asyncio.gather(*tasks)
    assert {content for content, _ in answers} == {b"ab"}
    assert sum(not collapsed for _, collapsed in answers) == story.runs == 1
    assert len(collapse) == 0


async def test_who_comes_late_gets_it_from_the_beginning() -> None:
    collapse, story = Collapse(), Story()
    async with collapse.join(b"k", story.produce) as (telling, _):
        pieces = telling.pieces()
        story.go.put_nowait(b"first")
        assert await anext(pieces) == b"first"
        late = asyncio.create_task(heard(collapse, story))
        story.go.put_nowait(b"second")
        assert await anext(pieces) == b"second"
        story.go.put_nowait(None)
        assert await late == (b"firstsecond", True)
        assert [piece async for piece in pieces] == []


async def test_an_answer_that_has_ended_is_told_to_nobody_else() -> None:
    """While something is done with it who comes may wait for that."""
    collapse, behind = Collapse(), asyncio.get_running_loop().create_future()
    story = Story()

    async def ended(telling: Telling) -> asyncio.Future[None]:
        await story.produce(telling)
        return behind

    async with collapse.join(b"k", ended) as (telling, _):
        assert collapse.behind(b"k") is None
        story.go.put_nowait(None)
        await telling.answer()
        assert collapse.behind(b"k") is behind
    behind.set_result(None)
    await until(lambda: collapse.behind(b"k") is None)
    story.go.put_nowait(None)
    assert await heard(collapse, story) == (b"", False)


async def test_the_first_may_leave() -> None:
    collapse, story = Collapse(), Story()
    first = asyncio.create_task(heard(collapse, story))
    second = asyncio.create_task(heard(collapse, story))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    story.go.put_nowait(b"x")
    story.go.put_nowait(None)
    assert await second == (b"x", True)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not story.cancelled.is_set()


async def test_when_nobody_listens_the_asking_ends_and_the_next_begins_anew() -> None:
    collapse, story = Collapse(), Story()
    only = asyncio.create_task(heard(collapse, story))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    story.go.put_nowait(None)
    assert await heard(collapse, story) == (b"", False)
    assert story.cancelled.is_set()
    assert story.runs == 2


async def test_other_keys_and_none_are_apart() -> None:
    collapse, story = Collapse(), Story()
    for _ in range(4):
        story.go.put_nowait(None)
    asked = [heard(collapse, story, key) for key in (b"a", b"b", None, None)]
    assert await asyncio.gather(*asked) == [(b"", False)] * 4
    assert story.runs == 4


async def test_a_fault_reaches_all_and_is_not_kept() -> None:
    collapse, asked = Collapse(), asyncio.Event()

    async def refuse(telling: Telling) -> None:
        await asked.wait()
        raise UpstreamFault(504, "upstream_timeout", "too slow")

    async def ask() -> int:
        async with collapse.join(b"k", refuse) as (telling, _):
            with pytest.raises(UpstreamFault) as fault:
                await telling.head()
            return fault.value.status

    tasks = [asyncio.create_task(ask()) for _ in range(3)]
    await asyncio.sleep(0)
    asked.set()
    assert await asyncio.gather(*tasks) == [504] * 3
    story = Story()
    story.go.put_nowait(None)
    assert await heard(collapse, story) == (b"", False)


async def test_a_fault_in_the_middle_comes_after_what_was_told() -> None:
    async def break_off(telling: Telling) -> None:
        telling.begin(200, FIELDS)
        telling.write(b"half")
        raise UpstreamFault(502, "upstream_cut", "cut")

    async with Collapse().join(b"k", break_off) as (telling, _):
        assert await telling.head() == (200, FIELDS)
        pieces = telling.pieces()
        assert await anext(pieces) == b"half"
        with pytest.raises(UpstreamFault, match="cut"):
            await anext(pieces)
        assert telling.broken


async def test_an_answer_that_grows_too_large_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOLD_BYTES", 10)

    async def much(telling: Telling) -> None:
        telling.begin(200, FIELDS)
        telling.write(b"x" * 10)
        telling.write(b"x")

    async with Collapse().join(None, much) as (telling, _):
        with pytest.raises(UpstreamFault, match="more than 10 bytes"):
            await telling.answer()


async def test_a_fault_of_our_own_is_told_as_one(caplog: pytest.LogCaptureFixture) -> None:
    async def stumble(telling: Telling) -> None:
        raise ZeroDivisionError

    async with Collapse().join(None, stumble) as (telling, _):
        with pytest.raises(UpstreamFault) as fault, caplog.at_level(logging.ERROR):
            await telling.head()
    assert (fault.value.status, fault.value.code) == (500, "internal_error")
    assert "ZeroDivisionError" in caplog.text


async def test_closing_ends_what_is_asked() -> None:
    collapse, story = Collapse(), Story()
    task = asyncio.create_task(heard(collapse, story))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await collapse.close()
    with pytest.raises(UpstreamFault, match="given up"):
        await task
    assert story.cancelled.is_set()


async def test_an_answer_that_is_there_is_told_at_once() -> None:
    answer = Answer(200, FIELDS, b"kept")
    telling = Telling()
    telling.whole(answer)
    assert await telling.answer() == answer
