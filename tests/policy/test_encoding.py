"""Which content coding, whether, and what that does to the head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.decisions import NotCoded
from proxy.policy.encoding import (
    CODINGS,
    MIN_LENGTH,
    as_part,
    coded,
    compressible,
    may_be_coded,
    negotiate,
    plan,
    uncoded,
    varies,
)
from proxy.policy.messages import Fields, RequestHead, ResponseHead

JSON = ("Content-Type", "application/json; charset=utf-8")


def request(accept_encoding: str | None = "gzip", method: str = "GET") -> RequestHead:
    return RequestHead(
        method, "/", Fields([("Accept-Encoding", accept_encoding)] if accept_encoding is not None else [])
    )


def response(*lines: tuple[str, str], status: int = 200) -> ResponseHead:
    return ResponseHead(status, "OK", Fields(lines))


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, br", "br"),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, zstd", "zstd"),
        ("gzip;q=1.0, br;q=0.9", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.000, br;q=0", None),
        ("*", "br"),
        ("*;q=0", None),
        ("br;q=0, *", "zstd"),
        ("identity", None),
        ("identity, gzip", "gzip"),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0", None),
        ("deflate, compress", None),
        ("gzip;q=nonsense", None),
        ("gzip;q=2", None),
        (";;,,gzip", "gzip"),
    ],
)
def test_negotiation(accept_encoding: str | None, expected: str | None) -> None:
    assert negotiate(accept_encoding) == expected


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_negotiation_never_raises(accept_encoding: str) -> None:
    assert negotiate(accept_encoding) in {None, *CODINGS}


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON ; charset=utf-8", True),
        ("text/html", True),
        ("application/problem+json", True),
        ("image/svg+xml", True),
        ("application/wasm", True),
        ("text/event-stream", False),
        ("text/event-stream; charset=utf-8", False),
        ("image/png", False),
        ("application/zip", False),
        ("application/octet-stream", False),
        ("video/mp4", False),
        ("", False),
        (None, False),
    ],
)
def test_compressible_types(content_type: str | None, expected: bool) -> None:
    assert compressible(content_type) is expected


@pytest.mark.parametrize(
    ("head", "length", "expected"),
    [
        (response(JSON), MIN_LENGTH, "gzip"),
        (response(JSON), None, "gzip"),
        (response(JSON), MIN_LENGTH - 1, NotCoded.TOO_SMALL),
        (response(JSON, status=404), 5000, "gzip"),
        (response(JSON, status=204), None, NotCoded.NO_CONTENT),
        (response(JSON, status=304), None, NotCoded.NO_CONTENT),
        (response(JSON, status=101), None, NotCoded.NO_CONTENT),
        (response(JSON, status=206), 5000, NotCoded.RANGE),
        (response(JSON, ("Content-Encoding", "br")), 5000, NotCoded.ALREADY_CODED),
        (response(JSON, ("Content-Encoding", "identity")), 5000, NotCoded.ALREADY_CODED),
        (response(JSON, ("Content-Range", "bytes 0-1/2")), 5000, NotCoded.ALREADY_CODED),
        (response(JSON, ("Content-Digest", "x")), 5000, NotCoded.ALREADY_CODED),
        (response(JSON, ("Cache-Control", "max-age=1, No-Transform")), 5000, NotCoded.NO_TRANSFORM),
        (response(("Content-Type", "image/png")), 5000, NotCoded.NOT_COMPRESSIBLE),
        (response(), 5000, NotCoded.NOT_COMPRESSIBLE),
    ],
)
def test_plan(head: ResponseHead, length: int | None, expected: str | NotCoded) -> None:
    assert plan(request(), head, length, on=True) == expected
    assert may_be_coded(request(), head, length, on=True) is (expected == "gzip")


def test_plan_without_wish_or_leave() -> None:
    assert plan(request(None), response(JSON), 5000, on=True) is NotCoded.NOT_ACCEPTED
    assert plan(request(), response(JSON), 5000, on=False) is NotCoded.OFF


@pytest.mark.parametrize("reason", NotCoded)
def test_only_what_could_have_been_coded_varies(reason: NotCoded) -> None:
    assert varies(reason) is (reason is NotCoded.NOT_ACCEPTED)
    assert varies("gzip")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([("ETag", '"a"')], [("ETag", 'W/"a"'), ("Content-Encoding", "br"), ("Vary", "Accept-Encoding")]),
        ([("ETag", 'W/"a"')], [("ETag", 'W/"a"'), ("Content-Encoding", "br"), ("Vary", "Accept-Encoding")]),
        ([("ETag", "broken")], [("ETag", "broken"), ("Content-Encoding", "br"), ("Vary", "Accept-Encoding")]),
        (
            [("Content-Length", "9"), ("Accept-Ranges", "bytes"), ("Vary", "Origin")],
            [("Vary", "Origin, Accept-Encoding"), ("Content-Encoding", "br")],
        ),
        ([("Vary", "accept-encoding")], [("Vary", "accept-encoding"), ("Content-Encoding", "br")]),
        ([("Vary", "*")], [("Vary", "*"), ("Content-Encoding", "br")]),
    ],
)
def test_the_head_of_coded_content(before: list[tuple[str, str]], after: list[tuple[str, str]]) -> None:
    assert coded(response(*before), "br").fields == Fields(after)


def test_the_head_of_what_others_get_coded() -> None:
    assert uncoded(response(("ETag", '"a"'))).fields == Fields([("ETag", '"a"'), ("Vary", "Accept-Encoding")])


@pytest.mark.parametrize(
    ("head", "complete", "on", "expected"),
    [
        (response(JSON), 5000, True, "Accept-Encoding"),
        (response(JSON, ("Vary", "Origin")), 5000, True, "Origin, Accept-Encoding"),
        (response(JSON, ("Content-Range", "bytes 0-1/5000"), status=206), 5000, True, "Accept-Encoding"),
        (response(JSON, ("Content-Range", "bytes 0-1/*"), status=206), None, True, "Accept-Encoding"),
        (response(JSON, ("Content-Encoding", "gzip")), 5000, True, None),
        (response(JSON), 500, True, None),
        (response(JSON), 5000, False, None),
    ],
)
@pytest.mark.parametrize("accepted", ["gzip", None])
def test_a_part_varies_as_the_whole_does(
    head: ResponseHead, complete: int | None, on: bool, expected: str | None, accepted: str | None
) -> None:
    part = as_part(request(accepted), head, complete, on)
    assert part.fields.get("vary") == expected
    assert (part.status, part.fields.without({"vary"})) == (head.status, head.fields.without({"vary"}))
