"""A request as a line of the access log: JSON, or words for a person. Pure.

A line never holds a query, a field of the request or content: secrets travel in those. What a client
chose (path, identifiers) is cut to length and stripped of what could forge a line or move a terminal's
cursor.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from operator import attrgetter

import orjson

from config.logs import instant
from proxy.observe.events import Brief, BriefKind, Observation
from proxy.policy.decisions import Outcome, Reuse

MAX_PATH = 1024
MAX_IDENTIFIER = 200

_PARTICULARS = {
    "forward": "forward",
    "reuse": "reuse",
    "verdict": "verdict",
    "collapsed": "collapsed",
    "stored": "stored",
    "coding": "coding",
    "first_byte_seconds": "first_byte",
    "origin_status": "origin_status",
    "origin_seconds": "origin_seconds",
    "origin_total_seconds": "origin_total",
    "origin_seconds_saved": "origin_seconds_saved",
    "bytes_saved_not_modified": "bytes_saved_304",
    "bytes_saved_coding": "bytes_saved_coding",
    "error": "error",
    "detail": "detail",
}
"""What a line says only where there is something to say, and where an observation has it."""
_particulars_of = attrgetter(*_PARTICULARS.values())

_SECONDS = [f"{milliseconds / 1000:.3f}" for milliseconds in range(4096)]
_MICROSECONDS = [f"{number:03d}" for number in range(1000)]
"""Most durations are put together of these."""

_FAILED_OUTCOMES = frozenset({Outcome.ORIGIN_ERROR, Outcome.STALE_IF_ERROR})
_LEVEL_NAMES = {logging.ERROR: "error", logging.WARNING: "warning", logging.INFO: "info"}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_NOT_IN_WORDS = _CONTROLS | {0x20: "\\x20", 0x22: "\\x22", 0x5C: "\\\\"}


def level_of(seen: Observation) -> int:
    """The level, as `logging` counts them, that a request is logged at."""
    return level_for(seen.outcome, seen.status)


def level_for(outcome: Outcome, status: int) -> int:
    """The same, by what it hangs on."""
    if outcome is Outcome.INTERNAL_ERROR:
        return logging.ERROR
    return logging.WARNING if outcome in _FAILED_OUTCOMES or status >= 500 else logging.INFO


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."


def _plain(text: str, length: int = MAX_IDENTIFIER) -> str:
    text = _cut(text, length)
    return text if text.isprintable() else text.translate(_CONTROLS)


def _word(text: str, length: int = MAX_IDENTIFIER) -> str:
    return _cut(text, length).translate(_NOT_IN_WORDS) or "-"


def _path(seen: Observation) -> str:
    """The path, made sure that no query follows it."""
    return seen.path.partition("?")[0].partition("#")[0]


def as_json(seen: Observation) -> bytes:
    """The request as one JSON object and a line feed. What is not known or zero by nature is left out."""
    line: dict[str, object] = {
        "time": _time_of(seen.started),
        "level": _LEVEL_NAMES[level_of(seen)],
        "type": "access",
        "client": _plain(seen.client),
        "method": _plain(seen.method),
        "path": _plain(_path(seen), MAX_PATH),
        "route": seen.route,
        "status": seen.status,
        "outcome": seen.outcome,
        "duration_seconds": round(seen.duration, 6),
        "request_bytes": seen.request_bytes,
        "response_bytes": seen.response_bytes,
        "request_id": _plain(seen.request_id),
        "traceparent": _plain(seen.traceparent),
    }
    # what is only said where there is something to say
    for name, value in zip(_PARTICULARS, _particulars_of(seen), strict=True):
        if value:
            line[name] = round(value, 6) if isinstance(value, float) else value
    try:
        return orjson.dumps(line) + b"\n"
    except TypeError:
        # text that is no Unicode (lone surrogates): escaped, it can still be told
        return json.dumps(line).encode() + b"\n"


def _time_of(moment: float) -> str:
    """`instant`, which is the same for all of a millisecond."""
    return _time_of_ms(int(moment * 1000))


@lru_cache(maxsize=16)
def _time_of_ms(milliseconds: int) -> str:
    return instant(milliseconds / 1000)


def as_text(seen: Observation) -> bytes:
    """The request as words on one line, for a person at a terminal."""
    words = [
        _time_of(seen.started),
        _word(seen.client),
        _word(seen.method),
        _word(_path(seen), MAX_PATH),
        str(seen.status),
        seen.outcome,
        f"{seen.duration * 1000:.1f}ms",
        f"{seen.response_bytes}B",
    ]
    if seen.forward is not None:
        words.append(f"fwd={seen.forward}")
    if seen.origin_seconds is not None:
        words.append(f"origin={seen.origin_seconds * 1000:.1f}ms")
    if seen.collapsed:
        words.append("collapsed")
    for name, value in (("coding", seen.coding), ("error", seen.error), ("detail", seen.detail)):
        if value:
            words.append(f"{name}={_word(value)}")
    words.append(f"id={_word(seen.request_id)}")
    return " ".join(words).encode("utf-8", "backslashreplace") + b"\n"


def briefs_as_json(briefs: list[Brief]) -> bytes:
    """As `as_json` tells each of them, without what a hit has not."""
    lines = []
    moment, time = -1, ""
    last: BriefKind | None = None
    begin, hit, unchanged, coded, status = "", False, False, False, 0
    begins: dict[int, str] = {}
    waited, origin = -1.0, ""
    sent, sending = -1, ""
    whole, saved = -1, ""
    plain = _needs_no_escape("".join([brief.request_id + brief.traceparent for brief in briefs]))
    for brief in briefs:
        kind = brief.kind
        if kind is not last:
            last, waited = kind, -1.0
            hit, status = kind.outcome is Outcome.HIT, kind.status
            unchanged, coded = hit and status == 304, kind.coding is not None
            begin = begins.get(id(kind)) or begins.setdefault(id(kind), _kind_as_json(kind))
        started = int(brief.started * 1000)
        if started != moment:
            moment, time = started, f'{{"time":"{_time_of(brief.started)}",'
        # those that are answered from the same stored response say the same of these
        if brief.origin_seconds != waited:
            waited, origin = brief.origin_seconds, _seconds(brief.origin_seconds)
            if hit:
                origin = f'"origin_seconds_saved":{origin}'
            else:
                origin = f'"origin_status":{status},"origin_seconds":{origin},"origin_total_seconds":{origin}'
        if brief.sent != sent:
            sent, sending = brief.sent, str(brief.sent)
        more = ""
        if brief.traceparent:
            more = f',"traceparent":{_quoted(brief.traceparent)}'
        if unchanged:
            if brief.whole != whole:
                whole, saved = brief.whole, f',"bytes_saved_not_modified":{brief.whole}' if brief.whole else ""
            more += saved
        elif coded and brief.whole > brief.sent > 0:
            more += f',"bytes_saved_coding":{brief.whole - brief.sent}'
        identifier, before, behind = brief.request_id, ',"request_id":"', '"'
        if not plain or not 0 < len(identifier) <= MAX_IDENTIFIER:
            identifier = f',"request_id":{_quoted(identifier)}' if identifier else ""
            before = behind = ""
        path = brief.path if len(brief.path) <= MAX_PATH else _cut(brief.path, MAX_PATH)
        took = _seconds(brief.duration)
        received = str(brief.received) if brief.received else "0"
        lines.append(
            f'{time}{begin},"client":"{brief.client}","path":"{path}","duration_seconds":{took},"first_byte_seconds":'
            f'{took},"request_bytes":{received},"response_bytes":{sending},{origin}{before}{identifier}{behind}{more}}}\n'
        )
    return "".join(lines).encode()


def _seconds(duration: float) -> str:
    """With six decimals."""
    microseconds = int(duration * 1e6 + 0.5)
    if not 0 <= microseconds < 1000 * len(_SECONDS):
        return format(duration, ".6f")
    return _SECONDS[microseconds // 1000] + _MICROSECONDS[microseconds % 1000]


def _kind_as_json(kind: BriefKind) -> str:
    named = (
        ("forward", kind.forward),
        ("reuse", Reuse.FRESH if kind.outcome is Outcome.HIT else None),
        ("verdict", kind.verdict),
        ("coding", kind.coding),
    )
    more = "".join([f',"{name}":"{value}"' for name, value in named if value])
    return (
        f'"level":"{_LEVEL_NAMES[level_for(kind.outcome, kind.status)]}","type":"access","method":"{kind.method}",'
        f'"route":{_quoted(kind.route)},"status":{kind.status},"outcome":"{kind.outcome}"{more}'
    )


def briefs_as_text(briefs: list[Brief]) -> bytes:
    """As `as_text` tells each of them."""
    return b"".join([as_text(brief.observation()) for brief in briefs])


def _needs_no_escape(text: str) -> bool:
    """What most identifiers are made of stands in a JSON string as it is."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _quoted(text: str) -> str:
    """A JSON string."""
    return f'"{text}"' if _needs_no_escape(text) and len(text) <= MAX_IDENTIFIER else json.dumps(_plain(text))
