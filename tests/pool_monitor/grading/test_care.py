"""When the upstream is asked again, left alone, and how fast it is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading.calls import Fields
from pool_monitor.grading.care import (
    FIRST_PAUSE,
    LONGEST_BELIEVED,
    LONGEST_PAUSE,
    MOST_RETRIES,
    Breaker,
    BreakerState,
    RateLimits,
    retry_after,
    seconds_of,
    told_to_wait,
)

WALL = 1_800_000_000.0
"""Fri, 15 Jan 2027 08:00:00 GMT"""


def asked_again(
    status: int | None, *fields: tuple[str, str], attempt: int = 0, left: float = 60, **more: str
) -> object:
    return retry_after(status, fields, attempt=attempt, left=left, jitter=0.0, wall=WALL, **more)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 404, 408, 409, 422, 500, 502, 504, 529])
def test_what_may_have_been_processed_is_not_asked_again(status: int) -> None:
    assert asked_again(status, ("Retry-After", "1")) is None


@pytest.mark.parametrize("status", [None, 429, 503])
def test_what_was_not_processed_is_asked_again_with_growing_pauses(status: int | None) -> None:
    assert [asked_again(status, attempt=attempt) for attempt in range(4)] == [0.25, 0.5, None, None]
    assert MOST_RETRIES == 2


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ((("Retry-After", "3"),), 3.0),
        ((("retry-after", "0.5"),), 0.5),
        ((("retry-after-ms", "1500"), ("retry-after", "9")), 1.5),
        ((("Retry-After", "Fri, 15 Jan 2027 08:00:07 GMT"),), 7.0),
        ((("Retry-After", "Fri, 15 Jan 2027 07:00:00 GMT"),), 0.0),
        ((("Retry-After", "soon"),), None),
        ((("Retry-After", "-1"),), None),
        ((("Retry-After", "inf"),), None),
        ((), None),
    ],
)
def test_how_long_an_answer_asks_to_wait(fields: Fields, seconds: float | None) -> None:
    assert told_to_wait(fields, WALL) == seconds
    pause = retry_after(429, fields, attempt=0, left=60, jitter=0.5, wall=WALL)
    assert pause == (FIRST_PAUSE * 0.75 if seconds is None else seconds + FIRST_PAUSE / 2)


def test_never_beyond_the_deadline() -> None:
    assert asked_again(429, ("Retry-After", "10"), left=10) is None
    assert asked_again(429, ("Retry-After", "10"), left=10.1) == 10
    assert asked_again(None, left=0.2) is None


def test_not_when_waiting_does_not_help() -> None:
    assert asked_again(429, ("Retry-After", "1"), code="insufficient_quota") is None
    assert asked_again(429, ("Retry-After", "1"), code="rate_limit_exceeded") == 1
    assert asked_again(429, ("X-Should-Retry", "false")) is None


@given(
    st.sampled_from([None, 200, 429, 500, 503]),
    st.integers(0, 5),
    st.floats(0, 100),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.none(), st.floats(0, 100)),
)
def test_a_pause_is_never_shorter_than_told_nor_too_long(
    status: int | None, attempt: int, left: float, jitter: float, told: float | None
) -> None:
    fields = () if told is None else (("Retry-After", str(told)),)
    pause = retry_after(status, fields, attempt=attempt, left=left, jitter=jitter, wall=WALL)
    if pause is not None:
        assert 0 <= pause < left
        assert attempt < MOST_RETRIES
        assert status in {None, 429, 503}
        if told is not None and status is not None:
            assert pause >= told
        else:
            assert pause <= LONGEST_PAUSE


# -- the breaker


def test_opens_after_failures_in_a_row_and_closes_by_a_probe() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.failed(0)
    breaker.succeeded()
    for _ in range(4):
        breaker.failed(0)
    assert breaker.admit(0)
    assert breaker.state(0) is BreakerState.CLOSED
    breaker.failed(0)
    assert not breaker.admit(0.9)
    assert breaker.state(0.9) is BreakerState.OPEN
    assert breaker.rests(0.25) == 0.75
    assert breaker.admit(1.0)
    assert breaker.state(1.0) is BreakerState.HALF_OPEN
    assert not breaker.admit(1.1)
    breaker.succeeded()
    assert breaker.state(1.2) is BreakerState.CLOSED
    assert breaker.admit(1.2)


def test_a_probe_that_fails_doubles_the_rest() -> None:
    breaker = Breaker()
    now = 0.0
    for _ in range(5):
        breaker.failed(now)
    rests = []
    for _ in range(7):
        rests.append(breaker.rests(now))
        now += breaker.rests(now)
        assert breaker.admit(now)
        breaker.failed(now)
    assert rests == [1, 2, 4, 8, 16, 30, 30]
    breaker.succeeded()
    for _ in range(5):
        breaker.failed(now)
    assert breaker.rests(now) == 1


def test_late_failures_of_earlier_requests_do_not_count_as_the_probe() -> None:
    breaker = Breaker()
    for _ in range(9):
        breaker.failed(0)
    assert breaker.rests(0) == 1


def test_a_probe_that_is_not_heard_of_makes_room_for_another() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0)
    assert breaker.admit(1)
    assert not breaker.admit(1.9)
    assert breaker.admit(2)


# -- limits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("1d", 86_400.0),
        ("0s", 0.0),
        ("17", 17.0),
        ("", None),
        ("1x", None),
        ("s", None),
        (None, None),
    ],
)
def test_durations(text: str | None, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


def limits_of(what: str, limit: int, remaining: int, reset: str) -> Fields:
    return (
        (f"x-ratelimit-limit-{what}", str(limit)),
        (f"X-RateLimit-Remaining-{what.title()}", str(remaining)),
        (f"x-ratelimit-reset-{what}", reset),
    )


def test_the_bucket_of_requests_is_waited_for() -> None:
    limits = RateLimits()
    assert limits.wait("a", 0) == 0
    limits.observe("a", limits_of("requests", 60, 1, "59s"), 200, 0, WALL)
    assert limits.wait("a", 0) == 0
    limits.take("a", 0)
    assert limits.wait("a", 0) == pytest.approx(1)
    assert limits.wait("a", 0.75) == pytest.approx(0.25)
    assert limits.wait("a", 1) == 0
    assert limits.wait("b", 0) == 0


def test_the_bucket_of_tokens_is_waited_for_by_their_number() -> None:
    limits = RateLimits()
    told = limits_of("requests", 60, 60, "0s") + limits_of("tokens", 60_000, 2_000, "58s")
    limits.observe("a", told, 200, 0, WALL)
    assert limits.wait("a", 0, tokens=2_000) == 0
    assert limits.wait("a", 0, tokens=5_000) == pytest.approx(3)
    # more than there ever is waits for a full bucket, not for ever
    assert limits.wait("a", 0, tokens=10**9) == pytest.approx(58)
    limits.take("a", 0, 2_000)
    assert limits.wait("a", 0, tokens=1_000) == pytest.approx(1)


def test_an_answer_that_was_overtaken_does_not_fill_the_bucket() -> None:
    limits = RateLimits()
    limits.observe("a", limits_of("requests", 60, 0, "60s"), 200, 0, WALL)
    limits.observe("a", limits_of("requests", 60, 30, "30s"), 200, 0, WALL)
    assert limits.wait("a", 0) == pytest.approx(1)
    # another limit is another bucket
    limits.observe("a", limits_of("requests", 600, 30, "57s"), 200, 0, WALL)
    assert limits.wait("a", 0) == 0


def test_a_429_closes_for_as_long_as_it_tells() -> None:
    limits = RateLimits()
    limits.observe("a", (("Retry-After", "7"),), 429, 10, WALL)
    assert limits.wait("a", 10) == 7
    limits.observe("a", (("Retry-After", "2"),), 429, 11, WALL)
    assert limits.wait("a", 12) == 5
    limits.observe("b", (), 429, 10, WALL)
    assert limits.wait("b", 10) == 1
    limits.observe("c", (("Retry-After", "7"),), 500, 10, WALL)
    assert limits.wait("c", 10) == 0


@pytest.mark.parametrize("told", ["121", "1e300", "Thu, 15 Jan 2099 08:00:00 GMT"])
def test_a_429_closes_for_no_longer_than_is_believed(told: str) -> None:
    limits = RateLimits()
    limits.observe("a", (("Retry-After", told),), 429, 10, WALL)
    assert limits.wait("a", 10) == LONGEST_BELIEVED
    assert limits.wait("a", 10 + LONGEST_BELIEVED) == 0


@pytest.mark.parametrize("what", ["requests", "tokens"])
def test_neither_does_a_bucket_that_hardly_fills(what: str) -> None:
    limits = RateLimits()
    told = limits_of(what, 60, 0, "9999d") + limits_of("requests", 60, 60, "0s")
    limits.observe("a", told, 200, 10, WALL)
    assert limits.wait("a", 10) == LONGEST_BELIEVED
    assert limits.wait("a", 10 + LONGEST_BELIEVED) == 0
    # one goes, and the next is as long after it
    limits.take("a", 10 + LONGEST_BELIEVED, tokens=1)
    assert limits.wait("a", 10 + LONGEST_BELIEVED) == LONGEST_BELIEVED


def test_the_least_recently_used_are_forgotten() -> None:
    limits = RateLimits(most=2)
    for key in ("a", "b", "a", "c"):
        limits.observe(key, (("Retry-After", "7"),), 429, 0, WALL)
    assert len(limits) == 2
    assert [limits.wait(key, 0) for key in "abc"] == [7, 0, 7]


@given(
    st.integers(1, 100),
    st.integers(0, 100),
    st.floats(0.01, 100),
    st.lists(st.floats(0, 5), max_size=40),
)
def test_no_more_goes_than_the_bucket_gives(limit: int, remaining: int, reset: float, gaps: list[float]) -> None:
    remaining = min(limit, remaining)
    limits = RateLimits()
    limits.observe("a", limits_of("requests", limit, remaining, f"{reset:.6f}s"), 200, 0, WALL)
    rate = (limit - remaining) / reset if remaining < limit else limit / 60
    now = 0.0
    for gone, gap in enumerate(gaps, 1):
        now += gap
        # whoever waits for as long as told goes then
        now += limits.wait("a", now)
        assert limits.wait("a", now) < 1e-3
        limits.take("a", now)
        assert gone <= remaining + rate * now + 1e-3 * limit + 1
