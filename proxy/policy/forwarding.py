"""What an intermediary takes away from a message and what it adds (RFC 9110 7.6)."""

from __future__ import annotations

from proxy.policy.fields import split_list
from proxy.policy.messages import Fields, Line, RequestHead

PSEUDONYM = "siding"
VIA = f"1.1 {PSEUDONYM}"
CDN_LOOP = "CDN-Loop"
"""Who a request has been at, so that who sees his own mark in it knows that it goes round (RFC 8586)."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
"""Fields for one connection only (RFC 9110 7.6.1, RFC 9112 appendix C.2.2 for the last but one)."""

_FRAMING = frozenset({"content-length"})
_NOT_TO_BE_NAMED = frozenset(
    {
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "host",
        "pragma",
        "set-cookie",
        "surrogate-control",
        "vary",
    }
)
"""Fields that `Connection` cannot take away: without them the message means something else, and a client could
make an origin believe that another (anonymous, internal) one is asking, or an origin have shared what it says is not to
be. RFC 9110 7.6.1 forbids senders to name fields meant for all recipients."""

_LIMITED = frozenset({"TRACE", "OPTIONS"})
MOST_FORWARDS = 10**9
"""A greater Max-Forwards counts as this one."""
_SET_ANEW = frozenset({"x-forwarded-for", "via"})


def loops(fields: Fields, mark: str) -> bool:
    """Whether a request has been where `mark` is given."""
    return mark in (fields.get("cdn-loop") or "")


def without_named(fields: Fields) -> Fields:
    """A client's fields without those that Connection names, so that no decision here sees what the origin will not.

    First of all, before anything of this hop is added (Traefik CVE-2021-32813). What makes a cache key must be what the
    origin is asked with. Fields for one hop stay for `strip` to take.
    """
    named = _named(fields) - HOP_BY_HOP
    return fields.without(named) if named else fields


def _named(fields: Fields) -> set[str]:
    """What Connection names and may take away. A targeted field (RFC 9213) is known by the end of its name."""
    named = {member.lower() for line in fields.all("connection") for member in split_list(line)}
    return {name for name in named - _NOT_TO_BE_NAMED if not name.endswith("-cache-control")}


def wants_websocket(head: RequestHead) -> bool:
    """Whether the client asks to go on with a WebSocket: Upgrade counts only where Connection lists it (9110 7.8)."""
    fields = head.fields
    return (
        head.method == "GET"
        and head.version >= (1, 1)
        and (fields.get("upgrade") or "").lower() == "websocket"
        and "upgrade" in _named(fields)
    )


def forwards_left(head: RequestHead) -> int | None:
    """How many more hops a TRACE or OPTIONS may go, by its Max-Forwards (RFC 9110 7.6.2); None where none says so."""
    value = head.fields.get("max-forwards") if head.method in _LIMITED else None
    if value is None or not (value.isascii() and value.isdecimal()):
        return None
    digits = value.lstrip("0")
    return MOST_FORWARDS if len(digits) > 9 else int(digits or "0")


def strip(fields: Fields) -> Fields:
    """Without the fields that Connection names, and without those that are always for one hop."""
    if "connection" in fields:
        return fields.without(_named(fields) | HOP_BY_HOP | _FRAMING)
    present = HOP_BY_HOP.intersection(fields.names())
    return fields.without(HOP_BY_HOP | _FRAMING) if present or "content-length" in fields else fields


def to_origin(
    head: RequestHead,
    *,
    peer: str,
    scheme: str,
    request_id: str,
    traceparent: str,
    upgrade: bool,
    mark: str = "",
) -> Fields:
    """A request's fields for the next hop, without framing, which the origin's client writes.

    peer -- the client's address. scheme -- of the target URI as the client used it.
    request_id, traceparent -- set where the client brought none. upgrade -- offer the client's upgrade on.
    mark -- shows that it has been here; empty: nothing does.
    """
    fields = strip(head.fields)
    kept = fields.without(_SET_ANEW)
    left = forwards_left(head)
    if left is not None:
        kept = kept.replacing("Max-Forwards", str(max(0, left - 1)))
    added: list[Line] = [("X-Forwarded-For", _appended(fields, "x-forwarded-for", peer))]
    if "x-forwarded-proto" not in fields:
        added.append(("X-Forwarded-Proto", scheme))
    if "x-forwarded-host" not in fields and head.authority:
        added.append(("X-Forwarded-Host", head.authority))
    if "host" not in fields:
        kept = Fields((("Host", head.authority), *kept.lines))
    added.append(("Via", _appended(fields, "via", _via(head.version))))
    if "x-request-id" not in fields:
        added.append(("X-Request-Id", request_id))
    if "traceparent" not in fields:
        added.append(("traceparent", traceparent))
    if mark:
        added.append((CDN_LOOP, mark))
    if upgrade:
        added.append(("Connection", "Upgrade"))
        added.append(("Upgrade", head.fields.get("upgrade") or ""))
    return kept.adding(*added)


def from_origin(fields: Fields) -> Fields:
    """A response's fields for the client, without framing, which the server writes (RFC 9110 7.6.1, 7.6.3)."""
    kept = strip(fields)
    if "via" in kept:
        return kept.without({"via"}).adding(("Via", _appended(kept, "via", VIA)))
    return kept.adding(("Via", VIA))


def _via(version: tuple[int, int]) -> str:
    """This hop's member: the version in which the message was received (RFC 9110 7.6.3)."""
    return VIA if version == (1, 1) else f"{version[0]}.{version[1]} {PSEUDONYM}"


def _appended(fields: Fields, name: str, value: str) -> str:
    before = fields.get(name)
    return f"{before}, {value}" if before else value
