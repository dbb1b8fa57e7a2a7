from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading.health import (
    LEAST,
    MOST_OFF_SECONDS,
    OFF_SECONDS,
    TRIES,
    TRY_EVERY,
    WINDOW,
    Health,
    State,
)


def off_at(now: float) -> Health:
    health = Health()
    for _ in range(LEAST):
        health.failed(now)
    assert health.state is State.OFF
    return health


def test_a_few_failures_are_lived_with() -> None:
    health = Health()
    for turn in range(10 * WINDOW):
        assert health.admits(0.0)
        assert not (health.failed(0.0) if turn % 10 == 0 else health.succeeded())
    assert health.failures == WINDOW // 10


def test_failures_before_there_are_enough_answers_say_nothing() -> None:
    health = Health()
    assert [health.failed(0.0) for _ in range(LEAST)] == [False] * (LEAST - 1) + [True]
    assert health.state is State.OFF


def test_while_off_nothing_is_admitted() -> None:
    health = off_at(100.0)
    assert not any(health.admits(100.0 + second) for second in range(int(OFF_SECONDS)))


def test_afterwards_one_in_so_many_is_tried() -> None:
    health = off_at(0.0)
    admitted = [health.admits(OFF_SECONDS) for _ in range(3 * TRY_EVERY)]
    assert [turn for turn, admits in enumerate(admitted) if admits] == [0, TRY_EVERY, 2 * TRY_EVERY]
    assert health.state is State.TRYING


def test_enough_successes_switch_it_on_and_the_past_is_forgotten() -> None:
    health = off_at(0.0)
    health.admits(OFF_SECONDS)
    assert [health.succeeded() for _ in range(TRIES)] == [False] * (TRIES - 1) + [True]
    assert health.state is State.ON
    assert health.answers == 0
    assert all(health.admits(OFF_SECONDS) for _ in range(100))


def test_each_failed_try_doubles_the_pause_up_to_a_bound() -> None:
    health, now, pauses = off_at(0.0), OFF_SECONDS, []
    for _ in range(6):
        assert health.admits(now)
        assert health.failed(now)
        pauses.append(health.until - now)
        now = health.until
    assert pauses == [600.0, 1200.0, 2400.0, MOST_OFF_SECONDS, MOST_OFF_SECONDS, MOST_OFF_SECONDS]


def test_an_answer_that_comes_after_it_was_switched_off_does_not_switch_twice() -> None:
    health = off_at(0.0)
    assert not health.failed(1.0)
    assert not health.succeeded()
    assert (health.state, health.until) == (State.OFF, OFF_SECONDS)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 500)), max_size=400))
def test_it_is_never_off_for_longer_than_the_bound(story: list[tuple[bool, float]]) -> None:
    health, now = Health(), 0.0
    for good, passed in story:
        now += passed
        if health.admits(now):
            if good:
                health.succeeded()
            else:
                health.failed(now)
        assert health.state is not State.OFF or health.until - now <= MOST_OFF_SECONDS
    assert health.admits(now + MOST_OFF_SECONDS) or health.state is State.TRYING
