"""Where a request ends among the octets that a client sends (RFC 9112 2.2, 6, 7.1).

A parser that is given several requests at once may lose one that is complete, when what follows it is malformed. So it
is given the octets of one at a time. Whether they are well-formed is for the parser to say: here they are only counted.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

_HEAD_END: Final = b"\r\n\r\n"
_DIGITS: Final = re.compile(rb"[0-9A-Fa-f]*")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_LONGEST: Final = 2**63
"""Octets of a chunk. No client sends as many, and llhttp takes no more than twice as many."""
_MOST_DIGITS: Final = 16


class Stage(Enum):
    """What comes next of a request."""

    HEAD = "head"
    FRAMING = "framing"
    """Nothing, before it is told how the content is framed."""
    LENGTH = "length"
    """Content of known length."""
    SIZE = "size"
    """The digits of a chunk's size."""
    EXTENSIONS = "extensions"
    """Or nothing, up to the end of the line."""
    CHUNK = "chunk"
    """And the CRLF behind it."""
    TRAILERS = "trailers"
    """Or none, up to an empty line."""
    OVER = "over"
    """Nothing."""
    LOST = "lost"
    """It cannot be told: whatever comes is taken for the request's."""


class Extent:
    """Follows one request to its last octet.

    stage -- what comes next. head -- octets of the head so far. trailers -- there are trailer fields.
    """

    __slots__ = ("_begun", "_blank", "_owed", "head", "stage", "trailers")

    def __init__(self) -> None:
        self.stage = Stage.HEAD
        self.head = 0
        self.trailers = False
        # the last octets of the head that has begun
        self._begun = b""
        # octets still to come of the content or the chunk; the size of the chunk, as far as it has been read
        self._owed = 0
        # nothing has been seen of the size, or of the line
        self._blank = True

    def framed(self, length: int | None) -> None:
        """Say how the content is framed: its length in octets, None for chunks. To be called in stage FRAMING."""
        if length is None:
            self.stage = Stage.SIZE
        else:
            self._owed = length
            self.stage = Stage.LENGTH if length else Stage.OVER

    def take(self, data: bytes) -> int:
        """How many octets at the beginning of `data` are the request's; no more than the head's before it is framed."""
        at, end = 0, len(data)
        while at < end:
            stage = self.stage
            if stage is Stage.CHUNK or stage is Stage.LENGTH:
                size = min(self._owed, end - at)
                at += size
                self._owed -= size
                if not self._owed:
                    self.stage = Stage.SIZE if stage is Stage.CHUNK else Stage.OVER
            elif stage is Stage.SIZE:
                at = self._size(data, at)
            elif stage is Stage.EXTENSIONS or stage is Stage.TRAILERS:
                at = self._line(data, at)
            elif stage is Stage.HEAD:
                at = self._head(data)
            else:
                return end if stage is Stage.LOST else at
        return at

    def _head(self, data: bytes) -> int:
        seen = self._begun + data
        at = seen.find(_HEAD_END)
        if at < 0:
            size, self._begun = len(data), seen[-3:]
        else:
            size, self.stage = at + len(_HEAD_END) - len(self._begun), Stage.FRAMING
        self.head += size
        return size

    def _size(self, data: bytes, at: int) -> int:
        if self._blank and not self._owed:
            at = _past_whole_chunks(data, at)
        found = _DIGITS.match(data, at)
        assert found is not None
        end = found.end()
        # a client may send any number of zeros, and is not to be followed through each
        digits = found[0] if self._owed else found[0].lstrip(b"0")
        if len(digits) > _MOST_DIGITS:
            self.stage = Stage.LOST
            return end
        self._blank = self._blank and end == at
        self._owed = self._owed * 16 ** len(digits) + int(digits or b"0", 16)
        if self._owed > _LONGEST:
            self.stage = Stage.LOST
        elif end < len(data):
            self.stage = Stage.LOST if self._blank else Stage.EXTENSIONS
        return end

    def _line(self, data: bytes, at: int) -> int:
        """To the end of the line. No octet but LF ends one, and the parser takes none that has no CR before it."""
        end = data.find(b"\n", at)
        line = data[at:] if end < 0 else data[at:end]
        if self.stage is Stage.TRAILERS and line.strip(b"\r"):
            self._blank, self.trailers = False, True
        if end < 0:
            return len(data)
        if self.stage is Stage.EXTENSIONS:
            if self._owed:
                self.stage = Stage.CHUNK
                self._owed += 2
            else:
                self.stage = Stage.TRAILERS
        elif self._blank:
            self.stage = Stage.OVER
        self._blank = True
        return end + 1


def _past_whole_chunks(data: bytes, at: int) -> int:
    """Where those end that are there from their sizes on, and have no extensions: of short ones there are thousands."""
    while (found := _SIZE.match(data, at)) is not None:
        size = int(found[1], 16)
        end = found.end() + size + 2
        if not size or end > len(data):
            break
        at = end
    return at
