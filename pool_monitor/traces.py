"""Spans of the monitor, where traces are on: requests, waiting for a connection, queries, and the grading upstream.

Nothing of what is asked or answered is told but its size in tokens: no content, parameter, query of a URL or
credential. Nothing here imports OpenTelemetry: a span that is under way is given, or there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
from aiohttp import hdrs, web

from config.tracing import enter, here
from pool_monitor.grading.accounting import Usage
from pool_monitor.grading.bookkeeping import stated_in
from pool_monitor.grading.calls import Fields
from pool_monitor.grading.observed import Found, Served

if TYPE_CHECKING:
    from config.otel import Trace, Tracing

log = logging.getLogger("siding.traces")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVED = web.RequestKey("served", Served)
"""What was told of a request under `/v1`."""
PREFIXES = ("/v1", "/api/queries")
CHAT = "/chat/completions"
ROUTES = frozenset({"/v1/chat/completions", "/v1/batch/chat/completions"})
"""What a route with a variable part is called by itself."""
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
MAX_MODEL = 100
TAIL_BYTES = 16 * 1024
"""Where an answer that is no stream of octets states its usage: at its end."""
MAX_CODED_BYTES = 256 * 1024
"""Of an answer with a content coding, which can only be read whole."""


# -- requests


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


# -- the grading upstream


class Asking:
    """A request to the grading upstream, told as a span; hears the answer to find the usage that it states."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._tail = b""
        self._coding = ""

    def carried(self, fields: Fields) -> Fields:
        """A request's fields, with this span as the parent of what the upstream does."""
        gone = {"traceparent"} if self._trace.continued else {"traceparent", "tracestate"}
        kept = tuple(pair for pair in fields if pair[0].lower() not in gone)
        return (*kept, ("traceparent", self._trace.traceparent))

    def begins(self, status: int, fields: Fields = ()) -> None:
        """The head of the answer is there."""
        self._trace.note({"http.response.status_code": status})
        self._coding = next((value for name, value in fields if name.lower() == hdrs.CONTENT_ENCODING.lower()), "")

    def hears(self, piece: bytes) -> None:
        """A piece of its content."""
        if not self._trace.sampled:
            return
        if not self._coding:
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
        elif len(self._tail) <= MAX_CODED_BYTES:
            self._tail += piece

    def hears_all(self, content: bytes) -> None:
        """The whole of it."""
        if self._trace.sampled:
            self._tail = content

    def end(self, error: str | None) -> None:
        """It is over. error -- how it failed."""
        model, usage = stated_in(self._tail, self._coding) if self._tail else ("", None)
        counted = Usage.of(usage)
        about: dict[str, str | int | None] = {"gen_ai.response.model": model[:MAX_MODEL] or None}
        if counted is not None:
            about |= {"gen_ai.usage.input_tokens": counted.input, "gen_ai.usage.output_tokens": counted.output}
        self._trace.end(about, error=error)


def asking_of(base: str, model: str, template: str | None = None) -> Asking | None:
    """A chat completion that is now asked of the upstream at `base`; None where nobody traces it."""
    trace = here()
    if trace is None:
        return None
    model = model[:MAX_MODEL]
    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model or None,
        "siding.template": template,
        "siding.found": Found.ASKED.value,
        **_place(base),
    }
    return Asking(trace.child(f"chat {model}".strip(), about))


def forwarding_of(base: str, method: str, path: str, content: object) -> Asking | None:
    """What is now forwarded; None where nobody traces it. path -- below `base`, with its query."""
    trace = here()
    if trace is None:
        return None
    plain = path.partition("?")[0]
    if method == "POST" and plain == CHAT:
        small = isinstance(content, bytes) and len(content) <= MAX_CODED_BYTES and trace.sampled
        return asking_of(base, _model_in(content) if small and isinstance(content, bytes) else "")
    known = method in METHODS
    about = {"http.request.method": method if known else "_OTHER", "url.full": f"{_origin(base)}{plain}"}
    return Asking(trace.child(method if known else "HTTP", {**about, **_place(base)}))


def _model_in(content: bytes) -> str:
    try:
        model = orjson.loads(content)["model"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return model if isinstance(model, str) else ""


def _origin(base: str) -> str:
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _place(base: str) -> dict[str, str | int | None]:
    parts = urlsplit(base)
    return {
        "server.address": parts.hostname,
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }


# -- the pool


def pool_waited(name: str, seconds: float, error: str | None = None) -> None:
    """A connection was waited for. name -- whoever wanted it. error -- why none was had."""
    trace = here()
    if trace is not None:
        trace.past("pool acquire", seconds, {"siding.holder": name}, error=error, client=False)


def queried(name: str, seconds: float, place: dict[str, str | int | None], error: str | None = None) -> None:
    """A connection was used. name -- the query's, or of what else was asked. place -- see `database_place`."""
    trace = here()
    if trace is not None:
        about = {"db.system.name": "postgresql", "db.operation.name": name, "db.query.summary": name, **place}
        trace.past(name, seconds, {**about, "db.response.status_code": error}, error=error)


def database_place(url: str) -> dict[str, str | int | None]:
    """Where a database is, without who asks it."""
    try:
        parts = urlsplit(url)
        return {
            "server.address": parts.hostname,
            "server.port": parts.port or 5432,
            "db.namespace": parts.path.lstrip("/") or None,
        }
    except ValueError:
        # several hosts; asyncpg takes them
        return {}
