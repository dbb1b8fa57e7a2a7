"""Pure: what is asked for at once, item by item, and which items ask for the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from config.words import counted, quoted
from pool_monitor.grading.calls import CHAT, CallersFault, UpstreamFault
from pool_monitor.grading.jsons import MOST_VALUES, canonical, is_crowded, member_of, parts_of

MOST_ID_CHARACTERS = 512
MOST_IN_ARRAY = 1_000_000
"""Values of all items that come as one document."""

Shares = Callable[[Mapping[str, Any]], bool]
"""Whether equal bodies of this content may have one answer."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an item is not asked. code, param -- as in OpenAI's errors."""

    code: str
    message: str
    param: str | None = None

    @property
    def is_of_line(self) -> bool:
        """Whether it is the line that is wrong, and not what is asked by it."""
        return self.param in {None, "custom_id", "method", "url", "body"}

    @property
    def document(self) -> dict[str, Any]:
        """As the vendor's SDKs read it."""
        error = {"message": self.message, "type": "invalid_request_error", "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Item:
    """One of many. index -- its place, from 0. custom_id -- the caller's own name for it."""

    index: int
    custom_id: str | None = None
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """An item. digest -- the same for equal content, in its canonical form. content -- what is asked, as it came."""

    item: Item
    digest: bytes
    content: bytes | None


class _Bad(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.refused = Refused(code, message, param)


def malformed(message: str) -> UpstreamFault:
    """Nothing of it can be asked."""
    return CallersFault(400, "invalid_batch", message)


# -- items


def parse_item(index: int, content: bytes, document: object, *, strict: bool = False) -> Parsed:
    """An item that is a chat completion's body, or OpenAI's line of a batch. strict -- only the latter will do."""
    custom_id = document.get("custom_id") if isinstance(document, dict) else None
    named = custom_id if isinstance(custom_id, str) and len(custom_id) <= MOST_ID_CHARACTERS else None
    try:
        body = _body_of(document, strict)
    except _Bad as bad:
        return Parsed(Item(index, named, bad.refused), hashlib.sha256(content).digest(), None)
    if body is not document:
        content = member_of(content, "body")
    digest = hashlib.sha256(canonical(body, content)).digest()
    return Parsed(Item(index, named if _is_line(document) else None), digest, content)


def parse_line(index: int, line: bytes, number: int, *, strict: bool = False) -> Parsed:
    """An item that is a line of NDJSON. number -- of the line, from 1."""
    if is_crowded(line):
        refused = Refused("too_many_values", f"line {number} has more than {counted(MOST_VALUES, 'value')}")
        return Parsed(Item(index, None, refused), hashlib.sha256(line).digest(), None)
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as fault:
        refused = Refused("invalid_json_line", f"line {number} is not JSON: {fault}")
        return Parsed(Item(index, None, refused), hashlib.sha256(line).digest(), None)
    return parse_item(index, line, document, strict=strict)


def _is_line(document: object) -> bool:
    return isinstance(document, dict) and "body" in document and "messages" not in document


def _body_of(document: object, strict: bool) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise _Bad("invalid_item", "an item must be an object: a chat completion's body, or one with `body`")
    if not strict and not _is_line(document):
        return _checked(document)
    custom_id = document.get("custom_id")
    if custom_id is None and strict:
        raise _Bad("missing_required_parameter", "`custom_id` is missing", "custom_id")
    if custom_id is not None and not (isinstance(custom_id, str) and len(custom_id) <= MOST_ID_CHARACTERS):
        message = f"`custom_id` must be a string of at most {MOST_ID_CHARACTERS} characters"
        raise _Bad("invalid_custom_id", message, "custom_id")
    for name, wanted in (("method", "POST"), ("url", CHAT)):
        given = document.get(name)
        if given is None and strict:
            raise _Bad("missing_required_parameter", f"`{name}` is missing, it must be {quoted(wanted)}", name)
        if given is not None and given != wanted:
            raise _Bad(f"invalid_{name}", f"`{name}` must be {quoted(wanted)}", name)
    return _checked(document.get("body"))


def _checked(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _Bad("invalid_body", "`body` must be an object: that of a chat completion", "body")
    if body.get("stream", False) is not False and body["stream"] is not None:
        raise _Bad("invalid_stream", "an item of a batch cannot be streamed: leave `stream` out", "stream")
    if not isinstance(body.get("messages"), list):
        raise _Bad("missing_required_parameter", "`messages` is missing or no array", "messages")
    return body


# -- all of them


def parse_array(content: bytes, most: int) -> list[Parsed]:
    """A JSON array of items. Raises UpstreamFault."""
    if is_crowded(content, MOST_IN_ARRAY):
        raise malformed(f"the array has more than {counted(MOST_IN_ARRAY, 'value')}; NDJSON may have more")
    try:
        documents = orjson.loads(content)
    except orjson.JSONDecodeError as fault:
        raise malformed(
            f"the content is not JSON: {fault}. Give an array of requests, or NDJSON with its type"
        ) from None
    if not isinstance(documents, list):
        raise malformed(
            "the content must be a JSON array of requests; for NDJSON give application/x-ndjson as its type"
        )
    _check_count(len(documents), most)
    items = zip(parts_of(content), documents, strict=True)
    return [parse_item(index, content[slice(*span)], document) for index, (span, document) in enumerate(items)]


def parse_lines(content: bytes, most: int) -> list[Parsed]:
    """Items as lines of JSON; blank ones do not count. Raises UpstreamFault."""
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    _check_count(len(lines), most)
    parsed = [parse_line(index, line, number) for index, (number, line) in enumerate(lines)]
    faults = [one.item.refused.message for one in parsed if one.item.refused is not None]
    if len(faults) == len(parsed) and all("is not JSON" in fault for fault in faults):
        raise malformed("; ".join(["no line is a request", *faults[:10]]))
    return parsed


def _check_count(count: int, most: int) -> None:
    if not count:
        raise malformed("there is no request in it")
    if count > most:
        message = f"{counted(count, 'request')} are more than the {most} that are taken at once"
        raise CallersFault(413, "too_many_requests_in_batch", message)


def content_digest(parsed: Iterable[Parsed]) -> bytes:
    """The same for the same items in the same order."""
    found = hashlib.sha256()
    for one in parsed:
        found.update(orjson.dumps([one.item.custom_id, one.digest.hex()]))
    return found.digest()


def together(parsed: Iterable[Parsed], shares: Callable[[Parsed], bool]) -> list[list[Parsed]]:
    """Items in their order, equal ones that may share an answer with the first of them. Refused ones are left out.

    shares -- whether those that are equal to this one may; only asked of those that are not alone.
    """
    equal: dict[bytes, list[Parsed]] = {}
    for one in parsed:
        if one.item.refused is None:
            equal.setdefault(one.digest, []).append(one)
    groups: list[list[Parsed]] = []
    for group in equal.values():
        groups += [group] if len(group) == 1 or shares(group[0]) else [[one] for one in group]
    return sorted(groups, key=lambda group: group[0].item.index)
