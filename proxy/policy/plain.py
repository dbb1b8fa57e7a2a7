"""The plain request: the one form that the fast code takes. Whatever is not plainly one is None here, and for llhttp.

Nothing is loosened: what is taken is a subset of what RFC 9112 allows, read in the one way that RFC 9112 reads it.

    request = method SP origin-form SP "HTTP/1.1" CRLF 1*( token ":" OWS [ value ] OWS CRLF ) CRLF content

One Host; no Transfer-Encoding, Expect, Upgrade, Max-Forwards; Connection says keep-alive or is not there; content only
with one Content-Length (see `lines`).

A client that keeps asking sends the same head again but for a few values. So a head is remembered as a `Heading`:
without its request line, and with the values cut out that are another each time. The next like it is one look-up, and
on the same connection not even that: it is seen to be like the last.
"""

from __future__ import annotations

from typing import Final

from proxy.policy.cache_key import Place
from proxy.policy.lines import (
    ALWAYS_ANEW,
    CREDENTIAL,
    DEMANDING,
    FIELD_VALUE,
    LENGTH,
    ONCE,
    PLACE,
    QUIET,
    REQUEST_ID,
    SHAPE,
    TRACE,
    Hole,
    Known,
    Lines,
    Start,
    may_be_cut,
    text_of,
)
from proxy.policy.messages import Fields
from proxy.policy.onward import Onward

MAX_HEAD_BYTES: Final = 8192
MAX_LINES: Final = 64
MAX_HEADINGS: Final = 512
MAX_HEADING_BYTES: Final = 2048
MAX_CUTS: Final = 8
REVIEW_HEADS: Final = 64
"""Heads that are read line by line before it is looked at again which values to cut out."""
_WITHOUT_CONTENT: Final = frozenset({"GET", "HEAD"})
_END: Final = b"\r\n\r\n"
_NOTHING: Final[list[bytes]] = []


class Heading:
    """What `Plain` says of a head that does not hang on request line and holes.

    pieces -- octets before, between and behind the holes, from the end of the request line to the empty line that ends
    the head, with it. lines -- None where there is a hole. spot -- for who makes cache keys to note what `place` means.
    traces -- as `Plain.speaks_of_traces` has it.
    """

    __slots__ = (
        "_asked",
        "_question",
        "credentials",
        "demanding",
        "holes",
        "lines",
        "onward",
        "pieces",
        "place",
        "shape",
        "spot",
        "traces",
    )

    def __init__(self, pieces: list[bytes], lines: list[Known | None], holes: list[Hole], plain: Plain) -> None:
        """plain -- one that has it."""
        self.pieces = pieces
        self.spot: Place | None = None
        self.lines = lines
        self.holes = holes
        self.place = plain.place
        self.shape = plain.shape if plain.start.method == "GET" else plain.shape.removeprefix(plain.start.method)
        self.credentials = plain.credentials
        self.demanding = plain.demanding
        self.onward: Onward | None = None
        self.traces = _speak_of_traces(plain.lines())
        self._asked = self._question = ""

    def question(self, method: str) -> str:
        """As `Plain.question` has it."""
        if self._asked != method:
            shape = self.shape if method == "GET" else method + self.shape
            self._asked, self._question = method, _question(method, self.credentials, shape)
        return self._question


def _speak_of_traces(lines: list[Known]) -> bool:
    names = {line.lower for line in lines}
    return b"traceparent" in names or b"tracestate" in names


def _question(method: str, credentials: str, shape: str) -> str:
    return f"{method}\n{credentials}\n{shape}"


class Plain:
    """A plain request's head, sorted by what its fields have to do with a hit.

    size -- octets of the head with its last CRLF. length -- of the content that follows; framed: the request says so.
    shape -- the lines that select the form of the answer, and the method where it is not GET.
    place -- Host first, then what rewrites. request_id, traceparent -- "" where absent.
    credentials -- the names of the lines that say who is asking. key -- the cache key, once somebody worked it out.
    demanding -- something is asked for that only the whole policy can tell.
    watched -- it has to have a span. drawn -- the id of the trace that it begins, once drawn; otherwise 0.
    heading, values -- what it was found by, and what stood in the holes.
    """

    __slots__ = (
        "_lines",
        "credentials",
        "demanding",
        "drawn",
        "framed",
        "heading",
        "key",
        "length",
        "place",
        "request_id",
        "shape",
        "size",
        "start",
        "traceparent",
        "values",
        "watched",
    )

    def __init__(self, start: Start, size: int, place: tuple[Known, ...], shape: str, *, demanding: bool) -> None:
        self.start = start
        self.size = size
        self.place = place
        self.shape = shape
        self.demanding = demanding
        self.request_id = self.traceparent = self.credentials = ""
        self.framed = self.watched = False
        self.length = self.drawn = 0
        self.key: str | None = None
        self.heading: Heading | None = None
        self.values: list[bytes] = _NOTHING
        self._lines: list[Known] | None = None

    @property
    def host(self) -> str:
        """The Host field's value."""
        return self.place[0].line[1]

    def lines(self) -> list[Known]:
        """Every line, as received."""
        if self._lines is None:
            assert self.heading is not None
            lines = self.heading.lines[:]
            for number, hole in enumerate(self.heading.holes):
                lines[hole.at] = hole.line(text_of(self.values[number]))
            self._lines = [line for line in lines if line is not None]
        return self._lines

    def authorization(self) -> list[str]:
        """What the lines of that name say."""
        if self.heading is None:
            return [line.line[1] for line in self.lines() if line.lower == b"authorization"]
        holes = enumerate(self.heading.holes)
        return [text_of(self.values[number]) for number, hole in holes if hole.lower == b"authorization"]

    def speaks_of_traces(self) -> bool:
        """Whether there is a line of W3C Trace Context, be it empty."""
        return _speak_of_traces(self.lines()) if self.heading is None else self.heading.traces

    def fields(self) -> Fields:
        """Every field, as received."""
        return Fields([known.line for known in self.lines()])

    def question(self) -> str:
        """What of a request without a rule has to do with what becomes of the response."""
        method = self.start.method
        if self.heading is not None:
            return self.heading.question(method)
        return _question(method, self.credentials, self.shape)

    def frame(self, digits: str) -> bool:
        """Note the Content-Length. False where it is none, or none may be."""
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 19) or self.start.method in _WITHOUT_CONTENT:
            return False
        self.framed = True
        self.length = int(digits)
        return True


class Lexicon(Lines):
    """What was understood before: lines, and whole heads. cuts -- what values to be cut out stand behind, in order."""

    __slots__ = ("_met", "_read", "cuts", "headings")

    def __init__(self, mark: bytes = b"siding") -> None:
        super().__init__(mark)
        self.headings: dict[bytes, Heading] = {}
        self.cuts: list[bytes] = []
        self._met: set[int] = set()
        self._read = 0

    def note(self, lines: list[bytes]) -> None:
        """A head is about to be read line by line: now and then, see which of its lines are always new."""
        self._read += 1
        if self._read < REVIEW_HEADS:
            return
        self._read = 0
        news, self.news = self.news, {}
        names = [line.partition(b":")[0] for line in lines]
        wanted = [
            b"\r\n%b:" % name
            for name in names
            if news.get(name, 0) * 4 >= REVIEW_HEADS and names.count(name) == 1 and self.may_be_cut(name)
        ]
        missing = [cut for cut in wanted if cut not in self.cuts]
        if missing:
            kept = [cut for cut in self.cuts if cut not in wanted]
            self.cuts = wanted[:MAX_CUTS] if len(kept) + len(wanted) > MAX_CUTS else kept + wanted
            self.headings.clear()
            self._met.clear()

    def learn(self, key: bytes, plain: Plain, pieces: list[bytes]) -> None:
        """Remember the heading that was met before under `key`, which is all its `pieces`."""
        if len(key) > MAX_HEADING_BYTES:
            return
        mark = hash(key)
        if mark not in self._met:
            if len(self._met) >= MAX_HEADINGS:
                self._met.clear()
            self._met.add(mark)
            return
        lines = plain.lines()
        holes = self._holes(lines)
        if len(holes) != len(pieces) - 1 or not _may_be_cut(lines, holes):
            return
        without: list[Known | None] = [*lines]
        for hole in holes:
            without[hole.at] = None
        if len(self.headings) >= MAX_HEADINGS:
            self.headings.clear()
        self.headings[key] = Heading(pieces, without, holes, plain)

    def _holes(self, lines: list[Known]) -> list[Hole]:
        """Where `_head` cuts."""
        holes: list[Hole] = []
        begin = 0
        for cut in self.cuts:
            for at in range(begin, len(lines)):
                if b"\r\n%b:" % lines[at].line[0].encode("ascii") == cut:
                    holes.append(Hole(at, lines[at]))
                    begin = at + 1
                    break
        return holes


def _may_be_cut(lines: list[Known], holes: list[Hole]) -> bool:
    """Whether it makes no difference what stands in the holes, but for what `_recalled` does with it.

    What is anew each time has to be in a hole; where a value is joined with others, or the field may be there once, all
    of them would have to be.
    """
    cut = {hole.at for hole in holes}
    names = [line.lower for line in lines]
    for at, line in enumerate(lines):
        if at not in cut:
            if line.kind in ALWAYS_ANEW:
                return False
        elif not may_be_cut(line.kind, line.lower) or (
            names.count(line.lower) > 1 and (line.minded or line.kind != QUIET)
        ):
            return False
    return True


def parse(data: bytes, lexicon: Lexicon, like: Heading | None = None) -> Plain | None:
    """The plain request that `data` begins with; None where it is none, or its head is not complete.

    like -- what its heading may be.
    """
    if like is not None:
        plain = _alike(data, lexicon, like)
        if plain is not None:
            return plain
    if len(data) <= MAX_HEAD_BYTES and data.endswith(_END):
        # most have no content; were there an empty line before, it would not be a plain field line
        plain = _head(data, lexicon)
        if plain is not None:
            return plain
    end = data.find(_END, 0, MAX_HEAD_BYTES)
    return _head(data[: end + 4], lexicon) if end >= 0 else None


def _alike(data: bytes, lexicon: Lexicon, heading: Heading) -> Plain | None:
    """None where it does not begin with a head that has the heading."""
    first = end = data.find(b"\r\n")
    begin = 0
    values: list[bytes] = []
    for piece in heading.pieces:
        if begin:
            end = data.find(b"\r\n", begin)
            if end > 0:
                values.append(data[begin:end])
        if end < 0:
            return None
        begin = end + len(piece)
        if data[end:begin] != piece:
            return None
    if begin > MAX_HEAD_BYTES:
        return None
    line = data[:first]
    start = lexicon.starts.get(line) or lexicon.read_start(line)
    return _recalled(start, heading, values, begin) if start is not None else None


def _head(head: bytes, lexicon: Lexicon) -> Plain | None:
    """`head` is with the empty line that ends it."""
    at = head.find(b"\r\n")
    line = head[:at]
    start = lexicon.starts.get(line) or lexicon.read_start(line)
    if start is None:
        return None
    pieces: list[bytes] = []
    values: list[bytes] = []
    for cut in lexicon.cuts:
        begin = head.find(cut, at)
        if begin >= 0:
            begin += len(cut)
            end = head.find(b"\r\n", begin)
            pieces.append(head[at:begin])
            values.append(head[begin:end])
            at = end
    pieces.append(head[at:])
    key = b"".join(pieces)
    heading = lexicon.headings.get(key)
    if heading is not None:
        return _recalled(start, heading, values, len(head))
    raw = head[:-4].split(b"\r\n")[1:]
    if len(raw) >= MAX_LINES:
        return None
    lexicon.note(raw)
    plain = _sorted(start, raw, lexicon, len(head))
    if plain is not None and lexicon.cuts:
        lexicon.learn(key, plain, pieces)
    return plain


def _recalled(start: Start, heading: Heading, values: list[bytes], size: int) -> Plain | None:
    """None where a value is none, or the length is not as it must be."""
    method = start.method
    plain = Plain(
        start,
        size,
        heading.place,
        heading.shape if method == "GET" else method + heading.shape,
        demanding=heading.demanding,
    )
    plain.heading = heading
    plain.values = values
    plain.credentials = heading.credentials
    for at, hole in enumerate(heading.holes):
        value = text_of(values[at])
        # what is printable is among it, and seen at a glance
        if not value.isprintable() and values[at].translate(FIELD_VALUE) != values[at]:
            return None
        kind = hole.kind
        if kind == REQUEST_ID:
            plain.request_id = value
        elif kind == TRACE:
            plain.traceparent = value
        elif kind == LENGTH and not plain.frame(value):
            return None
    return plain


def _sorted(  # noqa: PLR0912 - one look at each line
    start: Start, raw: list[bytes], lexicon: Lexicon, size: int
) -> Plain | None:
    """None where a line is not plain, or there twice and may be once, or Host or the length are not as they must be.

    raw -- the field lines.
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
    for octets in raw:
        line = known.get(octets)
        if line is None:
            line = lexicon.read(octets)
            if line is None:
                return None
        lines.append(line)
        kind = line.kind
        if kind == QUIET:
            continue
        if kind >= ONCE:
            if once >> kind & 1:
                return None
            once |= 1 << kind
        elif kind == SHAPE:
            shape += line.shape
        elif kind == PLACE:
            if line.lower != b"host":
                place.append(line)
            elif host is None:
                host = line
            else:
                return None
        elif kind == REQUEST_ID:
            request_id = f"{request_id}, {line.line[1]}" if request_id else line.line[1]
        elif kind == TRACE:
            traceparent = f"{traceparent}, {line.line[1]}" if traceparent else line.line[1]
        elif kind == CREDENTIAL:
            credentials += f"{line.line[0].lower()},"
        elif kind == DEMANDING:
            demanding = True
        elif length is None:
            length = line
        else:
            return None
    if host is None:
        return None
    plain = Plain(start, size, (host, *place), shape, demanding=demanding)
    plain._lines = lines
    plain.credentials = credentials
    plain.request_id = request_id
    plain.traceparent = traceparent
    return plain if length is None or plain.frame(length.line[1]) else None


def to_origin(plain: Plain, peer: str, request_id: str, traceparent: str, mark: bytes = b"") -> bytes:
    """The head of `plain` for the next hop, as `forwarding.to_origin` has it, without the line that ends it.

    peer -- the client's address. request_id, traceparent -- set where the client brought none.
    mark -- the line with this hop's, if it has one.
    """
    heading, values = plain.heading, plain.values
    if heading is None:
        onward = Onward(plain.lines(), [], plain.host)
    elif heading.onward is None:
        onward = heading.onward = Onward(heading.lines, heading.holes, plain.host)
    else:
        onward = heading.onward
    pieces = [plain.start.line, onward.pieces[0]]
    for at, number in enumerate(onward.going):
        pieces.append(values[number].strip(b" \t"))
        pieces.append(onward.pieces[at + 1])
    pieces.append(onward.hop(peer, values))
    if not onward.identified:
        pieces.append(b"X-Request-Id: %b\r\n" % request_id.encode("latin-1"))
    if not onward.traced:
        pieces.append(b"traceparent: %b\r\n" % traceparent.encode("latin-1"))
    pieces.append(mark)
    return b"".join(pieces)
