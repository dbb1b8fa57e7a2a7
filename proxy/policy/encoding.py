"""Content codings applied here: which, whether, and what that does to the head (RFC 9110 8.4, 8.8.1, 12.5.3)."""

from __future__ import annotations

from proxy.policy.decisions import NotCoded
from proxy.policy.fields import media_type, parse_etag, parse_weights, split_list
from proxy.policy.messages import Fields, RequestHead, ResponseHead

CODINGS = ("br", "zstd", "gzip")
"""Content codings that are applied, the best first where a client likes several equally."""
MIN_LENGTH = 1024
"""Octets. Less content is not worth a coding's head and time (it often fits one packet anyway)."""

_ALIASES = {"x-gzip": "gzip"}
_WITHOUT_CONTENT = frozenset({204, 205, 304})
_FORBIDDING = ("content-encoding", "content-range", "content-md5", "content-digest", "repr-digest", "digest")
"""Fields that say what the content is, octet for octet: coded, they would be wrong."""

_TEXTUAL = frozenset(
    {
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/ld+json",
        "application/manifest+json",
        "application/ndjson",
        "application/rtf",
        "application/sql",
        "application/toml",
        "application/vnd.ms-fontobject",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/x-www-form-urlencoded",
        "application/x-yaml",
        "application/xhtml+xml",
        "application/xml",
        "application/yaml",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/svg+xml",
        "image/x-icon",
        "image/vnd.microsoft.icon",
    }
)
_EVENTS = "text/event-stream"


def compressible(content_type: str | None) -> bool:
    """Whether content of this type shrinks. Event streams do not count: each event must go out at once."""
    media = media_type(content_type)
    if media == _EVENTS:
        return False
    return media in _TEXTUAL or media.startswith("text/") or media.endswith(("+json", "+xml", "+yaml", "+text"))


def negotiate(accept_encoding: str | None) -> str | None:
    """The coding that the client likes best; None where it likes none better than none (RFC 9110 12.5.3).

    Without the field any coding would be allowed; none is applied, for old and simple clients send none.
    """
    if not accept_encoding:
        return None
    weights = {_ALIASES.get(name, name): weight for name, weight in parse_weights(accept_encoding)}
    rest = weights.get("*", 0.0)
    best, most = None, 0.0
    for coding in CODINGS:
        weight = weights.get(coding, rest)
        if weight > most:
            best, most = coding, weight
    return best if most >= weights.get("identity", 0.0) else None


def _refused(head: ResponseHead, length: int | None, on: bool) -> NotCoded | None:
    """Why this response is never coded, whatever the client accepts."""
    fields = head.fields
    if not on:
        return NotCoded.OFF
    if head.status in _WITHOUT_CONTENT or head.status < 200:
        return NotCoded.NO_CONTENT
    if head.status == 206:
        return NotCoded.RANGE
    if any(name in fields for name in _FORBIDDING):
        return NotCoded.ALREADY_CODED
    if "no-transform" in (fields.get("cache-control") or "").lower():
        return NotCoded.NO_TRANSFORM
    if not compressible(fields.get("content-type")):
        return NotCoded.NOT_COMPRESSIBLE
    if length is not None and length < MIN_LENGTH:
        return NotCoded.TOO_SMALL
    return None


def plan(request: RequestHead, head: ResponseHead, length: int | None, on: bool) -> str | NotCoded:
    """The coding to apply to a response of `length` octets (None: unknown), or why none. on -- ENABLE_COMPRESSION."""
    refused = _refused(head, length, on)
    if refused is not None:
        return refused
    coding = negotiate(request.fields.get("accept-encoding"))
    return coding if coding is not None else NotCoded.NOT_ACCEPTED


def may_be_coded(request: RequestHead, head: ResponseHead, length: int | None, on: bool) -> bool:
    """Whether a coding will be applied."""
    return not isinstance(plan(request, head, length, on), NotCoded)


def varies(plan: str | NotCoded) -> bool:
    """Whether another Accept-Encoding would have brought another answer, so that Vary must say so."""
    return not isinstance(plan, NotCoded) or plan is NotCoded.NOT_ACCEPTED


def coded(head: ResponseHead, coding: str) -> ResponseHead:
    """`head` for content in `coding`: a strong validator becomes weak, lengths and ranges no longer hold."""
    fields = head.fields.without({"content-length", "accept-ranges"}).adding(("Content-Encoding", coding))
    tag = parse_etag(fields.get("etag") or "")
    if tag is not None and not tag.weak:
        fields = fields.replacing("ETag", f'W/"{tag.opaque}"')
    return ResponseHead(head.status, head.reason, _with_vary(fields))


def uncoded(head: ResponseHead) -> ResponseHead:
    """`head` for content that another client would be sent coded."""
    return ResponseHead(head.status, head.reason, _with_vary(head.fields))


def as_part(request: RequestHead, head: ResponseHead, complete: int | None, on: bool) -> ResponseHead:
    """`head` of a part, or of the whole it is cut from, with the Vary of a 200 to the same request (RFC 9110 15.3.7).

    complete -- octets of the whole.
    """
    whole = ResponseHead(200, "OK", head.fields.without({"content-range"}))
    return uncoded(head) if varies(plan(request, whole, complete, on)) else head


def _with_vary(fields: Fields) -> Fields:
    members = [member.lower() for line in fields.all("vary") for member in split_list(line)]
    if "accept-encoding" in members or "*" in members:
        return fields
    if not members:
        return fields.adding(("Vary", "Accept-Encoding"))
    return fields.replacing("Vary", f"{fields.get('vary')}, Accept-Encoding")
