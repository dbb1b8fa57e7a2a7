"""What an answer of the origin is good for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.rule import Rule
from proxy.policy.decisions import Verdict
from proxy.policy.judgement import (
    Ruling,
    for_others,
    for_the_asker,
    hide,
    judge,
    received_head,
    route_tag,
    selected_by,
    shareable_in_flight,
    to_store,
    with_neighbour,
)
from proxy.policy.messages import Fields, Freshness, Part, Question, RequestHead, ResponseHead, StoredResponse

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
        (question(stored=STALE), response(("Cache-Control", "private"), status=304), Ruling.FRESHENED, Verdict.PRIVATE),
        (question(), response(status=304), Ruling.ALONE, Verdict.STATUS),
        (question(stored=STALE), response(status=503), Ruling.HIDDEN, Verdict.STATUS),
        (question(stored=STRICT), response(status=503), Ruling.ALONE, Verdict.NO_FRESHNESS),
        (question(), response(status=503), Ruling.ALONE, Verdict.NO_FRESHNESS),
        (question(stored=STALE), response(status=404), Ruling.ALONE, Verdict.NO_FRESHNESS),
        (question(stored=STALE), response(("ETag", '"b"'), status=304), Ruling.REPEAT, Verdict.STATUS),
        (question(), response(("CDN-Cache-Control", "max-age=60")), Ruling.ALONE, Verdict.NO_FRESHNESS),
        (
            replace(question(), targets=("cdn-cache-control",)),
            response(("CDN-Cache-Control", "max-age=60"), ("Cache-Control", "no-store")),
            Ruling.SHARED,
            Verdict.STORE,
        ),
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


@pytest.mark.parametrize(("cache_control", "expected"), [("max-age=60", True), ("max-age=60, private", False)])
def test_those_who_wait_get_no_304_that_is_for_the_asker(cache_control: str, expected: bool) -> None:
    head = response(("Cache-Control", cache_control), status=304)
    assert shareable_in_flight(judge(question(stored=STALE), head, NOW, NOW)) is expected


@pytest.mark.parametrize(("accept", "expected"), [("a", True), ("b", False)])
@pytest.mark.parametrize("answer", [response(status=304), response(status=503)])
def test_what_is_stored_is_for_those_it_was_stored_for(answer: ResponseHead, accept: str, expected: bool) -> None:
    asked = question(("Accept", "a"), stored=replace(STALE, secondary_key=(("accept", "a"),)))
    assert selected_by(asked, judge(asked, answer, NOW, NOW), request(("Accept", accept))) is expected


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


# -- several stored for other selecting fields


def test_a_304_to_several_is_about_the_one_it_names() -> None:
    german = replace(
        cached(Freshness(lifetime=60)),
        head=response(("ETag", '"de"'), ("Vary", "Accept-Language"), ("Cache-Control", "max-age=60")),
        secondary_key=(("accept-language", "de;q=1"),),
    )
    asked = replace(question(("Accept-Language", "at")), candidates=(STALE, german))
    judged = judge(asked, response(("ETag", '"de"'), status=304), NOW, NOW)
    assert judged.ruling is Ruling.FRESHENED
    assert judged.stored is not None
    assert judged.stored.secondary_key == (("accept-language", "at;q=1"),)
    assert judged.stored.content == german.content
    assert judge(asked, response(status=304), NOW, NOW).ruling is Ruling.REPEAT


# -- what only the client that asked is given


def test_fields_for_the_asker_alone() -> None:
    answer = response(("Cache-Control", 'max-age=60, private="x", no-cache="y"'), ("X", "1"), ("y", "2"), ("Z", "3"))
    judged = judge(question(), answer, NOW, NOW)
    stored = to_store(question(), judged, b"", (NOW, NOW))
    assert {"x", "y"} == judged.withheld
    assert not {"x", "y"} & stored.head.fields.names()
    assert not {"x", "y"} & for_others(judged).fields.names()
    asker = for_the_asker(judged, stored).fields
    assert (asker.get("x"), asker.get("y"), asker.get("z")) == ("1", "2", "3")


def test_without_such_fields_everyone_is_given_all() -> None:
    judged = judge(question(), response(("Cache-Control", "max-age=60")), NOW, NOW)
    assert for_others(judged) is judged.head
    assert for_the_asker(judged, STALE) is STALE.head


# -- parts

TEN = b"0123456789"
TAG = ("ETag", '"t"')
FRESH = ("Cache-Control", "max-age=60")


def part_of(first: int, end: int, *lines: tuple[str, str]) -> StoredResponse:
    head = response(FRESH, TAG, *lines)
    part = Part(first, len(TEN), end == len(TEN))
    return replace(cached(Freshness(lifetime=60)), head=head, content=TEN[first:end], part=part)


def ranged(content_range: str, *lines: tuple[str, str]) -> ResponseHead:
    return response(FRESH, ("Content-Range", content_range), *lines, status=206)


@pytest.mark.parametrize(
    ("asked", "answer", "ruling"),
    [
        (question(("Range", "bytes=0-4")), ranged("bytes 0-4/10"), Ruling.SHARED),
        (question(("Range", "bytes=0-4")), ranged("bytes 0-4/*"), Ruling.ALONE),
        (question(), ranged("bytes 0-4/10"), Ruling.ALONE),
    ],
)
def test_a_part_is_stored_for_who_asks_for_one(asked: Question, answer: ResponseHead, ruling: Ruling) -> None:
    assert judge(asked, answer, NOW, NOW).ruling is ruling


def test_a_part_is_stored_with_the_head_of_the_whole() -> None:
    asked = question(("Range", "bytes=-5"))
    stored = to_store(asked, judge(asked, ranged("bytes 5-9/10"), NOW, NOW), TEN[5:], (NOW, NOW))
    assert stored.part == Part(5, 10, to_end=True)
    assert stored.head.status == 200
    assert "content-range" not in stored.head.fields


REST = ("Content-Length", "5")


@pytest.mark.parametrize(
    ("answer", "ruling", "before"),
    [
        (ranged("bytes 5-9/10", TAG, REST), Ruling.SHARED, b"01234"),
        (ranged("bytes 5-9/10", REST), Ruling.REPEAT, b""),
        (ranged("bytes 5-9/10", ("ETag", '"u"'), REST), Ruling.REPEAT, b""),
        (ranged("bytes 5-9/10", ("ETag", 'W/"t"'), REST), Ruling.REPEAT, b""),
        (ranged("bytes 4-9/10", TAG, ("Content-Length", "6")), Ruling.REPEAT, b""),
        (ranged("bytes 5-8/10", TAG, ("Content-Length", "4")), Ruling.REPEAT, b""),
        (ranged("bytes 5-10/11", TAG, ("Content-Length", "6")), Ruling.REPEAT, b""),
        (ranged("bytes 5-9/10", TAG), Ruling.REPEAT, b""),
        (ranged("bytes 5-9/10", TAG, ("Content-Length", "4")), Ruling.REPEAT, b""),
        (response(FRESH, status=416), Ruling.REPEAT, b""),
        (response(FRESH, TAG), Ruling.SHARED, b""),
        (ranged("bytes 5-9/10", TAG, REST, ("Cache-Control", "no-store")), Ruling.REPEAT, b""),
    ],
)
def test_the_rest_of_a_part(answer: ResponseHead, ruling: Ruling, before: bytes) -> None:
    judged = judge(replace(question(), part=part_of(0, 5)), answer, NOW, NOW)
    assert (judged.ruling, judged.before) == (ruling, before)
    if before:
        assert judged.head.status == 200


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (part_of(0, 5), part_of(5, 10), (None, TEN)),
        (part_of(5, 10), part_of(0, 5), (None, TEN)),
        (part_of(0, 6), part_of(3, 10), (None, TEN)),
        (part_of(2, 4), part_of(4, 8), (Part(2, 10, to_end=False), TEN[2:8])),
        (part_of(2, 8), part_of(4, 6), (Part(2, 10, to_end=False), TEN[2:8])),
        (part_of(4, 6), part_of(2, 8), (Part(2, 10, to_end=False), TEN[2:8])),
        (part_of(4, 6), part_of(6, 10), (Part(4, 10, to_end=True), TEN[4:])),
        (part_of(0, 4), part_of(5, 10), (Part(0, 10, to_end=False), TEN[:4])),
        (part_of(0, 5), replace(part_of(5, 10), head=response(("ETag", '"u"'))), (Part(0, 10, to_end=False), TEN[:5])),
        (part_of(0, 5), replace(part_of(5, 10), head=response()), (Part(0, 10, to_end=False), TEN[:5])),
        (part_of(0, 5), replace(part_of(5, 10), part=Part(5, 11, to_end=False)), (Part(0, 10, to_end=False), TEN[:5])),
        (part_of(0, 5), replace(part_of(5, 10), content=b"567"), (Part(0, 10, to_end=False), TEN[:5])),
        (replace(part_of(0, 5), content=TEN), part_of(5, 10), (Part(0, 10, to_end=False), TEN)),
        (part_of(0, 5), replace(part_of(5, 10), part=None), (Part(0, 10, to_end=False), TEN[:5])),
        (part_of(0, 5), replace(part_of(5, 10), secondary_key=(("a", "b"),)), (Part(0, 10, to_end=False), TEN[:5])),
    ],
)
def test_neighbours_are_joined(new: StoredResponse, old: StoredResponse, expected: tuple[Part | None, bytes]) -> None:
    joined = with_neighbour(new, old)
    assert (joined.part, joined.content) == expected


def test_joined_parts_have_the_fields_of_the_newer() -> None:
    joined = with_neighbour(part_of(0, 5, ("A", "new")), part_of(5, 10, ("A", "old"), ("B", "old")))
    assert (joined.head.fields.get("a"), joined.head.fields.get("b")) == ("new", "old")


SPANS = st.tuples(st.integers(0, 10), st.integers(0, 10)).filter(lambda span: span[0] < span[1])


@given(SPANS, SPANS)
def test_joining_never_makes_a_wrong_octet(one: tuple[int, int], other: tuple[int, int]) -> None:
    joined = with_neighbour(part_of(*one), part_of(*other))
    first = joined.part.first if joined.part is not None else 0
    assert joined.content == TEN[first : first + len(joined.content)]
    assert (joined.part is None) == ((joined.content == TEN and one != (0, 10)) or joined.content == TEN)
