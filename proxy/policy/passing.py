"""Responses that pass: for one client alone, whole at hand, and framed in the one plain way.

    response = "HTTP/1.1" SP status SP reason CRLF 1*( token ":" OWS [ value ] OWS CRLF ) CRLF content

One Content-Length and nothing else about framing, and a Date; the connection stays open. What the policy made of such
a response once (`learn`), it makes of the next whose judged fields are the same octets: which ones those are is written
below.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.policy.decisions import Verdict
from proxy.policy.encoding import MIN_LENGTH
from proxy.policy.forwarding import HOP_BY_HOP
from proxy.policy.lines import MAX_KNOWN, MAX_KNOWN_BYTES, field_line
from proxy.policy.messages import ResponseHead
from proxy.policy.plain import MAX_HEAD_BYTES, MAX_LINES
from proxy.policy.prepared import status_line

MAX_LEARNT = 4096
MAX_REPLIES, MAX_REPLY_BYTES = 256, 1024
MAX_LEARNT_BYTES = 2048
"""Longer questions and marks are not remembered: clients and origins choose how long they are."""

_QUIET: Final = 0
_JUDGED: Final = 1
_GONE: Final = 2
_LENGTH: Final = 3
_DATE: Final = 4
"""What a field has to do with the ruling: nothing; it is judged; it is for one hop; framing; the time."""

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
_PRESENT_NAMES = frozenset({b"etag", b"set-cookie"})
"""Fields of which only the presence is judged: their values are others each time."""
_NEVER = frozenset(
    {
        b"cache-group-invalidation",
        b"cache-groups",
        b"cache-status",
        b"content-location",
        b"location",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"via",
    }
)
"""Fields that have to do with framing, or whose value means something that has to be done."""

_HOPS = frozenset(name.encode() for name in HOP_BY_HOP)
# status-line (RFC 9112 4) with a final status that has content
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_WITHOUT_CONTENT = frozenset({204, 205, 206, 304})

TIMELESS = frozenset(
    {Verdict.METHOD, Verdict.NO_STORE, Verdict.PRIVATE, Verdict.AUTHORIZATION, Verdict.SET_COOKIE, Verdict.VARY_STAR}
)
"""Verdicts that the same fields bring at any time."""


class _Known:
    """A field line. length -- what Content-Length says."""

    __slots__ = ("kind", "length", "mark", "wire")

    def __init__(self, kind: int, wire: bytes, mark: bytes, length: int) -> None:
        self.kind = kind
        self.wire = wire
        self.mark = mark
        self.length = length


class _Status:
    __slots__ = ("reason", "status", "wire")

    def __init__(self, status: int, reason: str, wire: bytes) -> None:
        self.status = status
        self.reason = reason
        self.wire = wire


class Reply:
    """A plain response's head. size -- its octets. length -- of its content.

    mark -- what of it is judged, and whether it is long enough to be coded. kept -- status line and fields, as they go
    on.
    """

    __slots__ = ("_answer", "_of", "kept", "length", "mark", "size", "status", "wire")

    def __init__(self, status: _Status, size: int, length: int, mark: bytes, kept: list[bytes]) -> None:
        self.status = status
        self.size = size
        self.length = length
        self.mark = mark + b"\nlong" if length >= MIN_LENGTH else mark
        self.kept = kept
        self.wire = b"".join(kept)
        self._of: Passed | None = None
        self._answer = b""

    def answer(self, passed: Passed, etag: str | None) -> bytes:
        """The head of the answer, without the line that ends it.

        etag -- made of the content, where `passed` makes one.
        """
        if passed.made is not None and etag is not None:
            added = b"%bETag: %b\r\n%b" % (passed.made[0], etag.encode(), passed.made[1])
            return b"%b%bContent-Length: %d\r\n" % (self.wire, added, self.length)
        if self._of is not passed:
            self._of, self._answer = passed, b"%b%bContent-Length: %d\r\n" % (self.wire, passed.added, self.length)
        return self._answer


class Passed:
    """What the policy made of a response: lines put behind the origin's own.

    made -- what stands before and after a validator made of the content; None where none is made.
    told -- for who tells of it to note what is alike for all under a route's label.
    """

    __slots__ = ("added", "made", "told", "verdict")

    def __init__(self, verdict: Verdict | None, added: bytes, made: tuple[bytes, bytes] | None) -> None:
        self.verdict = verdict
        self.added = added
        self.made = made
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
        length, dated, mark, kept = -1, False, first, [status.wire]
        for text in raw:
            line = self._known.get(text)
            if line is None:
                line = self._line(text)
                if line is None:
                    return None
            if line.kind == _QUIET:
                kept.append(line.wire)
            elif line.kind == _JUDGED:
                kept.append(line.wire)
                mark += line.mark
            elif line.kind == _DATE:
                kept.append(line.wire)
                dated = True
            elif line.kind == _LENGTH:
                if length >= 0:
                    return None
                length = line.length
        if length < 0 or not dated:
            # one that is not dated is dated here (RFC 9110 6.6.1)
            return None
        return Reply(status, len(head) + 4, length, mark, kept)

    def _status(self, raw: bytes) -> _Status | None:
        match = _STATUS_LINE.fullmatch(raw)
        if match is None or int(match[1]) in _WITHOUT_CONTENT:
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
        kind, mark, length = _QUIET, b"", 0
        if lower in _NEVER or (lower == b"connection" and value != "keep-alive"):
            return None
        if lower == b"content-length":
            if not (value.isascii() and value.isdecimal() and len(value) < 16):
                return None
            kind, length = _LENGTH, int(value)
        elif lower == b"keep-alive" and not _lasts(value):
            return None
        elif lower in _HOPS:
            kind = _GONE
        elif lower == b"date":
            kind = _DATE
        elif lower in self._judged:
            kind, mark = _JUDGED, b"\n" + raw
        elif lower in _PRESENT_NAMES:
            kind, mark = _JUDGED, b"\n" + lower
        found = _Known(kind, f"{line[0]}: {line[1]}\r\n".encode("latin-1"), mark, length)
        if len(raw) <= MAX_KNOWN_BYTES and lower != b"set-cookie":
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[raw] = found
        return found

    def known(self, question: str, reply: Reply) -> Passed | None:
        """What the policy made of such a response to such a question."""
        return self._learnt.get((question, reply.mark))

    def learn(self, question: str, reply: Reply, sent: ResponseHead, verdict: Verdict | None) -> None:
        """Remember what the policy made of `reply`, if that was to pass it on and add lines behind its own."""
        wires = [f"{name}: {value}\r\n".encode("latin-1") for name, value in sent.fields.lines]
        before = len(reply.kept) - 1
        same = status_line(sent) == reply.status.wire and wires[:before] == reply.kept[1:]
        if not same or len(question) + len(reply.mark) > MAX_LEARNT_BYTES:
            return
        if verdict is not None and verdict not in TIMELESS and not self._never_fresh(reply, verdict):
            return
        added = wires[before:]
        etags = [at for at, wire in enumerate(added) if wire.startswith(b"ETag: ")]
        made = None
        if etags:
            if "\nif-" in question.lower():
                return
            made = b"".join(added[: etags[0]]), b"".join(added[etags[0] + 1 :])
        if len(self._learnt) >= MAX_LEARNT:
            self._learnt.clear()
        self._learnt[question, reply.mark] = Passed(verdict, b"".join(added), made)

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

    def forget(self) -> None:
        """Another policy holds from now on."""
        self._learnt.clear()


def _may_be_kept(head: bytes) -> bool:
    """Whether a whole head is remembered: not what is long, nor anybody's cookies."""
    return len(head) <= MAX_REPLY_BYTES and b"\nset-cookie:" not in head.lower()


def _lasts(keep_alive: str) -> bool:
    """Whether `Keep-Alive` allows an idle connection the time that is given to it anyway."""
    found = re.fullmatch(r"timeout=([0-9]{1,9})(?:,.*)?", keep_alive)
    return found is not None and int(found[1]) >= 5
