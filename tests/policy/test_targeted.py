"""Targeted fields: which one speaks, and what it says (RFC 9213)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.messages import Fields
from proxy.policy.targeted import governing

TARGETS = ("siding-cache-control", "cdn-cache-control")
CDN = "CDN-Cache-Control"


def said(*lines: tuple[str, str], targets: tuple[str, ...] = TARGETS) -> str | None:
    return governing(Fields(lines), targets).get("cache-control")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("max-age=60", "max-age=60"),
        ("max-age=60;x=1, foo", "max-age=60, foo"),
        ("max-age=1, max-age=2", "max-age=2"),
        ("no-store, private", "no-store, private"),
        ("no-store=?0, max-age=1", "max-age=1"),
        ("no-store=1", "no-store"),
        ('no-cache="a, b"', 'no-cache="a, b"'),
        ('x="a\\"b\\\\c"', 'x="a\\"b\\\\c"'),
        ('max-age="60"', "max-age=invalid"),
        ("max-age=6.0", "max-age=invalid"),
        ("max-age", "max-age=invalid"),
        ("max-age=-1", "max-age=invalid"),
        ("s-maxage=tok", "s-maxage=invalid"),
        ("stale-if-error=(1 2)", "stale-if-error=invalid"),
    ],
)
def test_directives(value: str, expected: str) -> None:
    assert said((CDN, value), ("Cache-Control", "s-maxage=1")) == expected


@pytest.mark.parametrize(
    "value", ["", " ", "max-age =60", "max-age= 60", "MaX-aGe=60", "max-age=1, &&&", "=", "a=\xff"]
)
def test_an_invalid_or_empty_field_is_as_if_absent(value: str) -> None:
    assert said((CDN, value), ("Cache-Control", "max-age=5")) == "max-age=5"
    assert said((CDN, value)) is None


def test_the_first_valid_one_of_the_list_speaks() -> None:
    lines = [(CDN, "max-age=1"), ("Siding-Cache-Control", "max-age=2"), ("Cache-Control", "max-age=3")]
    assert said(*lines) == "max-age=2"
    assert said(*lines, ("Siding-Cache-Control", "&")) == "max-age=1"
    assert said(*lines, targets=()) == "max-age=3"


def test_nothing_else_says_how_long() -> None:
    fields = governing(
        Fields([(CDN, "foo"), ("Cache-Control", "max-age=3"), ("Expires", "x"), ("Pragma", "y"), ("Date", "z")]),
        TARGETS,
    )
    assert fields == Fields([(CDN, "foo"), ("Date", "z"), ("Cache-Control", "foo")])


def test_fields_without_one_are_left_alone() -> None:
    fields = Fields([("Cache-Control", "max-age=3")])
    assert governing(fields, TARGETS) is fields


@given(st.text(st.characters(max_codepoint=255)))
def test_no_text_makes_it_raise(value: str) -> None:
    governing(Fields([(CDN, value)]), TARGETS)
