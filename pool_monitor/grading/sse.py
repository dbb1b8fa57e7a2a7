"""Server-sent events as chat completions are streamed with them (WHATWG HTML 9.2); pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pool_monitor.grading.calls import UpstreamFault
from pool_monitor.grading.jsons import decoded, encoded, rewritten, without_line_ends

DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 8 * 1024 * 1024
_END = re.compile(rb"(?>\r\n|\n|\r){2}")
"""An end of a line and a blank one; they need not be alike."""
_BOM = b"\xef\xbb\xbf"
_LINE = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One event. raw -- as it came, its blank line included. data -- what its data lines say."""

    raw: bytes
    data: bytes

    @property
    def is_last(self) -> bool:
        """Whether it says that the stream is over."""
        return self.data.strip() == b"[DONE]"

    @property
    def document(self) -> dict[str, Any] | None:
        """The JSON object it holds; None where it holds none."""
        return decoded(self.data)

    def saying(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> bytes:
        """An event that says `after` and leaves as it is what it has of `before`, which this one says."""
        return b"data: " + without_line_ends(rewritten(self.data, before, after)) + b"\n\n"


class Decoder:
    """Splits what arrives into events."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[Event]:
        """The events that are whole by now. Raises UpstreamFault where one has more than `MAX_EVENT_BYTES`."""
        searched = max(0, len(self._rest) - 3)
        self._rest += piece
        events, begin = [], 0
        while (end := _END.search(self._rest, max(begin, searched))) is not None:
            raw = bytes(self._rest[begin : end.end()])
            events.append(Event(raw, _data_of(raw)))
            begin = end.end()
        del self._rest[:begin]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise UpstreamFault(502, "upstream_answer_too_large", f"an event has more than {MAX_EVENT_BYTES} bytes")
        return events

    def rest(self) -> Event | None:
        """What came without a blank line behind it."""
        raw = bytes(self._rest)
        return Event(raw, _data_of(raw)) if raw else None


def _data_of(raw: bytes) -> bytes:
    lines = [line[5:] for line in _LINE.split(raw.removeprefix(_BOM)) if line.startswith(b"data:")]
    return b"\n".join(line.removeprefix(b" ") for line in lines)


def event(document: Mapping[str, Any]) -> bytes:
    """A document as an event."""
    return b"data: " + encoded(document) + b"\n\n"
