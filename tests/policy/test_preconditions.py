"""Conditional and range requests against what is stored."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.messages import Fields, Part, RequestHead, ResponseHead
from proxy.policy.preconditions import (
    MAX_RANGES,
    Answer,
    Piece,
    evaluate,
    from_part,
    multipart,
    not_modified,
    partial,
    unsatisfiable,
)

OLD = "Wed, 01 Jan 2020 00:00:00 GMT"
NEW = "Thu, 02 Jan 2020 00:00:00 GMT"
TAG = ("ETag", '"a"')
CONTENT = bytes(range(48, 58))

Lines = list[tuple[str, str]]


def request(*lines: tuple[str, str], method: str = "GET") -> RequestHead:
    return RequestHead(method, "/a", Fields(lines))


def head(*lines: tuple[str, str], status: int = 200) -> ResponseHead:
    return ResponseHead(status, "OK", Fields(lines))


def answer(asked: RequestHead, stored: ResponseHead, *, kept: bool = True) -> Answer:
    return evaluate(asked, stored, len(CONTENT), kept=kept)[0]


# -- conditions


@pytest.mark.parametrize(
    ("value", "etag", "matches"),
    [
        ('"a"', '"a"', True),
        ('"a"', 'W/"a"', True),
        ('W/"a"', '"a"', True),
        ('"x", "a", "y"', '"a"', True),
        ('"x","a"', '"a"', True),
        ('"b"', '"a"', False),
        ("a", '"a"', False),
        ("*", '"a"', True),
        ("*", None, True),
        ('"a"', None, False),
        ('"a"', "a", False),
        ("", '"a"', False),
        ('"a, b"', '"a"', False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_if_none_match(value: str, etag: str | None, matches: bool, method: str) -> None:
    stored = head() if etag is None else head(("ETag", etag))
    asked = request(("If-None-Match", value), method=method)
    assert answer(asked, stored) is (Answer.NOT_MODIFIED if matches else Answer.FULL)


@pytest.mark.parametrize(
    ("since", "stored", "matches"),
    [
        (OLD, [("Last-Modified", OLD)], True),
        (NEW, [("Last-Modified", OLD)], True),
        (OLD, [("Last-Modified", NEW)], False),
        ("Wednesday, 01-Jan-20 00:00:00 GMT", [("Last-Modified", OLD)], True),
        ("yesterday", [("Last-Modified", OLD)], False),
        (NEW, [("Date", OLD)], True),
        (OLD, [("Date", NEW)], False),
        (OLD, [], False),
    ],
)
def test_if_modified_since(since: str, stored: Lines, matches: bool) -> None:
    expected = Answer.NOT_MODIFIED if matches else Answer.FULL
    assert answer(request(("If-Modified-Since", since)), head(*stored)) is expected
    assert answer(request(("If-Modified-Since", since), method="POST"), head(*stored)) is Answer.FULL


def test_the_date_of_what_was_not_kept_says_nothing_of_modification() -> None:
    """RFC 9110 13.1.3: without a modification date the condition is ignored; RFC 9111 4.3.2 is about what is stored."""
    asked = request(("If-Modified-Since", NEW))
    assert answer(asked, head(("Date", OLD)), kept=False) is Answer.FULL
    assert answer(asked, head(("Date", NEW), ("Last-Modified", OLD)), kept=False) is Answer.NOT_MODIFIED


def test_if_none_match_goes_before_if_modified_since() -> None:
    stored = head(TAG, ("Last-Modified", OLD))
    assert answer(request(("If-None-Match", '"b"'), ("If-Modified-Since", NEW)), stored) is Answer.FULL
    assert answer(request(("If-None-Match", '"a"'), ("If-Modified-Since", OLD)), stored) is Answer.NOT_MODIFIED


def test_only_a_200_is_evaluated() -> None:
    assert answer(request(("If-None-Match", "*")), head(TAG, status=404)) is Answer.FULL


# -- ranges of a complete content


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", [b"0"]),
        ("bytes=0-1", [b"01"]),
        ("bytes=5-", [b"56789"]),
        ("bytes=-3", [b"789"]),
        ("bytes=-30", [CONTENT]),
        ("bytes=8-100", [b"89"]),
        ("Bytes=1-2", [b"12"]),
        ("bytes = 1-2", [b"12"]),
        ("bytes=1-2,", [b"12"]),
        ("bytes=0-1,5-6", [b"01", b"56"]),
        ("bytes=5-6, 0-1", [b"56", b"01"]),
        ("bytes=0-1,2-3", [b"0123"]),
        ("bytes=4-8,0-1,6-9", [b"01", b"456789"]),
        ("bytes=0-1,20-30", [b"01"]),
    ],
)
def test_ranges(value: str, expected: list[bytes]) -> None:
    verdict, pieces = evaluate(request(("Range", value)), head(), len(CONTENT), kept=True)
    assert verdict is Answer.RANGE
    assert [CONTENT[piece.begin : piece.end] for piece in pieces] == expected
    assert all(piece.first == piece.begin for piece in pieces)


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=10-,20-30"])
def test_ranges_that_cannot_be_satisfied(value: str) -> None:
    assert answer(request(("Range", value)), head()) is Answer.UNSATISFIABLE


@pytest.mark.parametrize(
    "value",
    [
        "items=0-1",
        "bytes=",
        "bytes=,",
        "bytes=a-b",
        "bytes=2-1",
        "bytes=1",
        "bytes=-",
        "bytes=1-2-3",
        "bytes=0-1 5-6",
        "bytes=٣-4",
        "0-1",
        "",
        "bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)),
        "bytes=" + "9" * 30 + "-",
    ],
)
def test_fields_that_are_ignored(value: str) -> None:
    assert answer(request(("Range", value)), head()) is Answer.FULL


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_only_get_has_ranges(method: str) -> None:
    assert answer(request(("Range", "bytes=0-1"), method=method), head()) is Answer.FULL


@pytest.mark.parametrize(
    ("value", "stored", "holds"),
    [
        ('"a"', [TAG], True),
        ('"b"', [TAG], False),
        ('W/"a"', [TAG], False),
        ('"a"', [("ETag", 'W/"a"')], False),
        ('"a"', [], False),
        (OLD, [("Last-Modified", OLD), ("Date", NEW)], True),
        (OLD, [("Last-Modified", OLD), ("Date", OLD)], False),
        (OLD, [("Last-Modified", OLD)], False),
        (NEW, [("Last-Modified", OLD), ("Date", NEW)], False),
        ("nonsense", [TAG], False),
    ],
)
def test_if_range(value: str, stored: Lines, holds: bool) -> None:
    asked = request(("Range", "bytes=0-1"), ("If-Range", value))
    assert answer(asked, head(*stored)) is (Answer.RANGE if holds else Answer.FULL)


def test_a_condition_that_holds_goes_before_a_range() -> None:
    assert answer(request(("Range", "bytes=0-1"), ("If-None-Match", '"a"')), head(TAG)) is Answer.NOT_MODIFIED


# -- ranges of a part

MIDDLE, TAIL = Part(4, 10, to_end=False), Part(4, 10, to_end=True)


@pytest.mark.parametrize(
    ("value", "part", "length", "expected"),
    [
        ("bytes=4-6", MIDDLE, 3, Piece(4, 0, 3)),
        ("bytes=5-5", MIDDLE, 3, Piece(5, 1, 2)),
        ("bytes=4-7", MIDDLE, 3, None),
        ("bytes=3-5", MIDDLE, 3, None),
        ("bytes=7-8", MIDDLE, 3, None),
        ("bytes=5-", MIDDLE, 3, None),
        ("bytes=-1", MIDDLE, 3, None),
        ("bytes=5-100", MIDDLE, 3, None),
        ("bytes=6-", TAIL, 6, Piece(6, 2, 6)),
        ("bytes=6-8", TAIL, 6, Piece(6, 2, 5)),
        ("bytes=6-100", TAIL, 6, Piece(6, 2, 6)),
        ("bytes=-1", TAIL, 6, Piece(9, 5, 6)),
        ("bytes=-6", TAIL, 6, Piece(4, 0, 6)),
        ("bytes=-7", TAIL, 6, None),
        ("bytes=-0", TAIL, 6, None),
        ("bytes=10-", TAIL, 6, None),
        ("bytes=4-5,7-8", TAIL, 6, None),
        ("items=4-5", TAIL, 6, None),
    ],
)
def test_what_a_part_answers(value: str, part: Part, length: int, expected: Piece | None) -> None:
    assert from_part(request(("Range", value)), head(), part, length) == expected


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("Range", "bytes=4-5"), ("If-None-Match", '"a"')],
        [("Range", "bytes=4-5"), ("If-Match", '"a"')],
        [("Range", "bytes=4-5"), ("If-Range", '"b"')],
    ],
)
def test_what_a_part_leaves_to_the_origin(lines: Lines) -> None:
    assert from_part(request(*lines), head(TAG), TAIL, 6) is None
    assert from_part(request(("Range", "bytes=4-5"), method="HEAD"), head(TAG), TAIL, 6) is None


def test_a_part_answers_if_range_that_holds() -> None:
    assert from_part(request(("Range", "bytes=4-5"), ("If-Range", '"a"')), head(TAG), TAIL, 6) == Piece(4, 0, 2)


# -- heads

STORED = head(
    ("Content-Type", "text/plain"),
    ("Content-Length", "10"),
    TAG,
    ("Last-Modified", OLD),
    ("Cache-Control", "max-age=1"),
)


def test_a_304_tells_of_no_content() -> None:
    assert not_modified(STORED) == ResponseHead(
        304, "Not Modified", Fields([TAG, ("Last-Modified", OLD), ("Cache-Control", "max-age=1")])
    )


def test_a_206_tells_which_part() -> None:
    made = partial(STORED, Piece(2, 0, 3), 10)
    assert (made.status, made.fields.get("content-range")) == (206, "bytes 2-4/10")
    assert "content-length" not in made.fields
    assert made.fields.get("content-type") == "text/plain"


def test_a_416_tells_how_much_there_is() -> None:
    made = unsatisfiable(STORED, 10)
    assert made.fields == Fields([("Cache-Control", "max-age=1"), ("Content-Range", "bytes */10")])


def _parts(made: ResponseHead, content: bytes) -> list[tuple[str, bytes]]:
    message = message_from_bytes(f"Content-Type: {made.fields.get('content-type')}\r\n\r\n".encode() + content)
    parts = message.get_payload()
    assert isinstance(parts, list)
    found = []
    for part in parts:
        assert isinstance(part, Message)
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        assert part.get_content_type() == "text/plain"
        found.append((str(part["Content-Range"]), payload))
    return found


def test_several_ranges_are_several_parts() -> None:
    made, content = multipart(STORED, (Piece(0, 0, 2), Piece(5, 5, 7)), CONTENT)
    assert made.status == 206
    assert "content-range" not in made.fields
    assert re.fullmatch(r"multipart/byteranges; boundary=[0-9a-f]+", made.fields.get("content-type") or "")
    assert _parts(made, b"".join(content)) == [("bytes 0-1/10", b"01"), ("bytes 5-6/10", b"56")]


def test_parts_of_an_unknown_type_say_none() -> None:
    _, content = multipart(head(), (Piece(0, 0, 2), Piece(5, 5, 7)), CONTENT)
    assert b"Content-Type" not in b"".join(content)


# -- properties

BOUND = st.none() | st.integers(0, 30)
RANGE = st.tuples(BOUND, BOUND).map(lambda pair: "-".join("" if n is None else str(n) for n in pair))


@given(st.binary(max_size=25), st.lists(RANGE, max_size=4))
def test_a_range_is_a_slice_of_the_whole(content: bytes, ranges: list[str]) -> None:
    verdict, pieces = evaluate(request(("Range", "bytes=" + ",".join(ranges))), head(), len(content), kept=True)
    assert (verdict is Answer.RANGE) is bool(pieces)
    wanted: set[int] = set()
    for one in ranges if verdict is Answer.RANGE else []:
        first, _, last = one.partition("-")
        if first:
            wanted |= set(range(int(first), min(int(last) + 1 if last else len(content), len(content))))
        else:
            wanted |= set(range(max(0, len(content) - int(last)), len(content)))
    assert {position for piece in pieces for position in range(piece.begin, piece.end)} == wanted


@given(st.binary(min_size=1, max_size=25), st.data())
def test_a_part_answers_as_the_whole_would(content: bytes, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(first + 1, len(content)))
    asked = request(("Range", "bytes=" + data.draw(RANGE)))
    piece = from_part(asked, head(), Part(first, len(content), end == len(content)), end - first)
    if piece is not None:
        verdict, (whole,) = evaluate(asked, head(), len(content), kept=True)
        assert verdict is Answer.RANGE
        assert content[first:end][piece.begin : piece.end] == content[whole.begin : whole.end]
        assert piece.first == whole.first
