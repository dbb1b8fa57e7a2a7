"""How long a response stays fresh, and how old it is (RFC 9111 4.2)."""

from __future__ import annotations

from proxy.policy.fields import Directives, parse_age, parse_date, parse_directives
from proxy.policy.messages import Fields, Freshness, ResponseHead, RouteRule

HEURISTIC_STATUSES = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
"""Those for which a freshness lifetime may be guessed (RFC 9110 15.1)."""

HEURISTIC_FRACTION = 0.1
"""Of the time since the last modification: the usual guess (RFC 9111 4.2.2)."""

MAX_HEURISTIC = 86_400.0
"""Seconds a guess may be at most: a day, after which the origin has to be asked."""


def response_directives(fields: Fields) -> Directives:
    """The cache directives of a response."""
    return parse_directives(fields.all("cache-control"))


def withholds(directives: Directives, name: str) -> bool:
    """Whether a no-cache or private directive concerns the whole response, and not just the fields it lists."""
    return directives.has(name) and not directives.names_in(name)


def withheld_fields(directives: Directives, *, private: bool) -> frozenset[str]:
    """The fields, in lower case, that only the client that asked may be given (RFC 9111 5.2.2.4, 5.2.2.7).

    private -- each credential has stored responses of its own, so what is private may be stored.
    """
    listed = directives.names_in("no-cache")
    return frozenset(listed if private else (*listed, *directives.names_in("private")))


def _date(fields: Fields, response_time: float) -> float:
    """Date; the time of receipt in place of none or an invalid one (RFC 9110 6.6.1)."""
    value = fields.get("date")
    date = None if value is None else parse_date(value, response_time)
    return response_time if date is None else date


def is_explicit(directives: Directives, fields: Fields) -> bool:
    """Whether the origin states a lifetime to a shared cache, be it valid or not."""
    return directives.has("s-maxage") or directives.has("max-age") or "expires" in fields


def _explicit_lifetime(directives: Directives, fields: Fields, date: float) -> float | None:
    """The freshness lifetime the origin states, in seconds; None where it states none (RFC 9111 4.2.1)."""
    # the first of these that is there decides, valid or not
    for name in ("s-maxage", "max-age"):
        seconds = directives.seconds(name)
        if seconds is not None:
            return float(seconds)
    value = fields.get("expires")
    if value is None:
        return None
    expires = parse_date(value, date)
    # an invalid date, "0" above all, lies in the past (RFC 9111 5.3)
    return 0.0 if expires is None else max(0.0, expires - date)


def _heuristic_lifetime(status: int, directives: Directives, fields: Fields, date: float) -> float:
    """The guess where the origin states nothing; 0 where none may be made (RFC 9111 4.2.2)."""
    if status not in HEURISTIC_STATUSES and not directives.has("public"):
        return 0.0
    value = fields.get("last-modified")
    modified = None if value is None else parse_date(value, date)
    if modified is None:
        return 0.0
    return min(MAX_HEURISTIC, HEURISTIC_FRACTION * max(0.0, date - modified))


def _initial_age(fields: Fields, date: float, request_time: float, response_time: float) -> float:
    """The corrected initial age in seconds (RFC 9111 4.2.3)."""
    apparent_age = max(0.0, response_time - date)
    response_delay = max(0.0, response_time - request_time)
    corrected_age_value = (parse_age(fields.all("age")) or 0.0) + response_delay
    return max(apparent_age, corrected_age_value)


def freshness_of(
    response: ResponseHead, request_time: float, response_time: float, rule: RouteRule | None = None
) -> Freshness:
    """The freshness of a response received at `response_time` (RFC 9111 4.2, RFC 5861).

    Times are wall clock, seconds since the epoch. The lifetime a rule gives counts from the receipt of a 200, however
    old the origin says it is; other statuses under a rule live as long as the origin states. A rule never lifts
    no-cache or must-revalidate.
    """
    fields = response.fields
    directives = response_directives(fields)
    date = _date(fields, response_time)
    initial_age = _initial_age(fields, date, request_time, response_time)
    lifetime = _explicit_lifetime(directives, fields, date)
    while_revalidate = float(directives.seconds("stale-while-revalidate") or 0)
    if_error: float | None = directives.seconds("stale-if-error")
    if rule is not None:
        if response.status == 200 and rule.ttl is not None:
            lifetime = initial_age + rule.ttl
        if rule.stale_while_revalidate is not None:
            while_revalidate = rule.stale_while_revalidate
        if rule.stale_if_error is not None:
            if_error = rule.stale_if_error
    if lifetime is None:
        lifetime = _heuristic_lifetime(response.status, directives, fields, date)
    return Freshness(
        initial_age=initial_age,
        lifetime=lifetime,
        stale_while_revalidate=while_revalidate,
        stale_if_error=if_error,
        # s-maxage says proxy-revalidate as well (RFC 9111 5.2.2.10)
        must_revalidate=any(directives.has(name) for name in ("must-revalidate", "proxy-revalidate", "s-maxage")),
        no_cache=withholds(directives, "no-cache"),
    )


def current_age(freshness: Freshness, response_time: float, now: float) -> float:
    """The age of a stored response in seconds (RFC 9111 4.2.3); a clock set back does not make it younger."""
    return freshness.initial_age + max(0.0, now - response_time)
