"""What a batch is to ask: the requests in its file, line by line. To be read beside the event loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import orjson

from config.words import counted, quoted
from pool_monitor.grading.batch_files import File, Octets, lines_of
from pool_monitor.grading.batch_items import Item, Parsed, Refused, Shares, parse_line, together
from pool_monitor.grading.jsons import is_crowded, member_of

MOST_LINES = 50_000
"""As many as OpenAI takes."""
MOST_ERRORS = 50


@dataclass(frozen=True, slots=True)
class Entered:
    """A file's requests. groups -- of equal ones, each with where its line is."""

    groups: list[tuple[tuple[Item, ...], int, int]]
    refused: list[Item]

    @property
    def total(self) -> int:
        return len(self.refused) + sum(len(items) for items, _, _ in self.groups)


class Unusable(Exception):
    """Nothing of a file is asked. errors -- as a batch tells them."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors[0]["message"])
        self.errors = errors


def error_of(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    """One of a batch's errors."""
    return {"code": code, "message": message, "line": line, "param": param}


def _lines(stream: BinaryIO, file: File) -> Iterator[tuple[int, int, bytes]]:
    """Number, place and content of each line that is not blank."""
    at = file.begin
    with lines_of(stream, file.begin, file.size) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, at, line
            at += len(line)


def endpoint_of(octets: Octets, begin: int, size: int) -> str | None:
    """Where the first request of a file is to go; None where it does not tell. Raises OSError."""
    with octets.opened() as stream, lines_of(stream, begin, size) as lines:
        first = next((line for line in lines if line.strip()), b"")
    if is_crowded(first):
        return None
    try:
        document = orjson.loads(first)
    except orjson.JSONDecodeError:
        return None
    url = document.get("url") if isinstance(document, dict) else None
    return url if isinstance(url, str) else None


def entered_in(stream: BinaryIO, file: File, shares: Shares, most: int = MOST_LINES) -> Entered:
    """What is in a file that was opened as this stream. Raises Unusable, OSError.

    One line that is wrong spoils the file: with OpenAI it fails the validation of the batch
    (platform.openai.com/docs/guides/batch), and the caller may have sent another file than it thinks.
    """
    places: list[tuple[int, int]] = []
    parsed: list[Parsed] = []
    numbers: list[int] = []
    seen: set[str] = set()
    for number, at, line in _lines(stream, file):
        if len(parsed) >= most:
            message = f"The batch has more than {counted(most, 'request')}."
            raise Unusable([error_of("too_many_requests", message)])
        one = _without_twins(parse_line(len(parsed), line, number, strict=True), seen)
        parsed.append(replace(one, content=None))
        places.append((at, len(line)))
        numbers.append(number)
    if not parsed:
        raise Unusable([error_of("empty_file", "The input file has no requests.")])
    refused = [one.item for one in parsed if one.item.refused is not None]
    refusals = [(item.index, item.refused) for item in refused if item.refused is not None]
    wrong = [_error(why, numbers[index]) for index, why in refusals if why.is_of_line or len(refusals) == len(parsed)]
    if wrong:
        raise Unusable(wrong[:MOST_ERRORS])
    groups = [
        (tuple(one.item for one in group), *places[group[0].item.index])
        for group in together(parsed, lambda one: shares(asked_at(stream, *places[one.item.index])[0]))
    ]
    return Entered(groups, refused)


def _error(refused: Refused, line: int) -> dict[str, Any]:
    return error_of(refused.code, refused.message, line, refused.param)


def _without_twins(one: Parsed, seen: set[str]) -> Parsed:
    custom_id = one.item.custom_id
    if custom_id is None or one.item.refused is not None:
        return one
    if custom_id in seen:
        message = f"the custom_id {quoted(custom_id)} was used before in this file"
        return replace(one, item=replace(one.item, refused=Refused("duplicate_custom_id", message, "custom_id")))
    seen.add(custom_id)
    return one


def asked_at(stream: BinaryIO, at: int, size: int) -> tuple[Mapping[str, Any], bytes]:
    """What is asked by the line there, decoded and as it came. Raises OSError."""
    content = member_of(os.pread(stream.fileno(), size, at), "body")
    return orjson.loads(content), content
