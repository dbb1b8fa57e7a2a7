"""Prepared answers: octets with two numbers left open."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.freshness import current_age
from proxy.policy.messages import Fields, Freshness, ResponseHead, StoredResponse
from proxy.policy.prepared import Prepared, Template, chain_of, chained, status_line, template, wire_head

OURS = "siding; hit; ttl="
NOTHING = Template(b"", b"", b"", b"")


def head(*lines: tuple[str, str], status: int = 200, reason: str = "OK") -> ResponseHead:
    return ResponseHead(status, reason, Fields(lines))


def filled(made: Template | None, age: int, left: int) -> bytes:
    assert made is not None
    return b"%b%bAge: %d%b%d%b" % (made.status, made.fields, age, made.between, left, made.end)


@pytest.mark.parametrize("status", [200, 204, 304, 404])
@pytest.mark.parametrize("reason", ["", "OK", "100% %d"])
def test_a_template_filled_in_is_the_head_it_was_made_of(status: int, reason: str) -> None:
    told = head(
        ("X%d", "100% %s %(a)s"),
        ("Age", "12"),
        ("Cache-Status", f"{OURS}48"),
        ("X", "\xe9"),
        status=status,
        reason=reason,
    )
    made = template(told, 5, OURS)
    assert filled(made, 12, 48) == wire_head(told, 5) + b"\r\n"
    assert b"\r\nAge: 13\r\n" in filled(made, 13, 7)
    assert b"ttl=7\r\n" in filled(made, 13, 7)


def test_other_caches_come_before_ours() -> None:
    told = head(("Age", "1"), ("Cache-Status", f"edge; hit; ttl=9 100%, {OURS}9, {OURS}-2"))
    assert filled(template(told, 0, OURS), 1, -2) == wire_head(told, 0) + b"\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [("Age", "1")],
        [("Cache-Status", f"{OURS}1")],
        [("Cache-Status", f"{OURS}1"), ("Age", "1")],
        [("Age", "1"), ("Age", "1"), ("Cache-Status", f"{OURS}1")],
        [("Age", "1"), ("Cache-Status", f"{OURS}1"), ("age", "1")],
        [("Age", "1"), ("Cache-Status", f"{OURS}1"), ("Cache-Status", f"{OURS}1")],
        [("Age", "1"), ("Cache-Status", "siding; fwd=stale")],
        [("Age", "1"), ("Cache-Status", f"{OURS}1; detail=x")],
        [("Age", "1"), ("Cache-Status", f"{OURS}x")],
    ],
)
def test_no_template(lines: list[tuple[str, str]]) -> None:
    assert template(head(*lines), 0, OURS) is None


def test_a_head_on_the_wire() -> None:
    assert status_line(head(status=404, reason="No\xe9")) == b"HTTP/1.1 404 No\xe9\r\n"
    assert wire_head(head(("A", "1")), None) == b"HTTP/1.1 200 OK\r\nA: 1\r\n"
    assert wire_head(head(("A", "1")), 0) == b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 0\r\n"
    assert wire_head(head(status=304, reason=""), 7) == b"HTTP/1.1 304 \r\n"


SECONDS = st.floats(0, 1e6)


@given(SECONDS, SECONDS, SECONDS, st.floats(-1e6, 1e6))
def test_the_numbers_are_those_of_the_policy(initial: float, lifetime: float, at: float, elapsed: float) -> None:
    life = Freshness(initial_age=initial, lifetime=lifetime)
    found = form("", life, at).answer(at + elapsed)
    left = lifetime - current_age(life, at, at + elapsed)
    if found is None:
        assert left <= 0
    else:
        assert left > 0
        assert found == b"Age: %d%d" % (int(current_age(life, at, at + elapsed)), left // 1)


@dataclass
class Told:
    status: int = 200


def form(shape: str, life: Freshness | None = None, at: float = 0.0) -> Prepared:
    stored = StoredResponse("k", "u", (), head(), b"", life or Freshness(), at, at, 0)
    return Prepared(shape, NOTHING, b"", Told(), 0, stored)


def test_a_chain() -> None:
    forms = [form("a"), form("b"), form("c")]
    assert chain_of(chained(forms)) == forms
    assert chain_of(chained(forms[1:])) == forms[1:]
    assert chain_of(chained([])) == []
    stored = StoredResponse("k", "u", (), head(), b"", Freshness(), 0, 0, 0)
    assert chain_of(stored.prepared) == []
