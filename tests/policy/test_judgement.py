"""What an answer of the origin is good for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from config.rule import Rule
from proxy.policy.decisions import Verdict
from proxy.policy.judgement import (
    Question,
    Ruling,
    hide,
    judge,
    received_head,
    route_tag,
    selected_by,
    shareable_in_flight,
    to_store,
)
from proxy.policy.messages import Fields, Freshness, RequestHead, ResponseHead, StoredResponse

NOW = 1_800_000_000.0
DATE = ("Date", "Fri, 15 Jan 2027 08:00:00 GMT")
RULE = Rule("/a", frozenset({"GET"}), 60.0, tags=("reports",))


def request(*lines: tuple[str, str]) -> RequestHead:
    return RequestHead("GET", "/a", Fields(lines), authority="app.example")


def question(*lines: tuple[str, str], stored: StoredResponse | None = None, rule: Rule | None = None) -> Question:
    return Question(request(*lines), "http://app.example/a", "key", rule, stored, epoch=7)


def response(*lines: tuple[str, str], status: int = 200) -> ResponseHead:
    return ResponseHead(status, "OK", Fields((DATE, *lines)))


def cached(freshness: Freshness) -> StoredResponse:
    head = response(("ETag", '"a"'))
    return StoredResponse("key", "http://app.example/a", (), head, b"old", freshness, NOW - 100, NOW - 100, 3)


STALE = cached(Freshness(lifetime=60))
STRICT = cached(Freshness(lifetime=60, must_revalidate=True))


@pytest.mark.parametrize(
    ("asked", "answer", "ruling", "verdict"),
    [
        (question(), response(("Cache-Control", "max-age=60")), Ruling.SHARED, Verdict.STORE),
        (question(), response(("Cache-Control", "no-store")), Ruling.ALONE, Verdict.NO_STORE),
        (question(), response(), Ruling.ALONE, Verdict.NO_FRESHNESS),
        (question(rule=RULE), response(), Ruling.SHARED, Verdict.STORE),
        (question(stored=STALE), response(status=304), Ruling.FRESHENED, Verdict.STORE),
        (question(), response(status=304), Ruling.ALONE, Verdict.STATUS),
        (question(stored=STALE), response(status=503), Ruling.HIDDEN, Verdict.STATUS),
        (question(stored=STRICT), response(status=503), Ruling.ALONE, Verdict.NO_FRESHNESS),
        (question(), response(status=503), Ruling.ALONE, Verdict.NO_FRESHNESS),
        (question(stored=STALE), response(status=404), Ruling.ALONE, Verdict.NO_FRESHNESS),
    ],
)
def test_rulings(asked: Question, answer: ResponseHead, ruling: Ruling, verdict: Verdict) -> None:
    judged = judge(asked, answer, NOW, NOW)
    assert (judged.ruling, judged.verdict) == (ruling, verdict)
    assert (judged.stored is not None) is (ruling in {Ruling.FRESHENED, Ruling.HIDDEN})


def test_a_head_goes_on_with_a_date_and_without_its_hop() -> None:
    head = received_head(ResponseHead(200, "OK", Fields([("Connection", "x"), ("X", "1")])), NOW)
    assert head.fields == Fields([("Via", "1.1 siding"), DATE])
    assert received_head(response(), NOW + 60).fields.get("date") == DATE[1]


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [
        ("max-age=60", True),
        ("max-age=60, no-cache", False),
        ("max-age=0, stale-while-revalidate=60", False),
        ("no-store", False),
    ],
)
def test_those_who_wait_get_only_what_arrives_fresh(cache_control: str, expected: bool) -> None:
    head = response(("Cache-Control", cache_control), ("ETag", '"a"'))
    assert shareable_in_flight(judge(question(), head, NOW, NOW)) is expected


def test_what_hides_an_error_is_not_shared_as_if_fresh() -> None:
    judged = hide(STALE)
    assert judged.ruling is Ruling.HIDDEN
    assert judged.stored is STALE


def test_to_store() -> None:
    asked = question(("Accept", "a"), rule=RULE)
    answer = response(("Vary", "Accept"), ("Age", "5"), ("Cache-Tag", "x, reports"))
    judged = judge(asked, answer, NOW - 2, NOW)
    stored = to_store(asked, judged, b"content", (NOW - 2, NOW))
    assert stored.secondary_key == (("accept", "a"),)
    assert stored.tags == (route_tag("/a"), "reports", "x")
    assert "age" not in stored.head.fields
    assert stored.freshness.initial_age == 7
    assert (stored.epoch, stored.origin_seconds) == (7, 2.0)


@pytest.mark.parametrize(
    ("vary", "other", "expected"),
    [
        (None, request(), True),
        ("*", request(), False),
        ("Accept", request(("Accept", "a")), True),
        ("Accept", request(("Accept", "b")), False),
        ("Accept", request(), False),
    ],
)
def test_who_else_a_response_on_its_way_is_for(vary: str | None, other: RequestHead, expected: bool) -> None:
    lines = [("Cache-Control", "max-age=60"), *([("Vary", vary)] if vary is not None else [])]
    asked = question(("Accept", "a"))
    judged = replace(judge(asked, response(*lines), NOW, NOW), ruling=Ruling.SHARED)
    assert selected_by(asked, judged, other) is expected
