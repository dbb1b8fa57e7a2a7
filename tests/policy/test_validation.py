"""The conditional request, and what a 304 changes in a stored response."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.rule import Rule
from proxy.policy.cache_key import CREDENTIAL_FIELDS
from proxy.policy.decisions import Verdict
from proxy.policy.fields import format_date
from proxy.policy.freshness import current_age
from proxy.policy.messages import (
    Fields,
    Freshness,
    Part,
    Question,
    RequestHead,
    ResponseHead,
    RouteRule,
    SecondaryKey,
    StoredResponse,
)
from proxy.policy.prepared import Prepared, Template
from proxy.policy.validation import (
    CONTENT_FIELDS,
    MAX_CANDIDATES,
    PRECONDITIONS,
    Freshened,
    candidates,
    combined,
    conditional,
    confirmed,
    freshen,
    is_later,
    matches_head,
    may_confirm,
    rest,
    same_representation,
    which,
    without_preconditions,
)

NOW = 1_800_000_000.0
THEN = NOW - 3600
MODIFIED, LATER = "Wed, 01 Jan 2020 00:00:00 GMT", "Thu, 02 Jan 2020 00:00:00 GMT"

TARGETS = ("cdn-cache-control",)

Lines = list[tuple[str, str]]
PRIVATE = Rule("/a", frozenset({"GET"}), 300, (("authorization", ""),), private=True)


def stored(
    lines: Lines, *, made_etag: bool = False, secondary_key: SecondaryKey = (), tags: tuple[str, ...] = ()
) -> StoredResponse:
    return StoredResponse(
        key="k",
        uri="http://example.org/a",
        secondary_key=secondary_key,
        head=ResponseHead(200, "OK", Fields(lines)),
        content=b"the content",
        freshness=Freshness(lifetime=60),
        request_time=THEN,
        response_time=THEN,
        epoch=3,
        tags=tags,
        made_etag=made_etag,
        origin_seconds=1.5,
        codings={"br": b"coded"},
    )


def freshened(before: StoredResponse, lines: Lines, rule: RouteRule | None = None) -> StoredResponse:
    fields = Fields(lines)
    if "date" not in fields:
        fields = fields.adding(("Date", format_date(NOW)))
    question = Question(
        RequestHead("GET", "/a", Fields()), before.uri, before.key, rule, before, epoch=7, targets=TARGETS
    )
    return freshen(before, ResponseHead(304, "Not Modified", fields), question, NOW - 1, NOW).stored


def confirmation(before: StoredResponse, request: Lines, lines: Lines, rule: RouteRule | None = None) -> Freshened:
    asked = Question(
        RequestHead("GET", "/a", Fields(request)), before.uri, before.key, rule, before, epoch=7, targets=TARGETS
    )
    return freshen(before, ResponseHead(304, "Not Modified", Fields(lines)), asked, NOW - 1, NOW)


# -- asking


CONDITIONS: Lines = [
    ("If-Match", '"x"'),
    ("If-None-Match", '"x"'),
    ("If-Modified-Since", MODIFIED),
    ("If-Unmodified-Since", MODIFIED),
    ("If-Range", '"x"'),
    ("Range", "bytes=0-1"),
]
REQUEST = RequestHead("GET", "/a", Fields([("Host", "example.org"), *CONDITIONS, ("Accept", "*/*")]))
PLAIN: Lines = [("Host", "example.org"), ("Accept", "*/*")]


def test_the_clients_own_conditions_are_taken_out() -> None:
    assert without_preconditions(REQUEST) == replace(REQUEST, fields=Fields(PLAIN))
    assert {name.lower() for name, _ in CONDITIONS} == {*PRECONDITIONS, "range"}


@pytest.mark.parametrize(
    ("lines", "made_etag", "asked"),
    [
        ([], False, []),
        ([("ETag", '"a"')], False, [("If-None-Match", '"a"')]),
        ([("etag", 'W/"a"')], False, [("If-None-Match", 'W/"a"')]),
        ([("Last-Modified", MODIFIED)], False, [("If-Modified-Since", MODIFIED)]),
        (
            [("Last-Modified", MODIFIED), ("ETag", '"a"')],
            False,
            [("If-None-Match", '"a"'), ("If-Modified-Since", MODIFIED)],
        ),
        # the origin knows nothing of an ETag made here
        ([("ETag", '"a"')], True, []),
        ([("ETag", '"a"'), ("Last-Modified", MODIFIED)], True, [("If-Modified-Since", MODIFIED)]),
        # what is no validator is not sent: * above all would match anything
        ([("ETag", "*")], False, []),
        ([("ETag", "a")], False, []),
        ([("ETag", '"a"'), ("ETag", '"b"')], False, []),
        ([("Last-Modified", "yesterday")], False, []),
    ],
)
def test_the_origins_own_validators_are_sent(lines: Lines, made_etag: bool, asked: Lines) -> None:
    before = stored(lines, made_etag=made_etag)
    request = conditional(REQUEST, before)
    assert request == replace(REQUEST, fields=Fields([*PLAIN, *asked]))


@pytest.mark.parametrize(
    ("asked", "before", "rule", "may"),
    [
        ([("Cookie", "a=b")], [], None, False),
        ([], [], None, True),
        ([("Cookie", "a=b")], [("ETag", '"a"')], None, True),
        ([("Cookie", "a=b")], [("Cache-Control", "max-age=1")], None, True),
        ([("Cookie", "a=b")], [("CDN-Cache-Control", "max-age=1")], None, True),
        ([("Cookie", "a=b")], [], Rule("/a", frozenset({"GET"}), 60, public=True), True),
    ],
)
def test_a_date_confirms_no_guess_that_a_page_is_another_users_as_well(
    asked: list[tuple[str, str]], before: list[tuple[str, str]], rule: Rule | None, may: bool
) -> None:
    request = RequestHead("GET", "/a", Fields(asked))
    was = replace(stored([("Last-Modified", MODIFIED), *before]), freshness=Freshness(lifetime=1))
    assert may_confirm(request, was, rule, ("cdn-cache-control",)) is may
    assert may_confirm(request, replace(was, secondary_key=(("cookie", "a=b"),)), rule)


def test_a_post_is_not_made_conditional() -> None:
    request = conditional(replace(REQUEST, method="POST"), stored([("ETag", '"a"'), ("Last-Modified", MODIFIED)]))
    assert request == replace(REQUEST, method="POST", fields=Fields(PLAIN))


# -- asking about several (4.3.1), and which one a 304 is about (4.3.4)

TAGGED = stored([("ETag", '"a"')])
WEAK = stored([("ETag", 'W/"b"')])
DATED = stored([("Last-Modified", MODIFIED)])
MADE = stored([("ETag", '"m"')], made_etag=True)
PART = replace(stored([("ETag", '"p"')]), content=b"01234", part=Part(0, 10, to_end=False))


def test_candidates_are_those_the_origin_knows_by_a_tag() -> None:
    assert candidates([TAGGED, DATED, MADE, PART, WEAK]) == (WEAK, TAGGED)
    assert len(candidates([TAGGED] * 100)) == MAX_CANDIDATES


@pytest.mark.parametrize("name", CREDENTIAL_FIELDS)
def test_what_is_another_users_is_no_candidate(name: str) -> None:
    others = [replace(TAGGED, secondary_key=((name, value), ("a", "1"))) for value in ("alice", None)]
    assert candidates([*others, TAGGED]) == (TAGGED,)


@pytest.mark.parametrize(
    ("several", "asked"),
    [
        ([], []),
        ([TAGGED], [("If-None-Match", '"a"')]),
        ([WEAK, TAGGED, TAGGED], [("If-None-Match", 'W/"b", "a"')]),
        ([MADE], []),
    ],
)
def test_the_origin_is_asked_which(several: list[StoredResponse], asked: Lines) -> None:
    assert which(REQUEST, several) == replace(REQUEST, fields=Fields([*PLAIN, *asked]))


@pytest.mark.parametrize(
    ("several", "lines", "expected"),
    [
        ([TAGGED], [], TAGGED),
        ([TAGGED], [("ETag", '"a"')], TAGGED),
        ([TAGGED], [("ETag", 'W/"a"')], TAGGED),
        ([TAGGED], [("ETag", '"other"')], None),
        ([TAGGED], [("ETag", "nonsense")], TAGGED),
        ([WEAK], [("ETag", '"b"')], WEAK),
        ([DATED], [("ETag", '"new"')], DATED),
        ([MADE], [("ETag", '"new"')], MADE),
        ([WEAK, TAGGED], [("ETag", '"a"')], TAGGED),
        ([WEAK, TAGGED], [("ETag", '"c"')], None),
        ([WEAK, TAGGED], [], None),
        ([WEAK, DATED], [("ETag", '"c"')], None),
    ],
)
def test_which_a_304_is_about(several: list[StoredResponse], lines: Lines, expected: StoredResponse | None) -> None:
    assert confirmed(several, Fields(lines)) is expected


# -- parts (3.3, 3.4)


def test_the_rest_of_a_part_is_asked_for() -> None:
    assert rest(REQUEST, PART).fields == Fields([*PLAIN, ("Range", "bytes=5-"), ("If-Range", '"p"')])
    weak = replace(PART, head=ResponseHead(200, "OK", Fields([("ETag", 'W/"p"')])))
    assert rest(REQUEST, weak).fields == Fields([*PLAIN, ("Range", "bytes=5-")])


@pytest.mark.parametrize(
    ("etag", "expected"), [('"p"', True), ('W/"p"', False), ('"q"', False), ("p", False), (None, False)]
)
def test_only_one_representation_is_combined(etag: str | None, expected: bool) -> None:
    fields = Fields() if etag is None else Fields([("ETag", etag)])
    assert same_representation(PART, fields) is expected
    assert not same_representation(WEAK, fields)
    assert not same_representation(replace(PART, made_etag=True), fields)


def test_the_later_fields_go_before() -> None:
    update = Fields([("a", "2"), ("Content-Range", "bytes 5-9/10"), ("Content-Length", "5")])
    assert combined(Fields([("A", "1"), ("B", "1")]), update) == Fields([("B", "1"), ("a", "2")])


# -- the answer to a HEAD (4.3.5)


@pytest.mark.parametrize(
    ("before", "lines", "expected"),
    [
        (TAGGED, [("ETag", '"a"')], True),
        (TAGGED, [("ETag", '"a"'), ("Content-Length", "11")], True),
        (TAGGED, [("ETag", '"a"'), ("Content-Length", "12")], False),
        (TAGGED, [("ETag", '"b"')], False),
        (TAGGED, [], False),
        (DATED, [("Last-Modified", MODIFIED)], True),
        (DATED, [], False),
        (stored([]), [], True),
        (stored([]), [("ETag", '"a"')], False),
        (MADE, [], True),
        (PART, [("ETag", '"p"')], False),
    ],
)
def test_whether_a_head_describes_what_is_stored(before: StoredResponse, lines: Lines, expected: bool) -> None:
    assert matches_head(before, Fields(lines)) is expected


# -- freshening (3.2)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("Test-Header", "A", "B"),
        ("Content-Foo", "A", "B"),
        ("X-Content-Foo", "A", "B"),
        ("Cache-Control", "max-age=1", "max-age=3600"),
        ("Content-Location", "/foo", "/bar"),
        ("Content-Security-Policy", "default-src 'self'", "default-src 'self' cdn.example.com"),
        ("Content-Type", "text/plain", "text/plain;charset=utf-8"),
        ("Clear-Site-Data", "cache", "cookies"),
        ("Expires", "Fri, 01 Jan 2038 01:01:01 GMT", "Mon, 11 Jan 2038 11:11:11 GMT"),
        ("Public-Key-Pins", "A", "B"),
        ("Set-Cookie2", "a=b", "a=c"),
        ("X-Frame-Options", "deny", "sameorigin"),
        ("X-XSS-Protection", "1", "1; mode=block"),
        ("Last-Modified", MODIFIED, "Thu, 02 Jan 2020 00:00:00 GMT"),
    ],
)
def test_fields_of_the_304_replace_those_stored(name: str, before: str, after: str) -> None:
    result = freshened(stored([(name, before), ("Other", "x")]), [(name.upper(), after)])
    assert result.head.fields.all(name.lower()) == (after,)
    assert result.head.fields.get("other") == "x"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("Content-Encoding", "gzip", "br"),
        ("Content-Length", "11", "0"),
        ("Content-MD5", "rL0Y20zC+Fzt72VPzMSk2A==", "N7UdGUp1E+RbVvZSTy1R8g=="),
        ("Content-Range", "bytes 0-1/2", "bytes 0-3/4"),
        ("Content-Digest", "sha-256=:A:", "sha-256=:B:"),
        ("ETag", '"abcdef"', '"ghijkl"'),
    ],
)
def test_fields_that_speak_of_the_content_stay_as_stored(name: str, before: str, after: str) -> None:
    assert freshened(stored([(name, before)]), [(name, after)]).head.fields.all(name.lower()) == (before,)


@pytest.mark.parametrize("name", ["Content-Encoding", "Content-Length", "Content-Range", "Set-Cookie", "Age"])
def test_what_a_304_must_not_bring_in(name: str) -> None:
    assert name.lower() not in freshened(stored([]), [(name, "1")]).head.fields


def test_an_etag_is_taken_where_there_was_none() -> None:
    assert freshened(stored([]), [("ETag", '"a"')]).head.fields.get("etag") == '"a"'
    made = freshened(stored([("ETag", '"made"')], made_etag=True), [("ETag", '"a"')])
    assert (made.head.fields.get("etag"), made.made_etag) == ('"made"', True)


def test_a_cookie_reaches_only_the_user_of_a_private_rule() -> None:
    before = stored([("Set-Cookie", "a=b")])
    assert freshened(before, [("Set-Cookie", "a=c")]).head.fields.get("set-cookie") == "a=b"
    assert freshened(before, [("Set-Cookie", "a=c")], PRIVATE).head.fields.get("set-cookie") == "a=c"


def test_all_lines_of_a_field_are_replaced_by_all_new_ones() -> None:
    result = freshened(
        stored([("Link", "a"), ("X", "1"), ("link", "b"), ("Link", "c")]), [("Link", "d"), ("LINK", "e")]
    )
    assert [line for line in result.head.fields if line[0] != "Date"] == [("X", "1"), ("Link", "d"), ("LINK", "e")]


@pytest.mark.parametrize(
    ("lifetime", "secondary_key", "kept"),
    [
        ([], (), False),
        ([("Cache-Control", "max-age=0")], (), False),
        ([], (("cookie", "a=b"),), True),
        ([("Cache-Control", "max-age=1")], (), True),
    ],
)
def test_what_is_said_to_one_user_is_kept_where_somebody_says_that_others_may_have_it(
    lifetime: Lines, secondary_key: SecondaryKey, kept: bool
) -> None:
    before = stored([("ETag", '"a"'), *lifetime], secondary_key=secondary_key)
    before = replace(before, freshness=Freshness(lifetime=0))
    fresh = freshen(before, ResponseHead(304, "", Fields([("X-Token", "1")])), of_a_user(before), NOW, NOW)
    assert fresh.stored.head.fields.get("x-token") == "1"
    assert (fresh.verdict, fresh.kept) == ((Verdict.STORE, fresh.stored) if kept else (Verdict.CREDENTIAL, None))


def of_a_user(before: StoredResponse) -> Question:
    return Question(RequestHead("GET", "/a", Fields([("Cookie", "a=b")])), "u", "k", None, before, epoch=7)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (("Cache-Control", "max-age=0"), Freshness(lifetime=0, initial_age=1)),
        (("Cache-Control", "max-age=0, must-revalidate"), Freshness(lifetime=0, initial_age=1, must_revalidate=True)),
        (("Cache-Control", "no-cache"), Freshness(lifetime=0, initial_age=1, no_cache=True)),
        (("Vary", "Accept"), Freshness(lifetime=0, initial_age=1, no_cache=True)),
    ],
)
def test_what_takes_freshness_away_is_learnt_whoever_is_told(said: tuple[str, str], left: Freshness) -> None:
    before = replace(stored([("ETag", '"a"')]), freshness=Freshness(lifetime=60, initial_age=1))
    fresh = freshen(before, ResponseHead(304, "", Fields([said, ("X-Token", "1")])), of_a_user(before), NOW, NOW)
    assert fresh.kept is not None
    assert (fresh.kept.freshness, fresh.kept.head) == (left, before.head)


@pytest.mark.parametrize(
    ("new", "old", "later"),
    [(LATER, MODIFIED, True), (MODIFIED, MODIFIED, False), (MODIFIED, LATER, False), ("x", MODIFIED, False)],
)
def test_what_was_changed_later_says_so(new: str, old: str, later: bool) -> None:
    assert is_later(Fields([("Last-Modified", new)]), stored([("Last-Modified", old)])) is later
    assert not is_later(Fields([]), stored([("Last-Modified", old)]))


def test_everything_else_is_carried_over() -> None:
    before = stored([("ETag", '"a"')], tags=("t",), made_etag=True)
    after = freshened(before, [])
    assert (after.key, after.uri, after.secondary_key, after.tags) == ("k", "http://example.org/a", (), ("t",))
    assert (after.content, after.codings, after.origin_seconds) == (b"the content", {"br": b"coded"}, 1.5)
    assert (after.request_time, after.response_time, after.epoch, after.made_etag) == (NOW - 1, NOW, 7, True)
    assert (after.head.status, after.head.reason) == (200, "OK")
    # the store still weighs the former one with the codings it had
    assert after.codings is not before.codings


# -- the freshness of what was freshened


@pytest.mark.parametrize(
    ("before", "lines", "left"),
    [
        ([("Cache-Control", "max-age=60")], [], 59),
        ([("Cache-Control", "max-age=60")], [("Cache-Control", "max-age=600")], 599),
        ([("Cache-Control", "max-age=60"), ("Date", format_date(THEN))], [], 59),
        ([("Cache-Control", "max-age=60")], [("Age", "30")], 29),
        ([("Cache-Control", "max-age=60")], [("Date", format_date(NOW - 30))], 30),
        ([("Expires", format_date(THEN + 60))], [("Expires", format_date(NOW + 60))], 59),
        ([("Expires", format_date(THEN + 60))], [], -1),
        ([], [], -1),
    ],
)
def test_the_lifetime_starts_anew(before: Lines, lines: Lines, left: float) -> None:
    after = freshened(stored(before), lines)
    assert after.freshness.lifetime - current_age(after.freshness, after.response_time, NOW) == left


def test_a_rules_lifetime_starts_anew_as_well() -> None:
    after = freshened(stored([("Cache-Control", "max-age=1")]), [], PRIVATE)
    assert after.freshness.lifetime - current_age(after.freshness, after.response_time, NOW) == 300


def test_a_targeted_field_speaks_for_the_304_as_well() -> None:
    after = freshened(stored([("Cache-Control", "no-store")]), [("CDN-Cache-Control", "max-age=60")])
    assert after.freshness.lifetime - current_age(after.freshness, after.response_time, NOW) == 59
    assert not after.freshness.no_cache


def test_what_only_the_asker_may_have_is_not_stored() -> None:
    after = freshened(stored([]), [("Cache-Control", 'max-age=60, no-cache="x", private="y"'), ("X", "1"), ("Y", "2")])
    assert not {"x", "y"} & after.head.fields.names()


AUTHORIZED: Lines = [("Authorization", "Bearer a")]


@pytest.mark.parametrize(
    ("request_lines", "directives", "shared", "private"),
    [
        ([], "max-age=60", Verdict.STORE, Verdict.STORE),
        ([], "no-cache", Verdict.STORE, Verdict.STORE),
        ([], 'max-age=60, private="y"', Verdict.STORE, Verdict.STORE),
        ([], "max-age=60, no-store", Verdict.NO_STORE, Verdict.NO_STORE),
        (AUTHORIZED, "max-age=60, no-store", Verdict.NO_STORE, Verdict.NO_STORE),
        ([], "max-age=60, private", Verdict.PRIVATE, Verdict.STORE),
        (AUTHORIZED, "max-age=60", Verdict.AUTHORIZATION, Verdict.STORE),
        (AUTHORIZED, "max-age=60, public", Verdict.STORE, Verdict.STORE),
        ([("Cache-Control", "no-store")], "max-age=60", Verdict.REQUEST_NO_STORE, Verdict.REQUEST_NO_STORE),
    ],
)
def test_what_is_for_the_asker_alone_is_not_stored(
    request_lines: Lines, directives: str, shared: Verdict, private: Verdict
) -> None:
    """The asker has it; where storing is forbidden, what there is has to be validated each time."""
    before = stored([("Cache-Control", "max-age=60"), ("X", "old")])
    lines = [("Cache-Control", directives), ("X", "new"), ("Date", format_date(NOW))]
    for rule, verdict in ((None, shared), (PRIVATE, private)):
        fresh = confirmation(before, request_lines, lines, rule)
        assert fresh.verdict is verdict
        assert fresh.stored.head.fields.get("x") == "new"
        if verdict is Verdict.STORE:
            assert fresh.kept is fresh.stored
            assert fresh.stored.freshness.no_cache is (directives == "no-cache")
        elif verdict in {Verdict.NO_STORE, Verdict.PRIVATE}:
            assert fresh.kept is not None
            assert (fresh.kept.head, fresh.kept.epoch) == (before.head, before.epoch)
            assert fresh.kept.freshness == replace(before.freshness, no_cache=True)
        else:
            assert fresh.kept is None


def test_of_several_that_were_asked_about_none_is_stored_anew_for_one_user() -> None:
    before = stored([("ETag", '"a"')])
    asked = Question(RequestHead("GET", "/a", Fields()), "u", "k", None, None, epoch=7, candidates=(before,))
    fresh = freshen(before, ResponseHead(304, "", Fields([("Cache-Control", "private")])), asked, NOW, NOW)
    assert (fresh.verdict, fresh.kept) == (Verdict.PRIVATE, None)


@pytest.mark.parametrize(("rule", "expected"), [(None, {"set-cookie", "x", "y"}), (PRIVATE, {"x"})])
def test_what_the_asker_alone_is_told(rule: RouteRule | None, expected: set[str]) -> None:
    lines = [("Cache-Control", 'max-age=60, no-cache="x", private="y"')]
    assert confirmation(stored([]), [], lines, rule).withheld == expected


@pytest.mark.parametrize(
    ("vary", "no_cache"),
    [("Accept", False), ("accept, Accept-Language", False), ("", False), ("Cookie", True), ("*", True)],
)
def test_what_varies_by_more_than_was_keyed_is_validated_each_time(vary: str, no_cache: bool) -> None:
    before = stored([("Vary", "Accept, Accept-Language")], secondary_key=(("accept", None), ("accept-language", "de")))
    after = freshened(before, [("Vary", vary), ("Cache-Control", "max-age=60")])
    assert after.freshness.no_cache is no_cache
    # and stays so as long as it does
    assert freshened(after, [("Cache-Control", "max-age=60")]).freshness.no_cache is no_cache


def test_groups_follow_the_fields() -> None:
    before = stored([("Cache-Groups", '"a", "b"')], tags=("group\nhttp://\na", "group\nhttp://\nb"))
    assert freshened(before, [("Cache-Groups", '"b", "c"')]).tags == ("group\nhttp://\nb", "group\nhttp://\nc")


def test_tags_follow_the_fields() -> None:
    rule = replace(PRIVATE, tags=("ours",))
    before = stored([("Cache-Tag", "a, ours, b")], tags=("route\n/a", "ours", "a", "b"))
    assert freshened(before, [], rule).tags == ("route\n/a", "ours", "a", "b")
    assert freshened(before, [("Cache-Tag", "b, c")], rule).tags == ("route\n/a", "ours", "b", "c")
    assert freshened(before, [("Cache-Tag", "b, c")]).tags == ("route\n/a", "b", "c")


# -- properties

NAMES = st.sampled_from(
    ["Date", "Age", "ETag", "Expires", "Last-Modified", "Cache-Control", "Vary", "X", "Set-Cookie", "Cache-Tag"]
) | st.sampled_from(sorted(CONTENT_FIELDS))
VALUES = st.sampled_from(["max-age=60", "no-store", "1", '"a"', "x", format_date(THEN), format_date(NOW)]) | st.text(
    st.characters(max_codepoint=255), max_size=5
)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=6)
STORED_LINES = LINES.map(lambda lines: [line for line in lines if line[0] != "Age"])


@given(STORED_LINES, LINES, st.sampled_from([None, PRIVATE]))
def test_freshening_keeps_the_content_and_what_is_said_of_it(
    before: Lines, update: Lines, rule: RouteRule | None
) -> None:
    old = stored(before)
    new = freshened(old, update, rule)
    assert new.content is old.content
    for name in CONTENT_FIELDS - {"etag"}:
        assert new.head.fields.all(name) == old.head.fields.all(name)
    if "etag" in old.head.fields:
        assert new.head.fields.all("etag") == old.head.fields.all("etag")
    assert "age" not in new.head.fields
    assert {name.lower() for name, _ in new.head.fields} >= {name.lower() for name, _ in old.head.fields}


@given(STORED_LINES, LINES, st.sampled_from([None, PRIVATE]))
def test_freshening_twice_changes_nothing_more(before: Lines, update: Lines, rule: RouteRule | None) -> None:
    once = freshened(stored(before), update, rule)
    twice = freshened(once, update, rule)
    assert (twice.freshness, twice.tags) == (once.freshness, once.tags)
    assert sorted(twice.head.fields) == sorted(once.head.fields)


@given(st.lists(st.sampled_from(CONDITIONS + PLAIN)), LINES, st.booleans(), st.sampled_from(["GET", "POST"]))
def test_a_conditional_request_carries_only_validators_of_the_origin(
    asked: Lines, lines: Lines, made_etag: bool, method: str
) -> None:
    before = stored(lines, made_etag=made_etag)
    request = conditional(RequestHead(method, "/a", Fields(asked)), before)
    assert "range" not in request.fields
    for name in ("if-match", "if-unmodified-since", "if-range"):
        assert name not in request.fields
    assert request.fields.get("if-none-match") in {None, None if made_etag else before.head.fields.get("etag")}
    assert request.fields.get("if-modified-since") in {None, before.head.fields.get("last-modified")}


@given(STORED_LINES, st.lists(st.tuples(st.sampled_from(sorted(CONTENT_FIELDS)), VALUES)))
def test_fields_that_stay_as_stored_do_not_lengthen_the_lifetime(before: Lines, ignored: Lines) -> None:
    old = stored(before)
    assert freshened(old, ignored).freshness == freshened(old, []).freshness


def test_what_was_prepared_of_it_says_what_it_was_before() -> None:
    before = stored([("ETag", '"a"')])
    before.prepared = Prepared("", Template(b"", b"", b"", b""), b"", before.head, 0, before)
    assert freshened(before, [("Cache-Control", "private")]).prepared is None
