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


def test_packed_fields_say_the_same() -> None:
    fields = Fields([("Accept", "a: b"), ("X", ""), ("accept", "caf\xe9")])
    packed = fields.packed()
    assert packed.octets == packed.wire() == fields.wire() == b"Accept: a: b\r\nX: \r\naccept: caf\xe9\r\n"
    assert fields.octets is None
    assert packed == fields
    assert packed.lines == fields.lines
    assert packed.packed() is packed
    assert packed.get("accept") == fields.get("accept") == "a: b, caf\xe9"
    assert packed.adding(("Y", "1")) == fields.adding(("Y", "1"))


@pytest.mark.parametrize("line", [("A", "b\r\nC: d"), ("A", "\n"), ("A: B", "c"), ("A\n", "b")])
def test_what_would_read_otherwise_is_not_packed(line: tuple[str, str]) -> None:
    fields = Fields([line])
    assert fields.packed() is fields


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5))))
def test_packed_or_not_the_lines_stay(lines: list[tuple[str, str]]) -> None:
    lines = [(name.encode("latin-1", "replace").decode("latin-1"), value[:0]) for name, value in lines]
    fields = Fields(lines)
    assert fields.packed().lines == fields.lines
