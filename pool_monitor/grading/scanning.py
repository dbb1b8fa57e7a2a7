"""Pure: a compact answer taken apart while it arrives: members as they are whole, rows one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pool_monitor.grading.answers import Doubt, NotCertain, decoded

_STRUCTURE = re.compile(r'["{}\[\]:,]')
_IN_QUOTES = re.compile(r'["\\]')


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the object that is whole."""

    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Row:
    """One element of the rows."""

    value: Any


@dataclass(frozen=True, slots=True)
class RowsEnd:
    """The rows are complete."""


Part = Member | Row | RowsEnd


class Scanner:
    """Reads every character once. rows -- the key under which the rows are.

    began -- the object's bracket was seen. ended -- its last one as well. around -- there was text around it.
    first_key -- the object's first.
    """

    def __init__(self, rows: str) -> None:
        self._rows = rows
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._text: list[str] = []
        self._key: str | None = None
        self._in_rows = False
        self._hole = False
        """a comma was the last that came"""
        self.began = False
        self.ended = False
        self.around = False
        self.first_key: str | None = None

    def feed(self, text: str) -> list[Part]:
        """What is whole by now. Raises NotCertain."""
        parts: list[Part] = []
        at = 0
        while at < len(text):
            if self._quoted:
                at = self._quote(text, at)
            elif self._depth == 0:
                at = self._outside(text, at)
            else:
                found = _STRUCTURE.search(text, at)
                self._text.append(text[at : found.start() if found is not None else None])
                if found is None:
                    break
                self._inside(found[0], parts)
                at = found.end()
        return parts

    def _quote(self, text: str, at: int) -> int:
        """Go on within quotes; where to go on after them, or behind a backslash."""
        if self._escaped:
            self._escaped = False
            self._text.append(text[at])
            return at + 1
        found = _IN_QUOTES.search(text, at)
        end = found.end() if found is not None else len(text)
        self._text.append(text[at:end])
        if found is not None:
            self._escaped = found[0] == "\\"
            self._quoted = self._escaped
        return end

    def _outside(self, text: str, at: int) -> int:
        """Go on around the object; where to go on behind its first bracket."""
        begin = text.find("{", at)
        end = begin if begin >= 0 else len(text)
        if text[at:end].strip():
            self.around = True
        if begin >= 0 and self.ended:
            raise NotCertain(Doubt.NOT_COMPACT, "there are two objects")
        if begin >= 0:
            self.began, self._depth = True, 1
        return end + 1

    def _inside(self, character: str, parts: list[Part]) -> None:
        level = 2 if self._in_rows else 1
        if character == '"':
            self._quoted = True
            self._text.append(character)
        elif character in "{[":
            self._depth += 1
            if self._depth == 2 and character == "[" and self._key == self._rows and not "".join(self._text).strip():
                self._in_rows, self._hole = True, False
                self._text.clear()
            else:
                self._text.append(character)
        elif character == ":" and self._depth == 1 and self._key is None:
            self._take_key()
        elif character in ",]}" and self._depth == level:
            self._whole(character, parts)
        else:
            if character in "]}":
                self._depth -= 1
            self._text.append(character)

    def _take_key(self) -> None:
        key = _value("".join(self._text))
        if not isinstance(key, str):
            raise NotCertain(Doubt.NOT_JSON, "a key is no text")
        self._text.clear()
        self._key = key
        if self.first_key is None:
            self.first_key = key

    def _whole(self, character: str, parts: list[Part]) -> None:
        """A member or a row ends here."""
        text = "".join(self._text)
        self._text.clear()
        if self._in_rows:
            if character == "}":
                raise NotCertain(Doubt.NOT_JSON, "the rows end with }")
            if text.strip():
                parts.append(Row(_value(text)))
                self._hole = character == ","
            elif character == "," or self._hole:
                raise NotCertain(Doubt.NOT_JSON, "a row is missing between two commas")
            if character == "]":
                self._in_rows, self._depth = False, 1
                parts.append(RowsEnd())
            return
        if character == "]":
            raise NotCertain(Doubt.NOT_JSON, "the object ends with ]")
        if self._key is not None:
            if self._key != self._rows or text.strip():
                parts.append(Member(self._key, _value(text)))
            self._key = None
        elif text.strip() or character == "," or self._hole:
            raise NotCertain(Doubt.NOT_JSON, "a member has no key")
        self._hole = character == ","
        if character == "}":
            self.ended, self._depth = True, 0

    def rest(self) -> list[Part]:
        """What is certain of an object whose last brackets are missing. Raises NotCertain."""
        text = "".join(self._text).strip()
        if self._quoted or (text and text[-1] not in '"]'):
            raise NotCertain(Doubt.CUT, "the answer ends in the middle of a value")
        parts: list[Part] = []
        if self._in_rows:
            if text:
                parts.append(Row(_value(text)))
            parts.append(RowsEnd())
        elif self._key is not None and text:
            parts.append(Member(self._key, _value(text)))
        return parts


def _value(text: str) -> Any:
    try:
        return decoded(text)
    except (ValueError, RecursionError) as fault:
        raise NotCertain(Doubt.NOT_JSON, str(fault)[:80]) from fault
