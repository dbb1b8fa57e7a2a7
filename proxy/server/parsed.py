"""What aiohttp has parsed, in our words: the head of a request, or what is wrong with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import http_exceptions

from proxy import errors
from proxy.policy import forwarding
from proxy.policy.messages import Fields, RequestHead
from proxy.server.fast_path import scheme_of

if TYPE_CHECKING:
    from aiohttp.http import RawRequestMessage

MAX_TARGET_BYTES = 16 * 1024
MAX_FIELD_BYTES = 32 * 1024
MAX_FIELD_LINES = 200
MAX_HEAD_BYTES = 64 * 1024
"""Of a whole head (nginx: large_client_header_buffers, 32 KiB): fields at their limits together would be 6 MB."""

_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]*)?\Z")
"""host [ ":" port ] of RFC 3986 3.2, never empty and without user information (RFC 9110 4.2.4)."""


def _target_and_fields(message: RawRequestMessage, fields: Fields) -> tuple[str, Fields]:
    """Origin-form target, and the fields with the Host that goes with it.

    An absolute-form target replaces Host, here and for the origin (RFC 9112 3.2.2). Raises MalformedRequest.
    """
    target, authority = _target_and_authority(message, fields)
    if authority is not None and _AUTHORITY.match(authority) is None:
        raise errors.MalformedRequest(f"the host is not one: {authority[:80]!r}")
    if authority is None or authority == fields.get("host"):
        return target, fields
    return target, Fields((("Host", authority), *fields.without({"host"}).lines))


def _target_and_authority(message: RawRequestMessage, fields: Fields) -> tuple[str, str | None]:
    if message.method == "CONNECT":
        raise errors.MethodNotSupported("CONNECT is for forward proxies; this is a reverse proxy")
    target = message.path.encode("utf-8", "surrogateescape").decode("latin-1")
    if "#" in target:
        raise errors.MalformedRequest(f"a request target has no fragment: {target[:80]!r}")
    authority = fields.get("host")
    if target.startswith("/") or target == "*":
        return target, authority
    _, separator, rest = target.partition("://")
    if not separator:
        raise errors.MalformedRequest(f"the request target is neither a path nor a URI: {target[:80]!r}")
    for index, character in enumerate(rest):
        if character in "/?":
            path = rest[index:]
            return (path if character == "/" else "/" + path), rest[:index]
    # of the server as a whole, where there is neither path nor query (RFC 9112 3.2.4)
    return "*" if message.method == "OPTIONS" else "/", rest


def _check_framing(message: RawRequestMessage, fields: Fields) -> None:
    """Content that is framed in another way, or whose transfer coding would be lost, is not taken (RFC 9112 6.1, 7)."""
    if message.version.major != 1:
        raise errors.VersionNotSupported("only HTTP/1.1 and HTTP/1.0 are spoken here")
    codings = fields.get("transfer-encoding")
    if codings is None:
        return
    if message.version < (1, 1):
        raise errors.MalformedRequest("HTTP/1.0 has no Transfer-Encoding")
    if codings.strip().lower() != "chunked":
        raise errors.CodingNotSupported(f"the only transfer coding known here is chunked; given: {codings[:80]!r}")


def request_head(message: RawRequestMessage) -> RequestHead:
    """The head of a request. Raises ClientError for what is well-formed but not taken here."""
    fields = Fields.from_raw(message.raw_headers)
    target, fields = _target_and_fields(message, forwarding.without_named(fields))
    _check_framing(message, fields)
    return RequestHead(
        message.method,
        target,
        fields,
        scheme_of(fields.get("x-forwarded-proto")),
        fields.get("host") or "",
        (message.version.major, message.version.minor),
    )


def client_error(fault: BaseException) -> errors.ClientError:
    """aiohttp's parse errors, in our words."""
    if isinstance(fault, errors.ClientError):
        return fault
    if isinstance(fault, http_exceptions.LineTooLong):
        if fault.args[1] == MAX_TARGET_BYTES:
            return errors.TargetTooLong(f"the request target is longer than {MAX_TARGET_BYTES} bytes")
        return errors.FieldsTooLarge(f"a field is longer than {MAX_FIELD_BYTES} bytes")
    if isinstance(fault, http_exceptions.BadHttpMessage) and "Too many headers" in str(fault.message):
        return errors.FieldsTooLarge(f"more than {MAX_FIELD_LINES} fields")
    if isinstance(fault, http_exceptions.BadHttpMethod) and "HTTPS" not in str(fault.message):
        return errors.MethodNotSupported("the method is not one that HTTP/1.1 registers")
    return errors.MalformedRequest("the request is not well-formed HTTP/1.1")
