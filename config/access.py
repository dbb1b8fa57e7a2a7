"""Who may change something: whoever has the token, or without one this machine; pure, for both services."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence

Fields = Mapping[str, Sequence[str]]
"""Field values by lower-case name."""


class Refusal(Exception):
    """An answer other than the one asked for. `fields` are added to it, `more` to its JSON."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        fields: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = dict(fields or {})
        self.more = dict(more or {})


# -- who may change something


def refusal_of(peer: str | None, fields: Fields, token: str | None) -> Refusal | None:
    """Why a changing call is refused; None when it may go on.

    peer -- the other end of the connection, which cannot be forged as X-Forwarded-For can.
    """
    if token:
        return _without_token(fields, token)
    if not is_loopback(peer):
        return Refusal(
            403,
            "admin-token-not-set",
            "without ADMIN_TOKEN only this machine may change anything; set ADMIN_TOKEN and send it as a bearer token",
        )
    return _from_a_browser(fields)


def _without_token(fields: Fields, token: str) -> Refusal | None:
    """RFC 6750 3: no credentials are told nothing more, wrong ones are told that they are wrong."""
    credentials = fields.get("authorization", ())
    if not credentials:
        return _unauthorized("send ADMIN_TOKEN as a bearer token", 'Bearer realm="siding admin"')
    scheme, _, given = credentials[0].partition(" ")
    known = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    if len(credentials) == 1 and scheme.lower() == "bearer" and known:
        return None
    return _unauthorized(
        "the credentials are not ADMIN_TOKEN as a bearer token", 'Bearer realm="siding admin", error="invalid_token"'
    )


def _unauthorized(message: str, challenge: str) -> Refusal:
    return Refusal(401, "unauthorized", message, {"WWW-Authenticate": challenge})


def is_loopback(peer: str | None) -> bool:
    """Whether an address, IPv4-mapped ones included, is this machine's own."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _from_a_browser(fields: Fields) -> Refusal | None:
    """Against web pages that use a browser on this machine: forged requests, and names rebound to 127.0.0.1."""
    hosts, origins = fields.get("host", ()), fields.get("origin", ())
    if len(hosts) != 1 or not is_local_authority(hosts[0]):
        return Refusal(403, "host-not-local", "without ADMIN_TOKEN the Host must be localhost or an IP address")
    if origins and list(origins) != [f"http://{hosts[0]}"]:
        return Refusal(403, "cross-origin", "without ADMIN_TOKEN no other web page may change anything here")
    return None


def is_local_authority(authority: str) -> bool:
    """Whether a Host names `localhost` or an IP address, which no attacker's DNS can answer for."""
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, "0"
    if not (port.isascii() and port.isdecimal()):
        return False
    if host.lower() == "localhost":
        return True
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
