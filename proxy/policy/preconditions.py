"""Conditional and range requests, evaluated on a stored response (RFC 9110 13, 14; RFC 9111 4.3.2).

If-Match and If-Unmodified-Since are the origin's to evaluate: a cache answers as if they were not there
(RFC 9110 13.2.1), and they come with methods that are written through anyway.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum, auto

from proxy.policy.fields import OWS, parse_date, parse_etag, parse_etags, split_list, strong_match, weak_match
from proxy.policy.messages import Fields, Part, RequestHead, ResponseHead


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive octets of a representation: `begin` to `end` (excluded) of the content that is stored.

    first -- position of the first octet within the whole representation.
    """

    first: int
    begin: int
    end: int


class Answer(Enum):
    """How a stored response answers a request."""

    FULL = auto()
    NOT_MODIFIED = auto()
    RANGE = auto()
    UNSATISFIABLE = auto()


_LOOKED_UP = frozenset({"GET", "HEAD"})
_RANGES = re.compile(r"bytes[ \t]*=(.*)", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")
MAX_RANGES = 32
"""More ranges than this in one request are ignored: nobody needs them, and they are costly (RFC 9110 14.2)."""
STRONG_DATE_SECONDS = 1.0
"""A Last-Modified at least this much older than Date identifies the content for good (RFC 9110 8.8.2.2)."""

_OF_THE_LENGTH = frozenset({"content-length", "content-range"})
_OF_THE_CONTENT = frozenset(
    {"content-length", "content-type", "content-encoding", "content-language", "content-range", "accept-ranges"}
)
_NOT_WITH_304 = _OF_THE_CONTENT | {"content-md5", "content-digest", "repr-digest", "digest", "trailer"}
_NOT_WITH_416 = _NOT_WITH_304 | {"etag", "last-modified"}


def evaluate(request: RequestHead, head: ResponseHead, length: int, *, kept: bool) -> tuple[Answer, tuple[Piece, ...]]:
    """How `head` and its `length` octets of content answer `request`, in the order of RFC 9110 13.2.2.

    kept -- it was stored before the request came, so that its Date may stand in for Last-Modified (RFC 9111 4.3.2).
    The pieces are those of a RANGE, in the order asked for, or one that covers them all.
    """
    if head.status != 200:
        return Answer.FULL, ()
    fields = request.fields
    if "if-none-match" in fields:
        if _none_match(fields, head.fields):
            return Answer.NOT_MODIFIED, ()
    elif request.method in _LOOKED_UP and "if-modified-since" in fields and _unmodified(fields, head.fields, kept):
        return Answer.NOT_MODIFIED, ()
    if request.method == "GET" and "range" in fields and _if_range_holds(fields, head.fields):
        return _ranges(fields.get("range") or "", length)
    return Answer.FULL, ()


def from_part(request: RequestHead, head: ResponseHead, part: Part, length: int) -> Piece | None:
    """What of a stored part of `length` octets answers `request` in full; None where it does not (RFC 9111 3.3).

    The request must ask for one range that lies within the part, and for nothing that the origin has to decide.
    """
    fields = request.fields
    if request.method != "GET" or "range" not in fields:
        return None
    if any(name in fields for name in ("if-none-match", "if-modified-since", "if-match", "if-unmodified-since")):
        return None
    if not _if_range_holds(fields, head.fields):
        return None
    wanted = _parse_ranges(fields.get("range") or "")
    if wanted is None or len(wanted) != 1:
        return None
    first, last = wanted[0]
    if first is None:
        # the last octets, counted from the end
        if not part.to_end or last is None or not 0 < last <= length:
            return None
        return Piece(part.complete - last, length - last, length)
    if first < part.first or first >= part.first + length:
        return None
    begin = first - part.first
    if last is None or last >= part.complete - 1:
        return Piece(first, begin, length) if part.to_end else None
    return Piece(first, begin, last + 1 - part.first) if last < part.first + length else None


def _none_match(fields: Fields, stored: Fields) -> bool:
    """Whether If-None-Match names the response's entity tag, compared weakly (RFC 9110 13.1.2)."""
    tags = parse_etags(fields.get("if-none-match") or "")
    if tags is None:
        return True
    own = parse_etag(stored.get("etag") or "")
    return own is not None and any(weak_match(tag, own) for tag in tags)


def _unmodified(fields: Fields, given: Fields, kept: bool) -> bool:
    """Whether nothing changed since; without Last-Modified nobody knows (RFC 9110 13.1.3), but for a cache's own."""
    since = parse_date(fields.get("if-modified-since") or "")
    changed = parse_date(given.get("last-modified") or (given.get("date") if kept else None) or "")
    return since is not None and changed is not None and changed <= since


def _if_range_holds(fields: Fields, stored: Fields) -> bool:
    """Whether If-Range, if there is one, identifies exactly this content (RFC 9110 13.1.5)."""
    value = fields.get("if-range")
    if value is None:
        return True
    tag = parse_etag(value)
    if tag is not None:
        own = parse_etag(stored.get("etag") or "")
        return own is not None and strong_match(tag, own)
    wanted, modified = parse_date(value), parse_date(stored.get("last-modified") or "")
    if wanted is None or wanted != modified:
        return False
    date = parse_date(stored.get("date") or "")
    return date is not None and date - modified >= STRONG_DATE_SECONDS


def _parse_ranges(value: str) -> list[tuple[int | None, int | None]] | None:
    """The ranges of bytes in a Range field: (first, last or None), or (None, octets from the end); None for others.

    Other units, malformed ranges and too many of them make the field void (RFC 9110 14.2).
    """
    match = _RANGES.fullmatch(value.strip(OWS))
    if match is None:
        return None
    found: list[tuple[int | None, int | None]] = []
    for member in split_list(match[1]):
        one = _RANGE.fullmatch(member)
        if one is None:
            return None
        first, last, suffix = one.groups()
        if suffix is not None:
            found.append((None, int(suffix)))
        elif last and int(last) < int(first):
            return None
        else:
            found.append((int(first), int(last) if last else None))
    return found if 0 < len(found) <= MAX_RANGES else None


def _ranges(value: str, length: int) -> tuple[Answer, tuple[Piece, ...]]:
    """The ranges of a complete content that can be satisfied, joined where they overlap or touch (RFC 9110 14.2)."""
    wanted = _parse_ranges(value)
    if wanted is None:
        return Answer.FULL, ()
    spans = []
    for first, last in wanted:
        if first is None:
            first, last = max(0, length - (last or 0)), None
        end = length if last is None else min(last + 1, length)
        if first < end:
            spans.append((first, end))
    if not spans:
        return Answer.UNSATISFIABLE, ()
    return Answer.RANGE, tuple(Piece(first, first, end) for first, end in _joined(spans))


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans as they are, unless some overlap or touch: then all of them in order, joined where they do."""
    ordered = sorted(spans)
    joined = ordered[:1]
    for first, end in ordered[1:]:
        if first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return spans if len(joined) == len(spans) else joined


def not_modified(head: ResponseHead) -> ResponseHead:
    """The 304 that stands for `head`: its metadata without what describes content (RFC 9110 15.4.5)."""
    return ResponseHead(304, "Not Modified", head.fields.without(_NOT_WITH_304))


def partial(head: ResponseHead, piece: Piece, complete: int) -> ResponseHead:
    """The 206 with one piece of a representation of `complete` octets (RFC 9110 15.3.7.1)."""
    fields = head.fields.without(_OF_THE_LENGTH).adding(("Content-Range", _content_range(piece, complete)))
    return ResponseHead(206, "Partial Content", fields)


def multipart(
    head: ResponseHead, pieces: tuple[Piece, ...], content: bytes
) -> tuple[ResponseHead, list[bytes | memoryview]]:
    """The 206 with several pieces of a complete content, and its own content in parts (RFC 9110 15.3.7.2, 14.6).

    Nothing of `content` is copied.
    """
    parts = [memoryview(content)[piece.begin : piece.end] for piece in pieces]
    digest = hashlib.blake2b(digest_size=15)
    for part in parts:
        digest.update(part)
    boundary = digest.hexdigest()
    content_type = head.fields.get("content-type")
    described = f"Content-Type: {content_type}\r\n" if content_type is not None else ""
    body: list[bytes | memoryview] = []
    for piece, part in zip(pieces, parts, strict=True):
        span = _content_range(piece, len(content))
        body += [f"\r\n--{boundary}\r\n{described}Content-Range: {span}\r\n\r\n".encode("latin-1"), part]
    body.append(f"\r\n--{boundary}--\r\n".encode())
    fields = head.fields.without(_OF_THE_LENGTH | {"content-type"})
    fields = fields.adding(("Content-Type", f"multipart/byteranges; boundary={boundary}"))
    return ResponseHead(206, "Partial Content", fields), body


def _content_range(piece: Piece, complete: int) -> str:
    return f"bytes {piece.first}-{piece.first + piece.end - piece.begin - 1}/{complete}"


def unsatisfiable(head: ResponseHead, length: int) -> ResponseHead:
    """The 416 that tells how much content there is (RFC 9110 15.5.17)."""
    fields = head.fields.without(_NOT_WITH_416)
    return ResponseHead(416, "Range Not Satisfiable", fields.adding(("Content-Range", f"bytes */{length}")))
