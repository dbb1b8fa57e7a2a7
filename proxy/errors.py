"""What a client is told when its request cannot be answered as it should: each fault with its status and its code.

The messages are for strangers: they name no inner address, no secret and no library.
"""

from __future__ import annotations

from typing import ClassVar

import orjson


class SidingError(Exception):
    """A fault with a `status` and a `code`; its text is a sentence that a person can act on."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"

    def content(self) -> bytes:
        """`{"error": {"code": …, "message": …}}` as JSON."""
        return orjson.dumps({"error": {"code": self.code, "message": str(self)}})


# -- the client's fault


class ClientError(SidingError):
    """The request cannot be answered as it was made."""

    status = 400
    code = "client-error"


class MalformedRequest(ClientError):
    """Not a message that HTTP/1.1 allows (RFC 9112)."""

    status = 400
    code = "malformed-request"


class RequestTimeout(ClientError):
    """The client was too slow to send what it had announced."""

    status = 408
    code = "request-timeout"


class ContentTooLarge(ClientError):
    """The request's content is larger than MAX_REQUEST_BYTES."""

    status = 413
    code = "content-too-large"


class TargetTooLong(ClientError):
    """The request target is longer than is read."""

    status = 414
    code = "target-too-long"


class FieldsTooLarge(ClientError):
    """The request has more, or larger, fields than are read (RFC 6585 5)."""

    status = 431
    code = "fields-too-large"


class MethodNotSupported(ClientError):
    """The method is not forwarded by a reverse proxy, or not known at all."""

    status = 501
    code = "method-not-supported"


class CodingNotSupported(ClientError):
    """The content comes in a transfer coding that is not known here (RFC 9112 6.1)."""

    status = 501
    code = "coding-not-supported"


class VersionNotSupported(ClientError):
    """The request is of another major version of HTTP than its framing here (RFC 9110 15.6.6)."""

    status = 505
    code = "version-not-supported"


class TooFarBehind(ClientError):
    """The client reads so slowly that others who wait for the same octets are held up."""

    status = 408
    code = "too-far-behind"


class NotCached(ClientError):
    """The client wanted a stored response or none, and there is none (RFC 9111 5.2.1.7)."""

    status = 504
    code = "not-cached"


# -- there is no answer of the origin


class NoAnswer(SidingError):
    """There is none that could be passed on, whoever's fault it is. detail -- the same for the log: may name hosts."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail or message


class OutOfDescriptors(NoAnswer):
    """Siding's own fault: this process, or its machine, has no file descriptor left for one more connection."""

    status = 503
    code = "out-of-descriptors"


# -- the origin's fault


class OriginError(NoAnswer):
    """The origin gave no answer that could be passed on."""

    status = 502
    code = "origin-error"


class OriginRefused(OriginError):
    """No connection to the origin: refused, unreachable, unknown name, or TLS failed."""

    status = 502
    code = "origin-refused"


class OriginReset(OriginError):
    """The origin closed the connection before its answer was complete."""

    status = 502
    code = "origin-reset"


class OriginMalformed(OriginError):
    """What the origin sent is not HTTP."""

    status = 502
    code = "origin-malformed"


class OriginLoops(OriginError):
    """The origin is this proxy itself, by whatever way."""

    status = 502
    code = "loop"


class OriginOverloaded(OriginError):
    """Every connection to the origin is in use, and none came free in time."""

    status = 503
    code = "origin-overloaded"


class OriginTimeout(OriginError):
    """The origin was silent for too long."""

    status = 504
    code = "origin-timeout"
