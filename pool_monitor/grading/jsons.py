"""Pure: JSON as models and the vendor write it: halves of surrogate pairs, which strict parsers refuse, included."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

MOST_VALUES = 100_000
_MARK = re.compile(rb'[",\[{]')
_STRUCTURE = re.compile(rb'[",:\[\]{}]')
_BRACKET = re.compile(rb'["\[\]{}]')
_BEYOND_A_DOUBLE = re.compile(rb"[0-9](?:[0-9.]{15}|[eE][+-]?[0-9]{3})")
"""A number that may say more than is read of it: fifteen digits can be told apart. Looked for in parts, between which
other threads run."""
_ESCAPED_COLONS = (b"\\u003a", b"\\u003A")
_IN_TEXT = re.compile(rb'(?:[^"\\]++|\\.){0,1000}+', re.DOTALL)
"""A part of a text: while one is looked for no other thread runs."""
_PART_BYTES = 1024 * 1024
_SEARCHED_BYTES = 128 * 1024
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
    end = content.find(b'"', at)
    if content.find(b"\\", at, end) < 0 <= end:
        return end + 1
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
            return json.loads(content.decode("utf-8-sig", "surrogatepass"))
        except RecursionError:
            raise fault from None


def decoded(content: bytes) -> dict[str, Any] | None:
    """The JSON object that this is; None where it is none."""
    try:
        document = loaded(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def canonical(document: Mapping[str, Any], content: bytes) -> bytes:
    """The same for equal documents, whatever their white space and the order of their members. Members of members are
    told apart by their order: a schema's is that of the answer.

    content -- that the document was read of; it stands for one that says more than was read, as numbers beyond a double
    and members that are there twice do, or is nested deeper than can be written.
    """
    try:
        written = orjson.dumps(dict(sorted(document.items())))
    except TypeError:
        return content
    return written if _says_no_more(content, written) else content


def _says_no_more(content: bytes, written: bytes) -> bool:
    if _has_long_number(content) and _has_long_number(_beside_texts(content)):
        return False
    if any(escaped in content for escaped in _ESCAPED_COLONS):
        content, written = _beside_texts(content), _beside_texts(written)
    # the colons in texts are the same, and each member has one
    return content.count(b":") == written.count(b":")


def _has_long_number(content: bytes) -> bool:
    parts = range(0, len(content), _SEARCHED_BYTES)
    return any(_BEYOND_A_DOUBLE.search(content, max(0, at - 16), at + _SEARCHED_BYTES) for at in parts)


def _beside_texts(content: bytes) -> bytes:
    parts, at = [], 0
    while (begin := content.find(b'"', at)) >= 0:
        parts.append(content[at:begin])
        at = _behind_text(content, begin + 1)
    return b"".join((*parts, content[at:]))


Span = tuple[int, int]


def parts_of(content: bytes, at: int = 0) -> list[Span]:
    """Where what an array or an object has stands there: values, or keys and values in turn. at -- where it begins."""
    parts: list[Span] = []
    depth = begin = 0
    while (found := (_STRUCTURE if depth == 1 else _BRACKET).search(content, at)) is not None:
        octet, at = found[0], found.end()
        if octet == b'"':
            at = _behind_text(content, at)
        elif octet in b"{[":
            depth += 1
            begin = at if depth == 1 else begin
        elif depth == 1:
            parts.append((begin, found.start()))
            begin = at
            if octet in b"]}":
                break
        elif octet in b"]}":
            depth -= 1
    return parts if len(parts) > 1 or any(content[begin:end].strip() for begin, end in parts) else []


def _members_of(content: bytes, at: int) -> list[tuple[str, Span, Span]]:
    parts = parts_of(content, at)
    return [(loaded(content[slice(*key)]), key, value) for key, value in zip(parts[::2], parts[1::2], strict=True)]


def member_of(content: bytes, name: str) -> bytes:
    """The value of an object's member as it stands there, of twins the last one's."""
    found = {given: value for given, _, value in _members_of(content, 0)}
    return content[slice(*found[name])]


def rewritten(content: bytes, before: object, after: object) -> bytes:
    """`after` as JSON: what it has of `before` itself, which was read of `content`, stays as it stands there."""
    return b"".join(_rewritten(memoryview(content), content, (0, len(content)), before, after))


def _rewritten(
    view: memoryview, content: bytes, span: Span, before: object, after: object
) -> Iterator[bytes | memoryview]:
    if after is before:
        yield view[slice(*span)]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        between = b"["
        for part, one, other in zip(parts_of(content, span[0]), before, after, strict=True):
            yield between
            yield from _rewritten(view, content, part, one, other)
            between = b","
        yield b"]" if before else b"[]"
    elif isinstance(before, dict) and isinstance(after, dict):
        between = b"{"
        members = _members_of(content, span[0])
        last = {name: value for name, _, value in members}
        for name, key, value in members:
            # of twins some read the first: where one is changed, only that is left
            if name in after and (after[name] is before[name] or value is last[name]):
                yield from (between, view[slice(*key)], b":")
                yield from _rewritten(view, content, value, before[name], after[name])
                between = b","
        for name in after:
            if name not in before:
                yield from (between, encoded(name), b":", encoded(after[name]))
                between = b","
        yield b"}" if between == b"," else b"{}"
    else:
        yield encoded(after)


def on_one_line(content: bytes) -> tuple[Any, bytes]:
    """The document that this is, and it as it stands there, if that is JSON to the letter. Raises ValueError."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            document = json.loads(content.decode(), parse_constant=refuse)
        except ValueError:
            document = loaded(content)
            return document, encoded(document)
    return document, without_line_ends(content)


def without_line_ends(content: bytes) -> bytes:
    """JSON, whose texts have none, on one line."""
    return content.replace(b"\r", b" ").replace(b"\n", b" ")


def refuse(constant: str) -> Any:
    """For `parse_constant`."""
    raise ValueError(f"{constant} is not JSON")


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
