"""Spans by OpenTelemetry's SDK, which reads the OTEL_ variables itself. Imported only where traces are wanted.

The SDK delivers in a thread of its own, from a bounded queue: a collector that is slow or away costs no request
anything. What it has to say about that is said in our log, once a minute for each kind, without what it quotes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Mapping

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision

from config.trace_context import format_traceparent, parse_traceparent
from config.version import VERSION

log = logging.getLogger("siding.traces")

MAX_TEXT = 1024
"""Characters of an attribute."""
SAY_AGAIN_SECONDS = 60.0
MAX_KINDS = 100
_NOTHING = Context()
_CLIENTS = ("opentelemetry.trace", "opentelemetry.attributes")
"""Who speaks of what clients send: they could fill the log."""

Value = str | int | float | bool
Attributes = Mapping[str, Value | None]
"""What is None is left out."""


class _Ids(RandomIdGenerator):
    """Ids without the flag of level 2 that tells that they are random: not everybody expects more than 00 and 01.

    drawn -- the next trace's; 0 where it is still to be drawn.
    """

    drawn = 0

    def generate_trace_id(self) -> int:
        drawn, self.drawn = self.drawn, 0
        return drawn or super().generate_trace_id()

    def is_trace_id_random(self) -> bool:
        return False


class Trace:
    """A span under way, and the parent of what is done for it. Ended once; whoever ends it later is not heard.

    continued -- whether it belongs to the trace that the client told of.
    """

    __slots__ = ("_context", "_offset", "_span", "_tracer", "continued")

    def __init__(self, tracer: api.Tracer, span: api.Span, offset: int, *, continued: bool) -> None:
        """offset -- from the monotonic clock to the wall clock, in ns: within a request time does not jump."""
        self._tracer = tracer
        self._span = span
        self._offset = offset
        self._context: Context = api.set_span_in_context(span, Context())
        self.continued = continued

    @property
    def traceparent(self) -> str:
        """For what is sent from this span."""
        told = self._span.get_span_context()
        return format_traceparent(told.trace_id, told.span_id, told.trace_flags)

    @property
    def sampled(self) -> bool:
        """Whether anybody will see it."""
        return self._span.get_span_context().trace_flags.sampled

    def _now(self) -> int:
        return time.monotonic_ns() + self._offset

    def child(self, name: str, attributes: Attributes) -> Trace:
        """A request to another service that begins now; where no span can be made, this one stands for it."""
        span: api.Span = api.NonRecordingSpan(self._span.get_span_context())
        with _HARMLESS:
            given = _told(attributes) if self.sampled else {}
            span = self._tracer.start_span(
                name, self._context, api.SpanKind.CLIENT, given, start_time=self._now(), record_exception=False
            )
        return Trace(self._tracer, span, self._offset, continued=self.continued)

    def past(
        self, name: str, seconds: float, attributes: Attributes, *, error: str | None = None, client: bool = True
    ) -> None:
        """What took so long and is over now. client -- False: it was done in this process."""
        if not self.sampled:
            return
        now = self._now()
        kind = api.SpanKind.CLIENT if client else api.SpanKind.INTERNAL
        with _HARMLESS:
            span = self._tracer.start_span(
                name, self._context, kind, _told(attributes), start_time=now - max(0, round(seconds * 1e9))
            )
            _fail(span, error)
            span.end(now)

    def note(self, attributes: Attributes) -> None:
        """What was found out meanwhile."""
        if self._span.is_recording():
            with _HARMLESS:
                self._span.set_attributes(_told(attributes))

    def link(self, other: Trace | None) -> None:
        """Another request, of this trace or not, that did what this one waited for."""
        if other is not None and self._span.is_recording():
            with _HARMLESS:
                self._span.add_link(other._span.get_span_context())

    def end(self, attributes: Attributes | None = None, *, name: str | None = None, error: str | None = None) -> None:
        """It is over. error -- a short name from a closed set, where it failed."""
        if not self._span.is_recording():
            return
        with _HARMLESS:
            if attributes:
                self._span.set_attributes(_told(attributes))
            if name is not None:
                self._span.update_name(name)
            _fail(self._span, error)
            self._span.end(self._now())


class _Harmless:
    """Whoever is watched is not failed by that; what failed is said."""

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: object) -> bool:
        if fault is None or not isinstance(fault, Exception):
            return False
        log.error("a span could not be made", exc_info=fault)
        return True


_HARMLESS = _Harmless()


def _fail(span: api.Span, error: str | None) -> None:
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(api.StatusCode.ERROR)


def _told(attributes: Attributes) -> dict[str, Value]:
    """Attributes that can be delivered: without None, of bounded length, and of what Unicode has."""
    return {name: _plain(value) for name, value in attributes.items() if value is not None}


def _plain(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    # one lone surrogate would cost the whole batch
    return value[:MAX_TEXT].encode("utf-8", "replace").decode()


class Tracing:
    """Makes a process's spans and delivers them. Raises what the SDK raises where one of its variables is at fault."""

    def __init__(self, service: str) -> None:
        """service -- the name where the environment gives none."""
        self._quiet = _Quiet()
        try:
            self._exporter = OTLPSpanExporter()
            self._ids = _Ids()
            self._provider = TracerProvider(resource=_resource(service), id_generator=self._ids, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        except BaseException:
            self._quiet.close()
            raise
        self._tracer = self._provider.get_tracer("siding", VERSION)

    def draw(self, name: str, traceparent: str) -> tuple[int, bool]:
        """Whether a client's request has to have a span, and the id for it where it begins a trace (otherwise 0).

        It need not where the sampler drops it and the client does not say that its trace is seen; what is no
        traceparent has to be replaced, which takes a span. The sampler is asked before there are attributes, and again
        by `begin`: those that the SDK has decide by trace and parent alone.
        """
        context, parent = _NOTHING, parse_traceparent(traceparent)
        if parent is None:
            if traceparent:
                return 0, True
            drawn = trace_id = self._ids.generate_trace_id()
        elif parent.flags & api.TraceFlags.SAMPLED:
            return 0, True
        else:
            drawn, trace_id = 0, parent.trace_id
            remote = api.SpanContext(trace_id, parent.span_id, is_remote=True, trace_flags=api.TraceFlags(parent.flags))
            context = api.set_span_in_context(api.NonRecordingSpan(remote), context)
        decision = self._provider.sampler.should_sample(context, trace_id, name, api.SpanKind.SERVER).decision
        return drawn, decision is not Decision.DROP

    def begin(
        self,
        name: str,
        attributes: Attributes,
        *,
        traceparent: str | None,
        tracestate: str | None = None,
        seconds: float = 0.0,
        drawn: int = 0,
    ) -> Trace:
        """A request of a client, whose fields these are, that began so many seconds ago. drawn -- see `draw`."""
        offset = time.time_ns() - time.monotonic_ns()
        context, parent = Context(), parse_traceparent(traceparent)
        self._ids.drawn = drawn if parent is None else 0
        if parent is not None:
            remote = api.SpanContext(
                parent.trace_id,
                parent.span_id,
                is_remote=True,
                trace_flags=api.TraceFlags(parent.flags),
                trace_state=api.TraceState.from_header([tracestate]) if tracestate else None,
            )
            context = api.set_span_in_context(api.NonRecordingSpan(remote), context)
        try:
            span = self._tracer.start_span(
                name,
                context,
                api.SpanKind.SERVER,
                _told(attributes),
                start_time=time.monotonic_ns() + offset - round(seconds * 1e9),
                record_exception=False,
            )
        finally:
            self._ids.drawn = 0
        return Trace(self._tracer, span, offset, continued=parent is not None)

    async def close(self, seconds: float) -> None:
        """Deliver what is left, for at most so many seconds."""
        ending = threading.Thread(target=self._provider.shutdown, name="siding traces", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, seconds)
        self._quiet.close()
        if ending.is_alive():
            log.warning("the last spans are lost: the collector did not take them within %.0f s", seconds)
            # so that it tries no more
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


def _resource(service: str) -> Resource:
    """Who is traced: what the environment says (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) before what is ours."""
    given = {
        name: value
        for name, value in Resource.create().attributes.items()
        if not (name == "service.name" and str(value).startswith("unknown_service"))
    }
    ours = {"service.name": service, "service.version": VERSION, "service.instance.id": str(uuid.uuid4())}
    return Resource({**ours, **given})


class _Quiet(logging.Handler):
    """Says what the SDK and its HTTP client log in our log, now and then, and without values: they may be secrets, or a
    client's."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[tuple[str, str], float] = {}
        self._heard = [logging.getLogger(name) for name in ("opentelemetry", "urllib3")]
        for logger in self._heard:
            logger.propagate = False
            logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        kind, now = (record.name, str(record.msg)), time.monotonic()
        if record.name.startswith(_CLIENTS) or now - self._said.get(kind, -SAY_AGAIN_SECONDS) < SAY_AGAIN_SECONDS:
            return
        if len(self._said) >= MAX_KINDS:
            self._said.clear()
        self._said[kind] = now
        log.warning("OpenTelemetry: %s", _without_values(record))

    def close(self) -> None:
        for logger in self._heard:
            logger.removeHandler(self)
            if not logger.handlers:
                # whoever speaks after the end is not heard
                logger.addHandler(logging.NullHandler())
        super().close()


def _without_values(record: logging.LogRecord) -> str:
    """The message with numbers and the names of faults, and without any other text that was put in."""
    given = record.args if isinstance(record.args, tuple) else ()
    shown = tuple(one if isinstance(one, int | float) else _name_of(one) for one in given)
    try:
        text = str(record.msg) % shown
    except (TypeError, ValueError):
        text = str(record.msg)
    fault = record.exc_info[0] if record.exc_info else None
    return f"{text} ({fault.__name__})" if fault is not None else text


def _name_of(value: object) -> str:
    if isinstance(value, BaseException):
        return type(value).__name__
    return str(value) if value is None or str(value) in {"spans", "Span"} else "…"
