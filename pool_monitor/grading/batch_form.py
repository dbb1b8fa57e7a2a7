"""Pure: multipart/form-data (RFC 7578) while it arrives: its small fields, and where in it the file is.

The file's content is never copied: the octets are kept as they came by whoever feeds this, so that they can still be
forwarded as they are.
"""

from __future__ import annotations

import warnings
from enum import StrEnum

from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, parse_content_disposition

MOST_HEAD_BYTES = 16 * 1024
MOST_VALUE_BYTES = 4 * 1024
MOST_PARTS = 100


class FormError(ValueError):
    """It is no form as it should be."""


class _Reads(StrEnum):
    CONTENT = "content"
    AFTER_BOUNDARY = "after-boundary"
    HEAD = "head"
    NOTHING = "nothing"


class Form:
    """values -- of fields that are no file. file -- where its content begins and ends, once it has ended.

    file_name -- None before its part has begun. ended -- whether the closing boundary was seen.
    """

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        # the first boundary may stand at the very beginning
        self._held = bytearray(b"\r\n")
        self._at = -2
        self._reads = _Reads.CONTENT
        self._name: str | None = None
        self._value = bytearray()
        self._file_begin = 0
        self._parts = 0
        self.values: dict[str, str] = {}
        self.file: tuple[int, int] | None = None
        self.file_name: str | None = None

    @property
    def ended(self) -> bool:
        return self._reads is _Reads.NOTHING

    def feed(self, piece: bytes) -> None:
        """What follows. Raises FormError."""
        self._held += piece
        while self._step():
            pass

    def _step(self) -> bool:
        """Whether there may be more in what is held."""
        match self._reads:
            case _Reads.CONTENT:
                return self._content()
            case _Reads.AFTER_BOUNDARY:
                return self._after_boundary()
            case _Reads.HEAD:
                return self._head()
            case _Reads.NOTHING:
                self._drop(len(self._held))
                return False

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._at += count

    def _content(self) -> bool:
        found = self._held.find(self._delimiter)
        # a delimiter may have begun at the end of what is held
        known = found if found >= 0 else max(0, len(self._held) - len(self._delimiter) + 1)
        self._take(known)
        if found < 0:
            return False
        self._part_ends()
        self._drop(len(self._delimiter))
        self._reads = _Reads.AFTER_BOUNDARY
        return True

    def _take(self, count: int) -> None:
        if self._name is not None and self._name != "file":
            self._value += self._held[:count]
            if len(self._value) > MOST_VALUE_BYTES:
                raise FormError(f"a field has more than {MOST_VALUE_BYTES} bytes")
        self._drop(count)

    def _part_ends(self) -> None:
        if self._name == "file":
            self.file = (self._file_begin, self._at)
        elif self._name is not None:
            self.values[self._name] = self._value.decode("utf-8", "replace")
            self._value.clear()
        self._name = None

    def _after_boundary(self) -> bool:
        if self._held.startswith(b"--"):
            self._reads = _Reads.NOTHING
            return True
        end = self._held.find(b"\r\n")
        if self._held[: end if end >= 0 else None].strip(b" \t\r-"):
            raise FormError("there is something behind a boundary")
        if end < 0:
            if len(self._held) > MOST_HEAD_BYTES:
                raise FormError("a boundary's line does not end")
            return False
        # the line's end stays: it is also that before an empty head
        self._drop(end)
        self._reads = _Reads.HEAD
        return True

    def _head(self) -> bool:
        end = self._held.find(b"\r\n\r\n")
        if max(end, len(self._held) if end < 0 else 0) > MOST_HEAD_BYTES:
            raise FormError(f"the head of a part has more than {MOST_HEAD_BYTES} bytes")
        if end < 0:
            return False
        self._begin_part(self._held[:end].decode("utf-8", "replace"))
        self._drop(end + 4)
        self._file_begin = self._at
        # a delimiter begins with the line's end that may be the one before it
        self._reads = _Reads.CONTENT
        return True

    def _begin_part(self, head: str) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise FormError(f"it has more than {MOST_PARTS} parts")
        name, file_name = _names_in(head)
        if name is None:
            raise FormError("a part has no name")
        if name in self.values or (name == "file" and self.file_name is not None):
            raise FormError("a field is given twice")
        self._name = name
        if name == "file":
            self.file_name = file_name or "upload"


def _names_in(head: str) -> tuple[str | None, str | None]:
    for line in head.split("\r\n"):
        field, _, value = line.partition(":")
        if field.strip().lower() == "content-disposition":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BadContentDispositionHeader)
                warnings.simplefilter("ignore", BadContentDispositionParam)
                _, parameters = parse_content_disposition(value.strip())
            return _unescaped(parameters.get("name")), _unescaped(parameters.get("filename"))
    return None, None


def _unescaped(name: str | None) -> str | None:
    """As browsers and SDKs write quotes and line ends in names."""
    if name is None:
        return None
    return name.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
