"""JSON as models and the vendor write it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading import jsons
from pool_monitor.grading.jsons import (
    MOST_VALUES,
    canonical,
    holds,
    is_crowded,
    member_of,
    parts_of,
    rewritten,
    weight_of,
)

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


# -- written again


@given(VALUES, VALUES)
def test_whatever_is_made_of_a_document_is_what_is_written(before: object, after: object) -> None:
    content = orjson.dumps(before, option=orjson.OPT_INDENT_2)
    assert orjson.loads(rewritten(content, before, after)) == after
    assert rewritten(content, before, before) == content


def pairs(content: bytes) -> list[tuple[bytes, bytes]]:
    parts = [content[slice(*span)] for span in parts_of(content)]
    return [*zip(parts[::2], parts[1::2], strict=True)]


@given(st.dictionaries(TEXTS, VALUES, max_size=4), TEXTS, VALUES)
def test_what_is_not_changed_stays_as_it_stands(before: dict[str, object], name: str, value: object) -> None:
    """Each member, in its place."""
    content = orjson.dumps(before, option=orjson.OPT_INDENT_2)
    changed = rewritten(content, before, before | {name: value})
    kept = [(key, one) for key, one in pairs(content) if orjson.loads(key) != name]
    assert [(key, one) for key, one in pairs(changed) if orjson.loads(key) != name] == kept
    assert orjson.loads(member_of(changed, name)) == value


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b" [ ] ", []),
        (b"{}", []),
        (b'[1, [2,3] ,{"a":[4]}]', [b"1", b" [2,3] ", b'{"a":[4]}']),
        (b'{ "a,\\"]" : "\\\\" , "b" :-1e5}\n', [b' "a,\\"]" ', b' "\\\\" ', b' "b" ', b"-1e5"]),
    ],
)
def test_parts_are_as_they_stand(content: bytes, parts: list[bytes]) -> None:
    assert [content[slice(*span)] for span in parts_of(content)] == parts


def test_of_twins_the_last_one_counts_and_the_others_stay_unless_it_is_changed() -> None:
    content = b'{"a":1, "b":[2] ,"a":3,"b":4}'
    before = orjson.loads(content)
    assert member_of(content, "a") == b"3"
    assert rewritten(content, before, before | {"c": 5}) == content[:-1] + b',"c":5}'
    assert rewritten(content, before, before | {"a": 5}) == b'{ "b":[2] ,"a":5,"b":4}'
    assert rewritten(content, before, {"b": before["b"], "c": 6}) == b'{ "b":[2] ,"b":4,"c":6}'


@pytest.mark.parametrize("exact", [b'{"b":1.10,"a":"1.23456789012345678901"}', b'{"a":123456789012345,"b":"e123"}'])
def test_the_order_of_members_does_not_matter(exact: bytes) -> None:
    document = orjson.loads(exact)
    assert canonical(document, exact) == canonical(dict(reversed(document.items())), orjson.dumps(document))


@pytest.mark.parametrize(
    "odd",
    [
        b"18446744073709551616",
        b"0.1234567890123456",
        b"9007199254740993e0",
        b"1e400",
        b"1e-400",
        b'{"a":1,"a":1}',
        b"[" * 999 + b"]" * 999,
    ],
)
def test_what_says_more_than_is_read_is_told_apart_as_it_stands(odd: bytes) -> None:
    content = b'{"b":' + odd + b',"a":1}'
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        document = {"b": 0.0, "a": 1}
    assert canonical(document, content) == content


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4), st.sampled_from([b":", b"\\u003a", b"\\u003A"]))
def test_no_colon_in_a_text_hides_a_twin(members: list[tuple[str, str]], colon: bytes) -> None:
    """However it is written."""
    texts = [[orjson.dumps(text).replace(b":", colon) for text in member] for member in members]
    content = b"{" + b", ".join(map(b":".join, texts)) + b"}"
    document = orjson.loads(content)
    written = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    assert canonical(document, content) == (written if len(document) == len(members) else content)
