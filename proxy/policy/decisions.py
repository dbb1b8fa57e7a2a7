"""Every outcome and every reason, by name. One enum feeds the log, the metric label and `Cache-Status`."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of a request: the one word an operator sees."""

    HIT = "hit"
    """answered from a fresh stored response"""
    STALE = "stale"
    """answered stale while validation runs behind (RFC 5861 3)"""
    STALE_IF_ERROR = "stale-if-error"
    """the origin failed; a stale stored response hid it (RFC 5861 4)"""
    VALIDATED = "validated"
    """the origin said 304 and the stored response was freshened"""
    COLLAPSED = "collapsed"
    """answered by the origin response another request was already waiting for"""
    MISS = "miss"
    """the origin answered; the response may be stored"""
    PASS = "pass"  # noqa: S105 - not a password
    """the origin answered; this exchange is not the cache's"""
    BYPASS = "bypass"
    """pure pass-through: the master switch is on"""
    TUNNEL = "tunnel"
    """an upgraded connection, relayed both ways"""
    LOCAL = "local"
    """answered by Siding itself: metrics on the public port, only-if-cached, TRACE limits"""
    REFUSED = "refused"
    """the client's fault: malformed, too large, too slow"""
    ORIGIN_ERROR = "origin-error"
    """the origin failed and nothing stored could hide it"""
    CLIENT_GONE = "client-gone"
    """the client left before its answer was complete"""
    CUT = "cut"
    """Siding stopped, and DRAIN_SECONDS were over before its answer was complete"""
    INTERNAL_ERROR = "internal-error"
    """a fault of Siding's own, after which not even a plain forward was possible"""


class Forward(StrEnum):
    """Why a request went to the origin: the `fwd` parameter (RFC 9211 2.2)."""

    BYPASS = "bypass"
    METHOD = "method"
    URI_MISS = "uri-miss"
    VARY_MISS = "vary-miss"
    REQUEST = "request"
    STALE = "stale"
    PARTIAL = "partial"


class Reuse(StrEnum):
    """What a stored response may be used for, now (RFC 9111 4)."""

    FRESH = "fresh"
    STALE_WHILE_REVALIDATE = "stale-while-revalidate"
    STALE_ALLOWED = "stale-allowed"
    """stale, and the request's max-stale accepts it"""
    VALIDATE = "validate"
    """stale or no-cache: only after the origin confirmed it"""
    VALIDATE_BY_REQUEST = "validate-by-request"
    """the request itself demands validation (no-cache, max-age, min-fresh)"""


class Verdict(StrEnum):
    """May a response be stored, and if not, why (RFC 9111 3). Only STORE stores."""

    STORE = "store"
    CACHE_OFF = "cache-off"
    METHOD = "method"
    REQUEST_NO_STORE = "request-no-store"
    NO_STORE = "no-store"
    PRIVATE = "private"
    AUTHORIZATION = "authorization"
    SET_COOKIE = "set-cookie"
    STATUS = "status"
    PARTIAL = "partial"
    NO_FRESHNESS = "no-freshness"
    CREDENTIAL = "credential"
    """whoever asked had one, and nobody says that others may be answered so"""
    VARY_STAR = "vary-star"
    TOO_LARGE = "too-large"
    EVENT_STREAM = "event-stream"
    """a stream of events has no end to wait for, and what was sent is not for who comes later"""
    INVALIDATED = "invalidated"
    """something it depends on was invalidated while it was on its way"""
    OVERTAKEN = "overtaken"
    """one that the origin made later came first"""


class NotCoded(StrEnum):
    """Why no content coding is applied here."""

    OFF = "off"
    NOT_ACCEPTED = "not-accepted"
    ALREADY_CODED = "already-coded"
    NOT_COMPRESSIBLE = "not-compressible"
    TOO_SMALL = "too-small"
    NO_TRANSFORM = "no-transform"
    NO_CONTENT = "no-content"
    RANGE = "range"
