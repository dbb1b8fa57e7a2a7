"""Pure: JSON as models and the vendor write it: halves of surrogate pairs, which strict parsers refuse, included."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

MOST_VALUES = 100_000
_HALVES = re.compile("[\\ud800-\\udfff]")


def is_crowded(content: bytes, most: int = MOST_VALUES) -> bool:
    """Whether it has more values than that, by what stands between and before them; in texts that counts as well.

    Reading millions of tiny ones takes seconds in which no other thread runs.
    """
    for octet in b",[{":
        at = -1
        while (at := content.find(octet, at + 1)) >= 0:
            if not most:
                return True
            most -= 1
    return False


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
