"""The lines of a plain request (see `plain`), read one by one, and remembered.

What is a line is a subset of what RFC 9112 allows: bare CR and LF, folded lines, and controls are in none of the sets
below.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from proxy.policy.cache_key import CREDENTIAL_FIELDS, MIMICKED, REWRITING_FIELDS, Place, as_read, asked_part
from proxy.policy.forwarding import HOP_BY_HOP
from proxy.policy.messages import Line

MAX_KNOWN: Final = 4096
MAX_KNOWN_BYTES: Final = 256
"""Longer lines are read each time: they are hardly ever twice the same."""

# what `Kind` says, as numbers of their own: to look them up in the class each time would take longer than all the rest
QUIET: Final = 0
SHAPE: Final = 1
PLACE: Final = 2
CREDENTIAL: Final = 3
DEMANDING: Final = 4
LENGTH: Final = 5
REQUEST_ID: Final = 6
TRACE: Final = 7
ONCE: Final = 8


class Kind(IntEnum):
    """What a field has to do with an answer from a fresh stored response."""

    QUIET = QUIET
    """nothing, unless the response varies on it"""
    SHAPE = SHAPE
    """it selects the form of the answer: coding, or 304"""
    PLACE = PLACE
    """it is part of the target URI, or rewrites it"""
    CREDENTIAL = CREDENTIAL
    """it says who is asking: part of the key where a rule says so"""
    DEMANDING = DEMANDING
    """it asks for something of its own: for the policy alone"""
    LENGTH = LENGTH
    REQUEST_ID = REQUEST_ID
    TRACE = TRACE
    ONCE = ONCE
    """nothing, but the ordinary way refuses two of them; each has a number of its own from here on"""


_KINDS: Final = {
    b"accept-encoding": Kind.SHAPE,
    b"if-none-match": Kind.SHAPE,
    b"if-modified-since": Kind.SHAPE,
    b"host": Kind.PLACE,
    **{name.encode(): Kind.PLACE for name in REWRITING_FIELDS},
    **{name.encode(): Kind.CREDENTIAL for name in CREDENTIAL_FIELDS},
    **dict.fromkeys(
        (b"cache-control", b"pragma", b"range", b"if-range", b"if-match", b"if-unmodified-since"), Kind.DEMANDING
    ),
    b"content-length": Kind.LENGTH,
    b"x-request-id": Kind.REQUEST_ID,
    b"traceparent": Kind.TRACE,
    **{
        name: Kind.ONCE + number
        for number, name in enumerate(
            (b"user-agent", b"content-type", b"content-location", b"content-range", b"etag", b"server")
        )
    },
}
_NOT_PLAIN: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"http2-settings", b"max-forwards"})
ALWAYS_ANEW: Final = frozenset({Kind.CREDENTIAL, Kind.REQUEST_ID, Kind.TRACE, Kind.LENGTH})
"""Kinds whose lines are not remembered: they are hardly ever twice the same, or nobody's to keep."""

NOT_AS_IT_IS: Final = frozenset(
    {b"content-length", b"x-forwarded-for", b"via", *(name.encode() for name in HOP_BY_HOP)}
)
"""Fields that this hop takes away, or writes anew (see `forwarding`)."""
_MINDED: Final = frozenset(
    {b"x-forwarded-for", b"via", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id", b"traceparent"}
)
"""Fields whose presence or value `to_origin` has to know."""
MAX_NAMES: Final = 512

METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})


def alphabet(octets: bytes) -> bytes:
    """For `translate`, by which only a text of nothing but these `octets` stays the same."""
    return bytes([octet if octet in octets else 0 if octet else 1 for octet in range(256)])


# origin-form (RFC 9112 3.2.1): visible ASCII without what no URI may hold, and without the # that begins a fragment
_TARGET: Final = alphabet(bytes([octet for octet in range(0x21, 0x7F) if octet not in b'"#<>\\^`{}']))
# token = 1*tchar (RFC 9110 5.6.2)
_TCHAR: Final = alphabet(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
# field-vchar = VCHAR / obs-text, with SP and HTAB between (RFC 9110 5.5)
FIELD_VALUE: Final = alphabet(bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)]))
# host [ ":" port ], never empty (RFC 3986 3.2, RFC 9110 4.2.4)
_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]*)?")


def field_line(raw: bytes) -> tuple[bytes, Line] | None:
    """A field line's name in lower case, and name and value as text; None where it is not strictly one."""
    name, colon, value = raw.partition(b":")
    lower = name.lower()
    if not colon or not lower or lower.translate(_TCHAR) != lower or value.translate(FIELD_VALUE) != value:
        return None
    return lower, (name.decode("ascii"), value.strip(b" \t").decode("latin-1"))


def text_of(value: bytes) -> str:
    """A field value (RFC 9110 5.5)."""
    return value.strip(b" \t").decode("latin-1")


def may_be_cut(kind: int, lower: bytes) -> bool:
    """Whether it makes no difference to what a request asks for what the field says."""
    return kind not in (SHAPE, PLACE, DEMANDING) and lower not in (b"connection", b"cdn-loop")


class Known:
    """A field line that is understood. Compared by identity. line -- name and value as text, as `Fields` has them.

    shape -- what a shape says of it. minded -- `to_origin` has to know of it.
    wire -- as it goes on to the next hop, once it has; empty where it does not go on as it is.
    """

    __slots__ = ("kind", "line", "lower", "minded", "shape", "wire")

    def __init__(self, kind: int, lower: bytes, line: Line) -> None:
        self.kind = kind
        self.lower = lower
        self.line = line
        self.shape = f"{line[0]}:{line[1]}\n" if kind == SHAPE else ""
        self.minded = lower in _MINDED
        self.wire: bytes | None = None

    def written(self) -> bytes:
        """Makes `wire`."""
        name, value = self.line
        wire = b"" if self.lower in NOT_AS_IT_IS else f"{name}: {value}\r\n".encode("latin-1")
        self.wire = wire
        return wire


class Hole:
    """A line whose value is another each time. at -- which line. before -- its name, where it goes on as it is."""

    __slots__ = ("at", "before", "kind", "lower", "name")

    def __init__(self, at: int, line: Known) -> None:
        self.at = at
        self.kind = line.kind
        self.lower = line.lower
        self.name = line.line[0]
        self.before = b"" if line.lower in NOT_AS_IT_IS else f"{self.name}: ".encode("ascii")

    def line(self, value: str) -> Known:
        """With its value."""
        return Known(self.kind, self.lower, (self.name, value))


class Start:
    """A request line that is understood. line -- its octets. path -- of the target, without the query.

    asked -- what a cache key says of the target. route -- for who knows the rules to note: the label for metrics, and
    whether there is a rule. spot, key -- for who makes cache keys to note: the last, and where it was asked for.
    """

    __slots__ = ("asked", "key", "line", "method", "path", "route", "spot", "target")

    def __init__(self, line: bytes, method: str, target: str) -> None:
        self.line = line
        self.method = method
        self.target = target
        path, mark, query = target.partition("?")
        self.path = path
        self.asked = asked_part(path, query if mark else None)
        self.route: tuple[str, bool] | None = None
        self.spot: Place | None = None
        self.key = ""


class Lines:
    """Lines that were understood before, so that most are read by one look-up. For one thread.

    mark -- of this process, which no plain request has in CDN-Loop (see `forwarding`).
    news -- how often each name was read with a line that was not known.
    """

    __slots__ = ("_mark", "_names", "_once", "known", "news", "starts")

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self.known: dict[bytes, Known] = {}
        self.starts: dict[bytes, Start] = {}
        self._once = bytearray(MAX_KNOWN)
        self.news: dict[bytes, int] = {}
        self._names: dict[bytes, tuple[int, bytes, str]] = {}

    def read_start(self, raw: bytes) -> Start | None:
        """What a request line says; None where it is not plain. One that comes again is remembered."""
        method, _, rest = raw.partition(b" ")
        if method not in METHODS or not (rest.startswith(b"/") and rest.endswith(b" HTTP/1.1")):
            return None
        target = rest[:-9]
        if target.translate(_TARGET) != target:
            return None
        found = Start(raw, method.decode("ascii"), target.decode("ascii"))
        # a part of its hash stands where another part says, until the next comes there; to take a line for one that
        # was seen has it remembered at once, which does no harm
        mark = hash(raw)
        place, trace = mark % MAX_KNOWN, mark // MAX_KNOWN % 255 + 1
        if self._once[place] != trace:
            self._once[place] = trace
        elif len(raw) <= MAX_KNOWN_BYTES:
            if len(self.starts) >= MAX_KNOWN:
                self.starts.clear()
            self.starts[raw] = found
        return found

    def _name(self, raw: bytes) -> tuple[int, bytes, str] | None:
        lower = raw.lower()
        if not lower or lower.translate(_TCHAR) != lower or lower in _NOT_PLAIN:
            return None
        otherwise = Kind.PLACE if as_read(lower.decode("ascii")) in MIMICKED else Kind.QUIET
        found = (int(_KINDS.get(lower, otherwise)), lower, raw.decode("ascii"))
        if len(raw) <= MAX_KNOWN_BYTES:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            self._names[raw] = found
        return found

    def may_be_cut(self, name: bytes) -> bool:
        """As the function of that name. name -- as it was read."""
        kind, lower, _ = self._names.get(name, (DEMANDING, b"", ""))
        return may_be_cut(kind, lower)

    def read(self, raw: bytes) -> Known | None:
        """What a field line says; None where it makes the request other than plain."""
        name, colon, value = raw.partition(b":")
        named = self._names.get(name)
        if named is None:
            named = self._name(name)
        if named is None or not colon or value.translate(FIELD_VALUE) != value:
            return None
        kind, lower, text = named
        self.news[name] = self.news.get(name, 0) + 1
        value = value.strip(b" \t")
        found = Known(kind, lower, (text, value.decode("latin-1")))
        if kind in ALWAYS_ANEW:
            return found
        if (
            (lower == b"connection" and value.lower() != b"keep-alive")
            or (lower == b"host" and _AUTHORITY.fullmatch(value) is None)
            or (lower == b"cdn-loop" and self._mark in value)
        ):
            return None
        if len(raw) > MAX_KNOWN_BYTES:
            return found
        if len(self.known) >= MAX_KNOWN:
            self.known.clear()
        self.known[raw] = found
        return found
