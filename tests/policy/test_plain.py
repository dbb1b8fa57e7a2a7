"""The plain request: what is one, what is none, and what goes on of it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.policy import forwarding, lines, plain
from proxy.policy.lines import MAX_KNOWN, MAX_KNOWN_BYTES, MAX_NAMES
from proxy.policy.messages import Fields, RequestHead
from proxy.policy.plain import (
    MAX_CUTS,
    MAX_HEAD_BYTES,
    MAX_HEADING_BYTES,
    MAX_HEADINGS,
    MAX_LINES,
    REVIEW_HEADS,
    Heading,
    Lexicon,
    Plain,
    parse,
)

HOST = "Host: app.example"


def read(
    *lines: str,
    start: str = "GET /a HTTP/1.1",
    rest: str = "",
    lexicon: Lexicon | None = None,
    like: Heading | None = None,
) -> Plain | None:
    wire = "\r\n".join([start, *lines, "", ""]) + rest
    return parse(wire.encode("latin-1"), lexicon or Lexicon(), like)


def taken(*lines: str, start: str = "GET /a HTTP/1.1", rest: str = "", lexicon: Lexicon | None = None) -> Plain:
    found = read(*lines, start=start, rest=rest, lexicon=lexicon)
    assert found is not None
    return found


# -- what is plain


def test_a_plain_request() -> None:
    found = taken(
        "hOst:\t app.example:80 ", "Accept-Encoding: gzip", "X-Odd:\xe9", "X-Request-Id: 7", "traceparent: 00-1"
    )
    assert (found.start.method, found.start.target, found.host) == ("GET", "/a", "app.example:80")
    assert found.fields() == Fields(
        [
            ("hOst", "app.example:80"),
            ("Accept-Encoding", "gzip"),
            ("X-Odd", "\xe9"),
            ("X-Request-Id", "7"),
            ("traceparent", "00-1"),
        ]
    )
    assert (found.request_id, found.traceparent) == ("7", "00-1")
    assert (found.shape, found.demanding, found.length, found.framed) == ("Accept-Encoding:gzip\n", False, 0, False)


def test_what_follows_the_head_is_not_looked_at() -> None:
    found = taken(HOST, "Content-Length: 003", start="POST /a?b HTTP/1.1", rest="abcGET")
    assert (found.length, found.framed, found.shape) == (3, True, "POST")
    assert found.size == len(b"POST /a?b HTTP/1.1\r\nHost: app.example\r\nContent-Length: 003\r\n\r\n")


@pytest.mark.parametrize("name", ["x-forwarded-host", "X-Forwarded-Proto", "Forwarded", "X-Original-URL"])
def test_what_rewrites_is_part_of_the_place(name: str) -> None:
    found = taken(f"{name}: x", HOST)
    assert [line.lower for line in found.place] == [b"host", name.lower().encode()]


@pytest.mark.parametrize(
    "line", ["Cache-Control: max-age=0", "pragma: x", "Range: bytes=0-1", "If-Range: a", "If-Match: *"]
)
def test_what_only_the_policy_can_tell(line: str) -> None:
    assert taken(HOST, line).demanding


@pytest.mark.parametrize("connection", ["keep-alive", "Keep-Alive", " keep-alive\t"])
def test_connection_may_say_what_goes_without_saying(connection: str) -> None:
    assert read(HOST, f"Connection: {connection}") is not None


def test_identifiers_that_come_twice_are_told_as_the_ordinary_way_tells_them() -> None:
    found = taken(HOST, "X-Request-Id: a", "x-request-id: b", "traceparent: c", "Traceparent: d")
    assert (found.request_id, found.traceparent) == ("a, b", "c, d")


# -- what is not

LONG = "a" * MAX_KNOWN_BYTES


@pytest.mark.parametrize(
    "start",
    [
        "GET /a HTTP/1.0",
        "GET /a HTTP/2.0",
        "GET /a http/1.1",
        "GET  /a HTTP/1.1",
        "GET /a HTTP/1.1 ",
        " GET /a HTTP/1.1",
        "get /a HTTP/1.1",
        "TRACE /a HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://app.example/a HTTP/1.1",
        "GET a HTTP/1.1",
        "GET /a#b HTTP/1.1",
        'GET /" HTTP/1.1',
        "GET /\\ HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\x00 HTTP/1.1",
        "GET /\xe9 HTTP/1.1",
        "GET /a\tHTTP/1.1",
        "\r\nGET /a HTTP/1.1",
        "GET /a HTTP/1.1\n",
        "GET /a HTTP/1.1\r",
    ],
)
def test_other_request_lines(start: str) -> None:
    assert read(HOST, start=start) is None


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("X: 1",),
        (HOST, HOST),
        (HOST, "Max-Forwards: 1"),
        ("Host:",),
        ("Host: a b",),
        ("Host: a@b",),
        ("Host: a/b",),
        ("Host: a:b",),
        (f"Host: {LONG} b",),
        (f"Host: {LONG}@b",),
        (HOST, "Connection: close"),
        (HOST, "Connection: keep-alive, X-Mine"),
        (HOST, "Connection: "),
        (HOST, f"Connection: close, {LONG}"),
        (HOST, "Transfer-Encoding: chunked"),
        (HOST, "transfer-encoding: identity"),
        (HOST, "Expect: 100-continue"),
        (HOST, "Upgrade: websocket"),
        (HOST, "HTTP2-Settings: x"),
        (HOST, "Content-Length: 1"),
        (HOST, "X : 1"),
        (HOST, " X: 1"),
        (HOST, "\tfolded"),
        (HOST, "X"),
        (HOST, ": 1"),
        (HOST, "X\xe9: 1"),
        (HOST, "X: a\nb: c"),
        (HOST, "X: a\rb"),
        (HOST, "X: \x00"),
        (HOST, "X: \x7f"),
        (HOST, "X\x0b: 1"),
        (HOST, "User-Agent: a", "user-agent: b"),
        (HOST, "Content-Type: a", "Content-Type: a"),
        (HOST, *["X: 1"] * MAX_LINES),
    ],
)
def test_other_fields(lines: tuple[str, ...]) -> None:
    lexicon = Lexicon()
    for _ in range(2):
        assert read(*lines, lexicon=lexicon) is None


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: +1",),
        ("Content-Length: 1, 1",),
        ("Content-Length: ",),
        ("Content-Length: -1",),
        ("Content-Length: 0x1",),
        ("Content-Length: \xb2",),
        ("Content-Length: 1" + "0" * 18,),
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
    ],
)
def test_other_framing(lines: tuple[str, ...]) -> None:
    assert read(HOST, *lines, start="POST /a HTTP/1.1", rest="x") is None


def test_a_head_that_is_not_there_yet_or_too_long() -> None:
    assert parse(b"GET /a HTTP/1.1\r\nHost: a\r\n", Lexicon()) is None
    assert parse(b"GET /a HTTP/1.1\nHost: a\n\n", Lexicon()) is None
    assert read(HOST, "X: " + "a" * MAX_HEAD_BYTES) is None


# -- what is remembered


def test_what_is_remembered_is_bounded_and_says_the_same_again() -> None:
    lexicon = Lexicon()
    for number in range(MAX_KNOWN + 10):
        for _ in range(2):
            taken(HOST, f"If-None-Match: {number}", start=f"GET /{number} HTTP/1.1", lexicon=lexicon)
        assert len(lexicon.starts) <= MAX_KNOWN
    for number in range(MAX_NAMES + 10):
        taken(HOST, f"X-{number}: 1", lexicon=lexicon)
    assert len(lexicon.known) <= MAX_KNOWN
    assert len(lexicon._names) <= MAX_NAMES
    assert taken(HOST, "If-None-Match: 1", lexicon=lexicon).fields().get("if-none-match") == "1"


@pytest.mark.parametrize("line", ["Authorization: Bearer a", "Cookie: a=b", "X-Request-Id: a", "traceparent: b"])
def test_what_is_nobodys_to_keep_is_not_kept(line: str) -> None:
    lexicon = Lexicon()
    taken(HOST, line, lexicon=lexicon)
    assert line.encode() not in lexicon.known


def test_a_request_line_is_kept_once_it_comes_again() -> None:
    lexicon = Lexicon()
    first, second, third = (taken(HOST, start="GET /a?b HTTP/1.1", lexicon=lexicon).start for _ in range(3))
    assert first is not second
    assert second is third
    for number in range(2 * MAX_KNOWN):
        taken(HOST, start=f"GET /{number} HTTP/1.1", lexicon=lexicon)
    # of those that come once, hardly any: such as have the mark of another
    assert len(lexicon.starts) < MAX_KNOWN // 20


def test_what_is_long_is_not_kept() -> None:
    lexicon = Lexicon()
    for _ in range(3):
        taken(f"Host: {LONG}", f"X: {LONG}", f"{LONG}x: 1", start=f"GET /{LONG} HTTP/1.1", lexicon=lexicon)
    assert not any(len(raw) > MAX_KNOWN_BYTES for raw in (*lexicon.known, *lexicon.starts, *lexicon._names))


@pytest.mark.parametrize("raw", [b"X", b": 1", b"X\x00: 1", b"X: \x00", b"X\r: 1", b""])
def test_no_field_line(raw: bytes) -> None:
    assert lines.field_line(raw) is None


def test_a_field_line() -> None:
    assert lines.field_line(b"X-Odd:\t\xe9 ") == (b"x-odd", ("X-Odd", "\xe9"))


# -- what goes on

NAMES = st.sampled_from(
    [
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-Forwarded-Host",
        "X-Request-Id",
        "Traceparent",
        "Via",
        "Connection",
        "Keep-Alive",
        "TE",
        "Proxy-Authorization",
        "Authorization",
        "Cookie",
        "X-Odd",
    ]
)
VALUES = st.sampled_from(["", "a", " a, b ", "\xe9", "keep-alive"])


def texts_of(lines: list[tuple[str, str]], host: int) -> list[str]:
    texts = [f"{name}: {'keep-alive' if name == 'Connection' else value}" for name, value in lines]
    texts.insert(min(host, len(texts)), HOST)
    return texts


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.integers(0, 6))
def test_it_goes_on_as_the_ordinary_way_sends_it(lines: list[tuple[str, str]], host: int) -> None:
    goes_on(taken(*texts_of(lines, host), start="GET /a?b HTTP/1.1"))


def goes_on(found: Plain) -> None:
    """Hold what goes on to the ordinary way."""
    head = RequestHead("GET", "/a?b", forwarding.without_named(found.fields()), "http", found.host)
    if "x-forwarded-proto" in head.fields:
        head = RequestHead("GET", "/a?b", head.fields, "https", found.host)
    wanted = forwarding.to_origin(
        head, peer="192.0.2.1", scheme=head.scheme, request_id="id", traceparent="trace", upgrade=False, mark="siding-1"
    )
    octets = plain.to_origin(found, "192.0.2.1", "id", "trace", b"CDN-Loop: siding-1\r\n")
    assert octets == b"GET /a?b HTTP/1.1\r\n" + wanted.wire()


def test_a_request_that_has_been_here_is_not_plain() -> None:
    lexicon = Lexicon(b"siding-1")
    for _ in range(3 * REVIEW_HEADS):
        assert read(HOST, "CDN-Loop: siding-2", lexicon=lexicon) is not None
        assert read(HOST, "cdn-LOOP:\ta, siding-1;x=1", lexicon=lexicon) is None


# -- heads that were met before

AGENT = "User-Agent: a"


def told(found: Plain | None) -> object:
    """All that a head says."""
    if found is None:
        return None
    return (
        (found.start.method, found.start.target, found.size, found.fields().lines, found.length, found.framed),
        ([line.line for line in found.place], found.host, found.shape, found.credentials, found.authorization()),
        (found.request_id, found.traceparent, found.demanding),
    )


def used(*texts: str, start: str = "GET /a HTTP/1.1", changing: str = "X-Request-Id", rounds: int = 2) -> Lexicon:
    """A lexicon that has seen such heads, `changing` being another each time, and what is cut out of them."""
    lexicon = Lexicon()
    for number in range(rounds * REVIEW_HEADS):
        read(*texts, f"{changing}: {number}", start=start, rest="x" * 9, lexicon=lexicon)
    return lexicon


def test_a_head_is_found_again_whatever_its_identifier() -> None:
    lexicon = used(HOST, AGENT)
    assert lexicon.cuts == [b"\r\nX-Request-Id:"]
    found = taken(HOST, AGENT, "X-Request-Id:\t7 ", start="GET /b HTTP/1.1", lexicon=lexicon)
    assert found.heading is not None
    assert found.request_id == "7"
    assert told(found) == told(taken(HOST, AGENT, "X-Request-Id:\t7 ", start="GET /b HTTP/1.1"))
    goes_on(taken(HOST, AGENT, "X-Request-Id: 8", start="GET /a?b HTTP/1.1", lexicon=lexicon))
    goes_on(taken(HOST, AGENT, "X-Request-Id: 9", start="GET /a?b HTTP/1.1", lexicon=lexicon))


def test_whatever_is_another_each_time_is_cut_out() -> None:
    lexicon = used(HOST, "X-Request-Id: 1", changing="X-Request-Start")
    assert lexicon.cuts == [b"\r\nX-Request-Id:", b"\r\nX-Request-Start:"]
    assert taken(HOST, "X-Request-Id: 2", "X-Request-Start: t=3", lexicon=lexicon).heading is not None


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Via", "X-Odd", "Content-Length", "Traceparent"])
@pytest.mark.parametrize("value", ["", " 1 ", "2"])
def test_what_was_cut_out_goes_on_as_the_ordinary_way_sends_it(name: str, value: str) -> None:
    start = "POST /a?b HTTP/1.1"
    lexicon = used(HOST, changing=name, start=start)
    value = value or "3" if name == "Content-Length" else value
    found = taken(HOST, f"{name}: {value}", start=start, lexicon=lexicon)
    assert found.heading is not None
    alone = taken(HOST, f"{name}: {value}", start=start)
    assert told(found) == told(alone)
    assert plain.to_origin(found, "192.0.2.1", "id", "t") == plain.to_origin(alone, "192.0.2.1", "id", "t")


def test_cuts_are_kept_for_those_who_need_them() -> None:
    lexicon = used(HOST)
    for number in range(2 * REVIEW_HEADS):
        taken(HOST, f"X-Odd: {number}", lexicon=lexicon)
    assert lexicon.cuts == [b"\r\nX-Request-Id:", b"\r\nX-Odd:"]
    assert taken(HOST, "X-Odd: a", lexicon=lexicon).heading is not None


def test_credentials_are_in_no_heading() -> None:
    lexicon = used(HOST, "Authorization: Bearer secret", "Cookie: a=secret")
    again = taken(HOST, "Authorization: Bearer other", "Cookie: b", "X-Request-Id: x", lexicon=lexicon)
    assert again.heading is not None
    assert again.authorization() == ["Bearer other"]
    assert again.credentials == "authorization,cookie,"
    for key, heading in lexicon.headings.items():
        assert b"secret" not in key
        assert not any(line is not None and "secret" in line.line[1] for line in heading.lines)


@pytest.mark.parametrize("name", ["Traceparent", "tracestate", "X-Request-Id", "X-Trace"])
def test_whether_it_speaks_of_traces(name: str) -> None:
    lexicon = used(HOST, changing=name)
    for line in (f"{name}: x", f"{name}:"):
        found = taken(HOST, line, lexicon=lexicon)
        assert found.heading is not None
        assert found.speaks_of_traces() is taken(HOST, line).speaks_of_traces() is ("X-" not in name)


@pytest.mark.parametrize("value", ["\x00", "a\rb", "a\nX: y", "\x7f"])
def test_what_stands_in_a_hole_is_a_value(value: str) -> None:
    lexicon = used(HOST, AGENT)
    assert read(HOST, AGENT, f"X-Request-Id: {value}", lexicon=lexicon) is None


def test_the_length_in_a_hole_is_one_and_may_be_there() -> None:
    lexicon = used(HOST, changing="Content-Length", start="POST /a HTTP/1.1")
    found = taken(HOST, "Content-Length: 7", start="PUT /a HTTP/1.1", lexicon=lexicon)
    assert found.heading is not None
    assert (found.length, found.framed, found.shape) == (7, True, "PUT")
    assert read(HOST, "Content-Length: 7x", start="PUT /a HTTP/1.1", lexicon=lexicon) is None
    assert read(HOST, "Content-Length: 7", lexicon=lexicon) is None


@pytest.mark.parametrize(
    ("texts", "changing"),
    [
        ((HOST, "X-Request-Id: 1"), "x-request-id"),
        ((HOST, "X-Forwarded-For: 1"), "x-forwarded-for"),
        ((HOST, "Traceparent: 1", "traceparent: 2"), "X-Odd"),
        ((HOST, "X-Request-Id: 1", "X-Request-Id: 2"), "X-Odd"),
    ],
)
def test_what_is_joined_from_several_lines_is_read_line_by_line(texts: tuple[str, ...], changing: str) -> None:
    lexicon = used(*texts, changing=changing)
    assert lexicon.cuts
    assert taken(*texts, f"{changing}: x", lexicon=lexicon).heading is None


@pytest.mark.parametrize("name", ["If-None-Match", "X-Forwarded-Host", "Cache-Control"])
def test_what_an_answer_hangs_on_is_never_cut_out(name: str) -> None:
    assert used(HOST, changing=name).cuts == []


def test_what_is_too_long_or_too_much_is_read_line_by_line() -> None:
    long = [f"X-{number}: {'a' * (MAX_KNOWN_BYTES - 10)}" for number in range(MAX_HEADING_BYTES // MAX_KNOWN_BYTES + 1)]
    lexicon = used(HOST, *long)
    assert taken(HOST, *long, "X-Request-Id: x", lexicon=lexicon).heading is None
    names = [f"X-{number}" for number in range(MAX_CUTS + 1)]
    lexicon = Lexicon()
    for number in range(2 * REVIEW_HEADS):
        taken(HOST, *[f"{name}: {number}" for name in names], lexicon=lexicon)
    assert len(lexicon.cuts) == MAX_CUTS


def test_headings_are_bounded() -> None:
    lexicon = used(HOST)
    for number in range(MAX_HEADINGS + 10):
        for _ in range(2):
            taken(HOST, f"If-None-Match: {number}", "X-Request-Id: 1", lexicon=lexicon)
        assert len(lexicon.headings) <= MAX_HEADINGS
    for number in range(MAX_HEADINGS + 10):
        taken(HOST, f"If-Modified-Since: {number}", "X-Request-Id: 1", lexicon=lexicon)
    assert len(lexicon._met) <= MAX_HEADINGS


def test_a_head_like_the_last_is_known_by_it_alone() -> None:
    lexicon = used(HOST, AGENT)
    like = taken(HOST, AGENT, "X-Request-Id: 7", lexicon=lexicon).heading
    assert like is not None
    other = Lexicon()
    found = read(HOST, AGENT, "X-Request-Id:  8", start="POST /b HTTP/1.1", rest="more", lexicon=other, like=like)
    assert found is not None
    assert (found.heading, found.request_id, found.start.target) == (like, "8", "/b")
    assert found.size == len(f"POST /b HTTP/1.1\r\n{HOST}\r\n{AGENT}\r\nX-Request-Id:  8\r\n\r\n")
    assert other.cuts == []
    assert not other.known


def test_what_is_remembered_of_a_heading_is_not_taken_for_another_request() -> None:
    lines = (HOST, "Accept-Encoding: br", "Authorization: Bearer a", "X-Request-Id: 7")
    lexicon = used(*lines[:2], changing="Authorization")
    for number in range(2 * REVIEW_HEADS):
        read(*lines[:2], f"Authorization: {number}", f"X-Request-Id: {number}", lexicon=lexicon)
    for method in ("GET", "POST", "POST", "GET", "PUT"):
        start = f"{method} /a HTTP/1.1"
        found, alone = taken(*lines, start=start, lexicon=lexicon), taken(*lines, start=start)
        assert found.heading is not None
        assert found.question() == alone.question()
        for peer in ("192.0.2.1", "192.0.2.1", "", "2001:db8::1"):
            sent = [plain.to_origin(one, peer, "id", "trace") for one in (found, alone)]
            assert sent[0] == sent[1]


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 12, 30, 45, 60])
def test_a_head_that_ends_early_is_not_like_the_last(cut: int) -> None:
    lexicon = used(HOST, AGENT)
    wire = f"GET /a HTTP/1.1\r\n{HOST}\r\n{AGENT}\r\nX-Request-Id: 7\r\n\r\n".encode()
    like = taken(HOST, AGENT, "X-Request-Id: 7", lexicon=lexicon).heading
    assert like is not None
    assert parse(wire, Lexicon(), like) is not None
    assert parse(wire[:-cut], lexicon, like) is None
    assert parse(wire[:cut], lexicon, like) is None


def test_a_head_like_the_last_is_not_longer_than_others() -> None:
    lexicon = used(HOST)
    like = taken(HOST, "X-Request-Id: 7", lexicon=lexicon).heading
    assert like is not None
    for length, found in ((MAX_HEAD_BYTES // 2, True), (MAX_HEAD_BYTES, False)):
        assert (read(HOST, f"X-Request-Id: {'a' * length}", lexicon=lexicon, like=like) is not None) is found
    assert read(HOST, "X-Request-Id: 7", start="get / HTTP/1.1", lexicon=lexicon, like=like) is None


ANY_NAMES = st.one_of(
    NAMES,
    st.sampled_from(
        ["User-Agent", "If-None-Match", "Content-Length", "Content-Type", "x-request-id", "Pragma", "Transfer-Encoding"]
    ),
)
ANY_VALUES = st.one_of(VALUES, st.sampled_from(["1", "7", "12", "b", "c\x00", "\r\nX-Odd: 1"]))


@example([("If-None-Match", "")], 0, [["a"] * 5], {"If-None-Match"}, "GET /a?b HTTP/1.1")
@given(
    st.lists(st.tuples(ANY_NAMES, ANY_VALUES), max_size=5),
    st.integers(0, 5),
    st.lists(st.lists(ANY_VALUES, min_size=5, max_size=5), min_size=1, max_size=6),
    st.sets(ANY_NAMES, max_size=4),
    st.sampled_from(["GET /a?b HTTP/1.1", "POST /a?b HTTP/1.1"]),
)
def test_a_head_found_again_says_what_it_says_line_by_line(
    first: list[tuple[str, str]], host: int, others: list[list[str]], cut: set[str], start: str
) -> None:
    lexicon = Lexicon()
    lexicon.cuts = [f"\r\n{name}:".encode() for name in sorted(cut)]
    heads = [first, first, *[[(name, value) for (name, _), value in zip(first, each, strict=False)] for each in others]]
    heading: Heading | None = None
    for each in heads:
        texts = texts_of(each, host)
        found, alone = read(*texts, start=start, lexicon=lexicon), read(*texts, start=start)
        again = read(*texts, start=start, lexicon=lexicon, like=heading)
        assert told(found) == told(again) == told(alone)
        if found is not None and again is not None and alone is not None:
            sent = {plain.to_origin(one, "192.0.2.1", "id", "trace") for one in (found, again, alone)}
            assert len(sent) == 1
            assert found.question() == again.question() == alone.question()
            heading = found.heading or heading
