"""Responses that pass: for one client alone, whole at hand, and framed in the one plain way.

    response = "HTTP/1.1" SP status SP reason CRLF 1*( token ":" OWS [ value ] OWS CRLF ) CRLF content

One Content-Length, or chunks that have come whole, and nothing else about framing; or a status that goes without
content and nothing about framing; and a Date; the connection stays open. What the policy made of such a response once
(`learn`), it makes of the next whose judged fields are the same octets: which ones those are is written below.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.policy.decisions import Verdict
from proxy.policy.encoding import MIN_LENGTH
from proxy.policy.fields import parse_etag
from proxy.policy.forwarding import HOP_BY_HOP
from proxy.policy.lines import MAX_KNOWN, MAX_KNOWN_BYTES, field_line
from proxy.policy.messages import ResponseHead
from proxy.policy.plain import MAX_HEAD_BYTES, MAX_LINES
from proxy.policy.prepared import NO_CONTENT, status_line

MAX_LEARNT = 4096
MAX_REPLIES, MAX_REPLY_BYTES = 256, 1024
MAX_LEARNT_BYTES = 2048
"""Longer questions and marks are not remembered: clients and origins choose how long they are."""

_QUIET: Final = 0
_JUDGED: Final = 1
_GONE: Final = 2
_FRAMING: Final = 3
_DATE: Final = 4
"""What a field has to do with the ruling: nothing; it is judged; it is for one hop; framing; the time."""
_CHUNKS: Final = -1
"""In place of a length."""

_JUDGED_NAMES = frozenset(
    {
        b"accept-ranges",
        b"age",
        b"allow",
        b"cache-control",
        b"content-digest",
        b"content-encoding",
        b"content-language",
        b"content-md5",
        b"content-range",
        b"content-type",
        b"digest",
        b"expires",
        b"last-modified",
        b"pragma",
        b"repr-digest",
        b"vary",
        b"warning",
    }
)
_TAG, _COOKIE = b"etag", b"set-cookie"
_PRESENT = frozenset({_TAG, _COOKIE})
"""Fields of which the presence is judged, and whether the tag is strong: their values are others each time."""
_NEVER = frozenset(
    {
        b"cache-group-invalidation",
        b"cache-groups",
        b"cache-status",
        b"content-location",
        b"location",
        b"trailer",
        b"upgrade",
        b"via",
    }
)
"""Fields that have to do with framing, or whose value means something that has to be done."""

_FRAMING_NAMES = frozenset({b"content-length", b"transfer-encoding"})
_HOPS = frozenset(name.encode() for name in HOP_BY_HOP)
# status-line (RFC 9112 4) with a final status
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_NOT_PLAIN = frozenset({205, 206})
FIRST_SPAN, MAX_SPAN = 8, 1024
"""Responses that are taken for streams after one that was."""
_MOST_SIZE: Final = 8
"""Digits of a chunk's size."""

TIMELESS = frozenset(
    {
        Verdict.METHOD,
        Verdict.STATUS,
        Verdict.NO_STORE,
        Verdict.PRIVATE,
        Verdict.AUTHORIZATION,
        Verdict.CREDENTIAL,
        Verdict.SET_COOKIE,
        Verdict.VARY_STAR,
    }
)
"""Verdicts that the same fields bring at any time."""


class _Known:
    """A field line. length -- of the content, or `_CHUNKS`, if it frames it. fixed -- it is judged octet for octet."""

    __slots__ = ("fixed", "kind", "length", "mark", "wire")

    def __init__(self, kind: int, wire: bytes, mark: bytes, length: int, *, fixed: bool) -> None:
        self.kind = kind
        self.wire = wire
        self.mark = mark
        self.length = length
        self.fixed = fixed


class _Status:
    """A status line. bodiless -- the response ends with its head."""

    __slots__ = ("bodiless", "reason", "status", "wire")

    def __init__(self, status: int, reason: str, wire: bytes) -> None:
        self.status = status
        self.bodiless = status in NO_CONTENT
        self.reason = reason
        self.wire = wire


class Reply:
    """A plain response's head. size -- its octets. length -- of its content; -1 where that comes in chunks.

    mark -- what of it is judged. kept -- status line and fields, as they go on. fixed -- those of them that are judged
    octet for octet. tag_at -- where the one ETag is among them, or -1.
    """

    __slots__ = ("_answer", "_begin", "_of", "fixed", "kept", "length", "mark", "size", "status", "tag_at", "wire")

    def __init__(
        self,
        status: _Status,
        size: int,
        length: int,
        mark: bytes,
        kept: list[bytes],
        fixed: frozenset[bytes],
        tag_at: int,
    ) -> None:
        self.status = status
        self.size = size
        self.length = length
        self.mark = mark
        self.kept = kept
        self.fixed = fixed
        self.tag_at = tag_at
        self.wire = b"".join(kept)
        self._of: Passed | None = None
        self._begin = self._answer = b""

    def judged(self, length: int) -> bytes:
        """What of it is judged with content of that length: whether it is long enough to be coded as well."""
        return self.mark + b"\nlong" if length >= MIN_LENGTH else self.mark

    def answer(self, passed: Passed, etag: str | None, length: int) -> bytes:
        """The head of the answer, without the line that ends it.

        etag -- strong, made of the content, where `passed` makes one. length -- of the content as it is sent.
        """
        if self._of is not passed:
            self._of, self._begin = passed, self._edited(passed)
            self._answer = b"%b%b%b" % (self._begin, passed.added, self._framing(passed))
        if passed.made is not None and etag is not None:
            before, after = passed.made
            return b"%b%b%b%bContent-Length: %d\r\n" % (self._begin, before, etag.encode(), after, length)
        if length == self.length or passed.in_chunks:
            # nothing is coded
            return self._answer
        return b"%b%bContent-Length: %d\r\n" % (self._begin, passed.added, length)

    def _framing(self, passed: Passed) -> bytes:
        if passed.in_chunks:
            return b"Transfer-Encoding: chunked\r\n"
        return b"" if self.status.bodiless else b"Content-Length: %d\r\n" % self.length

    def _edited(self, passed: Passed) -> bytes:
        if not passed.edits and not passed.weakens:
            return self.wire
        kept = [passed.edits.get(wire, wire) for wire in self.kept]
        if passed.weakens and self.tag_at >= 0:
            kept[self.tag_at] = _weakened(self.kept[self.tag_at])
        return b"".join(kept)


def _weakened(wire: bytes) -> bytes:
    """An ETag line whose strong tag has become weak."""
    name, _, value = wire.partition(b": ")
    return b"%b: W/%b" % (name, value)


class Passed:
    """What the policy made of a response: lines put behind the origin's own, and some of those changed.

    coding -- the content coding applied. made -- what stands before and after a validator made of the content; None
    where none is made. edits -- what became of lines that are judged octet for octet; empty octets where they went.
    weakens -- the origin's strong ETag became weak. in_chunks -- as it came.
    told -- for who tells of it to note what is alike for all under a route's label.
    """

    __slots__ = ("added", "coding", "edits", "in_chunks", "made", "told", "verdict", "weakens")

    def __init__(
        self,
        verdict: Verdict | None,
        coding: str | None,
        added: bytes,
        made: tuple[bytes, bytes] | None,
        edits: dict[bytes, bytes],
        *,
        weakens: bool,
        in_chunks: bool,
    ) -> None:
        self.verdict = verdict
        self.coding = coding
        self.added = added
        self.made = made
        self.edits = edits
        self.weakens = weakens
        self.in_chunks = in_chunks
        self.told: dict[str, object] = {}


class Replies:
    """Reads plain responses, and knows what became of their like. For one thread."""

    def __init__(self, targets: tuple[str, ...]) -> None:
        """targets -- fields that go before Cache-Control (RFC 9213), in lower case."""
        self._targets = [name.encode() for name in targets]
        self._judged = _JUDGED_NAMES | {name.encode() for name in targets}
        self._known: dict[bytes, _Known] = {}
        self._statuses: dict[bytes, _Status] = {}
        self._learnt: dict[tuple[str, bytes], Passed] = {}
        self._streams: dict[tuple[str, bytes], tuple[int, int]] = {}
        self._replies: dict[bytes, Reply] = {}
        self._last: Reply | None = None
        self._last_head = b""

    def read(self, data: bytes) -> Reply | None:
        """The plain response that `data` begins with; None where it is none, or its head is not complete."""
        # while nothing but the second of its Date changes, a head is the same again and again
        if self._last is not None and data.startswith(self._last_head):
            return self._last
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        if end < 0:
            return None
        head = data[: end + 4]
        reply = self._replies.get(head)
        if reply is None:
            reply = self._read(head[:-4])
            if reply is None or not _may_be_kept(head):
                return reply
            if len(self._replies) >= MAX_REPLIES:
                self._replies.clear()
            self._replies[head] = reply
        self._last, self._last_head = reply, head
        return reply

    def _read(self, head: bytes) -> Reply | None:
        raw = head.split(b"\r\n")
        first = raw.pop(0)
        status = self._statuses.get(first)
        if status is None:
            status = self._status(first)
        if status is None or len(raw) > MAX_LINES:
            return None
        framing: _Known | None = None
        dated, mark, kept = False, first, [status.wire]
        fixed: list[bytes] = []
        tags: list[int] = []
        for text in raw:
            line = self._known.get(text)
            if line is None:
                line = self._line(text)
                if line is None:
                    return None
            if line.kind == _FRAMING:
                if framing is not None:
                    return None
                framing = line
                mark += line.mark
            elif line.kind != _GONE:
                if line.fixed:
                    fixed.append(line.wire)
                elif line.mark.startswith(b"\netag"):
                    tags.append(len(kept))
                kept.append(line.wire)
                mark += line.mark
                dated = dated or line.kind == _DATE
        if (framing is None) is not status.bodiless or not dated:
            # one that is not dated is dated here (RFC 9110 6.6.1)
            return None
        length = framing.length if framing is not None else 0
        tag_at = tags[0] if len(tags) == 1 else -1
        return Reply(status, len(head) + 4, length, mark, kept, frozenset(fixed), tag_at)

    def _status(self, raw: bytes) -> _Status | None:
        match = _STATUS_LINE.fullmatch(raw)
        if match is None or int(match[1]) in _NOT_PLAIN:
            return None
        found = _Status(int(match[1]), match[2].decode("latin-1"), raw + b"\r\n")
        if len(raw) <= MAX_KNOWN_BYTES and len(self._statuses) < MAX_KNOWN:
            self._statuses[raw] = found
        return found

    def _line(self, raw: bytes) -> _Known | None:
        read = field_line(raw)
        if read is None:
            return None
        lower, line = read
        value = line[1].lower()
        kind, mark, length, fixed = _QUIET, b"", 0, False
        if lower in _NEVER or (lower == b"connection" and value != "keep-alive"):
            return None
        if lower == b"transfer-encoding" and value == "chunked":
            kind, length, mark = _FRAMING, _CHUNKS, b"\nchunked"
        elif lower == b"content-length" and value.isascii() and value.isdecimal() and len(value) < 16:
            kind, length = _FRAMING, int(value)
        elif lower in _FRAMING_NAMES or (lower == b"keep-alive" and not _lasts(value)):
            return None
        elif lower in _HOPS:
            kind = _GONE
        elif lower == b"date":
            kind = _DATE
        elif lower in self._judged:
            kind, mark, fixed = _JUDGED, b"\n" + raw, True
        elif lower in _PRESENT:
            kind, mark = _JUDGED, b"\n" + lower
            if lower == _TAG:
                tag = parse_etag(line[1])
                mark += b" none" if tag is None else b" weak" if tag.weak else b" strong"
        found = _Known(kind, f"{line[0]}: {line[1]}\r\n".encode("latin-1"), mark, length, fixed=fixed)
        if len(raw) <= MAX_KNOWN_BYTES and lower != _COOKIE:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[raw] = found
        return found

    def known(self, question: str, reply: Reply, length: int) -> Passed | None:
        """What the policy made of such a response, with content of that length, to such a question."""
        return self._learnt.get((question, reply.judged(length)))

    def learn(
        self,
        question: str,
        reply: Reply,
        length: int,
        sent: ResponseHead,
        verdict: Verdict | None,
        coding: str | None = None,
        *,
        in_chunks: bool = False,
    ) -> None:
        """Remember what the policy made of `reply`, with content of that length, if that was to pass it on, in
        `coding`, with lines changed that are judged or added behind its own. in_chunks -- it was not sent whole."""
        wires = [f"{name}: {value}\r\n".encode("latin-1") for name, value in sent.fields.lines]
        mark = reply.judged(length)
        if status_line(sent) != reply.status.wire or len(question) + len(mark) > MAX_LEARNT_BYTES:
            return
        if verdict is not None and verdict not in TIMELESS and not self._never_fresh(reply, verdict):
            return
        compared = _compared(reply, wires)
        if compared is None:
            return
        edits, weakens, added = compared
        etags = [at for at, wire in enumerate(added) if wire.startswith(b"ETag: ")]
        made = None
        if etags:
            if "\nif-" in question.lower():
                return
            at = etags[0]
            name = b"ETag: W/" if added[at].startswith(b"ETag: W/") else b"ETag: "
            made = b"".join([*added[:at], name]), b"".join([b"\r\n", *added[at + 1 :]])
        if len(self._learnt) >= MAX_LEARNT:
            self._learnt.clear()
        self._learnt[question, mark] = Passed(
            verdict, coding, b"".join(added), made, edits, weakens=weakens, in_chunks=in_chunks
        )

    def _never_fresh(self, reply: Reply, verdict: Verdict) -> bool:
        """Whether it is for want of any word on its lifetime, and not for its age, that it is not kept."""
        said = reply.mark.lower()
        # an ETag that is one makes it worth keeping, and of it only the presence is judged
        return (
            verdict is Verdict.NO_FRESHNESS
            and b"\netag" not in said
            and not any(
                b"\n" + name + b":" in said for name in (b"cache-control", b"expires", b"last-modified", *self._targets)
            )
        )

    def is_stream(self, question: str, reply: Reply) -> bool:
        """Whether the end of its chunks is not to be waited for: the last time it did not come within a moment.

        After some responses it is tried again: after twice as many each time that it was in vain.
        """
        key = question, reply.mark
        left, span = self._streams.get(key, (0, 0))
        if left:
            self._streams[key] = left - 1, span
        return left > 0

    def came(self, question: str, reply: Reply, *, whole: bool) -> None:
        """Note for `is_stream` how chunks came that were looked at: whole, within a moment, or not."""
        key = question, reply.mark
        if whole:
            if self._streams:
                self._streams.pop(key, None)
        elif len(question) + len(reply.mark) <= MAX_LEARNT_BYTES:
            left, span = self._streams.get(key, (0, 0))
            if left:
                # one that was looked at together with one that is noted already
                return
            span = min(2 * span, MAX_SPAN) or FIRST_SPAN
            if len(self._streams) >= MAX_LEARNT:
                self._streams.clear()
            self._streams[key] = span, span

    def forget(self) -> None:
        """Another policy holds from now on."""
        self._learnt.clear()


def _compared(reply: Reply, wires: list[bytes]) -> tuple[dict[bytes, bytes], bool, list[bytes]] | None:
    """How the lines `wires` come of those of `reply`: `edits`, `weakens` and `added` of a `Passed`.

    None where what is judged does not tell, so that it may be otherwise the next time.
    """
    became: dict[bytes, bytes] = {}
    weakens, at = False, 0
    for number in range(1, len(reply.kept)):
        kept = reply.kept[number]
        wire = wires[at] if at < len(wires) else b""
        if kept in reply.fixed:
            if _name_of(wire) != _name_of(kept):
                wire = b""
            if became.setdefault(kept, wire) != wire:
                return None
        elif number == reply.tag_at and wire != kept and wire == _weakened(kept):
            weakens = True
        elif wire != kept:
            return None
        at += 1 if wire else 0
    return {kept: wire for kept, wire in became.items() if kept != wire}, weakens, wires[at:]


def _name_of(wire: bytes) -> bytes:
    return wire.partition(b":")[0].lower()


def _may_be_kept(head: bytes) -> bool:
    """Whether a whole head is remembered: not what is long, nor anybody's cookies."""
    return len(head) <= MAX_REPLY_BYTES and b"\nset-cookie:" not in head.lower()


def _lasts(keep_alive: str) -> bool:
    """Whether `Keep-Alive` allows an idle connection the time that is given to it anyway."""
    found = re.fullmatch(r"timeout=([0-9]{1,9})(?:,.*)?", keep_alive)
    return found is not None and int(found[1]) >= 5


def unchunked(data: bytes, at: int) -> bytes | None:
    """The content of chunks (RFC 9112 7.1) that begin at `at` and end with `data`.

    None where they are not whole, more follows, or there are extensions or trailers.
    """
    pieces: list[bytes] = []
    while True:
        end = data.find(b"\r\n", at, at + _MOST_SIZE + 2)
        if end < 0 or not _is_size(data[at:end]):
            return None
        length = int(data[at:end], 16)
        begin = end + 2
        at = begin + length + 2
        if at > len(data) or data[at - 2 : at] != b"\r\n":
            return None
        if length == 0:
            return b"".join(pieces) if at == len(data) else None
        pieces.append(data[begin : at - 2])


def _is_size(digits: bytes) -> bool:
    return len(digits) > 0 and not digits.translate(None, b"0123456789abcdefABCDEF")
