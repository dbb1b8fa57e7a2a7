"""What is kept, for how long, and what spoils it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pool_monitor.query_cache import MAX_ANSWER_BYTES, OVERHEAD_BYTES, Found, QueryCache


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Answers with a number that goes up."""

    def __init__(self, size: int = 0) -> None:
        self.asked = 0
        self._size = size

    async def __call__(self) -> bytes:
        self.asked += 1
        return str(self.asked).encode().ljust(self._size)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> QueryCache:
    return QueryCache(clock)


async def test_until_the_time_is_over(cache: QueryCache, clock: Clock) -> None:
    source = Source()
    assert await cache.answer("a", 10, (), source) == (b"1", Found.MISS)
    clock.now = 9.9
    assert await cache.answer("a", 10, (), source) == (b"1", Found.HIT)
    clock.now = 10
    assert await cache.answer("a", 10, (), source) == (b"2", Found.MISS)
    assert (await cache.answer("b", 0, (), source))[1] is Found.BYPASS
    assert len(cache.held) == 1


async def test_a_change_spoils_what_was_read_from_the_table(cache: QueryCache) -> None:
    source = Source()
    await cache.answer("a", 10, ("public.t",), source)
    await cache.answer("b", 10, ("public.u",), source)
    cache.changed("public.t")
    assert (await cache.answer("a", 10, ("public.t",), source))[1] is Found.MISS
    assert (await cache.answer("b", 10, ("public.u",), source))[1] is Found.HIT


@pytest.mark.parametrize("spoil", [lambda cache: cache.changed("t"), QueryCache.clear])
async def test_what_was_being_read_meanwhile_is_not_kept(
    cache: QueryCache, spoil: Callable[[QueryCache], None]
) -> None:
    go = asyncio.Event()

    async def slow() -> bytes:
        await go.wait()
        return b"old"

    first = asyncio.create_task(cache.answer("a", 10, ("t",), slow))
    await asyncio.sleep(0)
    spoil(cache)
    # who asks after the change does not join who asked before
    assert (await cache.answer("a", 10, ("t",), Source()))[0] == b"1"
    go.set()
    assert (await first)[0] == b"old"
    assert (await cache.answer("a", 10, ("t",), Source()))[0] == b"1"


async def test_while_nothing_is_heard_nothing_is_kept(cache: QueryCache) -> None:
    source = Source()
    await cache.answer("a", 10, (), source)
    cache.distrust()
    assert await cache.answer("a", 10, (), source) == (b"2", Found.BYPASS)
    cache.trust()
    assert await cache.answer("a", 10, (), source) == (b"3", Found.MISS)
    assert await cache.answer("a", 10, (), source) == (b"3", Found.HIT)


async def test_equal_questions_are_asked_once_whoever_leaves(cache: QueryCache) -> None:
    go, asked = asyncio.Event(), 0

    async def slow() -> bytes:
        nonlocal asked
        asked += 1
        await go.wait()
        return b"one"

    tasks = [asyncio.create_task(cache.answer("a", 10, (), slow)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    go.set()
    answers = await asyncio.gather(*tasks[1:])
    assert {content for content, _ in answers} == {b"one"}
    assert {found for _, found in answers} == {Found.COLLAPSED}
    assert asked == 1


async def test_a_failure_fails_all_and_is_not_kept(cache: QueryCache) -> None:
    async def broken() -> bytes:
        raise ZeroDivisionError

    results = await asyncio.gather(*(cache.answer("a", 10, (), broken) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 3
    assert (await cache.answer("a", 10, (), Source()))[1] is Found.MISS


async def test_the_budget_is_kept_by_dropping_what_was_used_least_lately(clock: Clock) -> None:
    cache = QueryCache(clock, max_bytes=3 * (OVERHEAD_BYTES + 100))
    for key in "abc":
        await cache.answer(key, 10, (), Source(100))
    await cache.answer("a", 10, (), Source(100))
    await cache.answer("d", 10, (), Source(100))
    assert cache.held.bytes <= 3 * (OVERHEAD_BYTES + 100)
    asked: dict[str, Found] = {}
    for key in "acdb":
        asked[key] = (await cache.answer(key, 10, (), Source(100)))[1]
    assert asked == {"a": Found.HIT, "c": Found.HIT, "d": Found.HIT, "b": Found.MISS}


async def test_large_answers_are_not_kept(cache: QueryCache) -> None:
    ask: Callable[[], Awaitable[bytes]] = Source(MAX_ANSWER_BYTES + 1)
    await cache.answer("a", 10, (), ask)
    assert (await cache.answer("a", 10, (), ask))[1] is Found.MISS
    assert (cache.held.bytes, len(cache.held)) == (0, 0)


async def test_the_report(cache: QueryCache) -> None:
    await cache.answer("a", 10, (), Source())
    await cache.answer("a", 10, (), Source())
    told = cache.report(enabled=True)
    assert {name: told[name] for name in list(told)[:4]} == {
        "cacheHits": 1,
        "cacheMisses": 1,
        "cacheHitRate": "50.00%",
        "enabled": True,
    }
