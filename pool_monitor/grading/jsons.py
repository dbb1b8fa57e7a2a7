"""Pure: JSON as models and the vendor write it: halves of surrogate pairs, which strict parsers refuse, included."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

MOST_VALUES = 100_000
_MARK = re.compile(rb'[",\[{]')
_IN_TEXT = re.compile(rb'(?:[^"\\]++|\\.){0,1000}+', re.DOTALL)
"""A part of a text: while one is looked for no other thread runs."""
_PART_BYTES = 1024 * 1024
_HALVES = re.compile("[\\ud800-\\udfff]")


def is_crowded(content: bytes, most: int = MOST_VALUES) -> bool:
    """Whether it has more values than that, by what stands between and before them.

    Reading millions of tiny ones takes seconds in which no other thread runs.
    """
    left = most
    for octet in b",[{":
        at = -1
        while left >= 0 and (at := content.find(octet, at + 1)) >= 0:
            left -= 1
    return left < 0 and _is_crowded_beside_texts(content, most)


def _is_crowded_beside_texts(content: bytes, most: int) -> bool:
    # JSON has two texts at most for each of what is counted, and one that is alone
    marks, texts, at = most, 2 * most + 1, 0
    while marks >= 0 and texts >= 0:
        if (found := _MARK.search(content, at)) is None:
            return False
        at = found.end()
        if found[0] == b'"':
            texts -= 1
            at = _behind_text(content, at)
        else:
            marks -= 1
    return True


def _behind_text(content: bytes, at: int) -> int:
    while (part := _IN_TEXT.match(content, at)) is not None and part.end() > at:
        at = part.end()
    return at + 1


def holds(content: bytes, text: bytes) -> bool:
    """Whether that text is in it; looked for in parts, between which other threads run."""
    parts = range(0, len(content), _PART_BYTES)
    return any(content.find(text, at, at + _PART_BYTES + len(text) - 1) >= 0 for at in parts)


def weight_of(document: object) -> int:
    """About how many bytes of memory a document takes, however long its texts are; they are not written for it."""
    left, found = [document], 0
    while left:
        one = left.pop()
        found += one.__sizeof__()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found


def loaded(content: bytes) -> Any:
    """What this says. Raises ValueError."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as fault:
        try:
            return json.loads(content)
        except RecursionError:
            raise fault from None


def decoded(content: bytes) -> dict[str, Any] | None:
    """The JSON object that this is; None where it is none."""
    try:
        document = loaded(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def canonical(document: Mapping[str, Any]) -> bytes:
    """The same for equal documents, whatever their white space and the order of their members. Members of members are
    told apart by their order: a schema's is that of the answer. Raises TypeError where it is nested too deep."""
    return orjson.dumps(dict(sorted(document.items())))


def encoded(document: object) -> bytes:
    """A document as JSON, on one line."""
    try:
        return orjson.dumps(document)
    except (TypeError, orjson.JSONEncodeError):
        return json.dumps(document, separators=(",", ":")).encode()


def printed(value: object, *, indent: bool = False) -> str:
    """As models print it, over several lines or on one; only what no UTF-8 can hold stands escaped."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None).decode()
    except (TypeError, orjson.JSONEncodeError):
        text = json.dumps(value, ensure_ascii=False, indent=2 if indent else None)
        return _HALVES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
