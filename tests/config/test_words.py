"""Values shown safely, and a guess at what was meant."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from config.words import LONGEST, counted, did_you_mean, masked, meant, quoted, shown

URL_TEXT = st.text(st.sampled_from("abz09/:?#@%."), max_size=20)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("http://a/b", "http://a/b"),
        ("plain", "plain"),
        ("http://user:secret@a:80/b", "http://***@a:80/b"),
        ("user:secret@a", "***@a"),
        ("http://a:b?c/d@e@host", "http://***@host"),
        ("redis://:se/cret@host/0", "redis://***@host/0"),
        ("http://a/b?token=secret", "http://a/b?***"),
        ("http://a#secret", "http://a#***"),
        ("http://u:p@a?q#f", "http://***@a?***"),
    ],
)
def test_what_may_be_secret_in_a_url_is_masked(text: str, safe: str) -> None:
    assert masked(text) == safe


@given(URL_TEXT, URL_TEXT, st.sampled_from(["", "http://", "redis://"]))
def test_neither_userinfo_nor_query_gets_through(before: str, after: str, scheme: str) -> None:
    assume(scheme or "://" not in after)
    safe = masked(f"{scheme}{before}SECRET{after}@host?SECRET")
    assert "SECRET" not in safe


def test_values_of_any_type_are_shown_masked() -> None:
    assert shown(["http://u:p@a"]) == "***@a']"
    assert shown(7) == "7"
    assert shown("two\nlines") == "'two\\nlines'"


def test_endless_values_are_cut() -> None:
    text = quoted("x" * 5000)
    assert len(text) < LONGEST + 30
    assert text.endswith("(5002 characters)")


@pytest.mark.parametrize(
    ("name", "hint"), [("prot", "; did you mean port?"), ("PORT", "; did you mean port?"), ("zzz", "")]
)
def test_did_you_mean(name: str, hint: str) -> None:
    assert did_you_mean(name, ["port", "host"]) == hint


def test_counted() -> None:
    assert [counted(1, "fault"), counted(2, "fault")] == ["1 fault", "2 faults"]


def test_where_no_known_name_is_near_all_are_named() -> None:
    assert meant("bypas", ["BYPASS", "ENABLE_ETAG"]) == "; did you mean BYPASS?"
    assert meant("CACHE", ["BYPASS", "ENABLE_ETAG"]) == "; allowed: BYPASS, ENABLE_ETAG"
    assert meant("CACHE", []) == "; allowed: none"
