"""What goes over a connection to the grading upstream: fields without those of one hop, content, and named faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Set
from enum import StrEnum

import aiohttp

from pool_monitor.grading.calls import Fields, UpstreamFault

PIECE_BYTES = 64 * 1024
"""What is written at once without asking whether the upstream still reads."""

HEAD_LIMITS = {"max_line_size": 16 * 1024, "max_field_size": 32 * 1024, "max_headers": 200}
MAX_ANSWER_FIELD_BYTES = 64 * 1024
"""Of requests, and of the upstream's answers, as the proxy takes them."""
OF_ONE_HOP = frozenset(
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
"""RFC 9110 7.6.1, RFC 9112 appendix C.2.2."""
OF_OCTETS = frozenset({"content-digest", "repr-digest", "digest", "content-md5", "etag"})
"""What these say of content is not so of other content that takes its place (RFC 9530, RFC 9110 8.8.3)."""
_NOT_TO_BE_NAMED = frozenset({"authorization", "content-length", "content-type", "cookie", "host"})
"""Fields that Connection cannot take away: without them the message means something else."""


def end_to_end(fields: Iterable[tuple[str, str]], without: Set[str] = frozenset()) -> Fields:
    """Without fields for one hop, those that Connection names, and those in `without` (lower case)."""
    given = tuple(fields)
    named = {
        member.strip().lower()
        for name, value in given
        if name.lower() == "connection"
        for member in value.split(",")
        if member.strip().lower() not in _NOT_TO_BE_NAMED
    }
    gone = OF_ONE_HOP | without | named
    return tuple((name, value) for name, value in given if name.lower() not in gone)


def length_of(value: str) -> str:
    """A Content-Length without zeros in front, of which it may have more than `int` reads (RFC 9110 8.6)."""
    return value.lstrip("0") or "0"


def as_text(raw: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Fields that can be sent on as they are."""
    return tuple((name.decode("latin-1"), _decoded(value)) for name, value in raw)


def sendable(value: str) -> str:
    """A value as aiohttp gives it to a handler, for its writer, which takes no octets that are not UTF-8."""
    return value if value.isascii() else _decoded(value.encode("utf-8", "surrogateescape"))


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


# -- faults


class Failure(StrEnum):
    """Why there is no answer."""

    REFUSED = "refused"
    """no connection was made: nothing was sent"""
    NO_CONNECTION_IN_TIME = "no-connection-in-time"
    """the same, but for the time it took"""
    SILENT = "silent"
    """no answer in time"""
    CUT = "cut"
    """the connection ended, or what came is no HTTP"""

    @property
    def never_sent(self) -> bool:
        """Whether it is certain that the upstream knows nothing of the request."""
        return self in {Failure.REFUSED, Failure.NO_CONNECTION_IN_TIME}

    @property
    def fault(self) -> UpstreamFault:
        """What the caller is told."""
        match self:
            case Failure.REFUSED:
                return UpstreamFault(502, "upstream_unreachable", "no connection to the upstream can be made")
            case Failure.NO_CONNECTION_IN_TIME:
                return UpstreamFault(504, "upstream_timeout", "the upstream accepted no connection in time", "timeout")
            case Failure.SILENT:
                return UpstreamFault(504, "upstream_timeout", "the upstream did not answer in time", "timeout")
            case Failure.CUT:
                return UpstreamFault(502, "upstream_cut", "the upstream broke the connection off")


def failure_of(fault: BaseException) -> Failure:
    """What a client library's exception means."""
    match _cause_of(fault):
        case aiohttp.ConnectionTimeoutError():
            return Failure.NO_CONNECTION_IN_TIME
        case TimeoutError():
            return Failure.SILENT
        case (
            aiohttp.ClientConnectorError()
            | aiohttp.ClientConnectorCertificateError()
            | aiohttp.ServerFingerprintMismatch()
        ):
            return Failure.REFUSED
    return Failure.CUT


def reason_of(fault: BaseException, connect_seconds: float, answer_seconds: float) -> str:
    """The same for who runs Siding, with what the system says; without path, fields, or anything asked or answered."""
    match _cause_of(fault):
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {connect_seconds:g} s"
        case TimeoutError():
            return f"no answer in time (GRADING_TIMEOUT_MS is {1000 * answer_seconds:g})"
        case aiohttp.ClientConnectorCertificateError() as cause:
            return str(cause.certificate_error)
        case aiohttp.ClientConnectorError() as cause:
            return str(cause.os_error)
        case OSError() as cause:
            return f"[Errno {cause.errno}] {cause.strerror}" if cause.errno else "the connection broke off"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case aiohttp.ClientResponseError():
            return "what came is no HTTP"
        case cause:
            return type(cause).__name__


def _cause_of(fault: BaseException) -> BaseException:
    """The exception of aiohttp that a client library's comes from.

    The SDK's transport itself calls an end of the connection a time-out of connecting.
    """
    cause: BaseException | None = fault
    while cause is not None and not isinstance(cause, TimeoutError | aiohttp.ClientError):
        cause = cause.__cause__
    return fault if cause is None else cause


# -- content


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    """In pieces that the upstream is waited for."""
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


class Upload:
    """Content on its way: gives the upstream `silence` seconds for each piece, and the caller as long as it takes.

    watch -- is set to the moment when the upstream is silent for too long.
    fault -- what the content itself raised.
    """

    def __init__(self, content: AsyncIterable[bytes], watch: asyncio.Timeout, silence: float) -> None:
        self._pieces = aiter(content)
        self._watch = watch
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self.fault: Exception | None = None
        self.watched = True

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        self._due(None)
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            raise
        except Exception as fault:
            self.fault = fault
            raise
        finally:
            self._due(self._loop.time() + self._silence)

    def _due(self, moment: float | None) -> None:
        if self.watched and not self._watch.expired():
            self._watch.reschedule(moment)
