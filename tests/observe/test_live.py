"""What the live page shows of the requests, from observations to numbers that add up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.events import Observation, Tier
from proxy.observe.live import KEPT_A_MINUTE, KEPT_MINUTES, MAX_PATH, SHOWN, Numbers, SlowRequests, added_up
from proxy.observe.metrics import SECONDS
from proxy.policy.decisions import Outcome
from tests.observe.bench import Bench, hit

NOW = 1_800_000_000.0


def slow(seconds: float, end: float = NOW, path: str = "/a", outcome: Outcome = Outcome.MISS) -> Observation:
    return Observation("GET", path, status=200, outcome=outcome, started=end - seconds, duration=seconds)


# -- slow requests


def test_the_slowest_come_first_with_all_that_helps_to_find_them() -> None:
    kept = SlowRequests()
    kept.add(slow(0.5))
    seen = slow(2.0, path="/b")
    seen.route, seen.origin_seconds = "/b", 1.5
    kept.add(seen)
    first, second = kept.worst(NOW)
    assert first == {
        "at": NOW,
        "method": "GET",
        "path": "/b",
        "route": "/b",
        "outcome": "miss",
        "status": 200,
        "seconds": 2.0,
        "originSeconds": 1.5,
    }
    assert (second["seconds"], second["originSeconds"]) == (0.5, None)


def test_what_is_long_ago_is_not_told() -> None:
    kept = SlowRequests()
    kept.add(slow(9, NOW - 60 * KEPT_MINUTES - 1, "/old"))
    kept.add(slow(1, NOW - 60 * KEPT_MINUTES + 1, "/new"))
    assert [one["path"] for one in kept.worst(NOW)] == ["/new"]


def test_a_tunnel_is_not_slow_but_long() -> None:
    kept = SlowRequests()
    kept.add(slow(3600, outcome=Outcome.TUNNEL))
    assert kept.worst(NOW) == []


def test_a_clock_that_is_set_back_does_no_harm() -> None:
    kept = SlowRequests()
    kept.add(slow(1))
    kept.add(slow(2, NOW - 300))
    assert [one["seconds"] for one in kept.worst(NOW)] == [2, 1]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/caf\xc3\xa9", "/café"),
        ("/\xff", "/\ufffd"),
        ("/\ud800", "/?"),
        ("/" + "a" * 1000, "/" + "a" * (MAX_PATH - 1) + "…"),
    ],
)
def test_a_path_is_text_and_short(path: str, told: str) -> None:
    kept = SlowRequests()
    kept.add(slow(1, path=path))
    (one,) = kept.worst(NOW)
    assert one["path"] == told
    json.dumps(one).encode()


@given(st.lists(st.tuples(st.floats(0.5, 100), st.integers(0, 120)), max_size=200))
def test_the_worst_of_few_are_exact_and_of_many_bounded(given_: list[tuple[float, int]]) -> None:
    kept = SlowRequests()
    for seconds, later in sorted(given_, key=lambda one: one[1]):
        kept.add(slow(seconds, NOW + later))
    assert len(kept._minutes) <= KEPT_MINUTES + 1
    assert all(len(heap) <= KEPT_A_MINUTE for _, heap in kept._minutes)
    expected = sorted((round(seconds, 4) for seconds, _ in given_), reverse=True)[:SHOWN]
    assert [one["seconds"] for one in kept.worst(NOW + 120)] == expected


# -- numbers


def test_a_worker_tells_what_it_has_counted() -> None:
    bench = Bench(in_flight=3)
    bench.origin.in_use = 2
    for duration in (0.0004, 0.3, 500.0):
        seen = hit()
        seen.duration, seen.origin_seconds_saved = duration, 0.5
        seen.bytes_saved_304, seen.bytes_saved_coding = 10, 20
        bench.metrics.observe(seen)
    bench.metrics.observe(Observation("GET", status=502, outcome=Outcome.ORIGIN_ERROR, error="x", duration=1.5))
    bench.metrics.observe(Observation("GET", status=101, outcome=Outcome.TUNNEL, duration=3000))
    told = bench.metrics.live([])
    assert told["outcomes"] == {"hit": 3, "origin-error": 1, "tunnel": 1}
    assert sum(told["statuses"].values()) == 5
    assert told["statuses"]["5xx"] == 1
    assert len(told["buckets"]) == len(SECONDS) + 1
    found = {bound: number for bound, number in zip([*SECONDS, None], told["buckets"], strict=True) if number}
    assert found == {0.0005: 1, 0.5: 1, 2: 1, None: 1}
    counts = told["counts"]
    assert (counts["hits"], counts["misses"], counts["originErrors"]) == (3, 0, 1)
    assert (counts["originSecondsSaved"], counts["bytesSavedNotModified"], counts["bytesSavedCoding"]) == (1.5, 30, 60)
    assert (told["levels"]["inFlight"], told["levels"]["originInUse"]) == (3, 2)


def test_nothing_yet_is_told_as_nothing() -> None:
    told = Bench().metrics.live([])
    assert (told["outcomes"], told["statuses"], sum(told["buckets"]), told["slow"]) == ({}, {}, 0, [])


def test_workers_are_added_up() -> None:
    one, two = Bench(in_flight=1), Bench(in_flight=2)
    kept = SlowRequests()
    kept.add(slow(1))
    for bench, times in ((one, 2), (two, 3)):
        for _ in range(times):
            bench.metrics.observe(hit())
    seen = hit()
    seen.tier = Tier.SHARED
    two.metrics.observe(seen)
    parts = [one.metrics.live(kept.worst(NOW)), two.metrics.live([])]
    total = added_up(parts)
    assert total["instances"] == sorted(parts[0]["instances"] + parts[1]["instances"])
    assert len(set(total["instances"])) == 2
    assert total["outcomes"] == {"hit": 6}
    assert (total["counts"]["hits"], total["counts"]["sharedHits"], total["levels"]["inFlight"]) == (6, 1, 3)
    assert (sum(total["buckets"]), len(total["buckets"])) == (6, len(SECONDS) + 1)
    assert len(total["slow"]) == 1


def test_no_worker_adds_up_to_nothing() -> None:
    empty = Numbers(instances=[], outcomes={}, statuses={}, buckets=[], counts={}, levels={}, slow=[])
    assert added_up([]) == empty
