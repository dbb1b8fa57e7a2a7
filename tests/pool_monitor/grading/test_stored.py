"""Kept completions: whose they are, for how long, and who else finds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from config.tier import SharedTier
from pool_monitor.grading.calls import Answer, Call
from pool_monitor.grading.observed import Found
from pool_monitor.grading.stored import OVERHEAD_BYTES, Stored, key_of, repeatable
from tests.redis_servers import Redis

BODY = {"model": "gpt-4o-mini", "temperature": 0, "messages": [{"role": "user", "content": "hé"}]}
FIELDS = (("Authorization", "Bearer sk-one"), ("OpenAI-Beta", "x"))
ANSWER = Answer(200, (("Content-Type", "application/json"),), b'{"a":1}')
SECRET = b"s" * 32


def call(body: Mapping[str, Any] = BODY, *fields: tuple[str, str]) -> Call:
    return Call(body, fields or FIELDS, 0.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def stored(clock: Clock, max_bytes: int = 10**6, tier: SharedTier | None = None, on: bool = True) -> Stored:
    return Stored(60.0, max_bytes, clock, tier, lambda: on)


# -- keys


def test_order_and_white_space_do_not_matter() -> None:
    shuffled = orjson.loads(
        b'{"messages" : [{"role":"user", "content":"h\\u00e9"}], "temperature":0,"model":"gpt-4o-mini"}'
    )
    assert key_of(call(), SECRET, "f") == key_of(call(shuffled), SECRET, "f")


@pytest.mark.parametrize(
    "other",
    [
        key_of(call({**BODY, "temperature": 0.0001}), SECRET, "f"),
        key_of(call({**BODY, "stream": True}), SECRET, "f"),
        key_of(call(BODY, ("Authorization", "Bearer sk-two"), ("OpenAI-Beta", "x")), SECRET, "f"),
        key_of(call(BODY, ("Authorization", "Bearer sk-one")), SECRET, "f"),
        key_of(call(BODY, *FIELDS, ("OpenAI-Organization", "o")), SECRET, "f"),
        key_of(call(BODY, *FIELDS, ("Idempotency-Key", "1")), SECRET, "f"),
        key_of(call(BODY, *FIELDS, ("X-Student", "Zo\udceb")), SECRET, "f"),
        key_of(call(BODY, *FIELDS, ("Accept", "text/event-stream")), SECRET, "f"),
        key_of(call(), SECRET, "g"),
        key_of(call(), b"t" * 32, "f"),
    ],
)
def test_what_makes_a_difference(other: bytes) -> None:
    assert other != key_of(call(), SECRET, "f")


@given(st.sampled_from(["User-Agent", "X-Stainless-Retry-Count", "traceparent", "X-Request-Id"]))
def test_fields_of_the_transport_make_none(name: str) -> None:
    assert key_of(call(BODY, *FIELDS, (name, "1")), SECRET, "f") == key_of(call(), SECRET, "f")


def test_a_key_does_not_hold_the_credential() -> None:
    assert b"sk-one" not in key_of(call(), SECRET, "f")


@pytest.mark.parametrize(
    ("body", "is_so"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.1}, False),
        ({"temperature": None}, False),
        ({"temperature": "0"}, False),
        ({}, False),
        ({"temperature": 0, "store": True}, False),
    ],
)
def test_only_temperature_0_can_be_repeated(body: dict[str, Any], is_so: bool) -> None:
    assert repeatable(call(body)) is is_so


# -- memory


async def test_kept_for_its_time(clock: Clock) -> None:
    kept = stored(clock)
    kept.keep(b"k", ANSWER)
    clock.now += 59
    assert await kept.find(b"k") == (ANSWER, Found.HIT, 1.0)
    assert await kept.find(b"other") is None
    clock.now += 1
    assert await kept.find(b"k") is None
    assert (len(kept.held), kept.held.bytes) == (0, 0)


async def test_what_was_of_one_request_is_not_kept(clock: Clock) -> None:
    kept = stored(clock)
    fields = (("x-request-id", "r"), ("X-RateLimit-Remaining-Requests", "9"), ("openai-version", "2020"), ("Date", "d"))
    kept.keep(b"k", Answer(200, fields, b""))
    found = await kept.find(b"k")
    assert found is not None
    assert found[0].fields == (("openai-version", "2020"),)


async def test_the_budget_holds_and_the_least_used_goes_first(clock: Clock) -> None:
    kept = stored(clock, max_bytes=3 * (OVERHEAD_BYTES + 100))
    answer = Answer(200, (), b"x" * 100)
    for key in (b"a", b"b", b"c"):
        kept.keep(key, answer)
    await kept.find(b"a")
    kept.keep(b"d", answer)
    assert [await kept.find(key) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert kept.held.bytes == 3 * (OVERHEAD_BYTES + 100)


async def test_a_large_answer_is_not_kept(clock: Clock) -> None:
    kept = stored(clock, max_bytes=8000)
    kept.keep(b"k", Answer(200, (), b"x" * 1001))
    assert len(kept.held) == 0


async def test_keeping_again_counts_once(clock: Clock) -> None:
    kept = stored(clock)
    kept.keep(b"k", ANSWER)
    kept.keep(b"k", ANSWER)
    assert (len(kept.held), kept.held.bytes) == (1, len(ANSWER.content) + OVERHEAD_BYTES)


# -- the tier that replicas share


@pytest.fixture
async def tier(shared: Redis) -> AsyncIterator[SharedTier]:
    one = SharedTier(shared.url)
    yield one
    await one.close()


async def test_another_replica_finds_it(clock: Clock, tier: SharedTier) -> None:
    one, other = stored(clock, tier=tier), stored(clock, tier=tier)
    one.keep(b"k", ANSWER)
    await one.close()
    found = await other.find(b"k")
    assert found is not None
    assert found[:2] == (ANSWER, Found.SHARED)
    assert 0 < found[2] <= 60
    again = await other.find(b"k")
    assert again is not None
    assert again[1] is Found.HIT


async def test_what_is_kept_while_the_tier_is_asked_is_found(clock: Clock, tier: SharedTier) -> None:
    shares = True
    one = Stored(60.0, 10**6, clock, tier, lambda: shares)
    finding = asyncio.create_task(one.find(b"k"))
    await asyncio.sleep(0)
    shares = False
    one.keep(b"k", ANSWER)
    assert await finding == (ANSWER, Found.HIT, 60.0)


async def test_with_the_flag_off_the_tier_is_left_alone(clock: Clock, tier: SharedTier) -> None:
    one, other = stored(clock, tier=tier, on=False), stored(clock, tier=tier)
    one.keep(b"k", ANSWER)
    await one.close()
    assert await other.find(b"k") is None
    other.keep(b"k", ANSWER)
    await other.close()
    assert await stored(clock, tier=tier, on=False).find(b"k") is None


@pytest.mark.parametrize(
    "value", [b"", b"junk", b"[]\n{}", b'[9,"6b",200,[]]\n{}', b'[1,"6c",200,[]]\n{}', b"[1]\nx", b"null\n"]
)
async def test_what_is_not_ours_is_not_there(clock: Clock, tier: SharedTier, shared: Redis, value: bytes) -> None:
    one, other = stored(clock, tier=tier), stored(clock, tier=tier)
    one.keep(b"k", ANSWER)
    await one.close()
    async with redis.asyncio.Redis(port=shared.port) as client:
        [key] = await client.keys()
        await client.set(key, value, px=60_000)
    assert await other.find(b"k") is None
