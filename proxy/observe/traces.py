"""Spans for requests: a reader of observations, which begins a span before there is one, to tell the origin of it.

Nothing that a client may have put a secret in is told: no query, field or content, and no cache key. Names of spans
come from closed sets (HTTP semantic conventions of OpenTelemetry).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from config.otel import Attributes, Trace, Tracing
from config.tracing import METHODS, enter
from proxy import errors
from proxy.observe.events import OTHER, Observation
from proxy.policy.decisions import Outcome
from proxy.policy.messages import Fields, RequestHead, ResponseHead
from proxy.policy.plain import Plain

log = logging.getLogger("siding.traces")

_FAILED = frozenset({Outcome.ORIGIN_ERROR, Outcome.INTERNAL_ERROR})


class HasHead(Protocol):
    """A response of the origin."""

    head: ResponseHead


_Response = TypeVar("_Response", bound=HasHead)


class Traces:
    """Begins spans, and ends them by what was observed. upstream -- the origin's URL."""

    def __init__(self, tracing: Tracing, upstream: str) -> None:
        self._tracing = tracing
        parts = urlsplit(upstream)
        self._origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._address = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)

    def needs_span(self, request: Plain) -> bool:
        """Whether a request has to have a span; what was drawn for it stays with it."""
        if not request.traceparent and request.speaks_of_traces():
            # what there is must not reach the origin (W3C Trace Context 3.3)
            return True
        request.drawn, needed = self._tracing.draw(_name(request.start.method), request.traceparent)
        return needed

    def begin(self, head: RequestHead, drawn: int = 0) -> Trace | None:
        """The span of a request that has come; None where it cannot be made, and all goes on without.

        drawn -- see `needs_span`.
        """
        try:
            host, port = _host_of(head.authority)
            attributes = {
                **_method(head.method),
                "url.path": head.path,
                "url.scheme": head.scheme,
                "server.address": host,
                "server.port": port,
            }
            fields = head.fields
            trace = self._tracing.begin(
                _name(head.method),
                attributes,
                traceparent=fields.get("traceparent"),
                tracestate=fields.get("tracestate"),
                drawn=drawn,
            )
        except Exception:
            log.exception("a span could not be begun")
            return None
        enter(trace)
        return trace

    def observe(self, seen: Observation) -> None:
        """A request is over. One that no span was begun for gets it now."""
        enter(None)
        trace = seen.trace
        if seen.spanless:
            return
        if trace is None:
            attributes: Attributes = {**_method(seen.method), "url.path": seen.path.partition("?")[0] or None}
            trace = self._tracing.begin(
                _name(seen.method), attributes, traceparent=seen.traceparent, seconds=seen.duration
            )
        if trace.sampled:
            known = seen.route != OTHER
            name = f"{_name(seen.method)} {seen.route}" if known else None
            trace.end(_answered(seen), name=name, error=_error_of(seen))

    async def follow(
        self,
        trace: Trace,
        request: RequestHead,
        fields: Fields,
        ask: Callable[[Fields], Awaitable[_Response]],
    ) -> _Response:
        """What `ask` gives, asked with `fields` that name its own span as their parent. trace -- of the request."""
        attributes = {
            **_method(request.method),
            "url.full": f"{self._origin}{request.path}",
            "server.address": self._address,
            "server.port": self._port,
        }
        asking = trace.child(_name(request.method), attributes)
        fields = fields.replacing("traceparent", asking.traceparent)
        if not trace.continued:
            # it belongs to the trace that is not gone on with (W3C Trace Context 3.3)
            fields = fields.without({"tracestate"})
        try:
            response = await ask(fields)
        except errors.SidingError as fault:
            asking.end(error=fault.code)
            raise
        except Exception as fault:
            asking.end(error=type(fault).__name__)
            raise
        except BaseException:
            # given up, which is not the origin's failure
            asking.end()
            raise
        status = response.head.status
        asking.end({"http.response.status_code": status}, error=str(status) if status >= 400 else None)
        return response


def _method(method: str) -> dict[str, str | None]:
    known = method in METHODS
    return {
        "http.request.method": method if known else "_OTHER",
        "http.request.method_original": None if known or not method else method,
    }


def _name(method: str) -> str:
    return method if method in METHODS else "HTTP"


def _host_of(authority: str) -> tuple[str | None, int | None]:
    """Host and port of a Host field, which was checked to be one."""
    host, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = authority, ""
    return host.strip("[]") or None, int(port) if port.isdecimal() and len(port) <= 5 else None


def _answered(seen: Observation) -> Attributes:
    return {
        "http.response.status_code": seen.status or None,
        "http.route": seen.route if seen.route != OTHER else None,
        "siding.outcome": seen.outcome.value,
        "siding.forward": seen.forward.value if seen.forward is not None else None,
        "siding.verdict": seen.verdict.value if seen.verdict is not None else None,
        "siding.collapsed": seen.collapsed,
        "siding.coding": seen.coding,
    }


def _error_of(seen: Observation) -> str | None:
    """The conventions count 5xx as a failure of a server, and 4xx as none."""
    if seen.outcome in _FAILED or seen.status >= 500:
        return seen.error or str(seen.status or seen.outcome.value)
    return None
