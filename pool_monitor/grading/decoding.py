"""What an answer says under its Content-Encoding, whole or while it passes, within bounds however small it came."""

from __future__ import annotations

import sys
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

import brotli

from pool_monitor.grading.calls import Fields, coding_of, is_events

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_DECODED_BYTES = 64 * 1024 * 1024
"""Of a whole answer."""
MOST_AT_ONCE_BYTES = 8 * 1024 * 1024
"""Of one piece of a stream, which is decoded on the event loop."""

_Step = tuple[bytes, bytes, bool]
"""What was decoded, what follows behind its end, and whether there is more than was asked for."""


def _inflated(decoder: Any, piece: bytes, most: int) -> _Step:
    return decoder.decompress(piece, most), decoder.unused_data, bool(decoder.unconsumed_tail)


def _from_zstd(decoder: Any, piece: bytes, most: int) -> _Step:
    return decoder.decompress(piece, most), decoder.unused_data, not (decoder.needs_input or decoder.eof)


def _from_brotli(decoder: Any, piece: bytes, most: int) -> _Step:
    return decoder.process(piece, output_buffer_limit=most), b"", not decoder.can_accept_more_data()


def _as_it_is(_: Any, piece: bytes, most: int) -> _Step:
    return piece, b"", len(piece) > most


_CODINGS: dict[str, tuple[Callable[[], Any], Callable[[Any, bytes, int], _Step], Callable[[Any], bool]]] = {
    "": (lambda: None, _as_it_is, lambda _: True),
    "identity": (lambda: None, _as_it_is, lambda _: True),
    "gzip": (lambda: zlib.decompressobj(wbits=47), _inflated, lambda decoder: decoder.eof),
    "deflate": (lambda: zlib.decompressobj(wbits=47), _inflated, lambda decoder: decoder.eof),
    "br": (brotli.Decompressor, _from_brotli, lambda decoder: decoder.is_finished()),
    "zstd": (zstd.ZstdDecompressor, _from_zstd, lambda decoder: decoder.eof),
}


class Decoding:
    """Content of this coding, piece by piece. most -- octets that one piece may say. Raises ValueError."""

    def __init__(self, coding: str, most: int) -> None:
        known = _CODINGS.get(coding.strip().lower())
        if known is None:
            raise ValueError(coding)
        self._begun, self._step, self._ends = known
        self._decoder = self._begun()
        self._most = most

    @property
    def ended(self) -> bool:
        """Whether all of it has come."""
        return self._ends(self._decoder)

    def feed(self, piece: bytes) -> bytes:
        """What it says. Raises ValueError where that cannot be read, or is too much."""
        said = []
        left = self._most
        while piece:
            if self.ended:
                self._decoder = self._begun()
            try:
                out, piece, more = self._step(self._decoder, piece, left)
            except (zlib.error, brotli.error, zstd.ZstdError) as fault:
                raise ValueError(str(fault)) from fault
            left -= len(out)
            if more or left <= 0:
                raise ValueError(f"it says more than {self._most} bytes")
            said.append(out)
        return b"".join(said)


def without_coding(content: bytes, coding: str) -> bytes:
    """Whole content, decoded of its Content-Encoding. Raises ValueError."""
    decoding = Decoding(coding, MOST_DECODED_BYTES)
    said = decoding.feed(content)
    if not decoding.ended:
        raise ValueError("it broke off")
    return said


class Seen:
    """What passes, up to so many octets: all of it with its coding, or nothing where there is more; of events the end,
    decoded, which states what they cost. What cannot be read is nothing."""

    def __init__(self, most: int, fields: Fields) -> None:
        """fields -- of the answer."""
        self._most = most
        self._events, coding = is_events(fields), coding_of(fields)
        self.coding = "" if self._events else coding
        self._decoding: Decoding | None = None
        self._size = 0
        self._pieces: deque[bytes] = deque()
        if most and self._events and coding:
            try:
                self._decoding = Decoding(coding, MOST_AT_ONCE_BYTES)
            except ValueError:
                self._most = 0

    def add(self, piece: bytes) -> None:
        if not self._most:
            return
        if self._decoding is not None:
            try:
                piece = self._decoding.feed(piece)
            except ValueError:
                self._nothing()
                return
        if self._events:
            piece = piece[-self._most :]
        self._pieces.append(piece)
        self._size += len(piece)
        if self._events:
            while self._size - len(self._pieces[0]) >= self._most:
                self._size -= len(self._pieces.popleft())
        elif self._size > self._most:
            # of a whole answer nothing can be read any more
            self._nothing()

    def _nothing(self) -> None:
        self._most = 0
        self._pieces.clear()

    @property
    def content(self) -> bytes:
        return b"".join(self._pieces)[-self._most :]
