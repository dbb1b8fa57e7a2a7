"""What must hold whatever is asked and answered: the policy as a whole, from the origin's answer to its reuse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy import cache_key, encoding, forwarding, invalidation, preconditions, reuse
from proxy.policy.decisions import Reuse
from proxy.policy.fields import format_date
from proxy.policy.freshness import current_age, freshness_of
from proxy.policy.judgement import Ruling, judge, to_store
from proxy.policy.messages import Fields, Question, RequestHead, ResponseHead, StoredResponse

NOW = 1_800_000_000.0
TARGETS = ("cdn-cache-control",)

DIRECTIVES = st.lists(
    st.sampled_from(
        [
            "max-age=60",
            "max-age=0",
            "max-age=x",
            "s-maxage=30",
            "no-store",
            "no-cache",
            'no-cache="x"',
            "private",
            'private="x"',
            "public",
            "must-revalidate",
            "proxy-revalidate",
            "must-understand",
            "stale-while-revalidate=30",
            "stale-if-error=600",
            "foo=bar",
        ]
    ),
    max_size=4,
).map(", ".join)
LINE = st.one_of(
    st.tuples(st.just("Cache-Control"), DIRECTIVES),
    st.tuples(st.just("CDN-Cache-Control"), st.sampled_from(["max-age=60", "no-store", "private", "&", ""])),
    st.tuples(st.just("Vary"), st.sampled_from(["Accept", "accept, Accept-Language", "*", ""])),
    st.tuples(st.just("Age"), st.sampled_from(["0", "30", "90", "x", "5, 6"])),
    st.tuples(st.just("Date"), st.integers(-100, 100).map(lambda seconds: format_date(NOW + seconds))),
    st.tuples(
        st.just("Expires"), st.integers(-100, 100).map(lambda seconds: format_date(NOW + seconds)) | st.just("0")
    ),
    st.tuples(st.just("Last-Modified"), st.just(format_date(NOW - 10_000))),
    st.tuples(st.just("ETag"), st.sampled_from(['"a"', 'W/"a"', "a"])),
    st.tuples(st.just("Set-Cookie"), st.just("a=b")),
    st.tuples(st.just("X"), st.just("1")),
)
RESPONSES = st.builds(
    lambda status, lines: ResponseHead(status, "", Fields(lines)),
    st.sampled_from([200, 200, 200, 203, 204, 206, 301, 302, 404, 500, 503, 599]),
    st.lists(LINE, max_size=6),
)
REQUEST_LINE = st.one_of(
    st.tuples(
        st.just("Cache-Control"),
        st.sampled_from(
            ["no-cache", "no-store", "max-age=0", "max-age=100", "max-stale", "max-stale=9", "min-fresh=20"]
        ),
    ),
    st.tuples(st.just("Accept"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("Accept-Language"), st.sampled_from(["de", "en", "de, en", "fr;q=0.5, de"])),
    st.tuples(st.just("Authorization"), st.just("Bearer a")),
    st.tuples(st.just("Pragma"), st.just("no-cache")),
)
REQUESTS = st.builds(
    lambda lines: RequestHead("GET", "/a", Fields(lines), authority="app.example"), st.lists(REQUEST_LINE, max_size=3)
)


def stored_from(request: RequestHead, response: ResponseHead) -> StoredResponse | None:
    question = Question(request, "http://app.example/a", "key", None, None, 0, TARGETS)
    judged = judge(question, response, NOW, NOW)
    if judged.ruling is not Ruling.SHARED:
        return None
    return to_store(question, judged, b"content", (NOW, NOW))


def says(fields: Fields, name: str) -> bool:
    """Whether a directive, unqualified, stands in Cache-Control."""
    return name in [member.strip() for member in (fields.get("cache-control") or "").split(",")]


@given(REQUESTS, RESPONSES)
def test_nothing_forbidden_is_stored(request: RequestHead, response: ResponseHead) -> None:
    stored = stored_from(request, response)
    if stored is None:
        return
    fields = response.fields
    assert not reuse.request_no_store(request)
    assert "set-cookie" not in stored.head.fields
    assert "*" not in (fields.get("vary") or "")
    if "CDN-Cache-Control".lower() not in fields:
        assert not says(fields, "private")
        assert not says(fields, "no-store") or says(fields, "must-understand")
        if "authorization" in request.fields:
            assert any(says(fields, name) for name in ("public", "must-revalidate", "s-maxage=30"))


@given(REQUESTS, RESPONSES, REQUESTS, st.floats(0, 200))
def test_nothing_is_reused_that_may_not_be(
    asked: RequestHead, response: ResponseHead, request: RequestHead, later: float
) -> None:
    stored = stored_from(asked, response)
    if stored is None:
        return
    now = NOW + later
    decision = reuse.decide(stored, request, now)
    left = stored.freshness.lifetime - current_age(stored.freshness, stored.response_time, now)
    if decision in {Reuse.FRESH, Reuse.STALE_ALLOWED, Reuse.STALE_WHILE_REVALIDATE}:
        assert not stored.freshness.no_cache
        assert not says(request.fields, "no-cache")
    if decision is Reuse.FRESH:
        assert left > 0
    elif decision in {Reuse.STALE_ALLOWED, Reuse.STALE_WHILE_REVALIDATE}:
        assert not stored.freshness.must_revalidate
        assert left <= 0
    if stored.freshness.must_revalidate or stored.freshness.no_cache:
        assert not reuse.may_hide_error(stored, request, now)


@given(REQUESTS, RESPONSES, REQUESTS)
def test_only_a_matching_request_selects(asked: RequestHead, response: ResponseHead, request: RequestHead) -> None:
    stored = stored_from(asked, response)
    if stored is None or reuse.select((stored,), request.fields) is None:
        return
    for name, value in stored.secondary_key:
        assert dict(cache_key.secondary_key((name,), request.fields))[name] == value


@given(RESPONSES, st.floats(0, 100), st.floats(0, 5), st.floats(0, 100))
def test_age_never_decreases_along_a_chain(response: ResponseHead, kept: float, delay: float, later: float) -> None:
    """What one cache says of the age, the next one believes, and adds to."""
    first = freshness_of(response, NOW, NOW)
    age = current_age(first, NOW, NOW + kept)
    passed = ResponseHead(200, "", response.fields.without({"age"}).adding(("Age", str(int(age)))))
    second = freshness_of(passed, NOW + kept, NOW + kept + delay)
    arrival = NOW + kept + delay
    assert current_age(second, arrival, arrival + later) >= int(age) + later - 1e-3
    assert current_age(second, arrival, arrival + later) <= current_age(second, arrival, arrival + later + 1)


TEXT = st.text(st.characters(max_codepoint=255), max_size=30)
NAMES = st.sampled_from(
    [
        "Cache-Control",
        "CDN-Cache-Control",
        "Age",
        "Date",
        "Expires",
        "Vary",
        "ETag",
        "Last-Modified",
        "If-None-Match",
        "If-Modified-Since",
        "If-Range",
        "Range",
        "Content-Range",
        "Content-Length",
        "Cache-Groups",
        "Cache-Group-Invalidation",
        "Cache-Tag",
        "Surrogate-Key",
        "Location",
        "Content-Location",
        "Accept-Encoding",
        "Accept-Language",
        "Content-Language",
        "Connection",
        "Forwarded",
        "Pragma",
        "Content-Type",
    ]
)
ANY_FIELDS = st.lists(st.tuples(NAMES, TEXT), max_size=8).map(Fields)


@given(ANY_FIELDS, ANY_FIELDS, st.sampled_from(["GET", "HEAD", "POST"]), st.sampled_from([200, 206, 304, 503]))
def test_no_octets_make_the_policy_raise(asked: Fields, answered: Fields, method: str, status: int) -> None:
    request = RequestHead(method, "/a", asked, authority="app.example")
    response = ResponseHead(status, "", answered)
    question = Question(request, "http://app.example/a", "key", None, None, 0, TARGETS)
    judged = judge(question, response, NOW, NOW)
    stored = to_store(question, judged, b"content", (NOW, NOW))
    judge(Question(request, "u", "k", None, stored, 0, TARGETS, (stored,)), response, NOW, NOW)
    judge(Question(request, "u", "k", None, None, 0, TARGETS, (stored, stored)), response, NOW, NOW)
    judge(Question(request, "u", "k", None, None, 0, TARGETS, (), stored), response, NOW, NOW)
    reuse.decide(stored, request, NOW)
    reuse.select((stored,), asked)
    preconditions.evaluate(request, stored.head, 7, kept=True)
    encoding.plan(request, stored.head, 7, on=True)
    invalidation.invalidated_uris(request, response)
    invalidation.invalidated_groups(request, response)
    cache_key.cache_key(request, None, None, lambda _: "digest")
    forwarding.from_origin(answered)
