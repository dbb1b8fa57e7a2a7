"""Asking the origin whether a stored response still holds, and what its 304 changes (RFC 9111 4.3, 3.2)."""

from __future__ import annotations

from dataclasses import replace

from proxy.policy.cache_key import vary_names
from proxy.policy.fields import parse_date, parse_etag
from proxy.policy.freshness import freshness_of
from proxy.policy.invalidation import response_tags
from proxy.policy.messages import Fields, RequestHead, ResponseHead, RouteRule, StoredResponse
from proxy.policy.storability import forbidden, has_validator

PRECONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")
"""Fields that make a request conditional (RFC 9110 13.1), in lower case."""

_THE_CLIENTS_OWN = frozenset({*PRECONDITIONS, "range"})

CONTENT_FIELDS = frozenset(
    {"content-encoding", "content-length", "content-range", "content-md5", "content-digest", "etag"}
)
"""Fields that speak of the stored content itself, which a 304 does not carry (RFC 9111 3.2, RFC 9530 2)."""


def without_preconditions(request: RequestHead) -> RequestHead:
    """The request for the whole of what the client wants part of, or wants only if it changed."""
    return replace(request, fields=request.fields.without(_THE_CLIENTS_OWN))


def has_origin_validator(stored: StoredResponse) -> bool:
    """Whether the origin can be asked about it; an ETag made here means nothing to the origin."""
    fields = stored.head.fields
    return has_validator(fields.without({"etag"}) if stored.made_etag else fields)


def conditional(request: RequestHead, stored: StoredResponse) -> RequestHead:
    """The request that validates `stored` with the origin's own validators (RFC 9111 4.3.1).

    The client's preconditions and range are taken out: they are evaluated here, on the outcome. A stored response
    without a validator makes the request unconditional, and so does POST, for which a condition that holds means
    412 (RFC 9110 13.1.2).
    """
    fields = request.fields.without(_THE_CLIENTS_OWN)
    if request.method != "GET":
        return replace(request, fields=fields)
    etag, modified = stored.head.fields.get("etag"), stored.head.fields.get("last-modified")
    if etag is not None and not stored.made_etag and parse_etag(etag) is not None:
        fields = fields.adding(("If-None-Match", etag))
    if modified is not None and parse_date(modified) is not None:
        fields = fields.adding(("If-Modified-Since", modified))
    return replace(request, fields=fields)


def _merged(stored: Fields, update: Fields, kept: frozenset[str]) -> Fields:
    """The stored fields with those of the update in place of their namesakes, but for the `kept` ones.

    A kept field that was never stored is kept out as well, save for the ETag: a validator is always welcome.
    """
    if "etag" not in stored:
        kept -= {"etag"}
    news = update.without(kept)
    return stored.without({name.lower() for name, _ in news}).adding(*news)


def _tags(stored: StoredResponse, fields: Fields, rule: RouteRule | None) -> tuple[str, ...]:
    """The tags the fields give now, in place of those they gave before; a rule's own stay."""
    former = set(response_tags(stored.head.fields)).difference(rule.tags if rule is not None else ())
    lasting = [tag for tag in stored.tags if tag not in former]
    return tuple(dict.fromkeys((*lasting, *response_tags(fields))))


def _selected_as_before(stored: StoredResponse, fields: Fields) -> bool:
    """Whether every field that Vary names now is part of the secondary key it was stored under."""
    names = vary_names(fields)
    return names is not None and {name for name, _ in stored.secondary_key}.issuperset(names)


def freshen(
    stored: StoredResponse,
    response: ResponseHead,
    rule: RouteRule | None,
    request_time: float,
    response_time: float,
    epoch: int,
) -> StoredResponse:
    """The stored response as the origin's 304 confirms it: new fields, new freshness, the same content.

    response -- the 304 as this hop passes it on, without hop-by-hop fields, with a Date. Times in seconds since the
    epoch. RFC 9111 4.3.4 would refuse a 304 whose strong ETag differs; it can only confirm what it was asked about,
    so the stored ETag stays. If it now forbids storing, or varies by more than what was keyed, the result is to be
    validated each time, so that nobody is answered with what the origin would not give them.
    """
    # a cookie is for the client that asked; Age is worked out anew at every reuse
    kept = CONTENT_FIELDS if rule is not None and rule.private else CONTENT_FIELDS | {"set-cookie"}
    fields = _merged(stored.head.fields, response.fields, kept)
    head = ResponseHead(stored.head.status, stored.head.reason, fields)
    freshness = freshness_of(head, request_time, response_time, rule)
    if forbidden(head, rule) is not None or not _selected_as_before(stored, fields):
        freshness = replace(freshness, no_cache=True)
    return replace(
        stored,
        head=replace(head, fields=fields.without({"age"})),
        freshness=freshness,
        request_time=request_time,
        response_time=response_time,
        epoch=epoch,
        tags=_tags(stored, fields, rule),
        codings=dict(stored.codings),
    )
