"""The plain request: what is one, what is none, and what goes on of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy import forwarding, plain
from proxy.policy.messages import Fields, RequestHead
from proxy.policy.plain import MAX_HEAD_BYTES, MAX_KNOWN, MAX_KNOWN_BYTES, MAX_LINES, MAX_NAMES, Lexicon, Plain, parse

HOST = "Host: app.example"


def read(*lines: str, start: str = "GET /a HTTP/1.1", rest: str = "", lexicon: Lexicon | None = None) -> Plain | None:
    wire = "\r\n".join([start, *lines, "", ""]) + rest
    return parse(wire.encode("latin-1"), lexicon or Lexicon())


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
        taken(HOST, f"X-Odd: {number}", start=f"GET /{number} HTTP/1.1", lexicon=lexicon)
    for number in range(MAX_NAMES + 10):
        taken(HOST, f"X-{number}: 1", lexicon=lexicon)
    assert len(lexicon.known) <= MAX_KNOWN
    assert len(lexicon.starts) <= MAX_KNOWN
    assert len(lexicon._names) <= MAX_NAMES
    assert taken(HOST, "X-Odd: 1", lexicon=lexicon).fields().get("x-odd") == "1"


@pytest.mark.parametrize("line", ["Authorization: Bearer a", "Cookie: a=b", "X-Request-Id: a", "traceparent: b"])
def test_what_is_nobodys_to_keep_is_not_kept(line: str) -> None:
    lexicon = Lexicon()
    taken(HOST, line, lexicon=lexicon)
    assert line.encode() not in lexicon.known


def test_what_is_long_is_not_kept() -> None:
    lexicon = Lexicon()
    taken(f"Host: {LONG}", f"X: {LONG}", f"{LONG}x: 1", start=f"GET /{LONG} HTTP/1.1", lexicon=lexicon)
    assert not any(len(raw) > MAX_KNOWN_BYTES for raw in (*lexicon.known, *lexicon.starts, *lexicon._names))


@pytest.mark.parametrize("raw", [b"X", b": 1", b"X\x00: 1", b"X: \x00", b"X\r: 1", b""])
def test_no_field_line(raw: bytes) -> None:
    assert plain.field_line(raw) is None


def test_a_field_line() -> None:
    assert plain.field_line(b"X-Odd:\t\xe9 ") == (b"x-odd", ("X-Odd", "\xe9"))


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


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.integers(0, 6))
def test_it_goes_on_as_the_ordinary_way_sends_it(lines: list[tuple[str, str]], host: int) -> None:
    texts = [f"{name}: {'keep-alive' if name == 'Connection' else value}" for name, value in lines]
    texts.insert(min(host, len(texts)), HOST)
    found = taken(*texts, start="GET /a?b HTTP/1.1")
    head = RequestHead("GET", "/a?b", forwarding.without_named(found.fields()), "http", found.host)
    if "x-forwarded-proto" in head.fields:
        head = RequestHead("GET", "/a?b", head.fields, "https", found.host)
    wanted = forwarding.to_origin(
        head, peer="192.0.2.1", scheme=head.scheme, request_id="id", traceparent="trace", upgrade=False
    )
    octets = plain.to_origin(found, "192.0.2.1", "id", "trace")
    assert octets == b"GET /a?b HTTP/1.1\r\n" + wanted.wire()
