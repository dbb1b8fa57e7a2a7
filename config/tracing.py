"""Traces by OpenTelemetry: whether there are any, and the request that the running code works for.

Nothing of OpenTelemetry is imported unless the environment names a collector (`otel`). Without one `here` gives None,
and that is all that tracing costs.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from config.otel import Trace, Tracing

log = logging.getLogger("siding.traces")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Those that the conventions for HTTP know; others are `_OTHER` there, and their spans are called HTTP."""
MISSING = "traces are off: OpenTelemetry is not installed; pip install 'siding-proxy[otel]', or unset %s"

_Answer = TypeVar("_Answer")
_here: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("siding-trace", default=None)


# -- the request that the running code works for


def here() -> Trace | None:
    """The span of the request that this is done for; None without one, and always where tracing is off."""
    return _here.get()


def enter(trace: Trace | None) -> None:
    """From now on, and in tasks begun from now on, `trace` is what is worked for."""
    _here.set(trace)


def apart(work: Coroutine[Any, Any, _Answer]) -> asyncio.Task[_Answer]:
    """A task that no request waits for, though one may have begun it: what it does is not in the request's trace."""
    context = contextvars.copy_context()
    context.run(_here.set, None)
    return asyncio.create_task(work, context=context)


# -- whether there are any


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """The variable that counts, and its value; the value is empty where none is set (which empty text means too)."""
    return next(((name, value) for name in names if (value := environ.get(name, "").strip())), (names[-1], ""))


def why_not(environ: Mapping[str, str]) -> str | None:
    """Why there are no traces: "" where nobody asked for them, None where there shall be some, or what is at fault."""
    name, endpoint = _first(environ, ENDPOINTS)
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not endpoint or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporters == "none":
        return ""
    if exporters not in {"", "otlp"}:
        return "traces are off: OTEL_TRACES_EXPORTER may be otlp or none"
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        return f"traces are off: {name} is no address like http://collector:4318"
    variable, protocol = _first(environ, PROTOCOLS)
    if protocol not in {"", PROTOCOL}:
        return f"traces are off: {variable} is unsupported unless it is {PROTOCOL}, whose port is usually 4318"
    return None


def set_up(service: str, environ: Mapping[str, str]) -> Tracing | None:
    """Traces as the environment asks for them, or None; what keeps them from being made is said once.

    service -- the name where OTEL_SERVICE_NAME gives none. environ -- of this process: the SDK reads it as well.
    """
    reason = why_not(environ)
    if reason is not None:
        if reason:
            log.warning("%s", reason)
        return None
    name, endpoint = _first(environ, ENDPOINTS)
    try:
        from config.otel import Tracing  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        log.warning(MISSING, name)
        return None
    except Exception as fault:
        # protobuf, for one, has errors of its own for versions that do not go together
        log.warning("traces are off: what makes them cannot be imported (%s)", type(fault).__name__)
        return None
    try:
        tracing = Tracing(service)
    except Exception as fault:
        # whatever the SDK does not like about its variables; it may quote them, secrets too
        log.warning("traces are off: the SDK refuses one of the OTEL_ variables (%s)", type(fault).__name__)
        return None
    parts = urlsplit(endpoint)
    log.info("traces go to %s://%s%s", parts.scheme, parts.hostname, f":{parts.port}" if parts.port else "")
    return tracing
