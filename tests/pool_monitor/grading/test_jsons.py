"""JSON as models and the vendor write it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading.jsons import MOST_VALUES, is_crowded

VALUES = st.recursive(
    st.none() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=30,
)


def values_in(document: object) -> int:
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return 1 + sum(map(values_in, inner))


@given(VALUES, st.integers(0, 30))
def test_no_document_of_more_values_is_read(document: object, most: int) -> None:
    content = orjson.dumps(document)
    assert is_crowded(content, most) or values_in(document) <= most + 1
    assert is_crowded(content, most) is (sum(content.count(octet) for octet in b",[{") > most)


@pytest.mark.parametrize("one", [b"[],", b"1,", b'{"a":1},', b"[" * 900 + b"]" * 900 + b","])
def test_millions_of_tiny_values_are_a_crowd(one: bytes) -> None:
    assert is_crowded(b"[" + one * MOST_VALUES + b"1]")


def test_a_large_image_is_none() -> None:
    assert not is_crowded(b'{"messages":["' + b"A" * 5_000_000 + b'"]}')
