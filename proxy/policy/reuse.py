"""What a stored response may be used for, now (RFC 9111 4, 5.2.1; RFC 5861)."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.policy.cache_key import selects
from proxy.policy.decisions import Reuse
from proxy.policy.fields import Directives, parse_directives
from proxy.policy.freshness import current_age
from proxy.policy.messages import Fields, Freshness, RequestHead, RouteRule, StoredResponse

ERROR_STATUSES = frozenset({500, 502, 503, 504})
"""Answers of the origin that a stale response may hide (RFC 5861 4, RFC 9111 4.3.3)."""

UNSTATED_STALE_IF_ERROR = 600.0
"""Seconds past its lifetime that a response may hide an error where nobody says how long.

RFC 9111 4.2.4 lets a cache that is cut off from the origin use a stale response, without a bound.
"""

VALIDATED_SECONDS = 600.0
"""How long past its uses a shared response is worth keeping for its validator alone: the origin's 304 is cheap."""


def _said(request: RequestHead, directive: str) -> bool:
    """Whether the request's Cache-Control has `directive`; costs next to nothing where it cannot."""
    value = request.fields.get("cache-control")
    return value is not None and directive in value.lower() and parse_directives((value,)).has(directive)


def only_if_cached(request: RequestHead) -> bool:
    """Whether the client wants a stored response or none (RFC 9111 5.2.1.7)."""
    return _said(request, "only-if-cached")


def wants_origin(request: RequestHead) -> bool:
    """Whether the client wants the origin's word, given after it asked (RFC 9111 5.2.1.4, 5.4)."""
    directives = _directives(request)
    return directives is not None and directives.has("no-cache")


def request_no_store(request: RequestHead) -> bool:
    """Whether nothing of this exchange is to be stored (RFC 9111 5.2.1.5)."""
    return _said(request, "no-store")


def select(variants: Sequence[StoredResponse], request_fields: Fields) -> StoredResponse | None:
    """The stored response that the request selects: a complete one first, then the most recent (RFC 9111 4, 4.1)."""
    best: StoredResponse | None = None
    for stored in variants:
        language = stored.head.fields.get("content-language") if stored.secondary_key else None
        if not selects(stored.secondary_key, request_fields, language):
            continue
        if best is None or (stored.part is None, made(stored)) >= (best.part is None, made(best)):
            best = stored
    return best


def made(stored: StoredResponse) -> float:
    """When the origin made it: its Date as this clock sees it."""
    return stored.response_time - stored.freshness.initial_age


def age_to_join(life: Freshness, response_time: float, request: RequestHead, now: float) -> float | None:
    """How old a response on its way is, for who asks after its head has come; None where it is not to be used."""
    age = current_age(life, response_time, now)
    left = life.lifetime - age
    directives = _directives(request)
    if left <= 0 or (directives is not None and _demands_validation(directives, age, left)):
        return None
    return age


def overtakes(stored: StoredResponse, late: StoredResponse) -> bool:
    """Whether `stored` came while `late` was on its way, and was made after it: the latest counts (RFC 9111 4)."""
    return stored.response_time >= late.request_time and made(stored) > made(late)


def _directives(request: RequestHead) -> Directives | None:
    """The cache directives of a request; None where it has none. An old client's Pragma counts as no-cache.

    RFC 9111 5.4 deprecates Pragma; it is honoured because a reload button of that age has no other means.
    """
    values = request.fields.all("cache-control")
    if values:
        return parse_directives(values)
    pragma = request.fields.get("pragma")
    if pragma is not None and parse_directives((pragma,)).has("no-cache"):
        return parse_directives(("no-cache",))
    return None


def _demands_validation(directives: Directives, age: float, left: float) -> bool:
    """Whether the request asks for more than a response of this age and with so much lifetime left."""
    if directives.has("no-cache"):
        return True
    max_age, min_fresh = directives.seconds("max-age"), directives.seconds("min-fresh")
    return (max_age is not None and age > max_age) or (min_fresh is not None and left < min_fresh)


def _accepts_stale(directives: Directives | None, staleness: float) -> bool | None:
    """What the request says of so stale a response; None if nothing (RFC 9111 5.2.1.1, 5.2.1.2).

    max-stale without an argument accepts any staleness; max-age without max-stale accepts none.
    """
    if directives is None:
        return None
    limit = directives.seconds("max-stale")
    if limit is None:
        return False if directives.has("max-age") else None
    return directives.arg("max-stale") is None or staleness <= limit


def decide(
    stored: StoredResponse,
    request: RequestHead,
    now: float,
    soft_stale: bool = False,
    rule: RouteRule | None = None,
) -> Reuse:
    """What `stored`, selected by `request`, may be used for at `now` (seconds since the epoch).

    soft_stale -- purged softly: stale from now on, whatever is left of its lifetime.
    rule -- as it reads now: its stale-while-revalidate goes before that of the time of storing.
    """
    freshness = stored.freshness
    # 1. no-cache: never without the origin's word (5.2.2.4)
    if freshness.no_cache:
        return Reuse.VALIDATE
    age = current_age(freshness, stored.response_time, now)
    left = min(0.0, freshness.lifetime - age) if soft_stale else freshness.lifetime - age
    # 2. what the request demands goes for fresh responses too (5.2.1)
    directives = _directives(request)
    if directives is not None and _demands_validation(directives, age, left):
        return Reuse.VALIDATE_BY_REQUEST
    # 3. fresh (4.2)
    if left > 0:
        return Reuse.FRESH
    # 4. stale, and never to be served so (5.2.2.2, 5.2.2.8, 5.2.2.10), or not wanted so
    accepted = _accepts_stale(directives, -left)
    if freshness.must_revalidate or accepted is False:
        return Reuse.VALIDATE
    # 5. stale, and allowed by the origin or the operator (RFC 5861 3)
    window = freshness.stale_while_revalidate
    if rule is not None and rule.stale_while_revalidate is not None:
        window = rule.stale_while_revalidate
    if 0 < window >= -left:
        return Reuse.STALE_WHILE_REVALIDATE
    # 6. stale, and allowed by the client (5.2.1.2)
    return Reuse.STALE_ALLOWED if accepted else Reuse.VALIDATE


def may_hide_error(stored: StoredResponse, request: RequestHead, now: float) -> bool:
    """Whether `stored` may answer because the origin could not (RFC 5861 4, RFC 9111 4.2.4, 4.3.3).

    The origin and the client may each say for how long, and the longer counts; an origin or a rule that says 0
    forbids it. The client's no-cache wants the origin or nothing.
    """
    freshness = stored.freshness
    if freshness.no_cache or freshness.must_revalidate or freshness.stale_if_error == 0:
        return False
    limit = freshness.stale_if_error
    directives = _directives(request)
    if directives is not None:
        if directives.has("no-cache"):
            return False
        asked = directives.seconds("stale-if-error")
        if asked is not None:
            limit = max(limit or 0.0, asked)
    staleness = current_age(freshness, stored.response_time, now) - freshness.lifetime
    return staleness <= (UNSTATED_STALE_IF_ERROR if limit is None else limit)


def worth_keeping(stored: StoredResponse, now: float, validated: float = VALIDATED_SECONDS) -> float:
    """Seconds for which `stored` may still be of use: fresh, stale where that is allowed, or to be validated.

    validated -- seconds past its lifetime for which the last counts. Negative once it is over.
    """
    life = stored.freshness
    beyond = UNSTATED_STALE_IF_ERROR if life.stale_if_error is None else life.stale_if_error
    beyond = 0.0 if life.must_revalidate or life.no_cache else max(beyond, life.stale_while_revalidate)
    fresh = max(0.0, life.lifetime - life.initial_age)
    return fresh + max(beyond, validated) - max(0.0, now - stored.response_time)
