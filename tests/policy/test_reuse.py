"""Fresh, stale but allowed, or to be validated: the decision over time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.rule import Rule
from proxy.policy.cache_key import secondary_key
from proxy.policy.decisions import Reuse
from proxy.policy.freshness import current_age
from proxy.policy.messages import Fields, Freshness, Part, RequestHead, ResponseHead, SecondaryKey, StoredResponse
from proxy.policy.reuse import (
    ERROR_STATUSES,
    UNSTATED_STALE_IF_ERROR,
    VALIDATED_SECONDS,
    age_to_join,
    decide,
    may_hide_error,
    only_if_cached,
    overtakes,
    request_no_store,
    select,
    wants_origin,
    worth_keeping,
)

NOW = 1_800_000_000.0


def stored(freshness: Freshness, secondary_key: SecondaryKey = (), response_time: float = NOW) -> StoredResponse:
    return StoredResponse(
        key="k",
        uri="http://example.org/a",
        secondary_key=secondary_key,
        head=ResponseHead(200, "OK", Fields()),
        content=b"a",
        freshness=freshness,
        request_time=response_time,
        response_time=response_time,
        epoch=0,
    )


def request(*lines: tuple[str, str]) -> RequestHead:
    return RequestHead("GET", "/a", Fields(lines))


def asking(cache_control: str) -> RequestHead:
    return request(("Cache-Control", cache_control))


PLAIN = request(("Accept", "*/*"))
MINUTE = Freshness(lifetime=60)
WINDOW = Freshness(lifetime=60, stale_while_revalidate=30)


# -- without a word of the client


@pytest.mark.parametrize(
    ("freshness", "elapsed", "expected"),
    [
        (MINUTE, 0, Reuse.FRESH),
        (MINUTE, 59.9, Reuse.FRESH),
        (MINUTE, 60, Reuse.VALIDATE),
        (MINUTE, 3600, Reuse.VALIDATE),
        (MINUTE, -3600, Reuse.FRESH),
        (Freshness(initial_age=50, lifetime=60), 9, Reuse.FRESH),
        (Freshness(initial_age=50, lifetime=60), 10, Reuse.VALIDATE),
        (Freshness(), 0, Reuse.VALIDATE),
        (Freshness(lifetime=60, no_cache=True), 0, Reuse.VALIDATE),
        (Freshness(lifetime=60, must_revalidate=True), 59, Reuse.FRESH),
        (Freshness(lifetime=60, must_revalidate=True), 60, Reuse.VALIDATE),
        (WINDOW, 59, Reuse.FRESH),
        (WINDOW, 60, Reuse.STALE_WHILE_REVALIDATE),
        (WINDOW, 90, Reuse.STALE_WHILE_REVALIDATE),
        (WINDOW, 90.1, Reuse.VALIDATE),
        (replace(WINDOW, must_revalidate=True), 61, Reuse.VALIDATE),
        (replace(WINDOW, no_cache=True), 61, Reuse.VALIDATE),
        (Freshness(lifetime=60, stale_if_error=600), 61, Reuse.VALIDATE),
    ],
)
def test_the_passing_of_time(freshness: Freshness, elapsed: float, expected: Reuse) -> None:
    assert decide(stored(freshness), PLAIN, NOW + elapsed) is expected


@pytest.mark.parametrize(
    ("freshness", "elapsed", "expected"),
    [
        (MINUTE, 1, Reuse.VALIDATE),
        (WINDOW, 1, Reuse.STALE_WHILE_REVALIDATE),
        (WINDOW, 89, Reuse.STALE_WHILE_REVALIDATE),
        (WINDOW, 91, Reuse.VALIDATE),
        (replace(WINDOW, must_revalidate=True), 1, Reuse.VALIDATE),
    ],
)
def test_a_soft_purge_makes_it_stale_at_once(freshness: Freshness, elapsed: float, expected: Reuse) -> None:
    assert decide(stored(freshness), PLAIN, NOW + elapsed, soft_stale=True) is expected


@pytest.mark.parametrize(
    ("window", "elapsed", "expected"),
    [
        (None, 80, Reuse.STALE_WHILE_REVALIDATE),
        (100.0, 150, Reuse.STALE_WHILE_REVALIDATE),
        (10.0, 80, Reuse.VALIDATE),
        (0.0, 61, Reuse.VALIDATE),
    ],
)
def test_the_rule_as_it_reads_now_goes_first(window: float | None, elapsed: float, expected: Reuse) -> None:
    rule = Rule("/a", frozenset({"GET"}), 60, stale_while_revalidate=window)
    assert decide(stored(WINDOW), PLAIN, NOW + elapsed, False, rule) is expected


# -- with the client's directives (5.2.1)


@pytest.mark.parametrize(
    ("directives", "elapsed", "expected"),
    [
        ("no-cache", 1, Reuse.VALIDATE_BY_REQUEST),
        ("No-Cache", 1, Reuse.VALIDATE_BY_REQUEST),
        ('x="no-cache"', 1, Reuse.FRESH),
        ("no-transform", 1, Reuse.FRESH),
        ("only-if-cached", 1, Reuse.FRESH),
        ("max-age=0", 1, Reuse.VALIDATE_BY_REQUEST),
        ("max-age=10", 10, Reuse.FRESH),
        ("max-age=10", 11, Reuse.VALIDATE_BY_REQUEST),
        ("max-age=x", 1, Reuse.VALIDATE_BY_REQUEST),
        ("max-age=0, max-age=100", 1, Reuse.VALIDATE_BY_REQUEST),
        ("max-age=100, max-age=0", 1, Reuse.FRESH),
        ("max-age=1000", 61, Reuse.VALIDATE),
        ("min-fresh=30", 30, Reuse.FRESH),
        ("min-fresh=30", 31, Reuse.VALIDATE_BY_REQUEST),
        ("min-fresh=2000", 0, Reuse.VALIDATE_BY_REQUEST),
        ("min-fresh=0", 1, Reuse.FRESH),
        ("max-stale", 1, Reuse.FRESH),
        ("max-stale", 100_000, Reuse.STALE_ALLOWED),
        ("max-stale=10", 70, Reuse.STALE_ALLOWED),
        ("max-stale=10", 71, Reuse.VALIDATE),
        ("max-stale=x", 61, Reuse.VALIDATE),
        ("max-stale=", 61, Reuse.VALIDATE),
        ("max-age=1000, max-stale=10", 70, Reuse.STALE_ALLOWED),
        ("max-age=65, max-stale=10", 70, Reuse.VALIDATE_BY_REQUEST),
        ("no-cache, max-stale", 70, Reuse.VALIDATE_BY_REQUEST),
    ],
)
def test_the_clients_demands_and_allowances(directives: str, elapsed: float, expected: Reuse) -> None:
    assert decide(stored(MINUTE), asking(directives), NOW + elapsed) is expected


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("max-stale", Reuse.STALE_WHILE_REVALIDATE),
        ("max-stale=10", Reuse.STALE_WHILE_REVALIDATE),
        ("max-stale=1", Reuse.VALIDATE),
        ("max-age=1000", Reuse.VALIDATE),
        ("max-age=1000, max-stale=10", Reuse.STALE_WHILE_REVALIDATE),
        ("min-fresh=0", Reuse.VALIDATE_BY_REQUEST),
        ("no-transform", Reuse.STALE_WHILE_REVALIDATE),
    ],
)
def test_the_client_may_refuse_what_the_origin_allows(directives: str, expected: Reuse) -> None:
    assert decide(stored(WINDOW), asking(directives), NOW + 65) is expected


@pytest.mark.parametrize("freshness", [replace(MINUTE, must_revalidate=True), replace(MINUTE, no_cache=True)])
def test_max_stale_does_not_lift_what_the_origin_forbids(freshness: Freshness) -> None:
    assert decide(stored(freshness), asking("max-stale"), NOW + 61) is Reuse.VALIDATE


def test_directives_on_several_lines_count_together() -> None:
    asked = request(("Cache-Control", "max-age=100"), ("Cache-Control", "no-cache"))
    assert decide(stored(MINUTE), asked, NOW) is Reuse.VALIDATE_BY_REQUEST


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([("Pragma", "no-cache")], Reuse.VALIDATE_BY_REQUEST),
        ([("Pragma", "x, No-Cache")], Reuse.VALIDATE_BY_REQUEST),
        ([("Pragma", "unrecognised-extension")], Reuse.FRESH),
        ([("Pragma", "no-cache"), ("Cache-Control", "max-age=60")], Reuse.FRESH),
    ],
)
def test_pragma_counts_where_there_is_no_cache_control(lines: list[tuple[str, str]], expected: Reuse) -> None:
    assert decide(stored(MINUTE), request(*lines), NOW + 1) is expected


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [
        ("only-if-cached", True),
        ("max-age=5, Only-If-Cached", True),
        ("only-if-cached=x", True),
        ('x="only-if-cached"', False),
        ("only-if-cached-x", False),
        ("no-cache", False),
    ],
)
def test_only_if_cached(cache_control: str, expected: bool) -> None:
    assert only_if_cached(asking(cache_control)) is expected
    assert only_if_cached(PLAIN) is False


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [("no-store", True), ("max-age=5, NO-STORE", True), ('x="no-store"', False), ("no-cache", False)],
)
def test_request_no_store(cache_control: str, expected: bool) -> None:
    assert request_no_store(asking(cache_control)) is expected
    assert request_no_store(PLAIN) is False


# -- the origin failed


@pytest.mark.parametrize(
    ("freshness", "directives", "elapsed", "expected"),
    [
        # nobody says for how long
        (MINUTE, "", 30, True),
        (MINUTE, "", 60 + UNSTATED_STALE_IF_ERROR, True),
        (MINUTE, "", 61 + UNSTATED_STALE_IF_ERROR, False),
        # the origin or the rule does
        (replace(MINUTE, stale_if_error=10), "", 70, True),
        (replace(MINUTE, stale_if_error=10), "", 71, False),
        (replace(MINUTE, stale_if_error=100_000), "", 90_000, True),
        (replace(MINUTE, stale_if_error=0), "", 60, False),
        (replace(MINUTE, stale_if_error=0), "stale-if-error=600", 60, False),
        # the client does
        (MINUTE, "stale-if-error=10", 70, True),
        (MINUTE, "stale-if-error=10", 71, False),
        (MINUTE, "stale-if-error=100000", 90_000, True),
        (MINUTE, "stale-if-error=0", 61, False),
        (replace(MINUTE, stale_if_error=10), "stale-if-error=100", 90, True),
        (replace(MINUTE, stale_if_error=100), "stale-if-error=10", 90, True),
        (MINUTE, "max-age=0", 61, True),
        # somebody forbids it
        (MINUTE, "no-cache", 30, False),
        (replace(MINUTE, must_revalidate=True), "", 61, False),
        (replace(MINUTE, must_revalidate=True, stale_if_error=600), "", 61, False),
        (replace(MINUTE, no_cache=True, stale_if_error=600), "", 61, False),
        (replace(MINUTE, must_revalidate=True), "stale-if-error=600", 61, False),
    ],
)
def test_what_may_hide_the_origins_failure(
    freshness: Freshness, directives: str, elapsed: float, expected: bool
) -> None:
    asked = asking(directives) if directives else PLAIN
    assert may_hide_error(stored(freshness), asked, NOW + elapsed) is expected


def test_the_statuses_a_stale_response_may_hide() -> None:
    assert {500, 502, 503, 504} == ERROR_STATUSES


# -- selection


def varying(language: str, response_time: float = NOW, content_language: str | None = None) -> StoredResponse:
    key = secondary_key(("accept-language",), Fields([("Accept-Language", language)]))
    made = stored(MINUTE, key, response_time)
    if content_language is not None:
        made.head = ResponseHead(200, "OK", Fields([("Content-Language", content_language)]))
    return made


def asking_for(language: str) -> Fields:
    return Fields([("Accept-Language", language)])


def test_vary_selects() -> None:
    german, english = varying("de"), varying("en")
    variants = (german, english)
    assert select(variants, asking_for("de")) is german
    assert select(variants, asking_for("EN")) is english
    assert select(variants, asking_for("fr")) is None
    assert select(variants, Fields()) is None
    assert select((), Fields()) is None


@pytest.mark.parametrize(
    ("wanted", "selected"),
    [
        ("en, de", True),
        ("de, EN", True),
        ("de;q=1.0,en", True),
        ("de", True),
        ("fr;q=0.5, DE", True),
        ("de, en;q=0.9", True),
        ("de, fr", False),
        ("en;q=0.9, de;q=0.8", False),
        ("en", False),
        ("de;q=0", False),
        ("*", False),
        ("", False),
    ],
)
def test_the_language_that_is_liked_best_is_selected(wanted: str, selected: bool) -> None:
    german = varying("en, de", content_language="de")
    assert (select((german,), asking_for(wanted)) is german) is selected


def test_no_language_is_guessed() -> None:
    assert select((varying("en, de"),), asking_for("de")) is None


def test_the_most_recent_of_several_is_selected() -> None:
    fields = asking_for("de")
    plain = stored(MINUTE, response_time=NOW)
    varied = varying("de", NOW + 5)
    assert select((plain, varied), fields) is varied
    assert select((varied, plain), fields) is varied
    # received later, but made earlier
    aged = stored(Freshness(initial_age=100, lifetime=60), response_time=NOW + 10)
    assert select((varied, aged), fields) is varied
    # a part is only taken where there is nothing complete
    part = replace(stored(MINUTE, response_time=NOW + 20), part=Part(0, 10, to_end=False))
    assert select((part, plain), fields) is plain
    assert select((part,), fields) is part


# -- on its way


@pytest.mark.parametrize(
    ("asked", "came", "age", "expected"),
    [
        # (asked at, came at, age on arrival) of the late one, against one that came at NOW with no age
        (-10, 5, 10, True),
        (-10, 5, 6, True),
        (-10, 5, 5, False),
        (-10, 5, 0, False),
        (0, 5, 10, True),
        # it was asked for when the other was there: whatever its date says, it is what the origin has now
        (1, 5, 10, False),
    ],
)
def test_what_was_made_later_overtakes_what_is_on_its_way(
    asked: float, came: float, age: float, expected: bool
) -> None:
    late = stored(Freshness(initial_age=age, lifetime=60), response_time=NOW + came)
    late.request_time = NOW + asked
    assert overtakes(stored(MINUTE), late) is expected


@pytest.mark.parametrize(
    ("directives", "elapsed", "expected"),
    [
        (None, 0, 0),
        (None, 59, 59),
        (None, 60, None),
        ("max-age=30", 30, 30),
        ("max-age=30", 31, None),
        ("min-fresh=30", 31, None),
        ("no-cache", 0, None),
        ("max-stale", 61, None),
    ],
)
def test_who_comes_while_it_arrives(directives: str | None, elapsed: float, expected: float | None) -> None:
    who = PLAIN if directives is None else asking(directives)
    assert age_to_join(MINUTE, NOW, who, NOW + elapsed) == expected


# -- properties

SECONDS = st.floats(0, 1e6)
FRESHNESS = st.builds(
    Freshness,
    initial_age=SECONDS,
    lifetime=SECONDS,
    stale_while_revalidate=SECONDS | st.just(0.0),
    stale_if_error=st.none() | SECONDS,
    must_revalidate=st.booleans(),
    no_cache=st.booleans(),
)
DIRECTIVES = st.lists(
    st.sampled_from(["no-cache", "max-stale", "only-if-cached", "x", ""])
    | st.builds(
        "{}={}".format, st.sampled_from(["max-age", "min-fresh", "max-stale", "stale-if-error"]), st.integers(-9)
    )
).map(", ".join)
REQUESTS = st.just(PLAIN) | DIRECTIVES.map(asking) | st.text(st.characters(max_codepoint=255)).map(asking)


@given(FRESHNESS, REQUESTS, st.floats(-1e6, 3e6), st.booleans())
def test_nothing_is_fresh_that_is_stale_or_to_be_validated(
    freshness: Freshness, asked: RequestHead, elapsed: float, soft: bool
) -> None:
    now = NOW + elapsed
    decision = decide(stored(freshness), asked, now, soft)
    if decision is Reuse.FRESH:
        assert current_age(freshness, NOW, now) < freshness.lifetime
        assert not freshness.no_cache
        assert not soft
    if decision in {Reuse.STALE_WHILE_REVALIDATE, Reuse.STALE_ALLOWED}:
        assert not freshness.must_revalidate
        assert not freshness.no_cache


@given(FRESHNESS, REQUESTS, st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_no_longer_fresh_never_becomes_fresh_again(
    freshness: Freshness, asked: RequestHead, one: float, other: float
) -> None:
    earlier, later = sorted((NOW + one, NOW + other))
    kept = stored(freshness)
    if decide(kept, asked, later) is Reuse.FRESH:
        assert decide(kept, asked, earlier) is Reuse.FRESH
    if may_hide_error(kept, asked, later):
        assert may_hide_error(kept, asked, earlier)
        assert not freshness.must_revalidate
        assert not freshness.no_cache


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], False),
        ([("Cache-Control", "max-age=0")], False),
        ([("Cache-Control", "max-age=0, No-Cache")], True),
        ([("Pragma", "no-cache")], True),
    ],
)
def test_wants_origin(lines: list[tuple[str, str]], expected: bool) -> None:
    assert wants_origin(request(*lines)) is expected


# -- how long it is worth its room


@pytest.mark.parametrize(
    ("life", "worth"),
    [
        (MINUTE, 60.0 + UNSTATED_STALE_IF_ERROR),
        (Freshness(lifetime=60.0, stale_if_error=1000.0), 60.0 + 1000.0),
        (Freshness(lifetime=60.0, stale_while_revalidate=5000.0, stale_if_error=0.0), 60.0 + 5000.0),
        (Freshness(lifetime=60.0, stale_while_revalidate=5000.0, must_revalidate=True), 60.0 + VALIDATED_SECONDS),
        (Freshness(lifetime=60.0, stale_if_error=5000.0, no_cache=True), 60.0 + VALIDATED_SECONDS),
        (Freshness(lifetime=-60.0, stale_if_error=0.0), VALIDATED_SECONDS),
        (Freshness(initial_age=50.0, lifetime=60.0), 10.0 + UNSTATED_STALE_IF_ERROR),
        (Freshness(initial_age=9000.0, lifetime=60.0), VALIDATED_SECONDS),
    ],
)
def test_how_long_it_is_worth_keeping(life: Freshness, worth: float) -> None:
    one = stored(life)
    assert worth_keeping(one, NOW) == worth
    assert worth_keeping(one, NOW + 100.0) == worth - 100.0
    # a clock that was set back
    assert worth_keeping(one, NOW - 100.0) == worth


def test_for_how_long_its_validator_counts_is_the_callers_word() -> None:
    assert worth_keeping(stored(MINUTE), NOW, 5000.0) == 60.0 + 5000.0
    assert worth_keeping(stored(MINUTE), NOW, 0.0) == 60.0 + UNSTATED_STALE_IF_ERROR


@given(
    st.builds(
        Freshness,
        initial_age=st.floats(0, 1e6),
        lifetime=st.floats(-1e3, 1e6),
        stale_while_revalidate=st.floats(0, 1e6),
        stale_if_error=st.none() | st.floats(0, 1e6),
        must_revalidate=st.booleans(),
        no_cache=st.booleans(),
    ),
    st.floats(0, 3e6),
)
def test_what_is_not_worth_keeping_would_not_have_been_used(life: Freshness, later: float) -> None:
    """But for what a client's own Cache-Control accepts."""
    one = stored(life)
    if worth_keeping(one, NOW + later) < -1.0:
        assert decide(one, PLAIN, NOW + later) is Reuse.VALIDATE
        assert not may_hide_error(one, PLAIN, NOW + later)
