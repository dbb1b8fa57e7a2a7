"""Pure: the field by which services tell each other which trace a request belongs to (W3C Trace Context, level 1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_UNUSABLE_VERSION = "ff"


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a request was sent from. flags -- bit 0: it is sampled."""

    trace_id: int
    span_id: int
    flags: int


def parse_traceparent(value: str | None) -> Parent | None:
    """The sender's span; None where there is none, or where the value must not be used (3.2.2 and 4.3).

    Several lines, joined by a comma, are none. Later versions may have more behind the flags.
    """
    found = _TRACEPARENT.fullmatch((value or "").strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _UNUSABLE_VERSION or (version == "00" and more is not None):
        return None
    parent = Parent(int(trace_id, 16), int(span_id, 16), int(flags, 16))
    return parent if parent.trace_id and parent.span_id else None


def format_traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """The value of `traceparent` for a request that is sent from this span."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
