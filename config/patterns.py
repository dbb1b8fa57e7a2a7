"""Path patterns, and finding the first of many that matches.

    pattern = "/" *( segment "/" ) [ segment ] [ "*" ]
    segment = "{" name "}" / characters of a path as it is on the wire (RFC 3986 3.3)

A name stands for one segment that is not empty; a star at the end for anything, nothing included. Patterns are
compared with the path as received: nothing is decoded, no slash is added or dropped, case matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")

_NOT_IN_PATH = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@/%{}]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME = re.compile(r"\{([^{}/]*)\}")
_ANY = "\0"


_DOT_SEGMENT = re.compile(r"[/\\]\s*\.{1,2}\s*(?:[/\\;?#\0]|\Z)")
_HIDDEN = re.compile(r"%(?:c[01]|u[0-9a-f]{4})", re.IGNORECASE)


def has_dot_segment(text: str) -> bool:
    """Whether every path that a pattern matches has a segment `.` or `..`, or may hide one, as an origin may decode it.

    As the proxy's policy has it, which imports nothing from here.
    """
    once = unquote(text)
    return any(map(_HIDDEN.search, (text, once))) or _DOT_SEGMENT.search(unquote(once)) is not None


class PatternError(ValueError):
    """A malformed pattern; its text is the reason."""


class Pattern:
    """A path pattern. Raises PatternError.

    text -- as written. exact -- whether it matches its own text only. shape -- the same for patterns that match
    the same paths, however their names are called.
    """

    __slots__ = ("_compiled", "exact", "shape", "text")

    def __init__(self, text: str) -> None:
        reason = _fault_of(text)
        if reason:
            raise PatternError(reason)
        self.text = text
        self.shape = _NAME.sub("{}", text)
        self.exact = self.shape == text and not text.endswith("*")
        literals = [re.escape(literal) for literal in self.shape.removesuffix("*").split("{}")]
        self._compiled = re.compile("[^/]+".join(literals) + ("" if text.endswith("*") else r"\Z"))

    def matches(self, path: str) -> bool:
        """Whether `path` (without query, not decoded) falls under the pattern."""
        return self._compiled.match(path) is not None

    def covers(self, other: Pattern) -> bool:
        """Whether every path that falls under `other` falls under this."""
        # of those paths, the one that is shortest, with a segment that no pattern can spell where any may stand
        least = other.shape.removesuffix("*").replace("{}", _ANY)
        return self.matches(least) and (self.shape.endswith("*") or not other.shape.endswith("*"))


def _fault_of(text: str) -> str:
    """What is wrong with a pattern, or nothing."""
    if not text.startswith("/"):
        whole = "; a pattern is for the path alone, without scheme and host" if "://" in text else ""
        return f"it does not begin with a slash{whole}"
    if "?" in text:
        return "it has a query; a pattern is for the path alone, and query:NAME in the key for parts of the query"
    odd = _NOT_IN_PATH.search(text)
    if odd:
        return f"{odd[0]!r} cannot stand in a path; write it percent-encoded, as on the wire"
    if _BAD_ESCAPE.search(text):
        return "a % is not followed by two hexadecimal digits"
    if "*" in text[:-1]:
        return "a star may only be its last character"
    return _fault_of_names(text)


def _fault_of_names(text: str) -> str:
    names = []
    for segment in text.removesuffix("*").split("/"):
        if "{" not in segment and "}" not in segment:
            continue
        found = _NAME.fullmatch(segment)
        if found is None:
            return f"{segment!r}: a name in braces must be a whole segment"
        if not found[1].isidentifier():
            return f"{segment!r}: a name is made of letters, digits and underscores"
        names.append(found[1])
    if text.endswith("}*"):
        return "a name in braces must be a whole segment, so a slash must stand before the star"
    return "" if len(set(names)) == len(names) else "the same name stands in it twice"


class PathIndex(Generic[T]):
    """Values under patterns, in order. Exact patterns cost one look-up however many there are."""

    def __init__(self, entries: Iterable[tuple[Pattern, T]]) -> None:
        self._exact: dict[str, list[tuple[int, T]]] = {}
        self._others: list[tuple[int, Pattern, T]] = []
        for order, (pattern, value) in enumerate(entries):
            if pattern.exact:
                self._exact.setdefault(pattern.text, []).append((order, value))
            else:
                self._others.append((order, pattern, value))

    def first(self, path: str) -> T | None:
        """The value of the first pattern that matches."""
        found = self._exact.get(path)
        for order, pattern, value in self._others:
            if found is not None and order > found[0][0]:
                break
            if pattern.matches(path):
                return value
        return found[0][1] if found is not None else None

    def all(self, path: str) -> list[T]:
        """The values of all patterns that match, in order."""
        found = self._exact.get(path, []) + [
            (order, value) for order, pattern, value in self._others if pattern.matches(path)
        ]
        return [value for _, value in sorted(found, key=lambda one: one[0])]
