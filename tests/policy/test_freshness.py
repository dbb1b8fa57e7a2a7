"""Freshness lifetime and current age, told with times relative to one moment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.rule import Rule
from proxy.policy.fields import FOREVER, format_date
from proxy.policy.freshness import (
    HEURISTIC_STATUSES,
    MAX_HEURISTIC,
    current_age,
    freshness_of,
    response_directives,
    withheld_fields,
)
from proxy.policy.messages import Fields, Freshness, ResponseHead, RouteRule

NOW = 1_800_000_000.0
DAY = 86_400.0

Given = list[tuple[str, str | int]]


def response(lines: Given, status: int = 200) -> ResponseHead:
    """A head in which a number stands for a date so many seconds after NOW."""
    dated = [(name, format_date(NOW + value) if isinstance(value, int) else value) for name, value in lines]
    return ResponseHead(status, "", Fields(dated))


def freshness(lines: Given, status: int = 200, rule: RouteRule | None = None, delay: float = 0.0) -> Freshness:
    return freshness_of(response(lines, status), NOW - delay, NOW, rule)


def cache_control(value: str, *more: tuple[str, str | int]) -> Given:
    return [("Cache-Control", value), *more]


# -- 4.2.1: the lifetime


@pytest.mark.parametrize(
    ("lines", "lifetime"),
    [
        ([], 0),
        (cache_control("max-age=3600"), 3600),
        (cache_control("max-age=0"), 0),
        (cache_control("max-age=-3600"), 0),
        (cache_control("max-age='3600'"), 0),
        (cache_control("max-age=99999999999"), FOREVER),
        (cache_control("no-store"), 0),
        ([("Cache-Control", "max-age=60"), ("cache-control", "public")], 60),
        # s-maxage before max-age before Expires, in any order and whether valid or not
        (cache_control("s-maxage=3600, max-age=1"), 3600),
        (cache_control("max-age=3600, s-maxage=1"), 1),
        ([("Cache-Control", "max-age=3600"), ("Cache-Control", "s-maxage=1")], 1),
        (cache_control("max-age=3600, s-maxage=x"), 0),
        (cache_control("max-age=0, s-maxage=3600", ("Expires", -10)), 3600),
        (cache_control("max-age=3600", ("Expires", -7200), ("Date", 0)), 3600),
        (cache_control("max-age=3600", ("Expires", "0"), ("Date", 0)), 3600),
        (cache_control("max-age=0", ("Expires", 3600), ("Date", 0)), 0),
        (cache_control("max-age=x", ("Expires", 3600), ("Date", 0)), 0),
        # Expires counts from Date
        ([("Expires", 3600), ("Date", 0)], 3600),
        ([("Expires", 3600), ("Date", -10)], 3610),
        ([("Expires", 3600), ("Date", 10)], 3590),
        ([("Expires", 300), ("Date", 400)], 0),
        ([("Expires", 0), ("Date", 0)], 0),
        ([("Expires", -3600), ("Date", 0)], 0),
        # from the time of receipt without a valid Date
        ([("Expires", 3600)], 3600),
        ([("Expires", 3600), ("Date", "foo")], 3600),
        ([("Expires", 3600), ("Date", -10), ("Date", -20)], 3600),
        # an invalid Expires is over, and leaves no room for guessing
        ([("Expires", "0"), ("Date", 0)], 0),
        ([("Expires", ""), ("Last-Modified", -100_000), ("Date", 0)], 0),
        ([("Expires", 3600), ("Expires", 3601), ("Date", 0)], 0),
        ([("Expires", "Thu, 18 AUG 2050 02:01:18 GMT"), ("Date", 0)], 0),
        # obsolete forms of dates
        ([("Expires", "Saturday, 15-Jan-27 09:00:00 GMT"), ("Date", "Fri Jan 15 08:00:00 2027")], 3600),
        # Pragma in a response says nothing
        (cache_control("max-age=60", ("Pragma", "no-cache")), 60),
        # an extension's quoted string is not looked into
        (cache_control('extension="max-age=3600"', ("Date", 0)), 0),
    ],
)
def test_the_lifetime_the_origin_states(lines: Given, lifetime: float) -> None:
    assert freshness(lines).lifetime == lifetime


# -- 4.2.2: the guess


@pytest.mark.parametrize("status", [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501])
def test_statuses_for_which_a_lifetime_may_be_guessed(status: int) -> None:
    assert status in HEURISTIC_STATUSES
    assert freshness([("Last-Modified", -1000), ("Date", 0)], status).lifetime == 100


@pytest.mark.parametrize("status", [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599])
def test_other_statuses_need_public_for_a_guess(status: int) -> None:
    lines: Given = [("Last-Modified", -1000), ("Date", 0)]
    assert freshness(lines, status).lifetime == 0
    assert freshness([*lines, ("Cache-Control", "public")], status).lifetime == 100


@pytest.mark.parametrize(
    ("lines", "lifetime"),
    [
        ([("Last-Modified", -100)], 10),
        ([("Last-Modified", -100), ("Date", -50)], 5),
        ([("Last-Modified", -100), ("Date", "foo")], 10),
        ([("Last-Modified", 100), ("Date", 0)], 0),
        ([("Last-Modified", "foo"), ("Date", 0)], 0),
        ([("Last-Modified", -int(9 * DAY)), ("Date", 0)], 0.9 * DAY),
        ([("Last-Modified", -int(11 * DAY)), ("Date", 0)], MAX_HEURISTIC),
        ([("Last-Modified", -1000), ("Cache-Control", "max-age=0")], 0),
        ([("Last-Modified", -1000), ("Cache-Control", "max-age")], 0),
        ([("Last-Modified", -1000), ("Cache-Control", "must-revalidate")], 100),
    ],
)
def test_the_guess_is_a_tenth_of_the_time_unchanged_a_day_at_most(lines: Given, lifetime: float) -> None:
    assert freshness(lines).lifetime == pytest.approx(lifetime)


# -- 4.2.3: the age


@pytest.mark.parametrize(
    ("lines", "delay", "age"),
    [
        ([], 0, 0),
        ([], 2, 2),
        ([], -2, 0),
        ([("Date", 0)], 0, 0),
        ([("Date", -30)], 0, 30),
        ([("Date", 30)], 0, 0),
        ([("Date", "foo")], 0, 0),
        ([("Age", "30")], 0, 30),
        ([("Age", "30")], 2, 32),
        ([("Age", "30")], -2, 30),
        ([("Date", -40), ("Age", "30")], 2, 40),
        ([("Date", -20), ("Age", "30")], 2, 32),
        ([("Age", "abc")], 0, 0),
        ([("Age", "20"), ("Age", "0")], 0, 20),
        ([("Age", "99999999999")], 0, FOREVER),
    ],
)
def test_the_corrected_initial_age(lines: Given, delay: float, age: float) -> None:
    assert freshness(lines, delay=delay).initial_age == age


@pytest.mark.parametrize(
    "lines",
    [
        cache_control("max-age=3600", ("Age", "7200"), ("Date", 0)),
        cache_control("max-age=3600", ("Date", -7200)),
        [("Date", -10), ("Expires", 10), ("Age", "25")],
        [("Date", 10), ("Expires", 20), ("Age", "15")],
    ],
)
def test_a_response_may_be_stale_on_arrival(lines: Given) -> None:
    of = freshness(lines)
    assert of.lifetime <= current_age(of, NOW, NOW)


def test_the_age_grows_with_the_time_here() -> None:
    of = Freshness(initial_age=10, lifetime=60)
    assert current_age(of, NOW, NOW) == 10
    assert current_age(of, NOW, NOW + 25) == 35
    assert current_age(of, NOW, NOW - 3600) == 10


# -- what else the directives say


@pytest.mark.parametrize(
    ("value", "must_revalidate"),
    [
        ("max-age=60", False),
        ("max-age=60, must-revalidate", True),
        ("max-age=60, Proxy-Revalidate", True),
        ("s-maxage=60", True),
        ('extension="must-revalidate"', False),
    ],
)
def test_what_forbids_serving_stale(value: str, must_revalidate: bool) -> None:
    assert freshness(cache_control(value)).must_revalidate is must_revalidate


@pytest.mark.parametrize(
    ("value", "no_cache"),
    [
        ("max-age=60", False),
        ("no-cache", True),
        ("max-age=60, No-CaChE", True),
        ('no-cache="x-a"', False),
        ('no-cache="x-z, X-A"', False),
        ('no-cache="x-z"', False),
        ('no-cache="x-z", no-cache', True),
    ],
)
def test_no_cache_and_the_fields_it_lists(value: str, no_cache: bool) -> None:
    assert freshness(cache_control(value, ("X-A", "1"))).no_cache is no_cache


@pytest.mark.parametrize(
    ("value", "shared", "private"),
    [
        ("no-cache, private", set(), set()),
        ('no-cache="X-A, b"', {"x-a", "b"}, {"x-a", "b"}),
        ('private="x-a", no-cache="b"', {"x-a", "b"}, {"b"}),
        ('private="x-a", private', set(), set()),
    ],
)
def test_fields_for_the_client_that_asked(value: str, shared: set[str], private: set[str]) -> None:
    directives = response_directives(Fields([("Cache-Control", value)]))
    assert withheld_fields(directives, private=False) == shared
    assert withheld_fields(directives, private=True) == private


@pytest.mark.parametrize(
    ("value", "while_revalidate", "if_error"),
    [
        ("max-age=60", 0, None),
        ("stale-while-revalidate=30, stale-if-error=600", 30, 600),
        ("stale-while-revalidate=x, stale-if-error=x", 0, 0),
        ("stale-if-error=0", 0, 0),
    ],
)
def test_how_long_it_may_be_served_stale(value: str, while_revalidate: float, if_error: float | None) -> None:
    of = freshness(cache_control(value))
    assert (of.stale_while_revalidate, of.stale_if_error) == (while_revalidate, if_error)


# -- route rules


def rule(ttl: float = 300, while_revalidate: float | None = None, if_error: float | None = None) -> Rule:
    return Rule("/a", frozenset({"GET"}), ttl, stale_while_revalidate=while_revalidate, stale_if_error=if_error)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        cache_control("max-age=1"),
        cache_control("max-age=0"),
        [("Expires", "0"), ("Date", 0)],
        [("Date", -7200)],
        [("Age", "7200")],
        [("Last-Modified", -100)],
    ],
)
def test_a_rules_lifetime_counts_from_the_receipt(lines: Given) -> None:
    of = freshness(lines, rule=rule(), delay=2)
    assert of.lifetime - current_age(of, NOW, NOW + 100) == 200


def test_a_rule_gives_no_lifetime_to_other_statuses() -> None:
    assert freshness([], 404, rule()).lifetime == 0
    assert freshness(cache_control("max-age=7"), 404, rule()).lifetime == 7


def test_a_rule_lifts_neither_no_cache_nor_must_revalidate() -> None:
    of = freshness(cache_control("no-cache, must-revalidate"), rule=rule())
    assert (of.no_cache, of.must_revalidate) == (True, True)


def test_a_rule_says_how_long_to_serve_stale_where_it_says_anything() -> None:
    lines = cache_control("stale-while-revalidate=1, stale-if-error=2")
    of = freshness(lines, rule=rule())
    assert (of.stale_while_revalidate, of.stale_if_error) == (1, 2)
    of = freshness(lines, rule=rule(while_revalidate=30, if_error=600))
    assert (of.stale_while_revalidate, of.stale_if_error) == (30, 600)
    of = freshness(lines, rule=rule(while_revalidate=0, if_error=0))
    assert (of.stale_while_revalidate, of.stale_if_error) == (0, 0)


# -- properties

SECONDS = st.floats(-1e9, 1e9)
VALUES = st.text(st.characters(max_codepoint=255)) | st.sampled_from(
    ["max-age=60", "s-maxage=5", "no-cache", "public", "0", "100", format_date(NOW), format_date(NOW + 60)]
)
NAMES = st.sampled_from(["Cache-Control", "Expires", "Date", "Age", "Last-Modified", "Pragma", "Vary"])
HEADS = st.builds(
    ResponseHead, st.integers(100, 599), st.just(""), st.builds(Fields, st.lists(st.tuples(NAMES, VALUES)))
)


@given(HEADS, SECONDS, SECONDS)
def test_freshness_is_never_negative_whatever_the_fields(head: ResponseHead, sent: float, received: float) -> None:
    of = freshness_of(head, NOW + sent, NOW + received)
    assert of.initial_age >= 0
    assert of.lifetime >= 0
    assert of.stale_while_revalidate >= 0
    assert (of.stale_if_error or 0) >= 0


@given(HEADS, SECONDS, SECONDS, st.booleans())
def test_the_age_never_falls(head: ResponseHead, one: float, other: float, ruled: bool) -> None:
    of = freshness_of(head, NOW, NOW, rule() if ruled else None)
    earlier, later = sorted((NOW + one, NOW + other))
    assert current_age(of, NOW, earlier) <= current_age(of, NOW, later)
