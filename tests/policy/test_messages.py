"""Fields: looked up by lower-case name, kept in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.messages import Fields, RequestHead

FIELDS = Fields([("Accept", "a"), ("X", "1"), ("accept", "b")])


def test_look_up() -> None:
    assert FIELDS.all("accept") == ("a", "b")
    assert FIELDS.get("accept") == "a, b"
    assert FIELDS.get("x") == "1"
    assert FIELDS.get("none") is None
    assert FIELDS.names() == {"accept", "x"}
    assert "x" in FIELDS
    assert "X" not in FIELDS
    assert len(FIELDS) == 3


def test_changes_make_new_fields() -> None:
    assert FIELDS.without({"accept"}) == Fields([("X", "1")])
    assert FIELDS.adding(("Y", "2")).lines[-1] == ("Y", "2")
    assert FIELDS.replacing("ACCEPT", "c") == Fields([("Accept", "c"), ("X", "1")])
    assert FIELDS.replacing("Z", "3").lines == (*FIELDS.lines, ("Z", "3"))
    assert FIELDS.lines == (("Accept", "a"), ("X", "1"), ("accept", "b"))


def test_equal_fields_have_equal_hashes_and_show_no_value() -> None:
    assert hash(FIELDS) == hash(Fields(FIELDS.lines))
    assert repr(FIELDS) == "Fields(['Accept', 'X', 'accept'])"
    assert FIELDS.lines != FIELDS


@given(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5))))
def test_octets_come_out_as_they_went_in(lines: list[tuple[bytes, bytes]]) -> None:
    assert Fields.from_raw(lines).wire() == b"".join(b"%b: %b\r\n" % line for line in lines)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [("/a", "/a", None), ("/a?", "/a", ""), ("/a?b?c", "/a", "b?c"), ("*", "*", None)],
)
def test_targets(target: str, path: str, query: str | None) -> None:
    head = RequestHead("GET", target, Fields())
    assert (head.path, head.query) == (path, query)
