"""May a response be stored, and if not, why (RFC 9111 3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from proxy.policy.cache_key import credential_fields, target_uri, vary_names
from proxy.policy.decisions import Verdict
from proxy.policy.fields import Directives, media_type, parse_content_range, parse_date, parse_etag
from proxy.policy.freshness import HEURISTIC_STATUSES, is_explicit, response_directives, withheld_fields, withholds
from proxy.policy.invalidation import resolved
from proxy.policy.messages import Fields, Freshness, RequestHead, ResponseHead, RouteRule
from proxy.policy.reuse import request_no_store

UNDERSTOOD = frozenset(
    {*range(200, 206), *range(300, 304), 305, 307, 308, *range(400, 418), 421, 422, 426, *range(500, 506)}
)
"""Statuses whose meaning for a cache is known here: the final ones of RFC 9110 15 but for 206 and 304."""

ABOUT_THE_REQUEST = frozenset(
    {304, 401, 406, 407, 408, 411, 412, 413, 415, 416, 417, 421, 425, 426, 428, 429, 431, 511}
)
"""Answers to what other requests for the same target do not have: a precondition, a range, wrong credentials or none,
little that is accepted, too large a field, content, a connection, haste (RFC 6585 3 to 6)."""

_OF_CONTENT = frozenset({"content-type", "content-length", "content-encoding", "expect", "transfer-encoding", "range"})

RULE_STATUSES = frozenset({203, 204, 301, 308, 404, 410})
"""What a rule stores beside 200, and only when the origin states a lifetime: a rule is about answers, not mishaps."""


def has_validator(fields: Fields) -> bool:
    """Whether a response with these fields can be validated later (RFC 9110 8.8)."""
    etag, modified = fields.get("etag"), fields.get("last-modified")
    return (etag is not None and parse_etag(etag) is not None) or (
        modified is not None and parse_date(modified) is not None
    )


def forbidden(response: ResponseHead, rule: RouteRule | None) -> Verdict | None:
    """Why the response itself forbids that it be kept; None where it does not."""
    directives = response_directives(response.fields)
    # a cache that understands the status ignores the no-store beside must-understand (RFC 9111 5.2.2.3)
    must_understand = directives.has("must-understand")
    if must_understand and response.status not in UNDERSTOOD:
        return Verdict.STATUS
    if directives.has("no-store") and not must_understand:
        return Verdict.NO_STORE
    if withholds(directives, "private") and (rule is None or not rule.private):
        return Verdict.PRIVATE
    return None


def _method_allowed(method: str, rule: RouteRule | None) -> bool:
    """GET always; POST where a rule says so. The answer to a HEAD has no content to keep."""
    return method == "GET" or (method == "POST" and rule is not None and method in rule.methods)


def _authorized(directives: Directives, rule: RouteRule | None) -> bool:
    """Whether the answer to a request with credentials may be kept (RFC 9111 3.5)."""
    if rule is not None and (rule.private or rule.public):
        return True
    return any(directives.has(name) for name in ("public", "must-revalidate", "s-maxage"))


def askers_own(request: RequestHead, response: ResponseHead, rule: RouteRule | None) -> Verdict | None:
    """Why what `response` says is for whoever asked alone (RFC 9111 3.5, 5.2.1.5, 5.2.2.5, 5.2.2.7); None: for all."""
    if request_no_store(request):
        return Verdict.REQUEST_NO_STORE
    refused = forbidden(response, rule)
    if refused is None and "authorization" in request.fields:
        return None if _authorized(response_directives(response.fields), rule) else Verdict.AUTHORIZATION
    return refused


def _cacheable(response: ResponseHead, directives: Directives, rule: RouteRule | None) -> Verdict | None:
    """Why this status may not be kept with what the origin says of its lifetime; None where it may."""
    explicit = is_explicit(directives, response.fields)
    if rule is None or rule.ttl is None:
        allowed = explicit or directives.has("public") or response.status in HEURISTIC_STATUSES
        return None if allowed else Verdict.NO_FRESHNESS
    if response.status == 200:
        return None
    if response.status not in RULE_STATUSES:
        return Verdict.STATUS
    return None if explicit else Verdict.NO_FRESHNESS


def is_guessed(
    life: Freshness,
    request: RequestHead,
    response: ResponseHead,
    rule: RouteRule | None,
    selecting: Collection[str] = (),
) -> bool:
    """Whether it is only a guess that what was answered to a credential will do for other users, too.

    RFC 9111 allows the guess whatever cookies came along, for it takes the origin to say private. Many origins do not,
    and mean by a lifetime of 0 no more than that they want to be asked. life -- of `response`. selecting -- the names
    of fields by which it is selected, so that users may be told apart.
    """
    if rule is not None or all(name in selecting for name in credential_fields(request)):
        # a rule applies only where it is public, or every credential is part of the key
        return False
    directives = response_directives(response.fields)
    lasts = life.lifetime > 0 or life.stale_while_revalidate > 0 or bool(life.stale_if_error)
    return not (directives.has("public") or (lasts and is_explicit(directives, response.fields)))


def _cookie_allowed(directives: Directives, rule: RouteRule | None) -> bool:
    """Whether a response that sets a cookie may be kept: by a rule, or where the cookie itself is not."""
    if rule is not None and (rule.private or rule.set_cookie):
        return True
    return "set-cookie" in withheld_fields(directives, private=False)


def _of_use(method: str, fields: Fields, freshness: Freshness) -> bool:
    """Whether it could ever answer a request: fresh, stale for a while, or validated, which only GET can be."""
    if method == "GET" and has_validator(fields):
        return True
    if freshness.no_cache:
        return False
    stale = 0.0 if freshness.must_revalidate else max(freshness.stale_while_revalidate, freshness.stale_if_error or 0.0)
    return freshness.lifetime + stale > freshness.initial_age


def stands_for_get(request: RequestHead, response: ResponseHead) -> bool:
    """Whether the answer to a POST says that it is what a GET of the same target would bring (RFC 9110 9.3.3).

    It does with a Content-Location that is the target URI, and only with a stated lifetime.
    """
    if request.method != "POST" or response.status != 200:
        return False
    location = response.fields.get("content-location")
    if location is None or resolved(request, location) != target_uri(request):
        return False
    return is_explicit(response_directives(response.fields), response.fields)


def as_get(request: RequestHead) -> RequestHead:
    """The GET for the same target, with the fields that may select its answer."""
    return replace(request, method="GET", fields=request.fields.without(_OF_CONTENT))


def may_store(request: RequestHead, response: ResponseHead, freshness: Freshness, rule: RouteRule | None) -> Verdict:
    """The verdict on a complete response to `request`; `freshness` is what `freshness_of` made of it.

    In the order of RFC 9111 3, with the house's own conditions after it.
    """
    fields = response.fields
    directives = response_directives(fields)
    # 1. the method is one whose answers are kept
    if not _method_allowed(request.method, rule):
        return Verdict.METHOD
    # 2. the request does not forbid it (5.2.1.5)
    if request_no_store(request):
        return Verdict.REQUEST_NO_STORE
    # 3. the status is final, and one that is handled here; of a part it must be known which it is (3.3)
    if response.status == 206 and parse_content_range(fields.get("content-range")) is None:
        return Verdict.PARTIAL
    if response.status < 200 or response.status in ABOUT_THE_REQUEST:
        return Verdict.STATUS
    # 4. must-understand, no-store and private do not forbid it (5.2.2.3, .5, .7)
    refused = forbidden(response, rule)
    if refused is not None:
        return refused
    if media_type(fields.get("content-type")) == "text/event-stream":
        return Verdict.EVENT_STREAM
    # 5. credentials (3.5)
    if "authorization" in request.fields and not _authorized(directives, rule):
        return Verdict.AUTHORIZATION
    # 6. a stated lifetime, `public`, or a status that is cacheable without them
    refused = _cacheable(response, directives, rule)
    if refused is not None:
        return refused
    # 7. RFC 9111 7.3 leaves cookies to the origin; a cookie given to everyone is too dear a mistake
    if "set-cookie" in fields and not _cookie_allowed(directives, rule):
        return Verdict.SET_COOKIE
    # 8. some request could select it (4.1), and not of another user unless somebody says so
    names = vary_names(fields)
    if names is None:
        return Verdict.VARY_STAR
    if is_guessed(freshness, request, response, rule, names):
        return Verdict.CREDENTIAL
    # 9. and it could then be used
    return Verdict.STORE if _of_use(request.method, fields, freshness) else Verdict.NO_FRESHNESS
