"""Answers from fresh stored responses, prepared as octets when the whole policy has made them once.

What a prepared answer says is what the policy said, by construction: it is the policy's own head, with the two
numbers left open that change with time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from proxy.policy.messages import Line, ResponseHead, StoredResponse

NO_CONTENT = frozenset({204, 304})
_DECIMALS = [b"%d" % number for number in range(4096)]
MOST = 4
"""Prepared answers of one stored response: codings, and 304."""


class Told(Protocol):
    """What is told of an answer, alike for many."""

    @property
    def status(self) -> int: ...


class Prepared:
    """One form of the answer; status, fields, between, end are those of its `Template`.

    fields are those of the stored response itself where they are the same. shape -- what of a request
    selects this form. generation -- of the flags under which it was made. epoch -- of the invalidations, up to which
    the stored response is known to be valid. whole -- octets of the stored content. origin_seconds -- that it spares.
    """

    __slots__ = (
        "_initial_age",
        "_lifetime",
        "_since",
        "between",
        "content",
        "end",
        "epoch",
        "fields",
        "generation",
        "next",
        "origin_seconds",
        "shape",
        "status",
        "told",
        "whole",
    )

    def __init__(
        self, shape: str, head: Template, content: bytes, told: Told, generation: int, stored: StoredResponse
    ) -> None:
        """stored -- what it is a form of."""
        self.shape = shape
        self.status, self.fields, self.between, self.end = head
        self.content = content
        self.told = told
        self.generation = generation
        self.epoch = stored.epoch
        self.whole = len(stored.content)
        self.origin_seconds = stored.origin_seconds
        self._initial_age = stored.freshness.initial_age
        self._lifetime = stored.freshness.lifetime
        self._since = stored.response_time
        self.next: Prepared | None = None

    def answer(self, now: float) -> bytes | None:
        """The whole answer as it is at `now`; None once it is stale. Its age is `freshness.current_age`."""
        age = self._initial_age + max(0.0, now - self._since)
        left = self._lifetime - age
        if left <= 0:
            return None
        return b"%b%bAge: %b%b%b%b%b" % (
            self.status,
            self.fields,
            _decimal(int(age)),
            self.between,
            _decimal(math.floor(left)),
            self.end,
            self.content,
        )


def chain_of(first: Prepared | None) -> list[Prepared]:
    """The prepared answers of a stored response, the latest first."""
    found = []
    while first is not None:
        found.append(first)
        first = first.next
    return found


def chained(forms: list[Prepared]) -> Prepared | None:
    """The first of `forms`, linked to the others."""
    following: Prepared | None = None
    for form in reversed(forms):
        form.next = following
        following = form
    return following


def status_line(head: ResponseHead) -> bytes:
    """The status line with its CRLF (RFC 9112 4)."""
    return f"HTTP/1.1 {head.status} {head.reason}\r\n".encode("latin-1")


def wire_head(head: ResponseHead, length: int | None) -> bytes:
    """Status line, fields and Content-Length, without the empty line that ends a head (RFC 9112 4, 6.2).

    length -- octets of content, None where that is unknown. `head.fields` hold no framing.
    """
    framing = f"Content-Length: {length}\r\n" if length is not None and head.status not in NO_CONTENT else ""
    return f"HTTP/1.1 {head.status} {head.reason}\r\n{_written(head.fields.lines)}{framing}".encode("latin-1")


class Template(NamedTuple):
    """Octets of a head: its first line, the fields before Age, what stands between age and the freshness that remains,
    and what follows."""

    status: bytes
    fields: bytes
    between: bytes
    end: bytes


def template(head: ResponseHead, length: int, cache_status: str) -> Template | None:
    """`head` without its age and the freshness that remains; None where they cannot be told apart.

    cache_status -- how our own member of Cache-Status begins, up to the number.
    """
    lines = head.fields.lines
    ages = [at for at, (name, _) in enumerate(lines) if name.lower() == "age"]
    statuses = [at for at, (name, _) in enumerate(lines) if name.lower() == "cache-status"]
    if len(ages) != 1 or len(statuses) != 1 or statuses[0] < ages[0]:
        return None
    before, found, number = lines[statuses[0]][1].rpartition(cache_status)
    if not found or not number.removeprefix("-").isdecimal():
        return None
    between = f"\r\n{_written(lines[ages[0] + 1 : statuses[0]])}{lines[statuses[0]][0]}: {before}{cache_status}"
    length_line = "" if head.status in NO_CONTENT else f"Content-Length: {length}\r\n"
    end = f"\r\n{_written(lines[statuses[0] + 1 :])}{length_line}\r\n"
    return Template(
        status_line(head),
        _written(lines[: ages[0]]).encode("latin-1"),
        between.encode("latin-1"),
        end.encode("latin-1"),
    )


def _written(lines: Sequence[Line]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in lines])


def _decimal(number: int) -> bytes:
    return _DECIMALS[number] if 0 <= number < len(_DECIMALS) else b"%d" % number
