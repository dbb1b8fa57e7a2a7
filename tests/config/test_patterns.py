"""Path patterns: what they match, which are refused, and that the first of many is found."""

from __future__ import annotations

import contextlib
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.patterns import PathIndex, Pattern, PatternError

SEGMENT = st.text(st.sampled_from("ab1.-~+("), min_size=1, max_size=3)
PATTERN = st.builds(
    lambda parts, star: "/" + "/".join(parts) + star,
    st.lists(st.one_of(SEGMENT, st.sampled_from(["{x}", "{y}", ""])), max_size=3, unique=True),
    st.sampled_from(["", "/*"]),
)
PATH = st.lists(st.one_of(SEGMENT, st.just("")), max_size=4).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/", "/", True),
        ("/", "/a", False),
        ("/a/b", "/a/b", True),
        ("/a/b", "/a/b/", False),
        ("/a/b", "/a/B", False),
        ("/a/b", "/a//b", False),
        ("/a/b", "/a/%62", False),
        ("/a.b", "/axb", False),
        ("/a+(b)", "/a+(b)", True),
        ("/*", "/", True),
        ("/*", "/a/b/c", True),
        ("/*", "*", False),
        ("/a/*", "/a/", True),
        ("/a/*", "/a", False),
        ("/a/*", "/a/b/c", True),
        ("/a*", "/a", True),
        ("/a*", "/abc/d", True),
        ("/a*", "/b", False),
        ("/u/{id}", "/u/7", True),
        ("/u/{id}", "/u/%2F", True),
        ("/u/{id}", "/u/", False),
        ("/u/{id}", "/u/7/x", False),
        ("/u/{id}", "/u/7/", False),
        ("/u/{id}/x", "/u/7/x", True),
        ("/u/{id}/x", "/u//x", False),
        ("/u/{id}/{page}", "/u/7/8", True),
        ("/u/{id}/*", "/u/7/x/y", True),
        ("/u/{id}/*", "/u/7", False),
        ("/{all}", "/", False),
    ],
)
def test_what_matches(pattern: str, path: str, matches: bool) -> None:
    made = Pattern(pattern)
    assert made.matches(path) is matches
    assert (PathIndex([(made, "found")]).first(path) == "found") is matches


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "does not begin with a slash"),
        ("api", "does not begin with a slash"),
        ("*", "does not begin with a slash"),
        ("http://a/b", "does not begin with a slash; a pattern is for the path alone, without scheme and host"),
        ("/a?b=1", "it has a query"),
        ("/a#b", "'#' cannot stand in a path"),
        ("/a b", "' ' cannot stand in a path"),
        ("/ä", "percent-encoded"),
        ("/a\n", "cannot stand in a path"),
        ("/50%", "two hexadecimal digits"),
        ("/%zz", "two hexadecimal digits"),
        ("/a*b", "its last character"),
        ("/a/**", "its last character"),
        ("/*/a", "its last character"),
        ("/u{id}", "a whole segment"),
        ("/{id}.json", "a whole segment"),
        ("/{a}{b}", "a whole segment"),
        ("/{id", "a whole segment"),
        ("/id}", "a whole segment"),
        ("/{id}*", "a slash must stand before the star"),
        ("/{}", "letters, digits and underscores"),
        ("/{a-b}", "letters, digits and underscores"),
        ("/{a}/{a}", "twice"),
    ],
)
def test_what_is_malformed_and_why(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=re.escape(reason)):
        Pattern(pattern)


@given(st.text())
def test_any_text_is_a_pattern_or_a_pattern_error(text: str) -> None:
    with contextlib.suppress(PatternError):
        made = Pattern(text)
        assert made.text == text
        assert not made.exact or made.matches(text)


@pytest.mark.parametrize(("one", "other", "same"), [("/{a}/b", "/{c}/b", True), ("/{a}", "/a", False)])
def test_shapes_tell_patterns_for_the_same_paths(one: str, other: str, same: bool) -> None:
    assert (Pattern(one).shape == Pattern(other).shape) is same


@given(st.lists(PATTERN, max_size=8), PATH)
def test_the_index_finds_what_asking_each_in_turn_finds(patterns: list[str], path: str) -> None:
    made = [Pattern(text) for text in patterns]
    expected = [number for number, pattern in enumerate(made) if pattern.matches(path)]
    index = PathIndex(zip(made, range(len(made)), strict=True))
    assert index.all(path) == expected
    assert index.first(path) == (expected[0] if expected else None)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("/*", "/a/{id}/*"),
        ("/a/*", "/a/b*"),
        ("/a/{id}", "/a/b"),
        ("/{x}/b*", "/a/bc/*"),
        ("/{a}/{b}", "/{c}/d"),
        ("/a/{id}/*", "/a/b/"),
    ],
)
def test_a_wide_pattern_covers_a_narrow_one_and_not_the_other_way_round(wide: str, narrow: str) -> None:
    assert Pattern(wide).covers(Pattern(narrow))
    assert not Pattern(narrow).covers(Pattern(wide))


@pytest.mark.parametrize(("one", "other"), [("/a/", "/a/*"), ("/{x}/b", "/a/{x}"), ("/a/{x}/*", "/a/*"), ("/a", "/b")])
def test_neither_covers_the_other(one: str, other: str) -> None:
    assert not Pattern(one).covers(Pattern(other))


@given(PATTERN, PATTERN, PATH)
def test_what_is_covered_falls_under_both(one: str, other: str, path: str) -> None:
    wide, narrow = Pattern(one), Pattern(other)
    if wide.covers(narrow):
        assert wide.matches(path) or not narrow.matches(path)
    else:
        # no segment of a pattern here is called so
        least = narrow.shape.removesuffix("*").replace("{}", "z")
        paths = [least, f"{least}z/z"] if narrow.shape.endswith("*") else [least]
        assert any(narrow.matches(one) and not wide.matches(one) for one in paths)


def test_an_index_can_be_sent_to_a_worker() -> None:
    index = PathIndex([(Pattern("/a/{b}/*"), 1), (Pattern("/a"), 2)])
    copy = pickle.loads(pickle.dumps(index))  # noqa: S301 - our own
    assert (copy.first("/a/x/y"), copy.first("/a"), copy.first("/b")) == (1, 2, None)
