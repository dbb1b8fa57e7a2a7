"""Spans of the monitor's requests, where traces are on. Neither queries of URLs nor content are told."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from config.tracing import METHODS, enter
from pool_monitor.grading.observed import Served

if TYPE_CHECKING:
    from config.otel import Trace, Tracing

log = logging.getLogger("siding.traces")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVED = web.RequestKey("served", Served)
"""What is told of a request under `/v1`."""
PREFIXES = ("/v1", "/api/queries")
ROUTES = frozenset({"/v1/chat/completions", "/v1/batch/chat/completions"})
"""Paths that a route with a variable part stands for, and that are told by themselves."""


def tracing_middleware(tracing: Tracing) -> Any:
    """Outermost: a span for each request under PREFIXES."""

    @web.middleware
    async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.rel_url.raw_path
        trace = _begun(tracing, request, path) if path.startswith(PREFIXES) else None
        if trace is None:
            return await handler(request)
        enter(trace)
        status = 0
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            enter(None)
            served = request.get(SERVED)
            # of an answer that broke off, the first status does not tell
            failed = max(status, served.status) if served is not None else status
            trace.end(_answered(status, served), error=str(failed) if failed >= 500 else None)

    return traced


def _begun(tracing: Tracing, request: web.Request, path: str) -> Trace | None:
    """None where it cannot be made, and all goes on without."""
    known = request.method in METHODS
    name, route = request.method if known else "HTTP", _route_of(request, path)
    try:
        about = {
            "http.request.method": request.method if known else "_OTHER",
            "http.route": route,
            "url.path": path,
            "url.scheme": request.scheme,
            "server.address": request.url.raw_host,
            "server.port": request.url.port,
        }
        return tracing.begin(
            f"{name} {route}" if route else name,
            about,
            traceparent=", ".join(request.headers.getall("traceparent", ())),
            tracestate=", ".join(request.headers.getall("tracestate", ())),
        )
    except Exception:
        log.exception("a span could not be begun")
        return None


def _route_of(request: web.Request, path: str) -> str | None:
    if path in ROUTES:
        return path
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else None


def _answered(status: int, served: Served | None) -> dict[str, str | int | None]:
    told: dict[str, str | int | None] = {"http.response.status_code": status or None}
    if served is not None and served.chat:
        told |= {"siding.found": served.found.value, "siding.outcome": served.what, "siding.template": served.template}
    return told
