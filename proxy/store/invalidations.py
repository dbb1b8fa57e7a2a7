"""Which stored responses may no longer be used, known without finding them.

A counter, the epoch, goes up with every invalidation. A response carries the epoch at which its origin was
asked, and is spoilt by any later invalidation of something it depends on: its URI, one of its tags, a prefix
of its URI, or everything. So an invalidation costs the same however much is stored, and catches what is
still on its way from the origin (RFC 9111 4.4 speaks only of what is stored already).

Bounded: when there are more records than the limit, the oldest is forgotten by widening it to everything
asked for before it. URIs and tags are kept as their hashes, so that long ones cost nothing; a collision can
only invalidate too much.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import Generic, TypeVar

MAX_PREFIXES = 64
"""Prefixes are compared one by one, so there are few of them."""

_Name = TypeVar("_Name", int, str)


class Validity(StrEnum):
    """What the invalidations say of a stored response."""

    VALID = "valid"
    STALE = "stale"
    """purged softly: stale from now on, whatever its freshness lifetime"""
    GONE = "gone"
    """never to be used again"""


_Mark = tuple[int, int]
"""The latest epochs at which something was invalidated, for good and softly; 0 where it never was."""


def _later(one: _Mark, other: _Mark) -> _Mark:
    return max(one[0], other[0]), max(one[1], other[1])


def _verdict(mark: _Mark, epoch: int) -> Validity:
    if epoch < mark[0]:
        return Validity.GONE
    return Validity.STALE if epoch < mark[1] else Validity.VALID


class _Records(Generic[_Name]):
    """Marks by name, the most recently marked last; at most `limit`."""

    __slots__ = ("_limit", "marks")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.marks: OrderedDict[_Name, _Mark] = OrderedDict()

    def note(self, name: _Name, mark: _Mark) -> _Mark | None:
        """Record `mark`; returns the mark that had to be forgotten for it, if any."""
        before = self.marks.get(name)
        if before is not None:
            self.marks[name] = _later(before, mark)
            self.marks.move_to_end(name)
            return None
        self.marks[name] = mark
        return self.marks.popitem(last=False)[1] if len(self.marks) > self._limit else None


class Invalidations:
    """Every invalidation that still matters. For one thread.

    limit -- URIs and tags remembered one by one, some 300 bytes each.
    epoch -- how many invalidations there have been.

    A URI or prefix that begins with a slash is meant under every scheme and authority.
    """

    def __init__(self, limit: int = 100_000, begin: int = 0) -> None:
        """begin -- the epoch to begin with; what is of an earlier one is gone."""
        self.epoch = begin
        self._floor: _Mark = (begin, 0)
        self._names: _Records[int] = _Records(limit)
        self._prefixes: _Records[str] = _Records(min(limit, MAX_PREFIXES))

    def __repr__(self) -> str:
        return (
            f"<Invalidations epoch={self.epoch} floor={self._floor} "
            f"names={len(self._names.marks)} prefixes={len(self._prefixes.marks)}>"
        )

    def purge_tag(self, tag: str, soft: bool = False) -> None:
        """Invalidate every response that carries `tag`."""
        self._widen(self._names.note(hash(("tag", tag)), self._next(soft)))

    def purge_uri(self, uri: str, soft: bool = False) -> None:
        """Invalidate every response to exactly this URI, query included."""
        self._widen(self._names.note(hash(("uri", uri)), self._next(soft)))

    def purge_prefix(self, prefix: str, soft: bool = False) -> None:
        """Invalidate every response whose URI begins with `prefix`."""
        self._widen(self._prefixes.note(prefix, self._next(soft)))

    def purge_all(self, soft: bool = False) -> None:
        """Invalidate every response."""
        self._widen(self._next(soft))
        if not soft:
            self._names.marks.clear()
            self._prefixes.marks.clear()

    def state(self, stored_uri: str, tags: tuple[str, ...], epoch: int) -> Validity:
        """Whether a response to `stored_uri` with `tags`, asked for at `epoch`, may still be used."""
        if epoch >= self.epoch:
            return Validity.VALID
        path = _path_of(stored_uri)
        mark = self._named(path, stored_uri, tags)
        for prefix, its in reversed(self._prefixes.marks.items()):
            if max(its) <= epoch:
                break
            if (path if prefix.startswith("/") else stored_uri).startswith(prefix):
                mark = _later(mark, its)
        return _verdict(mark, epoch)

    def _named(self, path: str, uri: str, tags: tuple[str, ...]) -> _Mark:
        """The floor, with the marks of everything that is looked up by name."""
        mark, marks = self._floor, self._names.marks
        names = [hash(("uri", path)), hash(("uri", uri)), *[hash(("tag", tag)) for tag in tags]] if marks else []
        for name in names:
            its = marks.get(name)
            if its is not None:
                mark = _later(mark, its)
        return mark

    def _next(self, soft: bool) -> _Mark:
        self.epoch += 1
        return (0, self.epoch) if soft else (self.epoch, 0)

    def _widen(self, mark: _Mark | None) -> None:
        if mark is not None:
            self._floor = _later(self._floor, mark)


def _path_of(uri: str) -> str:
    """Path and query of a URI, as they are on the wire."""
    start = uri.find("/", uri.find("://") + 3)
    return uri[start:] if start >= 0 else "/"
