"""What may be stored, and the reason why not, one condition at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.rule import Rule
from proxy.policy.decisions import Verdict
from proxy.policy.fields import format_date
from proxy.policy.freshness import freshness_of
from proxy.policy.messages import Fields, RequestHead, ResponseHead, RouteRule
from proxy.policy.storability import UNDERSTOOD, as_get, forbidden, has_validator, is_guessed, may_store, stands_for_get

NOW = 1_800_000_000.0
DATE = format_date(NOW)
EARLIER = format_date(NOW - 1000)

Lines = list[tuple[str, str]]

SHARED = Rule("/a", frozenset({"GET", "POST"}), 300)
PRIVATE = Rule("/a", frozenset({"GET", "POST"}), 300, (("authorization", ""),), private=True)
PUBLIC = Rule("/a", frozenset({"GET", "POST"}), 300, public=True)
GET_ONLY = Rule("/a", frozenset({"GET"}), 300)
NO_LIFETIME = Rule("/a", frozenset({"GET", "POST"}), 0)


def verdict(
    answer: Lines,
    status: int = 200,
    *,
    method: str = "GET",
    asked: Lines | None = None,
    rule: RouteRule | None = None,
) -> Verdict:
    request = RequestHead(method, "/a", Fields(asked or []))
    response = ResponseHead(status, "", Fields([("Date", DATE), *answer]))
    return may_store(request, response, freshness_of(response, NOW, NOW, rule), rule)


FRESH: Lines = [("Cache-Control", "max-age=60")]
AUTHORIZATION: Lines = [("Authorization", "Bearer x")]


def fresh(directives: str, *more: tuple[str, str]) -> Lines:
    return [("Cache-Control", f"max-age=60, {directives}"), *more]


# -- the method


@pytest.mark.parametrize(
    ("method", "rule", "expected"),
    [
        ("GET", None, Verdict.STORE),
        ("GET", GET_ONLY, Verdict.STORE),
        ("HEAD", None, Verdict.METHOD),
        ("HEAD", SHARED, Verdict.METHOD),
        ("POST", None, Verdict.METHOD),
        ("POST", GET_ONLY, Verdict.METHOD),
        ("POST", SHARED, Verdict.STORE),
        ("PUT", SHARED, Verdict.METHOD),
        ("OPTIONS", None, Verdict.METHOD),
        ("get", None, Verdict.METHOD),
    ],
)
def test_the_method_is_get_or_a_rules_post(method: str, rule: RouteRule | None, expected: Verdict) -> None:
    assert verdict(FRESH, method=method, rule=rule) is expected


# -- what the request and the response forbid


@pytest.mark.parametrize("rule", [None, SHARED, PRIVATE, PUBLIC])
@pytest.mark.parametrize(
    ("asked", "answer", "expected"),
    [
        ([("Cache-Control", "no-store")], FRESH, Verdict.REQUEST_NO_STORE),
        ([("Cache-Control", "max-age=0"), ("Cache-Control", "No-Store")], FRESH, Verdict.REQUEST_NO_STORE),
        ([("Cache-Control", 'x="no-store"')], FRESH, Verdict.STORE),
        ([("Cache-Control", "no-cache")], FRESH, Verdict.STORE),
        ([], fresh("no-store"), Verdict.NO_STORE),
        ([], fresh("No-StOrE"), Verdict.NO_STORE),
        ([], [*FRESH, ("cache-control", "no-store")], Verdict.NO_STORE),
        ([], fresh("no-store=x"), Verdict.NO_STORE),
        ([], fresh('x="no-store"'), Verdict.STORE),
        ([], fresh("no-store, must-understand"), Verdict.STORE),
        ([], fresh("no-cache"), Verdict.NO_FRESHNESS),
        ([], fresh("no-cache", ("ETag", '"a"')), Verdict.STORE),
        ([], fresh("", ("Vary", "*")), Verdict.VARY_STAR),
        ([], fresh("", ("Vary", "Accept, *")), Verdict.VARY_STAR),
        ([], fresh("", ("Vary", ""), ("Vary", "*")), Verdict.VARY_STAR),
        ([], fresh("", ("Vary", "Accept")), Verdict.STORE),
    ],
)
def test_directives_hold_with_and_without_a_rule(
    asked: Lines, answer: Lines, expected: Verdict, rule: RouteRule | None
) -> None:
    assert verdict(answer, asked=asked, rule=rule) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (fresh("private"), Verdict.PRIVATE),
        (fresh('private="x, y", private', ("Y", "1")), Verdict.PRIVATE),
        (fresh("public, private"), Verdict.PRIVATE),
        (fresh("", ("Set-Cookie", "a=b")), Verdict.SET_COOKIE),
        (fresh("public", ("Set-Cookie", "a=b")), Verdict.SET_COOKIE),
    ],
)
def test_only_a_private_rule_keeps_what_is_for_one_user(answer: Lines, expected: Verdict) -> None:
    assert verdict(answer) is expected
    assert verdict(answer, rule=SHARED) is expected
    assert verdict(answer, rule=PUBLIC) is expected
    assert verdict(answer, rule=PRIVATE) is Verdict.STORE


@pytest.mark.parametrize("directives", ["private=x", 'private="y, X"', 'no-cache="x"'])
def test_what_is_for_one_user_in_part_is_stored_without_that(directives: str) -> None:
    assert verdict(fresh(directives, ("X", "1"))) is Verdict.STORE
    assert verdict(fresh(directives.replace("x", "set-cookie").replace("X", "Set-Cookie"), ("Set-Cookie", "a"))) is (
        Verdict.STORE
    )


def test_a_rule_may_let_cookies_be_stored() -> None:
    assert verdict(fresh("", ("Set-Cookie", "a=b")), rule=replace(PUBLIC, set_cookie=True)) is Verdict.STORE


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "max-age=60")], Verdict.STORE),
        ([("Cache-Control", "max-age=0")], Verdict.NO_FRESHNESS),
    ],
)
def test_a_rule_may_leave_the_lifetime_to_the_origin(lines: Lines, expected: Verdict) -> None:
    assert verdict(lines, rule=replace(PUBLIC, ttl=None)) is expected


@pytest.mark.parametrize(
    ("content_range", "expected"),
    [("bytes 0-4/10", Verdict.STORE), ("bytes 0-4/*", Verdict.PARTIAL), (None, Verdict.PARTIAL)],
)
def test_a_part_is_stored_when_it_is_known_which(content_range: str | None, expected: Verdict) -> None:
    lines = fresh("") if content_range is None else fresh("", ("Content-Range", content_range))
    assert verdict(lines, 206) is expected


@pytest.mark.parametrize(
    ("method", "status", "lines", "expected"),
    [
        ("POST", 200, [("Content-Location", "/a"), ("Cache-Control", "max-age=60")], True),
        ("POST", 200, [("Content-Location", ""), ("Expires", EARLIER)], True),
        ("POST", 200, [("Content-Location", "/b"), ("Cache-Control", "max-age=60")], False),
        ("POST", 200, [("Cache-Control", "max-age=60")], False),
        ("POST", 200, [("Content-Location", "/a")], False),
        ("POST", 201, [("Content-Location", "/a"), ("Cache-Control", "max-age=60")], False),
        ("PUT", 200, [("Content-Location", "/a"), ("Cache-Control", "max-age=60")], False),
    ],
)
def test_a_post_whose_answer_is_that_of_a_get(method: str, status: int, lines: Lines, expected: bool) -> None:
    request = RequestHead(method, "/a", Fields([("Content-Type", "a/b"), ("Accept", "c")]), authority="app.example")
    assert stands_for_get(request, ResponseHead(status, "", Fields(lines))) is expected
    assert as_get(request) == RequestHead("GET", "/a", Fields([("Accept", "c")]), authority="app.example")


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("max-age=60", Verdict.AUTHORIZATION),
        ("max-age=60, proxy-revalidate", Verdict.AUTHORIZATION),
        ("max-age=60, public", Verdict.STORE),
        ("max-age=60, must-revalidate", Verdict.STORE),
        ("s-maxage=60", Verdict.STORE),
        ("s-maxage=60, private", Verdict.PRIVATE),
        ("public, no-store", Verdict.NO_STORE),
    ],
)
def test_credentials_need_a_directive_or_a_rule(directives: str, expected: Verdict) -> None:
    answer = [("Cache-Control", directives)]
    assert verdict(answer, asked=AUTHORIZATION) is expected
    assert verdict(answer, asked=AUTHORIZATION, rule=SHARED) is expected


def test_a_rule_for_credentials_or_for_everyone_keeps_the_answers_to_them() -> None:
    assert verdict(FRESH, asked=AUTHORIZATION, rule=PRIVATE) is Verdict.STORE
    assert verdict(FRESH, asked=AUTHORIZATION, rule=PUBLIC) is Verdict.STORE


@pytest.mark.parametrize(
    ("asked", "answer", "rule", "guessed"),
    [
        ([("Cookie", "a=b")], [], None, True),
        ([("X-Api-Key", "a")], [("ETag", '"a"')], None, True),
        ([("Cookie", "a=b")], [("Cache-Control", "max-age=1")], None, False),
        ([("Cookie", "a=b")], [("Cache-Control", "public")], None, False),
        ([("Cookie", "a=b")], [("Expires", "0")], None, True),
        ([("Cookie", "a=b")], [("Cache-Control", "max-age=0")], None, True),
        ([("Cookie", "a=b")], [("Cache-Control", "max-age=0, public")], None, False),
        ([("Cookie", "a=b")], [("Cache-Control", "max-age=0, stale-while-revalidate=1")], None, False),
        ([("Cookie", "a=b")], [("Cache-Control", "max-age=0, stale-if-error=1")], None, False),
        ([("Cookie", "a=b")], [("Cache-Control", "stale-if-error=1")], None, True),
        ([("Cookie", "a=b")], [], PUBLIC, False),
        ([("Accept", "a")], [], None, False),
    ],
)
def test_what_says_that_others_may_have_what_a_credential_brought(
    asked: Lines, answer: Lines, rule: RouteRule | None, guessed: bool
) -> None:
    request, response = RequestHead("GET", "/a", Fields(asked)), ResponseHead(200, "", Fields(answer))
    life = freshness_of(response, NOW, NOW, rule)
    assert is_guessed(life, request, response, rule) is guessed
    assert not is_guessed(life, request, response, rule, ["cookie", "x-api-key"])


@pytest.mark.parametrize("rule", [None, PUBLIC, PRIVATE])
@pytest.mark.parametrize("content_type", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
def test_a_stream_of_events_is_never_stored(rule: RouteRule | None, content_type: str) -> None:
    assert verdict([*FRESH, ("Content-Type", content_type)], rule=rule) is Verdict.EVENT_STREAM


def test_a_cookie_in_the_request_alone_forbids_nothing() -> None:
    assert verdict(FRESH, asked=[("Cookie", "a=b")]) is Verdict.STORE


# -- the status


@pytest.mark.parametrize("asked", [[("Cookie", "a=b")], [("X-Api-Key", "a")]])
def test_what_a_credential_brought_is_kept_where_somebody_says_that_others_may_have_it(asked: Lines) -> None:
    known = [("Last-Modified", EARLIER), ("ETag", '"a"')]
    assert verdict(known, asked=asked) is Verdict.CREDENTIAL
    assert verdict([*known, ("Cache-Control", "max-age=0")], asked=asked) is Verdict.CREDENTIAL
    assert verdict([*known, ("Vary", "Accept")], asked=asked) is Verdict.CREDENTIAL
    assert verdict([*known, ("Vary", "Cookie, X-Api-Key")], asked=asked) is Verdict.STORE
    assert verdict([*known, ("Cache-Control", "public")], asked=asked) is Verdict.STORE
    assert verdict([*known, ("Cache-Control", "max-age=1")], asked=asked) is Verdict.STORE
    assert verdict(known) is verdict(known, asked=asked, rule=PUBLIC) is Verdict.STORE


STATED = [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599]


@pytest.mark.parametrize("status", STATED)
def test_any_final_status_is_stored_when_the_origin_states_a_lifetime(status: int) -> None:
    assert verdict(FRESH, status) is Verdict.STORE
    assert verdict([("Expires", format_date(NOW + 60))], status) is Verdict.STORE
    assert verdict([("Expires", EARLIER)], status) is Verdict.NO_FRESHNESS


@pytest.mark.parametrize("directives", ["max-age=60", "max-age=60, must-understand"])
def test_statuses_that_are_never_stored(directives: str) -> None:
    answer = [("Cache-Control", directives)]
    assert verdict(answer, 100) is Verdict.STATUS
    assert verdict(answer, 206) is Verdict.PARTIAL
    assert verdict(answer, 304) is Verdict.STATUS
    assert verdict(answer, 412) is Verdict.STATUS
    assert verdict(answer, 416) is Verdict.STATUS
    assert verdict(answer, 304, rule=SHARED) is Verdict.STATUS
    # RFC 6585: "MUST NOT be stored by a cache"
    assert {verdict(answer, status) for status in (428, 429, 431, 511)} == {Verdict.STATUS}
    assert {verdict(answer, status) for status in (401, 406, 407, 408, 411, 413, 415, 417, 421, 425, 426)} == {
        Verdict.STATUS
    }


def test_must_understand_keeps_out_what_is_not_understood() -> None:
    assert verdict(fresh("must-understand"), 599) is Verdict.STATUS
    assert verdict(fresh("must-understand, no-store"), 599) is Verdict.STATUS
    assert verdict(fresh("must-understand, no-store"), 404) is Verdict.STORE
    assert verdict(fresh("must-understand, no-store, private"), 404) is Verdict.PRIVATE
    assert not UNDERSTOOD & {206, 304, 306, 418, 599}


@pytest.mark.parametrize(
    ("status", "lines", "expected"),
    [
        (200, [("Last-Modified", EARLIER)], Verdict.STORE),
        (200, [("ETag", '"a"')], Verdict.STORE),
        (404, [("Last-Modified", EARLIER)], Verdict.STORE),
        (403, [("Last-Modified", EARLIER)], Verdict.NO_FRESHNESS),
        (500, [("ETag", '"a"')], Verdict.NO_FRESHNESS),
        (599, [("Last-Modified", EARLIER)], Verdict.NO_FRESHNESS),
        (599, [("Last-Modified", EARLIER), ("Cache-Control", "public")], Verdict.STORE),
        (599, [("Cache-Control", "public")], Verdict.NO_FRESHNESS),
    ],
)
def test_without_a_stated_lifetime_the_status_decides(status: int, lines: Lines, expected: Verdict) -> None:
    assert verdict(lines, status) is expected


@pytest.mark.parametrize("status", [203, 204, 301, 308, 404, 410])
def test_under_a_rule_other_statuses_than_200_need_a_stated_lifetime(status: int) -> None:
    assert verdict([], status, rule=SHARED) is Verdict.NO_FRESHNESS
    assert verdict([("Last-Modified", EARLIER)], status, rule=SHARED) is Verdict.NO_FRESHNESS
    assert verdict(FRESH, status, rule=SHARED) is Verdict.STORE


@pytest.mark.parametrize("status", [201, 202, 302, 307, 400, 401, 403, 418, 429, 500, 502, 503, 504])
def test_a_rule_stores_no_mishaps(status: int) -> None:
    assert verdict(FRESH, status, rule=SHARED) is Verdict.STATUS
    assert verdict(FRESH, status, rule=PRIVATE) is Verdict.STATUS


# -- of use


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "max-age=0")], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "max-age='60'")], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "max-age=60"), ("Age", "60")], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "max-age=60"), ("Age", "59")], Verdict.STORE),
        ([("Cache-Control", "max-age=60"), ("Age", "x")], Verdict.STORE),
        ([("Cache-Control", "max-age=0"), ("ETag", '"a"')], Verdict.STORE),
        ([("Cache-Control", "max-age=0"), ("ETag", "a")], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "max-age=0"), ("Last-Modified", EARLIER)], Verdict.STORE),
        ([("Cache-Control", "max-age=0"), ("Last-Modified", "foo")], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "max-age=0, stale-while-revalidate=5")], Verdict.STORE),
        ([("Cache-Control", "max-age=0, stale-if-error=5")], Verdict.STORE),
        ([("Cache-Control", "max-age=0, stale-if-error=5, must-revalidate")], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "max-age=0, stale-if-error=5, no-cache")], Verdict.NO_FRESHNESS),
        ([("Cache-Control", "no-cache"), ("Last-Modified", EARLIER)], Verdict.STORE),
    ],
)
def test_what_could_never_be_used_is_not_stored(lines: Lines, expected: Verdict) -> None:
    assert verdict(lines) is expected


def test_a_post_cannot_be_validated() -> None:
    lines = [("ETag", '"a"')]
    assert verdict(lines, method="GET", rule=NO_LIFETIME) is Verdict.STORE
    assert verdict(lines, method="POST", rule=NO_LIFETIME) is Verdict.NO_FRESHNESS
    assert verdict(lines, method="POST", rule=SHARED) is Verdict.STORE


def test_a_rule_gives_a_lifetime_where_the_origin_states_none() -> None:
    assert verdict([], rule=SHARED) is Verdict.STORE
    assert verdict([("Cache-Control", "max-age=0")], rule=SHARED) is Verdict.STORE
    assert verdict([("Age", "4000")], rule=SHARED) is Verdict.STORE


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], False),
        ([("ETag", '"a"')], True),
        ([("ETag", 'W/"a"')], True),
        ([("ETag", "a")], False),
        ([("ETag", '"a"'), ("ETag", '"b"')], False),
        ([("Last-Modified", EARLIER)], True),
        ([("Last-Modified", "yesterday")], False),
        ([("ETag", "*"), ("Last-Modified", EARLIER)], True),
    ],
)
def test_validators(lines: Lines, expected: bool) -> None:
    assert has_validator(Fields(lines)) is expected


# -- properties

WORDS = st.sampled_from(
    [
        "no-store",
        "private",
        'private="x-a"',
        "no-cache",
        "public",
        "s-maxage=60",
        "max-age=60",
        "max-age=0",
        "must-understand",
        "must-revalidate",
        "stale-if-error=5",
        "",
        '"',
    ]
)
LINES = st.lists(
    st.tuples(st.just("Cache-Control"), st.lists(WORDS).map(", ".join))
    | st.sampled_from(
        [("ETag", '"a"'), ("Set-Cookie", "a=b"), ("Vary", "*"), ("Vary", "x"), ("X-A", "1"), ("Age", "9")]
    )
)
ASKED = st.lists(st.sampled_from([("Authorization", "x"), ("Cache-Control", "no-store"), ("Cookie", "a")]))


@given(
    LINES,
    st.integers(100, 599),
    st.sampled_from(["GET", "HEAD", "POST", "PUT"]),
    ASKED,
    st.sampled_from([None, SHARED, PRIVATE, PUBLIC, GET_ONLY]),
)
def test_nothing_forbidden_is_ever_stored(
    answer: Lines, status: int, method: str, asked: Lines, rule: RouteRule | None
) -> None:
    if verdict(answer, status, method=method, asked=asked, rule=rule) is not Verdict.STORE:
        return
    response = ResponseHead(status, "", Fields(answer))
    one_users = rule is not None and rule.private
    assert forbidden(response, rule) is None
    assert method == "GET" or (method == "POST" and rule is not None and "POST" in rule.methods)
    assert status >= 200
    assert status not in {206, 304, 412, 416}
    assert ("Cache-Control", "no-store") not in asked
    assert one_users or ("Set-Cookie", "a=b") not in answer
    assert ("Vary", "*") not in answer
