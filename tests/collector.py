"""A real OTLP/HTTP collector, as small as it can be: it keeps what it is sent, as octets and as spans."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire

from config.otel import Tracing
from config.tracing import set_up
from tests.support import PATIENCE, serving

SERVER, CLIENT, INTERNAL = Wire.SPAN_KIND_SERVER, Wire.SPAN_KIND_CLIENT, Wire.SPAN_KIND_INTERNAL


@dataclass(frozen=True)
class Span:
    """As it was delivered. Ids in hexadecimal digits; parent is "" for the first of a trace."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    attributes: Mapping[str, object]
    failed: bool
    begin: int
    end: int
    state: str
    links: tuple[str, ...]


@dataclass
class Collector:
    """What was delivered so far. status -- to answer with. patient -- holds every answer back until it is set."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    fields: list[Mapping[str, str]] = field(default_factory=list)
    resources: list[Mapping[str, object]] = field(default_factory=list)
    status: int = 200
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        content = await request.read()
        await self.answering.wait()
        assert request.path == "/v1/traces"
        assert request.content_type == "application/x-protobuf"
        if request.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        self.raw.append(content)
        self.fields.append(dict(request.headers))
        sent = ExportTraceServiceRequest.FromString(content)
        for resource in sent.resource_spans:
            about = _attributes(resource.resource.attributes)
            self.resources.append(about)
            service = str(about["service.name"])
            self.spans += [_span(service, one) for scope in resource.scope_spans for one in scope.spans]
        self._news.set()
        self._news = asyncio.Event()
        return web.Response(status=self.status, content_type="application/x-protobuf")

    async def until(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """What there is once it is enough."""
        async with asyncio.timeout(PATIENCE):
            while not enough(self.spans):
                await self._news.wait()
        return self.spans

    async def span(self, kind: int, **wanted: object) -> Span:
        """The first one of a kind with these attributes; dots of their names are written as underlines."""
        await self.until(lambda _: bool(self.all(kind, **wanted)))
        return self.all(kind, **wanted)[0]

    def all(self, kind: int, **wanted: object) -> list[Span]:
        """Those of a kind with these attributes."""
        return [span for span in self.spans if span.kind == kind and _has(span, wanted)]

    @property
    def octets(self) -> bytes:
        """Everything that was delivered."""
        return b"\n".join(self.raw)


def _has(span: Span, wanted: Mapping[str, object]) -> bool:
    has = {name.replace(".", "_"): value for name, value in span.attributes.items()}
    return all(has.get(name) == value for name, value in wanted.items())


def _span(service: str, span: Wire) -> Span:
    return Span(
        service=service,
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        failed=span.status.code == 2,
        begin=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        state=span.trace_state,
        links=tuple(link.span_id.hex() for link in span.links),
    )


def _attributes(given: object) -> dict[str, object]:
    pairs: list[KeyValue] = list(given)  # type: ignore[call-overload]
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    return getattr(value, value.WhichOneof("value") or "string_value")


@contextlib.asynccontextmanager
async def running_collector(*, answering: bool = True) -> AsyncIterator[Collector]:
    """A collector on a free port. answering -- False: it takes requests and is silent until told otherwise."""
    collector = Collector()
    if answering:
        collector.answering.set()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/{path:.*}", collector.handle)
    async with serving(app, shutdown_timeout=0.1) as collector.url:
        yield collector
        collector.answering.set()


def environ(collector: str, **more: str) -> dict[str, str]:
    """What makes a service deliver there at once."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        **more,
    }


def tracing_to(collector: str, monkeypatch: pytest.MonkeyPatch, service: str = "siding-proxy", **more: str) -> Tracing:
    """What delivers there, for a service in this process; the SDK reads the environment of the process."""
    given = environ(collector, **more)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    tracing = set_up(service, given)
    assert tracing is not None
    return tracing
