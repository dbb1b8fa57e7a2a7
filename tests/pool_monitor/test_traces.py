"""Traces of the monitor: requests, the pool, queries, and the grading upstream."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import brotli
import openai
import orjson
import pytest
from aiohttp import web

from tests.collector import CLIENT, INTERNAL, SERVER, Collector, Span, running_collector, tracing_to
from tests.grading_simulators import running_simulator
from tests.pool_monitor.grading.samples import asked
from tests.pool_monitor.grading.upstreams import Answering, Asked, running_upstream
from tests.pool_monitor.support import Client, running_monitor
from tests.redis_servers import Redis
from tests.sdk import sdk
from tests.support import running_proxy

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
QUERIES = """
[[query]]
name = "shout"
sql = "SELECT upper($1) AS loud, pg_sleep(0.02)::text"
parameters = ["word: text"]
ttl = 60
[[query]]
name = "broken"
sql = "SELECT 1 / $1::int AS none"
parameters = ["by: integer"]
ttl = 0
"""
HUNTER = "hunter2"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as running:
        yield running


def children(collector: Collector, span: Span) -> list[Span]:
    return [one for one in collector.spans if one.parent == span.id and one.trace == span.trace]


async def test_a_query_and_its_wait(
    collector: Collector, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = tracing_to(collector.url, monkeypatch, "siding-monitor")
    async with running_monitor(database, QUERIES, tmp_path, tracing, db_pool_max=1, db_pool_min=1) as monitor:
        fields = {"traceparent": PARENT, "Authorization": f"Bearer {HUNTER}"}
        path = f"/api/queries/shout?word={HUNTER}"
        async with monitor.session.get(path, headers=fields) as answer:
            assert answer.status == 200
        server = await collector.span(SERVER)
        # two that want the one connection at the same time: one waits for the other
        await asyncio.gather(*(monitor.query("shout", word=word) for word in ("a", "b")))
        await collector.until(lambda _: len(collector.all(SERVER)) == 3)
        await monitor.get("/healthz")
        await monitor.get("/metrics")
    assert (server.service, server.name) == ("siding-monitor", "GET /api/queries/{name}")
    assert (server.trace, server.parent) == (TRACE, SPAN)
    assert server.attributes == {
        "http.request.method": "GET",
        "http.route": "/api/queries/{name}",
        "url.path": "/api/queries/shout",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": monitor.session._base_url.port,  # type: ignore[union-attr]
        "http.response.status_code": 200,
    }
    waiting, query = sorted(children(collector, server), key=lambda span: span.begin)
    assert (waiting.name, waiting.kind) == ("pool acquire", INTERNAL)
    assert (query.name, query.kind) == ("shout", CLIENT)
    assert query.attributes["db.system.name"] == "postgresql"
    assert query.attributes["db.query.summary"] == query.attributes["db.operation.name"] == "shout"
    assert query.attributes["db.namespace"] == database.rpartition("/")[2]
    assert server.begin <= waiting.begin <= waiting.end <= query.end <= server.end
    assert query.end - query.begin >= 20_000_000
    waits = sorted(span.end - span.begin for span in collector.all(INTERNAL))
    assert waits[-1] >= 15_000_000
    # health and metrics are nobody's trace
    assert len(collector.all(SERVER)) == 3
    assert HUNTER.encode() not in collector.octets
    assert b"SELECT" not in collector.octets


async def test_a_query_that_fails_and_a_pool_that_has_nothing(
    collector: Collector, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = tracing_to(collector.url, monkeypatch, "siding-monitor")
    async with running_monitor(
        database, QUERIES, tmp_path, tracing, db_pool_max=1, db_pool_min=1, db_pool_connection_timeout_ms=1000
    ) as monitor:
        assert (await monitor.query("broken", by=0)).status == 400
        query = await collector.span(CLIENT, db_query_summary="broken")
        assert (query.failed, query.attributes["error.type"]) == (True, "22012")
        pool = monitor.monitor._pool
        assert pool is not None
        async with pool.acquire("a test"):
            assert (await monitor.query("shout", word="x")).status == 503
        failed = await collector.span(SERVER, http_response_status_code=503)
    [waiting] = children(collector, failed)
    assert (waiting.failed, waiting.attributes["error.type"]) == (True, "database-timeout")
    assert failed.attributes["error.type"] == "503"


async def test_the_query_cache_in_redis(
    collector: Collector, database: str, shared: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = tracing_to(collector.url, monkeypatch, "siding-monitor")
    settings: dict[str, Any] = {"redis_url": shared.url, "redis_timeout_ms": 2000}
    async with running_monitor(database, QUERIES, tmp_path, tracing, **settings) as monitor:
        async with asyncio.timeout(10):
            while (await monitor.query("shout", word="x")).fields["X-Query-Cache"] != "hit":
                pass
        await monitor.monitor._tracing.close(5)  # type: ignore[union-attr]
    calls = collector.all(CLIENT, db_system_name="redis")
    assert {call.name for call in calls} == {"PIPELINE GET", "SET"}
    servers = {server.id for server in collector.all(SERVER)}
    assert all(call.parent in servers for call in calls)


def sdk_of(monitor: Client) -> openai.AsyncOpenAI:
    return sdk(f"{monitor.session._base_url}/v1", HUNTER)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_grading_with_its_tokens(stream: bool, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    tracing = tracing_to(collector.url, monkeypatch, "siding-monitor")
    async with (
        running_simulator() as simulator,
        running_monitor(None, tracing=tracing, grading_upstream_url=simulator.url) as monitor,
        sdk_of(monitor) as client,
    ):
        more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        body = asked(f"page {HUNTER}", **more)
        answer = await client.chat.completions.create(**body, extra_headers={"traceparent": PARENT})
        usage = [chunk.usage async for chunk in answer][-1] if stream else answer.usage
        server = await collector.span(SERVER)
        asking = await collector.span(CLIENT)
    assert (server.name, server.trace, server.parent) == ("POST /v1/chat/completions", TRACE, SPAN)
    assert server.attributes["siding.found"] == "asked"
    assert server.attributes["siding.template"] == asking.attributes["siding.template"] == "homework-grading"
    assert (asking.name, asking.trace, asking.parent) == ("chat gpt-4o-mini", TRACE, server.id)
    assert asking.attributes["gen_ai.operation.name"] == "chat"
    assert asking.attributes["gen_ai.provider.name"] == "openai"
    assert asking.attributes["gen_ai.request.model"] == "gpt-4o-mini"
    assert usage is not None
    assert asking.attributes["gen_ai.usage.input_tokens"] == usage.prompt_tokens
    assert asking.attributes["gen_ai.usage.output_tokens"] == usage.completion_tokens
    assert asking.attributes["siding.found"] == "asked"
    # neither what was asked and answered nor who asked
    for told in (HUNTER, "page", "grade", "question", "feedback"):
        assert told.encode() not in collector.octets.replace(b"homework-grading", b"").replace(b"siding.grading", b"")


def of_trace(asked: Asked) -> list[tuple[str, str]]:
    return sorted(pair for pair in asked.fields if pair[0].startswith("trace"))


def answering(status: int = 200, coding: str = "") -> Answering:
    document = orjson.dumps({"model": "m-1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    content = {"": document, "gzip": gzip.compress(document), "br": brotli.compress(document)}[coding]
    fields = {"Content-Type": "application/json"} | ({"Content-Encoding": coding} if coding else {})

    async def answer(_: Asked, __: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=content, headers=fields)

    return answer


@pytest.mark.parametrize("coding", ["", "gzip", "br"])
async def test_what_is_forwarded_carries_the_trace(
    coding: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = tracing_to(collector.url, monkeypatch, "siding-monitor")
    async with (
        running_upstream() as upstream,
        running_monitor(None, tracing=tracing, grading_upstream_url=upstream.url) as monitor,
    ):
        upstream.answering = answering(coding=coding)
        content = b'{ "model":"m", "messages": [ {"role": "user", "content": "hunter2"} ] }'
        fields = {"tracestate": "a=1", "traceparent": PARENT, "Content-Type": "application/json"}
        async with monitor.session.post("/v1/chat/completions", data=content, headers=fields) as answer:
            assert answer.status == 200
        chat = await collector.span(CLIENT)
        upstream.answering = answering(500)
        async with monitor.session.get(f"/v1/files/f-1?after={HUNTER}", headers={"tracestate": "a=1"}) as answer:
            assert answer.status == 500
        files = await collector.span(CLIENT, http_response_status_code=500)
    first, second = upstream.asked
    assert first.content == content
    assert of_trace(first) == [("traceparent", f"00-{TRACE}-{chat.id}-01"), ("tracestate", "a=1")]
    # without a traceparent it belongs to no trace that is known
    assert of_trace(second) == [("traceparent", f"00-{files.trace}-{files.id}-01")]
    assert chat.attributes["gen_ai.request.model"] == "m"
    assert chat.attributes["gen_ai.response.model"] == "m-1"
    assert chat.attributes["gen_ai.usage.input_tokens"] == 7
    assert chat.attributes["gen_ai.usage.output_tokens"] == 3
    assert (files.name, files.attributes["url.full"]) == ("GET", f"{upstream.url}/files/f-1")
    assert (files.failed, files.attributes["error.type"]) == (True, "500")
    assert HUNTER.encode() not in collector.octets


async def test_off_the_upstream_is_asked_as_the_caller_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(name.startswith("OTEL_") for name in os.environ)
    async with (
        running_upstream() as upstream,
        running_monitor(None, grading_upstream_url=upstream.url) as monitor,
    ):
        upstream.answering = answering()
        for fields in ({}, {"traceparent": "nonsense"}):
            async with monitor.session.post("/v1/chat/completions", data=b'{"n":1}', headers=fields) as answer:
                assert answer.status == 200
    assert [of_trace(one) for one in upstream.asked] == [[], [("traceparent", "nonsense")]]


async def test_one_trace_through_both_services(
    collector: Collector, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = tracing_to(collector.url, monkeypatch, "siding-monitor")
    before = tracing_to(collector.url, monkeypatch, "siding-proxy")
    async with (
        running_monitor(database, QUERIES, tmp_path, behind) as monitor,
        running_proxy(str(monitor.session._base_url).rstrip("/"), tracing=before) as proxy,
    ):
        answer = await proxy.get("/api/queries/shout?word=x", f"traceparent: {PARENT}", host="127.0.0.1")
        assert answer.status == 200
        await collector.until(lambda _: len(collector.all(SERVER)) == 2 and len(collector.all(CLIENT)) == 2)
    assert {span.trace for span in collector.spans} == {TRACE}
    way = []
    spans = {span.id: span for span in collector.spans}
    [span] = [one for one in collector.all(CLIENT) if one.name == "shout"]
    while span.parent in spans:
        way.append((span.service, span.name))
        span = spans[span.parent]
    assert span.parent == SPAN
    assert [*way, (span.service, span.name)] == [
        ("siding-monitor", "shout"),
        ("siding-monitor", "GET /api/queries/{name}"),
        ("siding-proxy", "GET"),
        ("siding-proxy", "GET"),
    ]


async def test_a_shared_grading_is_asked_once(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    tracing = tracing_to(collector.url, monkeypatch, "siding-monitor")
    async with (
        running_simulator() as simulator,
        running_monitor(
            None, tracing=tracing, grading_upstream_url=simulator.url, enable_completion_cache=True
        ) as monitor,
        sdk_of(monitor) as client,
    ):
        for _ in range(2):
            await client.chat.completions.create(**asked("page 1", temperature=0))
        await collector.until(lambda _: len(collector.all(SERVER)) == 2)
    assert sorted(str(span.attributes["siding.found"]) for span in collector.all(SERVER)) == ["asked", "hit"]
    assert len(collector.all(CLIENT)) == 1
