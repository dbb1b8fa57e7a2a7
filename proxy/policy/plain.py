"""The plain request: the one form that the fast code takes. Whatever is not plainly one is None here, and for llhttp.

Nothing is loosened: what is taken is a subset of what RFC 9112 allows, read in the one way that RFC 9112 reads it.

    request = method SP origin-form SP "HTTP/1.1" CRLF 1*( token ":" OWS [ value ] OWS CRLF ) CRLF content

One Host; no Transfer-Encoding, Expect, Upgrade; Connection says keep-alive or is not there; content only with one
Content-Length. Bare CR and LF, folded lines, and controls are in none of the sets below.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from proxy.policy.cache_key import CREDENTIAL_FIELDS, REWRITING_FIELDS, asked_part
from proxy.policy.forwarding import HOP_BY_HOP, VIA
from proxy.policy.messages import Fields, Line

MAX_HEAD_BYTES: Final = 8192
MAX_LINES: Final = 64
MAX_KNOWN: Final = 4096
MAX_KNOWN_BYTES: Final = 256
"""Longer lines are read each time: they are hardly ever twice the same."""

# what `Kind` says, as numbers of their own: to look them up in the class each time would take longer than all the rest
_SHAPE: Final = 1
_PLACE: Final = 2
_CREDENTIAL: Final = 3
_DEMANDING: Final = 4
_LENGTH: Final = 5
_REQUEST_ID: Final = 6
_TRACE: Final = 7
_ONCE: Final = 8


class Kind(IntEnum):
    """What a field has to do with an answer from a fresh stored response."""

    QUIET = 0
    """nothing, unless the response varies on it"""
    SHAPE = _SHAPE
    """it selects the form of the answer: coding, or 304"""
    PLACE = _PLACE
    """it is part of the target URI, or rewrites it"""
    CREDENTIAL = _CREDENTIAL
    """it says who is asking: part of the key where a rule says so"""
    DEMANDING = _DEMANDING
    """it asks for something of its own: for the policy alone"""
    LENGTH = _LENGTH
    REQUEST_ID = _REQUEST_ID
    TRACE = _TRACE
    ONCE = _ONCE
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
            (b"user-agent", b"content-type", b"content-location", b"content-range", b"etag", b"max-forwards", b"server")
        )
    },
}
_NOT_PLAIN: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"http2-settings"})
_ALWAYS_ANEW: Final = frozenset({Kind.CREDENTIAL, Kind.REQUEST_ID, Kind.TRACE, Kind.LENGTH})
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
_WITHOUT_CONTENT: Final = frozenset({"GET", "HEAD"})

METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})

# request-line with origin-form (RFC 9112 3, 3.2.1), of visible ASCII without those that no URI may hold
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{3,7}) (/[!$-;=?-\[\]_a-z|~]*) HTTP/1\.1")
# token = 1*tchar (RFC 9110 5.6.2)
_TCHAR: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
# field-vchar = VCHAR / obs-text, with SP and HTAB between (RFC 9110 5.5)
_FIELD_VALUE: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
# host [ ":" port ], never empty (RFC 3986 3.2, RFC 9110 4.2.4)
_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]*)?")


def field_line(raw: bytes) -> tuple[bytes, Line] | None:
    """A field line's name in lower case, and name and value as text; None where it is not strictly one."""
    name, colon, value = raw.partition(b":")
    lower = name.lower()
    if not colon or not lower or lower.translate(None, _TCHAR) or value.translate(None, _FIELD_VALUE):
        return None
    return lower, (name.decode("ascii"), value.strip(b" \t").decode("latin-1"))


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
        self.shape = f"{line[0]}:{line[1]}\n" if kind == _SHAPE else ""
        self.minded = lower in _MINDED
        self.wire: bytes | None = None

    def written(self) -> bytes:
        """Makes `wire`."""
        name, value = self.line
        wire = b"" if self.lower in NOT_AS_IT_IS else f"{name}: {value}\r\n".encode("latin-1")
        self.wire = wire
        return wire


class Start:
    """A request line that is understood. asked -- what a cache key says of the target.

    route -- for who knows the rules to note: the label for metrics, and whether there is a rule.
    """

    __slots__ = ("asked", "method", "route", "target", "wire")

    def __init__(self, method: str, target: str) -> None:
        self.method = method
        self.target = target
        self.asked = asked_part(target)
        self.wire = f"{method} {target} HTTP/1.1\r\n".encode()
        self.route: tuple[str, bool] | None = None


class Lexicon:
    """Request lines and field lines that were understood before, so that most are read by one look-up."""

    __slots__ = ("_names", "known", "starts")

    def __init__(self) -> None:
        self.known: dict[bytes, Known] = {}
        self.starts: dict[bytes, Start] = {}
        self._names: dict[bytes, tuple[int, bytes, str]] = {}

    def read_start(self, raw: bytes) -> Start | None:
        """What a request line says; None where it is not plain."""
        match = _REQUEST_LINE.fullmatch(raw)
        if match is None or match[1] not in METHODS:
            return None
        target = match[2].decode("ascii")
        found = Start(match[1].decode("ascii"), target)
        if len(raw) <= MAX_KNOWN_BYTES:
            if len(self.starts) >= MAX_KNOWN:
                self.starts.clear()
            self.starts[raw] = found
        return found

    def _name(self, raw: bytes) -> tuple[int, bytes, str] | None:
        lower = raw.lower()
        if not lower or lower.translate(None, _TCHAR) or lower in _NOT_PLAIN:
            return None
        found = (int(_KINDS.get(lower, Kind.QUIET)), lower, raw.decode("ascii"))
        if len(raw) <= MAX_KNOWN_BYTES:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            self._names[raw] = found
        return found

    def read(self, raw: bytes) -> Known | None:
        """What a field line says; None where it makes the request other than plain."""
        name, colon, value = raw.partition(b":")
        named = self._names.get(name)
        if named is None:
            named = self._name(name)
        if named is None or not colon or value.translate(None, _FIELD_VALUE):
            return None
        kind, lower, text = named
        value = value.strip(b" \t")
        found = Known(kind, lower, (text, value.decode("latin-1")))
        if kind in _ALWAYS_ANEW:
            return found
        if (lower == b"connection" and value.lower() != b"keep-alive") or (
            lower == b"host" and _AUTHORITY.fullmatch(value) is None
        ):
            return None
        if len(raw) > MAX_KNOWN_BYTES:
            return found
        if len(self.known) >= MAX_KNOWN:
            self.known.clear()
        self.known[raw] = found
        return found


class Plain:
    """A plain request's head, sorted by what its fields have to do with a hit.

    size -- octets of the head with its last CRLF. length -- of the content that follows; framed: the request says so.
    shape -- the lines that select the form of the answer, and the method where it is not GET.
    place -- Host first, then what rewrites. request_id, traceparent -- "" where absent.
    credentials -- the lines that say who is asking. key -- the cache key, once somebody worked it out.
    demanding -- something is asked for that only the whole policy can tell.
    """

    __slots__ = (
        "credentials",
        "demanding",
        "framed",
        "key",
        "length",
        "lines",
        "place",
        "request_id",
        "shape",
        "size",
        "start",
        "traceparent",
    )

    def __init__(self, start: Start, lines: list[Known], size: int) -> None:
        self.start = start
        self.lines = lines
        self.size = size
        self.place: tuple[Known, ...] = ()
        self.shape = self.credentials = self.request_id = self.traceparent = ""
        self.demanding = self.framed = False
        self.length = 0
        self.key: str | None = None

    @property
    def host(self) -> str:
        """The Host field's value."""
        return self.place[0].line[1]

    def fields(self) -> Fields:
        """Every field, as received."""
        return Fields([known.line for known in self.lines])


def parse(data: bytes, lexicon: Lexicon) -> Plain | None:
    """The plain request that `data` begins with; None where it is none, or its head is not complete."""
    size = len(data)
    if size <= MAX_HEAD_BYTES and data.endswith(b"\r\n\r\n"):
        # most have no content; were there an empty line before, it would not be a plain field line
        plain = _head(data[: size - 4], lexicon)
        if plain is not None:
            return plain
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    return _head(data[:end], lexicon) if end >= 0 else None


def _head(head: bytes, lexicon: Lexicon) -> Plain | None:
    """`head` is without the empty line that ends it."""
    raw = head.split(b"\r\n")
    first = raw[0]
    start = lexicon.starts.get(first)
    if start is None:
        start = lexicon.read_start(first)
    if start is None or len(raw) > MAX_LINES:
        return None
    return _sorted(start, raw, lexicon, len(head) + 4)


def _sorted(  # noqa: PLR0912, PLR0915 - one look at each line
    start: Start, raw: list[bytes], lexicon: Lexicon, size: int
) -> Plain | None:
    """None where a line is not plain, or there twice and may be once, or Host or the length are not as they must be.

    raw -- the request line and the field lines.
    """
    lines: list[Known] = []
    host: Known | None = None
    length: Known | None = None
    place: list[Known] = []
    once = 0
    shape = "" if start.method == "GET" else start.method
    credentials = request_id = traceparent = ""
    demanding = False
    known = lexicon.known
    for at in range(1, len(raw)):
        line = known.get(raw[at])
        if line is None:
            line = lexicon.read(raw[at])
            if line is None:
                return None
        lines.append(line)
        kind = line.kind
        if not kind:
            continue
        if kind >= _ONCE:
            if once >> kind & 1:
                return None
            once |= 1 << kind
        elif kind == _SHAPE:
            shape += line.shape
        elif kind == _PLACE:
            if line.lower != b"host":
                place.append(line)
            elif host is None:
                host = line
            else:
                return None
        elif kind == _REQUEST_ID:
            request_id = f"{request_id}, {line.line[1]}" if request_id else line.line[1]
        elif kind == _TRACE:
            traceparent = f"{traceparent}, {line.line[1]}" if traceparent else line.line[1]
        elif kind == _CREDENTIAL:
            credentials += f"{line.line[0]}: {line.line[1]}\n"
        elif kind == _DEMANDING:
            demanding = True
        elif length is None:
            length = line
        else:
            return None
    if host is None:
        return None
    plain = Plain(start, lines, size)
    plain.place = (host, *place)
    plain.shape = shape
    plain.credentials = credentials
    plain.request_id = request_id
    plain.traceparent = traceparent
    plain.demanding = demanding
    if length is not None:
        digits = length.line[1]
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 19) or start.method in _WITHOUT_CONTENT:
            return None
        plain.framed = True
        plain.length = int(digits)
    return plain


def to_origin(plain: Plain, peer: str, request_id: str, traceparent: str) -> bytes:
    """The head of `plain` for the next hop, as `forwarding.to_origin` has it, without the line that ends it.

    peer -- the client's address. request_id, traceparent -- set where the client brought none.
    """
    pieces = [plain.start.wire]
    fields: dict[bytes, str] = {}
    for line in plain.lines:
        wire = line.wire
        pieces.append(line.written() if wire is None else wire)
        if line.minded:
            before = fields.get(line.lower)
            fields[line.lower] = line.line[1] if before is None else f"{before}, {line.line[1]}"
    forwarded, via = fields.get(b"x-forwarded-for"), fields.get(b"via")
    added = f"X-Forwarded-For: {forwarded}, {peer}\r\n" if forwarded else f"X-Forwarded-For: {peer}\r\n"
    if b"x-forwarded-proto" not in fields:
        added += "X-Forwarded-Proto: http\r\n"
    if b"x-forwarded-host" not in fields:
        added += f"X-Forwarded-Host: {plain.host}\r\n"
    if b"x-request-id" not in fields:
        added += f"X-Request-Id: {request_id}\r\n"
    if b"traceparent" not in fields:
        added += f"traceparent: {traceparent}\r\n"
    pieces.append(f"{added}Via: {f'{via}, {VIA}' if via else VIA}\r\n".encode("latin-1"))
    return b"".join(pieces)
