"""Asking the origin whether a stored response still holds, and what its 304 changes (RFC 9111 4.3, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.policy.cache_key import CREDENTIAL_FIELDS, vary_names
from proxy.policy.decisions import Verdict
from proxy.policy.fields import parse_date, parse_etag, strong_match, weak_match
from proxy.policy.freshness import freshness_of, response_directives, withheld_fields
from proxy.policy.invalidation import groups, response_tags
from proxy.policy.messages import (
    NO_CODINGS,
    Fields,
    Freshness,
    Question,
    RequestHead,
    ResponseHead,
    RouteRule,
    StoredResponse,
)
from proxy.policy.storability import askers_own, forbidden, is_guessed
from proxy.policy.targeted import governing

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


MAX_CANDIDATES = 16
"""Stored responses that the origin is asked about at once."""


def candidates(variants: Sequence[StoredResponse]) -> tuple[StoredResponse, ...]:
    """Those stored for other selecting fields, of which the origin may say that one will do, latest first.

    Not those of another user: many origins make a tag of a page's version, and not of for whom it is.
    """
    tagged = [
        stored
        for stored in variants
        if stored.part is None
        and _origin_etag(stored) is not None
        and not any(name in CREDENTIAL_FIELDS for name, _ in stored.secondary_key)
    ]
    return tuple(reversed(tagged[-MAX_CANDIDATES:]))


def _origin_etag(stored: StoredResponse) -> str | None:
    etag = stored.head.fields.get("etag")
    return etag if etag is not None and not stored.made_etag and parse_etag(etag) is not None else None


def which(request: RequestHead, stored: Sequence[StoredResponse]) -> RequestHead:
    """The request that asks the origin which of several stored responses it would send (RFC 9111 4.3.1)."""
    fields = request.fields.without(_THE_CLIENTS_OWN)
    tags = dict.fromkeys(tag for one in stored if (tag := _origin_etag(one)) is not None)
    return replace(request, fields=fields.adding(("If-None-Match", ", ".join(tags))) if tags else fields)


def rest(request: RequestHead, stored: StoredResponse) -> RequestHead:
    """The request for what a stored part, which begins at the beginning, lacks (RFC 9111 3.3)."""
    fields = request.fields.without(_THE_CLIENTS_OWN).adding(("Range", f"bytes={len(stored.content)}-"))
    etag = _strong(stored)
    return replace(request, fields=fields if etag is None else fields.adding(("If-Range", etag)))


def _strong(stored: StoredResponse) -> str | None:
    """The origin's strong entity tag."""
    etag = _origin_etag(stored)
    tag = parse_etag(etag) if etag is not None else None
    return etag if tag is not None and not tag.weak else None


def same_representation(stored: StoredResponse, fields: Fields) -> bool:
    """Whether parts of the two may be combined: both have the same strong validator (RFC 9111 3.4)."""
    one, other = parse_etag(_strong(stored) or ""), parse_etag(fields.get("etag") or "")
    return one is not None and other is not None and strong_match(one, other)


def confirmed(stored: Sequence[StoredResponse], fields: Fields) -> StoredResponse | None:
    """Which stored response a 304 with `fields` is about; None where it cannot be told (RFC 9111 4.3.4).

    One with an entity tag names it. One without can only be about the single response that was asked about.
    """
    etag = fields.get("etag")
    tag = parse_etag(etag) if etag is not None else None
    if tag is None:
        return stored[0] if len(stored) == 1 else None
    for one in stored:
        own = parse_etag(_origin_etag(one) or "")
        if own is not None and weak_match(own, tag):
            return one
    # what was asked about by its date alone may have a tag by now
    return stored[0] if len(stored) == 1 and _origin_etag(stored[0]) is None else None


def _selecting(stored: StoredResponse) -> list[str]:
    return [name for name, _ in stored.secondary_key]


def is_for(request: RequestHead, stored: StoredResponse, rule: RouteRule | None, targets: tuple[str, ...] = ()) -> bool:
    """Whether it is more than a guess that what is stored is what whoever asks would be given now.

    targets -- the target list (RFC 9213 2.2), in lower case.
    """
    head = replace(stored.head, fields=governing(stored.head.fields, targets))
    return not is_guessed(stored.freshness, request, head, rule, _selecting(stored))


def may_confirm(
    request: RequestHead, stored: StoredResponse, rule: RouteRule | None, targets: tuple[str, ...] = ()
) -> bool:
    """Whether a 304 to `conditional` would be about what is stored: a date does not tell it from a page of his own,
    which has not changed since either, where it is a guess that this is for whoever asks."""
    return _origin_etag(stored) is not None or is_for(request, stored, rule, targets)


def is_later(fields: Fields, stored: StoredResponse) -> bool:
    """Whether a response with `fields` says that it was changed after what is stored was."""
    dates = [parse_date(each.get("last-modified") or "") for each in (fields, stored.head.fields)]
    new, old = dates
    return new is not None and old is not None and new > old


def conditional(request: RequestHead, stored: StoredResponse) -> RequestHead:
    """The request that validates `stored` with the origin's own validators (RFC 9111 4.3.1).

    The client's preconditions and range are taken out: they are evaluated here, on the outcome. A stored response
    without a validator makes the request unconditional, and so does POST, for which a condition that holds means
    412 (RFC 9110 13.1.2).
    """
    fields = request.fields.without(_THE_CLIENTS_OWN)
    if request.method != "GET":
        return replace(request, fields=fields)
    etag, modified = _origin_etag(stored), stored.head.fields.get("last-modified")
    if etag is not None:
        fields = fields.adding(("If-None-Match", etag))
    if modified is not None and parse_date(modified) is not None:
        fields = fields.adding(("If-Modified-Since", modified))
    return replace(request, fields=fields)


def combined(stored: Fields, update: Fields) -> Fields:
    """The fields of two parts of one representation, the later ones in place of their namesakes (RFC 9111 3.4)."""
    news = update.without({"content-range", "content-length"})
    return stored.without({name.lower() for name, _ in news}).adding(*news)


def _merged(stored: Fields, update: Fields, kept: frozenset[str]) -> Fields:
    """The stored fields with those of the update in place of their namesakes, but for the `kept` ones.

    A kept field that was never stored is kept out as well, save for the ETag: a validator is always welcome.
    """
    if "etag" not in stored:
        kept -= {"etag"}
    news = update.without(kept)
    return stored.without({name.lower() for name, _ in news}).adding(*news)


def _tags(request: RequestHead, stored: StoredResponse, fields: Fields, rule: RouteRule | None) -> tuple[str, ...]:
    """The tags the fields give now, in place of those they gave before; a rule's own stay."""
    before = stored.head.fields
    former = {*response_tags(before), *groups(request, before)}.difference(rule.tags if rule is not None else ())
    lasting = [tag for tag in stored.tags if tag not in former]
    return tuple(dict.fromkeys((*lasting, *response_tags(fields), *groups(request, fields))))


def _selected_as_before(stored: StoredResponse, fields: Fields) -> bool:
    """Whether every field that Vary names now is part of the secondary key it was stored under."""
    names = vary_names(fields)
    return names is not None and {name for name, _ in stored.secondary_key}.issuperset(names)


def matches_head(stored: StoredResponse, fields: Fields) -> bool:
    """Whether the answer to a HEAD describes the stored response: the same validators and length (RFC 9111 4.3.5)."""
    before = stored.head.fields
    etag = fields.get("etag")
    if stored.part is not None or _origin_etag(stored) != (etag if parse_etag(etag or "") is not None else None):
        return False
    if before.get("last-modified") != fields.get("last-modified"):
        return False
    length = fields.get("content-length")
    return length is None or length == str(len(stored.content))


@dataclass(frozen=True, slots=True)
class Freshened:
    """stored -- what answers whoever asked. kept -- what is to be stored; None leaves what is there.

    verdict -- STORE where the one is the other, else why what was said is for whoever asked alone.
    withheld -- fields, in lower case, that were said to whoever asked alone.
    """

    stored: StoredResponse
    kept: StoredResponse | None
    verdict: Verdict
    withheld: frozenset[str]


def freshen(
    stored: StoredResponse,
    response: ResponseHead,
    asked: Question,
    request_time: float,
    response_time: float,
) -> Freshened:
    """The stored response as a 304 (or the 200 to a HEAD) confirms it: new fields, new freshness, the same content.

    response -- as this hop passes it on, without hop-by-hop fields, with a Date. Times in seconds since the epoch.
    If it now forbids storing, what is stored is to be validated each time, and learns nothing else of it; where only a
    guess says that others may have what was said, it learns of less freshness alone. It is validated each time as well
    if it varies by more than what was keyed: nobody is answered with what the origin would not give them.
    """
    rule = asked.rule
    # a cookie is for the client that asked; Age is worked out anew at every reuse
    everyones = rule is not None and (rule.private or rule.set_cookie)
    kept = CONTENT_FIELDS if everyones else CONTENT_FIELDS | {"set-cookie"}
    fields = _merged(stored.head.fields, response.fields, kept)
    head = ResponseHead(stored.head.status, stored.head.reason, fields)
    governed = replace(head, fields=governing(fields, asked.targets))
    freshness = freshness_of(governed, request_time, response_time, rule)
    if not _selected_as_before(stored, fields):
        freshness = replace(freshness, no_cache=True)
    withheld = withheld_fields(response_directives(governed.fields), private=rule is not None and rule.private)
    fresh = replace(
        stored,
        head=replace(head, fields=fields.without({"age", *withheld})),
        freshness=freshness,
        request_time=request_time,
        response_time=response_time,
        epoch=asked.epoch,
        tags=_tags(asked.request, stored, fields, rule),
        codings={**stored.codings} or NO_CODINGS,
    )
    withheld |= frozenset() if everyones else {"set-cookie"}
    refused = askers_own(asked.request, governed, rule)
    if refused is None and is_guessed(freshness, asked.request, governed, rule, _selecting(stored)):
        refused = Verdict.CREDENTIAL
    if refused is None:
        return Freshened(fresh, fresh, Verdict.STORE, withheld)
    left = asked.stored
    if left is not None:
        had = left.freshness
        if forbidden(governed, rule) is not None:
            left = replace(left, freshness=replace(had, no_cache=True))
        elif refused is Verdict.CREDENTIAL and (stricter := _stricter(had, freshness)) != had:
            left = replace(left, freshness=stricter)
        else:
            left = None
    return Freshened(fresh, left, refused, withheld)


def _stricter(had: Freshness, said: Freshness) -> Freshness:
    """What of a response is left by what was said of it to one user: no more than before."""
    return replace(
        had,
        lifetime=min(had.lifetime, said.lifetime),
        must_revalidate=had.must_revalidate or said.must_revalidate,
        no_cache=had.no_cache or said.no_cache,
    )
