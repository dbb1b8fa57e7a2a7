"""Conditional and range requests, evaluated on a complete response (RFC 9110 13, 14; RFC 9111 4.3.2).

If-Match and If-Unmodified-Since are the origin's to evaluate: a cache answers as if they were not there
(RFC 9110 13.2.1), and they come with methods that are written through anyway.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from proxy.policy.fields import parse_date, parse_etag, parse_etags, strong_match, weak_match
from proxy.policy.messages import Fields, RequestHead, ResponseHead

Span = tuple[int, int]
"""First and last octet, both included."""


class Answer(Enum):
    """How a complete response answers a request."""

    FULL = auto()
    NOT_MODIFIED = auto()
    RANGE = auto()
    UNSATISFIABLE = auto()


_LOOKED_UP = frozenset({"GET", "HEAD"})
_RANGE = re.compile(r"bytes[ \t]*=[ \t,]*(?:(\d+)-(\d*)|-(\d+))[ \t,]*", re.IGNORECASE)
STRONG_DATE_SECONDS = 1.0
"""A Last-Modified at least this much older than Date identifies the content for good (RFC 9110 8.8.2.2)."""

_OF_THE_CONTENT = frozenset(
    {"content-length", "content-type", "content-encoding", "content-language", "content-range", "accept-ranges"}
)
_NOT_WITH_304 = _OF_THE_CONTENT | {"content-md5", "content-digest", "repr-digest", "digest", "trailer"}
_NOT_WITH_416 = _NOT_WITH_304 | {"etag", "last-modified"}


def evaluate(request: RequestHead, head: ResponseHead, length: int) -> tuple[Answer, Span | None]:
    """How `head` and its `length` octets of content answer `request`, in the order of RFC 9110 13.2.2."""
    if head.status != 200:
        return Answer.FULL, None
    fields = request.fields
    if "if-none-match" in fields:
        if _none_match(fields, head.fields):
            return Answer.NOT_MODIFIED, None
    elif request.method in _LOOKED_UP and "if-modified-since" in fields and _unmodified(fields, head.fields):
        return Answer.NOT_MODIFIED, None
    if request.method == "GET" and "range" in fields and _if_range_holds(fields, head.fields):
        return _range(fields.get("range") or "", length)
    return Answer.FULL, None


def _none_match(fields: Fields, stored: Fields) -> bool:
    """Whether If-None-Match names the response's entity tag, compared weakly (RFC 9110 13.1.2)."""
    tags = parse_etags(fields.get("if-none-match") or "")
    if tags is None:
        return True
    own = parse_etag(stored.get("etag") or "")
    return own is not None and any(weak_match(tag, own) for tag in tags)


def _unmodified(fields: Fields, stored: Fields) -> bool:
    """Whether nothing changed since; without Last-Modified, Date tells (RFC 9110 13.1.3, RFC 9111 4.3.2)."""
    since = parse_date(fields.get("if-modified-since") or "")
    changed = parse_date(stored.get("last-modified") or stored.get("date") or "")
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


def _range(value: str, length: int) -> tuple[Answer, Span | None]:
    """One range of bytes; other units, several ranges and nonsense are ignored (RFC 9110 14.2)."""
    match = _RANGE.fullmatch(value.strip())
    if match is None:
        return Answer.FULL, None
    first, last, suffix = match.groups()
    if suffix is not None:
        count = min(int(suffix), length)
        span = (length - count, length - 1)
        return (Answer.RANGE, span) if count else (Answer.UNSATISFIABLE, None)
    start = int(first)
    end = min(int(last), length - 1) if last else length - 1
    if last and int(last) < start:
        return Answer.FULL, None
    return (Answer.RANGE, (start, end)) if start < length else (Answer.UNSATISFIABLE, None)


def not_modified(head: ResponseHead) -> ResponseHead:
    """The 304 that stands for `head`: its metadata without what describes content (RFC 9110 15.4.5)."""
    return ResponseHead(304, "Not Modified", head.fields.without(_NOT_WITH_304))


def partial(head: ResponseHead, start: int, end: int, length: int) -> ResponseHead:
    """The 206 with octets `start` to `end`, both included, of `length` (RFC 9110 15.3.7)."""
    fields = head.fields.without({"content-length", "content-range"})
    return ResponseHead(206, "Partial Content", fields.adding(("Content-Range", f"bytes {start}-{end}/{length}")))


def unsatisfiable(head: ResponseHead, length: int) -> ResponseHead:
    """The 416 that tells how much content there is (RFC 9110 15.5.17)."""
    fields = head.fields.without(_NOT_WITH_416)
    return ResponseHead(416, "Range Not Satisfiable", fields.adding(("Content-Range", f"bytes */{length}")))
