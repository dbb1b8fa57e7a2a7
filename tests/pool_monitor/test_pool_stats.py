"""Numbers to words: the verdict for every state, and the JSON that others rely on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.pool_stats import LEAK_SECONDS, Holder, Numbers, Verdict, document, percentile, verdict

QUIET = Numbers(most=20, least=2, total=5, idle=2)


@pytest.mark.parametrize(
    ("numbers", "expected", "words"),
    [
        (QUIET, Verdict.HEALTHY, "healthy"),
        (replace(QUIET, total=16, idle=2), Verdict.HEALTHY, "healthy"),
        (replace(QUIET, total=17, idle=2), Verdict.BUSY, "busy: 15 of 20 connections are in use; the aim is under 15"),
        (
            replace(QUIET, total=20, idle=0, waiting=3, oldest_wait=1.25, holders=[Holder("report", 2.0)]),
            Verdict.SATURATED,
            "saturated: 3 wait, the first for 1.2 s; 20 of 20 connections are held, the longest by 'report' for 2.0 s",
        ),
        (
            replace(QUIET, holders=[Holder("a", 1.0), Holder("export", LEAK_SECONDS + 1)], waiting=1),
            Verdict.LEAKING,
            "leaking: 'export' has held a connection for 61 s",
        ),
        (replace(QUIET, total=0, idle=0, failure="refused"), Verdict.UNREACHABLE, "unreachable: refused"),
        (replace(QUIET, total=1, idle=0, connecting=1, failure="x"), Verdict.UNREACHABLE, "unreachable: x"),
        (replace(QUIET, failure="one attempt failed"), Verdict.HEALTHY, "healthy"),
        # whoever asks now is refused
        (
            replace(QUIET, total=5, idle=0, connecting=1, failure="too many clients"),
            Verdict.SATURATED,
            "saturated: no connection can be made beyond the 4 that are held: too many clients",
        ),
    ],
)
def test_the_verdict(numbers: Numbers, expected: Verdict, words: str) -> None:
    word, sentence, advice = verdict(numbers)
    assert (word, sentence) == (expected, words)
    assert bool(advice) is (expected is not Verdict.HEALTHY)


def test_the_five_keys_of_node_postgres() -> None:
    told = document(replace(QUIET, waits=[0.001, 0.002, 0.003, 0.1], holders=[Holder("a", 0.5), Holder("b", 1)]))
    assert {name: told[name] for name in list(told)[:5]} == {
        "totalCount": 5,
        "idleCount": 2,
        "waitingCount": 0,
        "maxConnections": 20,
        "activeConnections": 3,
    }
    assert told["waitMs"] == {"p50": 2.0, "p95": 100.0, "p99": 100.0, "max": 100.0}
    assert told["holders"] == [{"name": "b", "heldMs": 1000}, {"name": "a", "heldMs": 500}]
    assert told["targets"] == {"waitingAlwaysZero": True, "activeUnder15": True}


def test_the_plans_targets_are_missed_when_they_are() -> None:
    told = document(replace(QUIET, total=15, idle=0, timeouts=1))
    assert told["targets"] == {"waitingAlwaysZero": False, "activeUnder15": False}


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


def test_no_waits_have_no_percentiles() -> None:
    assert percentile([], 0.5) == 0
