"""Turns are fair, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_monitor.grading.calls import Lane, UpstreamFault
from pool_monitor.grading.turns import Turns
from tests.support import until


class Waited:
    def __init__(self) -> None:
        self.lanes: list[Lane] = []

    def waited(self, lane: Lane, seconds: float) -> None:
        assert seconds >= 0
        self.lanes.append(lane)


class Crowd:
    """Waiters that hold their turn until they are told to give it back, in the order in which they got it."""

    def __init__(self, capacity: int = 1, most_waiting: int = 100) -> None:
        self.waited = Waited()
        self.turns = Turns(capacity, time.monotonic, self.waited, most_waiting)
        self.got: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def one(self, lane: Lane, key: str, name: str) -> None:
        await self.turns.enter(lane, key, time.monotonic() + 60)
        self.got.append(name)

    async def come(self, lane: Lane, key: str, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self.one(lane, key, name))
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def all_leave(self) -> list[str]:
        """The order in which turns are given from now on."""
        begun = len(self.got)
        while self.turns.held:
            self.turns.leave()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return self.got[begun:]


async def test_no_more_than_the_capacity_at_once() -> None:
    crowd = Crowd(capacity=2)
    for number in range(5):
        await crowd.come(Lane.CALLER, "a", str(number))
    assert crowd.got == ["0", "1"]
    assert crowd.turns.held == 2
    assert crowd.turns.waiting == {Lane.CALLER: 3, Lane.BATCH: 0, Lane.SHADOW: 0}
    assert await crowd.all_leave() == ["2", "3", "4"]
    assert crowd.turns.held == 0
    assert crowd.waited.lanes == [Lane.CALLER] * 5


async def test_keys_of_one_lane_take_turns() -> None:
    crowd = Crowd()
    for name in ("a0", "a1", "a2", "a3", "b1", "b2", "c1"):
        await crowd.come(Lane.CALLER, name[0], name)
    assert await crowd.all_leave() == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_callers_go_first_but_a_batch_goes_on() -> None:
    crowd = Crowd()
    await crowd.come(Lane.CALLER, "x", "first")
    for number in range(3):
        await crowd.come(Lane.SHADOW, "s", f"s{number}")
        await crowd.come(Lane.BATCH, "b", f"b{number}")
    for number in range(8):
        await crowd.come(Lane.CALLER, "c", f"c{number}")
    assert await crowd.all_leave() == [
        *("c0", "c1", "c2", "b0"),
        *("c3", "c4", "c5", "b1"),
        *("c6", "c7", "b2"),
        *("s0", "s1", "s2"),
    ]


async def test_the_queue_has_an_end_and_callers_keep_half_of_it() -> None:
    crowd = Crowd(most_waiting=4)
    await crowd.come(Lane.CALLER, "a", "holder")
    await crowd.come(Lane.BATCH, "a", "b0")
    await crowd.come(Lane.SHADOW, "a", "s0")
    with pytest.raises(UpstreamFault) as refused:
        await crowd.turns.enter(Lane.BATCH, "a", time.monotonic() + 60)
    assert (refused.value.status, refused.value.code) == (503, "too_many_waiting")
    assert ("Retry-After", "1") in refused.value.fields
    await crowd.come(Lane.CALLER, "a", "c0")
    await crowd.come(Lane.CALLER, "a", "c1")
    with pytest.raises(UpstreamFault):
        await crowd.turns.enter(Lane.CALLER, "a", time.monotonic() + 60)
    assert await crowd.all_leave() == ["c0", "c1", "b0", "s0"]


async def test_a_turn_that_does_not_come_in_time() -> None:
    crowd = Crowd()
    await crowd.come(Lane.CALLER, "a", "holder")
    with pytest.raises(UpstreamFault) as late:
        await crowd.turns.enter(Lane.CALLER, "a", time.monotonic() + 0.01)
    assert (late.value.status, late.value.code) == (504, "upstream_timeout")
    assert crowd.turns.waiting[Lane.CALLER] == 0
    assert await crowd.all_leave() == []
    assert crowd.turns.held == 0


async def test_a_turn_given_to_one_who_leaves_in_the_same_moment_goes_on() -> None:
    crowd = Crowd()
    await crowd.come(Lane.CALLER, "a", "holder")
    leaver = await crowd.come(Lane.CALLER, "a", "leaver")
    await crowd.come(Lane.CALLER, "a", "next")
    crowd.turns.leave()
    leaver.cancel()
    await until(lambda: "next" in crowd.got)
    assert crowd.got == ["holder", "next"]
    assert await crowd.all_leave() == []


async def test_one_who_has_left_gets_no_turn() -> None:
    crowd = Crowd()
    await crowd.come(Lane.CALLER, "a", "holder")
    leaver = await crowd.come(Lane.CALLER, "a", "leaver")
    leaver.cancel()
    # before the leaver's task has run
    crowd.turns.leave()
    await asyncio.gather(leaver, return_exceptions=True)
    assert crowd.turns.held == 0
    assert crowd.turns.waiting[Lane.CALLER] == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.sampled_from(list(Lane)), st.sampled_from("abc")),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("run")),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_no_turn_is_lost_whoever_leaves(steps: list[tuple[object, ...]], capacity: int) -> None:
    """Against a model: as many turns are held as there are holders, and nobody waits while one is free."""

    async def run() -> None:
        turns = Turns(capacity, time.monotonic, Waited(), most_waiting=20)
        tasks: list[asyncio.Task[None]] = []
        holding: list[asyncio.Event] = []
        held: Counter[str] = Counter()

        async def one(lane: Lane, key: str) -> None:
            with contextlib.suppress(UpstreamFault):
                await turns.enter(lane, key, time.monotonic() + 60)
                end = asyncio.Event()
                holding.append(end)
                held["now"] += 1
                try:
                    assert held["now"] <= capacity
                    await end.wait()
                finally:
                    held["now"] -= 1
                    holding.remove(end)
                    turns.leave()

        async def settle() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        for step, *arguments in steps:
            match step, *arguments:
                case "come", Lane() as lane, str(key):
                    tasks.append(asyncio.create_task(one(lane, key)))
                case "leave", int(number) if holding:
                    holding[number % len(holding)].set()
                case "cancel", int(number) if tasks:
                    tasks[number % len(tasks)].cancel()
                case _:
                    await settle()
                    waiting = sum(turns.waiting.values())
                    assert turns.held == held["now"]
                    assert waiting == 0 or turns.held == capacity
        while turns.held or any(turns.waiting.values()) or any(not task.done() for task in tasks):
            for end in holding:
                end.set()
            await asyncio.sleep(0)
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)
        assert turns.held == 0

    asyncio.run(asyncio.wait_for(run(), 20))
