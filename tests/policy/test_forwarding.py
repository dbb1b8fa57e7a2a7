"""What a hop takes away from a message and what it adds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.forwarding import (
    HOP_BY_HOP,
    MOST_FORWARDS,
    forwards_left,
    from_origin,
    loops,
    strip,
    to_origin,
    wants_websocket,
    without_named,
)
from proxy.policy.messages import Fields, RequestHead


def fields(*lines: tuple[str, str]) -> Fields:
    return Fields(lines)


def forwarded(*lines: tuple[str, str], version: tuple[int, int] = (1, 1), upgrade: bool = False) -> Fields:
    head = RequestHead("GET", "/", Fields(lines), "http", "app.example", version)
    return to_origin(head, peer="10.0.0.1", scheme="http", request_id="id", traceparent="trace", upgrade=upgrade)


# -- what is taken away


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_fields_of_one_hop(name: str) -> None:
    assert strip(fields(("A", "1"), (name.title(), "x"), ("B", "2"))) == fields(("A", "1"), ("B", "2"))


def test_framing_is_the_next_hops() -> None:
    assert strip(fields(("Content-Length", "3"), ("Transfer-Encoding", "chunked"))) == fields()


@pytest.mark.parametrize("connection", ["X-Mine", "x-mine", "close, X-Mine", ",, X-mine ,"])
def test_fields_that_connection_names(connection: str) -> None:
    assert strip(fields(("Connection", connection), ("X-Mine", "1"), ("X-Other", "2"))) == fields(("X-Other", "2"))


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "Authorization", "Cookie", "Cache-Control", "Content-Type", "Expires", "Set-Cookie", "Vary"),
        *("Age", "Date", "Pragma", "CDN-Cache-Control", "Siding-Cache-Control"),
    ],
)
def test_fields_that_connection_may_not_take_away(name: str) -> None:
    assert strip(fields(("Connection", name), (name, "x"))) == fields((name, "x"))


@pytest.mark.parametrize(
    ("connection", "kept"),
    [
        ("x-mine", ["Connection", "Upgrade", "Host", "TE"]),
        ("X-Mine, host, te, upgrade", ["Connection", "Upgrade", "Host", "TE"]),
        ("keep-alive", ["Connection", "X-Mine", "Upgrade", "Host", "TE"]),
    ],
)
def test_what_connection_names_is_gone_before_anything_is_decided(connection: str, kept: list[str]) -> None:
    lines = [("Connection", connection), ("X-Mine", "1"), ("Upgrade", "websocket"), ("Host", "a"), ("TE", "trailers")]
    assert [name for name, _ in without_named(Fields(lines))] == kept


@pytest.mark.parametrize(
    ("method", "version", "lines", "expected"),
    [
        ("GET", (1, 1), [("Connection", "Upgrade"), ("Upgrade", "websocket")], True),
        ("GET", (1, 1), [("Connection", "keep-alive, upgrade"), ("Upgrade", "WebSocket")], True),
        ("GET", (1, 1), [("Upgrade", "websocket")], False),
        ("GET", (1, 1), [("Connection", "upgrade"), ("Upgrade", "h2c")], False),
        ("GET", (1, 1), [("Connection", "upgrade")], False),
        ("GET", (1, 0), [("Connection", "upgrade"), ("Upgrade", "websocket")], False),
        ("DELETE", (1, 1), [("Connection", "upgrade"), ("Upgrade", "websocket")], False),
    ],
)
def test_who_wants_a_websocket(
    method: str, version: tuple[int, int], lines: list[tuple[str, str]], expected: bool
) -> None:
    assert wants_websocket(RequestHead(method, "/", Fields(lines), "http", "a", version)) is expected


def test_a_client_cannot_make_this_hop_drop_what_this_hop_adds() -> None:
    sent = forwarded(("Host", "a"), ("Connection", "X-Forwarded-For, Via"), ("X-Forwarded-For", "6.6.6.6"))
    assert sent.get("x-forwarded-for") == "10.0.0.1"
    assert sent.get("via") == "1.1 siding"


def test_untouched_without_any() -> None:
    plain = fields(("A", "1"), ("a", "2"))
    assert strip(plain) is plain


# -- what is added to a request


def test_a_request_is_forwarded_with_all_of_it() -> None:
    assert forwarded(("Host", "app.example"), ("Accept", "a")).lines == (
        ("Host", "app.example"),
        ("Accept", "a"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "app.example"),
        ("Via", "1.1 siding"),
        ("X-Request-Id", "id"),
        ("traceparent", "trace"),
    )


@pytest.mark.parametrize(
    ("name", "given_value", "expected"),
    [
        ("X-Forwarded-For", "1.2.3.4", "1.2.3.4, 10.0.0.1"),
        ("X-Forwarded-Proto", "https", "https"),
        ("X-Forwarded-Host", "edge.example", "edge.example"),
        ("X-Request-Id", "mine", "mine"),
        ("traceparent", "theirs", "theirs"),
        ("Via", "1.0 edge", "1.0 edge, 1.1 siding"),
    ],
)
def test_what_the_client_brought_stays(name: str, given_value: str, expected: str) -> None:
    assert forwarded(("Host", "a"), (name, given_value)).all(name.lower()) == (expected,)


def test_old_clients_without_host() -> None:
    sent = forwarded(version=(1, 0))
    assert sent.lines[0] == ("Host", "app.example")
    assert sent.get("via") == "1.0 siding"


def test_an_upgrade_is_offered_on() -> None:
    sent = forwarded(("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Host", "a"), upgrade=True)
    assert sent.get("connection") == "Upgrade"
    assert sent.get("upgrade") == "websocket"
    assert "upgrade" not in forwarded(("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Host", "a"))


# -- and to a response


def test_a_response_is_passed_on() -> None:
    received = fields(("Connection", "X-Hop"), ("X-Hop", "1"), ("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Via", "1 x"))
    assert from_origin(received) == fields(("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Via", "1 x, 1.1 siding"))
    assert from_origin(fields()) == fields(("Via", "1.1 siding"))


NAMES = st.sampled_from(["Connection", "TE", "Via", "Cookie", "X-A", "X-B", "Host", "Content-Length", "Upgrade"])
VALUES = st.sampled_from(["", "close", "x-a", "X-A, te", "keep-alive, x-b", "1"])


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_order_and_repetition_are_kept(lines: list[tuple[str, str]]) -> None:
    received = Fields(lines)
    kept = strip(received)
    remaining = iter(received.lines)
    assert all(line in remaining for line in kept.lines)
    assert not kept.names() & (HOP_BY_HOP | {"content-length"})
    assert strip(kept) == kept


@pytest.mark.parametrize(
    ("method", "value", "left", "goes_on"),
    [
        ("TRACE", "5", 5, "4"),
        ("OPTIONS", "1", 1, "0"),
        ("OPTIONS", "007", 7, "6"),
        ("OPTIONS", "0", 0, "0"),
        ("TRACE", "000", 0, "0"),
        ("TRACE", "9" * 5000, MOST_FORWARDS, str(MOST_FORWARDS - 1)),
        ("TRACE", "-1", None, "-1"),
        ("TRACE", "", None, ""),
        ("TRACE", "1, 2", None, "1, 2"),
        ("OPTIONS", "\u00b2", None, "\u00b2"),
        ("GET", "0", None, "0"),
        ("POST", "5", None, "5"),
        ("OPTIONS", None, None, None),
    ],
)
def test_max_forwards(method: str, value: str | None, left: int | None, goes_on: str | None) -> None:
    lines = [("Host", "a")] if value is None else [("max-Forwards", value), ("Host", "a")]
    head = RequestHead(method, "/", Fields(lines), "http", "a")
    assert forwards_left(head) == left
    fields = to_origin(head, peer="10.0.0.1", scheme="http", request_id="id", traceparent="trace", upgrade=False)
    assert fields.get("max-forwards") == goes_on
    assert value is None or fields.lines[0][0] == "max-Forwards"


# -- requests that go round


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, False), ("", False), ("cloudflare", False), ("siding-2", False), ("cloudflare, siding-1; a=b", True)],
)
def test_a_request_that_has_been_here(value: str | None, expected: bool) -> None:
    assert loops(fields() if value is None else fields(("Cdn-Loop", value)), "siding-1") is expected


def test_it_is_marked() -> None:
    head = RequestHead("GET", "/", fields(("CDN-Loop", "cloudflare")), "http", "app.example", (1, 1))
    sent = to_origin(
        head, peer="10.0.0.1", scheme="http", request_id="id", traceparent="trace", upgrade=False, mark="siding-1"
    )
    assert sent.all("cdn-loop") == ("cloudflare", "siding-1")
