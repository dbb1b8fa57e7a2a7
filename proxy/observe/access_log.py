"""One line for each request on standard output.

A line never holds a query, a field of the request or content: secrets travel in those. What a client
chose (path, identifiers) is cut to length and stripped of what could forge a line or move a terminal's
cursor. The event loop only forms the line and puts it in a bounded queue; a thread writes what has gathered.
When standard output is too slow, lines are dropped and counted: a log never makes a request wait.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter

import orjson

from config.logs import instant, level_number
from proxy.observe.events import Brief, BriefKind, Observation
from proxy.policy.decisions import Outcome, Reuse

log = logging.getLogger("siding.access_log")

CAPACITY = 50_000
"""Lines waiting to be written."""
GATHER_SECONDS = 0.1
"""How long lines gather before they are written: few wake-ups, and hardly a delay for a reader."""
RETRY_SECONDS = 0.05
"""How long to wait before writing again to a pipe that is full and does not block."""
SILENT_SECONDS = 60.0
"""That lines cannot be written is said again when it was not so for so long."""
CLOSE_SECONDS = 5.0
"""How long `close` waits for standard output to take the rest."""
WRITE_BYTES = 4096
"""Written at once: a pipe takes so much in one piece, so that lines of several workers do not mix (PIPE_BUF)."""
LARGE_BYTES = 128 * 1024
"""Written at once where lines cannot mix: after each piece the thread has to wait for its turn (the GIL's 5 ms)."""
LINE_FEED = 10
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

Form = Callable[[Observation], bytes]

_FAILED_OUTCOMES = frozenset({Outcome.ORIGIN_ERROR, Outcome.STALE_IF_ERROR})
_LEVEL_NAMES = {logging.ERROR: "error", logging.WARNING: "warning", logging.INFO: "info"}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_NOT_IN_WORDS = _CONTROLS | {0x20: "\\x20", 0x22: "\\x22", 0x5C: "\\\\"}


def level_of(seen: Observation) -> int:
    """The level, as `logging` counts them, that a request is logged at."""
    return _level_of(seen.outcome, seen.status)


def _level_of(outcome: Outcome, status: int) -> int:
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
        f'"level":"{_LEVEL_NAMES[_level_of(kind.outcome, kind.status)]}","type":"access","method":"{kind.method}",'
        f'"route":{_quoted(kind.route)},"status":{kind.status},"outcome":"{kind.outcome}"{more}'
    )


def briefs_as_text(briefs: list[Brief]) -> bytes:
    """As `as_text` tells each of them."""
    return b"".join([as_text(brief.observation()) for brief in briefs])


def _is_file(fd: int) -> bool:
    """Whether it is a regular file, where each write takes its place whole."""
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def _needs_no_escape(text: str) -> bool:
    """What most identifiers are made of stands in a JSON string as it is."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _quoted(text: str) -> str:
    """A JSON string."""
    return f'"{text}"' if _needs_no_escape(text) and len(text) <= MAX_IDENTIFIER else json.dumps(_plain(text))


class AccessLog:
    """Writes requests of at least `level` to the file descriptor `fd`, as "json" or "text".

    level -- name of a `logging` level in any case. capacity -- lines that may wait to be written.
    alone -- no other process writes to `fd`, so that lines may go out in large pieces.
    """

    def __init__(self, level: str, format: str, fd: int = 1, capacity: int = CAPACITY, *, alone: bool = False) -> None:
        self._refused = 0
        self._lost = 0
        self._level = level_number(level)
        self._form: Form = as_text if format == "text" else as_json
        self._form_briefs = briefs_as_text if format == "text" else briefs_as_json
        self._fd = fd
        self._mixed = not (alone or _is_file(fd))
        self._capacity = capacity
        self._queue: deque[tuple[bytes, int]] = deque()
        self._queued = 0
        self._taken = 0
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self._failed = -SILENT_SECONDS
        self._broken = False
        self._writer = threading.Thread(target=self._write_all, name="siding access log", daemon=True)
        self._writer.start()

    @property
    def dropped(self) -> int:
        """Lines lost to a slow, broken or closed output so far."""
        return self._refused + self._lost

    def observe(self, seen: Observation) -> None:
        """Log one request; returns at once."""
        if level_of(seen) < self._level:
            return
        if self._takes(1):
            self._put(self._form(seen), 1)

    def observe_briefs(self, briefs: list[Brief]) -> None:
        """Log requests that were answered the short way; returns at once."""
        if self._level > logging.INFO:
            briefs = [one for one in briefs if _level_of(one.kind.outcome, one.kind.status) >= self._level]
        if briefs and self._takes(len(briefs)):
            self._put(self._form_briefs(briefs), len(briefs))

    def _takes(self, number: int) -> bool:
        """Whether there is room for so many lines; if not, they are counted as refused."""
        if self._queued - self._taken + number > self._capacity or self._closing.is_set():
            self._refused += number
            return False
        return True

    def _put(self, lines: bytes, number: int) -> None:
        self._queued += number
        self._queue.append((lines, number))
        if not self._arrived.is_set():
            self._arrived.set()

    def close(self) -> None:
        """Write out what is queued and end the thread; gives up on an output stuck for `CLOSE_SECONDS`."""
        self._closing.set()
        self._arrived.set()
        self._writer.join(CLOSE_SECONDS)

    # -- in the writer's thread

    def _write_all(self) -> None:
        while not self._closing.is_set():
            self._arrived.wait()
            self._closing.wait(GATHER_SECONDS)
            self._arrived.clear()
            self._write_gathered()
        self._write_gathered()

    def _write_gathered(self) -> None:
        most = WRITE_BYTES if self._mixed else LARGE_BYTES
        piece: list[bytes] = []
        size = 0
        while self._queue:
            lines, number = self._queue.popleft()
            self._taken += number
            for octets in lines.splitlines(keepends=True) if self._mixed else [lines]:
                if piece and size + len(octets) > most:
                    self._write(piece)
                    piece, size = [], 0
                piece.append(octets)
                size += len(octets)
        self._write(piece)

    def _write(self, pieces: list[bytes]) -> None:
        """Write whole lines. A line that was broken off by a full disk does not spoil the first one after it."""
        lines = b"".join(pieces)
        rest = memoryview(b"\n" + lines if self._broken and lines else lines)
        while rest:
            try:
                written = os.write(self._fd, rest)
                self._broken = rest[written - 1] != LINE_FEED
                rest = rest[written:]
            except BlockingIOError:
                if self._closing.wait(RETRY_SECONDS):
                    self._lost += lines.count(b"\n", max(0, len(lines) - len(rest)))
                    return
            except OSError as fault:
                self._complain(fault)
                self._lost += lines.count(b"\n", max(0, len(lines) - len(rest)))
                return

    def _complain(self, fault: OSError) -> None:
        """Unless that was done for the same trouble already."""
        before, self._failed = self._failed, time.monotonic()
        if self._failed - before >= SILENT_SECONDS:
            log.error("the access log cannot be written, its lines are dropped: %s", fault)
