"""JSON as models and the vendor write it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading import jsons
from pool_monitor.grading.jsons import MOST_VALUES, holds, is_crowded, weight_of

TEXTS = st.text(st.sampled_from(',[{"\\\n:é'), max_size=9)
VALUES = st.recursive(
    st.none() | st.integers(0, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def marks_in(document: object) -> int:
    """Brackets before values, and commas between them."""
    if not isinstance(document, list | dict):
        return 0
    return max(1, len(document)) + sum(map(marks_in, document.values() if isinstance(document, dict) else document))


@given(VALUES, st.integers(0, 30))
def test_no_document_of_more_values_is_read(document: object, most: int) -> None:
    assert is_crowded(orjson.dumps(document), most) is (marks_in(document) > most)


@pytest.mark.parametrize("text", [b"a,", b"[{", b'\\",', b"\\\\,"])
@pytest.mark.parametrize("end", [b'"]', b""])
def test_what_stands_in_a_text_is_no_value(text: bytes, end: bytes) -> None:
    """Nor in one without an end, which is looked through once, though each quote in it could begin another."""
    assert not is_crowded(b'["' + text * 2 * MOST_VALUES + end)


@pytest.mark.parametrize("one", [b"[],", b"1,", b'{"a":1},', b"[" * 900 + b"]" * 900 + b",", b'"",', b'","' * 3])
def test_millions_of_tiny_values_are_a_crowd(one: bytes) -> None:
    assert is_crowded(b"[" + one * MOST_VALUES + b"1]")


def test_a_large_image_is_none() -> None:
    assert not is_crowded(b'{"messages":["' + b"A" * 5_000_000 + b'"]}')


@given(st.binary(max_size=20), st.binary(min_size=1, max_size=5))
def test_a_text_is_found_though_it_stands_in_two_parts(content: bytes, text: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsons, "_PART_BYTES", 3)
        assert holds(content, text) is (text in content)


@given(VALUES)
def test_a_document_weighs_no_less_than_what_it_says(document: object) -> None:
    assert weight_of({"a": [document]}) >= len(orjson.dumps(document))
