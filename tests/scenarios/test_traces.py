"""Traces of the proxy, as a collector gets them and as they are on the wire to the origin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis as redis_client

from proxy.server.exchange import Exchange
from tests.collector import CLIENT, SERVER, Collector, running_collector, tracing_to
from tests.fast.sides import server_of
from tests.redis_servers import running_redis
from tests.support import Origin, Proxy, Turn, gather, running_proxy, until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"traceparent: 00-{TRACE}-{SPAN}-01", f"traceparent: 00-{TRACE}-{SPAN}-00"
DATE = "Date: Fri, 15 Jan 2027 08:00:00 GMT"
FRESH = "Cache-Control: max-age=60"
PRIVATE = "Cache-Control: private"
RULES = """
[[route]]
match = "/reports/{id}"
methods = ["GET"]
key = ["query", "authorization"]
[[route]]
match = "/reports/{id}"
methods = ["POST"]
key = ["body", "authorization"]
"""


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as running:
        yield running


def told(origin: Origin, number: int = -1) -> tuple[str, str, str]:
    """Trace, parent and flags that the origin was told of."""
    [line] = origin.requests[number].all("traceparent")
    version, trace, parent, flags = line.split("-")
    assert version == "00"
    return trace, parent, flags


async def test_one_trace_from_the_client_to_the_origin(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tracing = tracing_to(collector.url, monkeypatch)
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path, tracing=tracing) as proxy:
        answer = await proxy.get("/reports/7?page=2", SAMPLED, "tracestate: a=1,b=2", "Authorization: x", host="h:81")
        assert answer.status == 200
        server = await collector.span(SERVER)
        client = await collector.span(CLIENT)
    assert told(origin) == (TRACE, client.id, "01")
    assert origin.requests[0].get("tracestate") == "a=1,b=2"
    assert (server.service, server.trace, server.parent, server.state) == ("siding-proxy", TRACE, SPAN, "a=1,b=2")
    assert (client.trace, client.parent) == (TRACE, server.id)
    assert (server.name, client.name) == ("GET /reports/{id}", "GET")
    assert server.attributes == {
        "http.request.method": "GET",
        "url.path": "/reports/7",
        "url.scheme": "http",
        "server.address": "h",
        "server.port": 81,
        "http.response.status_code": 200,
        "http.route": "/reports/{id}",
        "siding.outcome": "miss",
        "siding.forward": "uri-miss",
        "siding.verdict": "store",
        "siding.collapsed": False,
    }
    assert client.attributes == {
        "http.request.method": "GET",
        "url.full": f"{origin.url}/reports/7",
        "server.address": "127.0.0.1",
        "server.port": origin.port,
        "http.response.status_code": 200,
    }
    assert server.begin <= client.begin <= client.end <= server.end
    assert not server.failed
    assert not client.failed
    assert {"service.name", "service.version", "service.instance.id"} <= set(collector.resources[0])


@pytest.mark.parametrize("given", [(), ("traceparent: nonsense",), (SAMPLED, UNSAMPLED)])
async def test_what_is_no_trace_begins_one(
    given: tuple[str, ...], origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_proxy(origin.url, tracing=tracing_to(collector.url, monkeypatch)) as proxy:
        await proxy.get("/a", *given, "tracestate: a=1")
        server, client = await collector.span(SERVER), await collector.span(CLIENT)
    assert told(origin) == (server.trace, client.id, "01")
    assert server.trace != TRACE
    assert (server.parent, server.name, server.state) == ("", "GET", "")
    # it belongs to the trace that was not gone on with
    assert origin.requests[0].get("tracestate") is None


async def test_a_hit_asks_nobody_and_forgets_who_came_before(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.respond("x" * 2000, FRESH, "Content-Type: text/plain")
    async with running_proxy(origin.url, tracing=tracing_to(collector.url, monkeypatch)) as proxy:
        client = await proxy.connect()
        await client.request("GET", "/a", SAMPLED)
        await client.request("GET", "/a", "Accept-Encoding: gzip")
        hit = await collector.span(SERVER, siding_outcome="hit")
    assert len(collector.all(CLIENT)) == 1
    assert hit.parent == ""
    assert hit.trace != TRACE
    assert hit.attributes["siding.coding"] == "gzip"


async def test_a_collapsed_request_is_linked_to_the_one_that_asked(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await go.wait()
        await turn.answer("x", FRESH)

    origin.script = script
    async with running_proxy(origin.url, tracing=tracing_to(collector.url, monkeypatch)) as proxy:
        asking = [asyncio.create_task(proxy.get("/a")) for _ in range(2)]
        await until(lambda: proxy.worker.handler.in_flight == 2 and bool(origin.requests))
        go.set()
        await gather(*asking)
        collapsed = await collector.span(SERVER, siding_collapsed=True)
        leader = await collector.span(SERVER, siding_collapsed=False)
    [client] = collector.all(CLIENT)
    assert client.parent == leader.id
    assert collapsed.links == (leader.id,)
    assert collapsed.trace != leader.trace


async def test_a_validation_behind_belongs_to_the_request_that_began_it(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.respond("x", "Cache-Control: max-age=1, stale-while-revalidate=60", 'ETag: "a"')
    async with running_proxy(origin.url, tracing=tracing_to(collector.url, monkeypatch)) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 5
        await proxy.get("/a", SAMPLED)
        server = await collector.span(SERVER, siding_outcome="stale")
        await collector.until(lambda _: len(collector.all(CLIENT)) == 2)
    assert told(origin)[0] == TRACE == server.trace
    assert [client.parent for client in collector.all(CLIENT) if client.trace == TRACE] == [server.id]


@pytest.mark.parametrize(
    ("sampler", "given", "flags", "delivered"),
    [
        ("always_off", SAMPLED, "00", False),
        ("parentbased_always_on", UNSAMPLED, "00", False),
        ("parentbased_always_off", SAMPLED, "01", True),
        ("always_on", UNSAMPLED, "01", True),
    ],
)
async def test_the_sampler_decides(
    sampler: str,
    given: str,
    flags: str,
    delivered: bool,
    origin: Origin,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracing = tracing_to(collector.url, monkeypatch, OTEL_TRACES_SAMPLER=sampler)
    async with running_proxy(origin.url, tracing=tracing) as proxy:
        await proxy.get("/a", given)
    trace, parent, passed_on = told(origin)
    assert (trace, passed_on) == (TRACE, flags)
    assert parent != SPAN
    assert bool(collector.spans) is delivered


async def test_nobody_samples_a_new_trace(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = tracing_to(collector.url, monkeypatch, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0")
    async with running_proxy(origin.url, tracing=tracing) as proxy:
        await proxy.get("/a")
    assert told(origin)[2] == "00"
    assert not collector.raw


def handled(proxy: Proxy) -> list[Exchange]:
    """What goes the ordinary way from now on."""
    found: list[Exchange] = []

    async def noted(exchange: Exchange) -> None:
        found.append(exchange)
        await proxy.worker.handler(exchange)

    server_of(proxy).serve = noted
    return found


async def test_what_nobody_sees_goes_the_short_ways(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("hello", DATE, FRESH if turn.request.target == "/hit" else PRIVATE)

    origin.script = script
    tracing = tracing_to(collector.url, monkeypatch, OTEL_TRACES_SAMPLER="parentbased_always_off")
    async with running_proxy(origin.url, tracing=tracing) as proxy:
        client, ordinary = await proxy.connect(), handled(proxy)
        for method, target in [("POST", "/post"), ("GET", "/get"), ("GET", "/hit")]:
            del ordinary[:]
            for _ in range(5):
                await client.request(method, target, UNSAMPLED)
            assert len(ordinary) <= 2
            if target != "/hit":
                # a proxy that takes no part in the trace passes it on as it is (W3C Trace Context 3.4)
                assert origin.requests[-1].get("traceparent") == UNSAMPLED.partition(": ")[2]
            assert collector.spans == []
            del ordinary[:]
            for given in (SAMPLED, "traceparent: nonsense", f"{UNSAMPLED}\r\n{UNSAMPLED}"):
                await client.request(method, target, given)
            assert len(ordinary) == 3
            [span] = collector.all(SERVER) or [await collector.span(SERVER)]
            assert (span.trace, span.parent) == (TRACE, SPAN)
            collector.spans.clear()


async def test_a_request_that_was_dropped_gets_no_span_when_its_client_leaves(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.target == "/slow":
            await turn.reader.read(1)
        else:
            await turn.answer("hello", DATE, PRIVATE)

    origin.script = script
    tracing = tracing_to(collector.url, monkeypatch, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
    async with running_proxy(origin.url, tracing=tracing) as proxy:
        ordinary = handled(proxy)
        for number in range(60):
            client = await proxy.connect()
            await client.request("POST", "/a")
            before = len(origin.requests)
            await client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            await until(lambda number=before: len(origin.requests) > number)  # type: ignore[misc]
            client.close()
            await until(lambda: proxy.worker.handler.in_flight == 0)
    spans = collector.all(SERVER, url_path="/slow")
    assert {span.parent for span in spans} == {""}
    assert len(spans) == len([one for one in ordinary if one.head.target == "/slow" and one.passing is None])


@pytest.mark.parametrize("fields", [("traceparent:",), ("tracestate: a=b",), ("tracestate: a=b", "traceparent:")])
async def test_what_is_half_a_context_does_not_reach_the_origin(
    fields: tuple[str, ...], origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.respond("hello", DATE, PRIVATE)
    tracing = tracing_to(collector.url, monkeypatch, OTEL_TRACES_SAMPLER="parentbased_always_off")
    async with running_proxy(origin.url, tracing=tracing) as proxy:
        client = await proxy.connect()
        for _ in range(4):
            await client.request("POST", "/a", *fields)
            assert told(origin)[2] == "00"
            assert origin.requests[-1].all("tracestate") == []


@pytest.mark.parametrize(("method", "target"), [("GET", "/hit"), ("POST", "/post")])
async def test_each_request_is_drawn_for_once(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch, method: str, target: str
) -> None:
    """Of those that begin a trace the drawn ones have a span, all of them, and of the trace that was drawn."""
    origin.respond("hello", DATE, FRESH)
    tracing = tracing_to(
        collector.url, monkeypatch, OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5"
    )
    async with running_proxy(origin.url, tracing=tracing) as proxy:
        client, ordinary = await proxy.connect(), handled(proxy)
        for _ in range(200):
            await client.request(method, target)
        drawn = [exchange.plain.drawn for exchange in ordinary if exchange.plain is not None and exchange.plain.watched]
    assert 50 < len(drawn) < 150
    assert sorted(span.trace for span in collector.all(SERVER)) == sorted(f"{trace:032x}" for trace in drawn)


async def test_redis_calls_that_a_request_waited_for(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    origin.respond("x", FRESH)
    async with running_redis(tmp_path) as redis:
        tracing = tracing_to(collector.url, monkeypatch)
        settings: dict[str, Any] = {"redis_url": redis.url, "cache_secret": "s" * 32, "redis_timeout_ms": 5000}
        async with running_proxy(origin.url, tracing=tracing, **settings) as proxy:
            replicas = proxy.worker.replicas
            assert replicas is not None
            await until(lambda: replicas.store.usable)
            await proxy.get("/a")
            await until(lambda: replicas.store.moved.written > 0)
            server = await collector.span(SERVER)
    calls = collector.all(CLIENT, db_system_name="redis")
    # it looked, and asked to lead; the record was written, and the lease ended, behind the answer
    assert [call.name for call in calls] == ["EVALSHA", "EVALSHA"]
    for call in calls:
        assert (call.trace, call.parent, call.failed) == (server.trace, server.id, False)
        assert call.attributes == {
            "db.system.name": "redis",
            "db.operation.name": "EVALSHA",
            "db.namespace": "0",
            "server.address": "127.0.0.1",
            "server.port": redis.port,
        }
        assert server.begin <= call.begin <= call.end <= server.end
    assert len(collector.all(CLIENT, http_request_method="GET")) == 1


async def test_nothing_secret_is_delivered(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets = {name: f"{name}-hunter2" for name in ("query", "token", "cookie", "body", "key", "secret", "adm", "pw")}
    async with running_redis(tmp_path) as redis:
        async with redis_client(port=redis.port) as admin:
            await admin.config_set("requirepass", secrets["pw"])
        tracing = tracing_to(collector.url, monkeypatch, OTEL_EXPORTER_OTLP_HEADERS=f"x-key={secrets['key']}")
        settings: dict[str, Any] = {
            "redis_url": f"redis://:{secrets['pw']}@127.0.0.1:{redis.port}/0",
            "cache_secret": secrets["secret"] + "s" * 32,
            "admin_token": secrets["adm"],
            "cache_status_key": True,
        }
        async with running_proxy(origin.url, rules=RULES, directory=tmp_path, tracing=tracing, **settings) as proxy:
            replicas = proxy.worker.replicas
            assert replicas is not None
            await until(lambda: replicas.store.usable)
            fields = (f"Authorization: Bearer {secrets['token']}", f"Cookie: s={secrets['cookie']}")
            for target in (f"/reports/1?t={secrets['query']}", f"/other?t={secrets['query']}#f"):
                for method in ("GET", "POST"):
                    content = f'{{"a": "{secrets["body"]}"}}'.encode() if method == "POST" else None
                    await proxy.request(method, target, *fields, "Content-Type: application/json", content=content)
            await collector.until(lambda _: len(collector.all(SERVER)) == 4)
            await proxy.worker._tracing.close(5.0)  # type: ignore[union-attr]
    assert [call.failed for call in collector.all(CLIENT, db_system_name="redis")]
    assert not any(call.failed for call in collector.all(CLIENT))
    for name, value in secrets.items():
        assert value.encode() not in collector.octets, name
    # cache keys hold a target URI, or a digest
    assert b"/other?" not in collector.octets
    assert collector.fields[0]["x-key"] == secrets["key"]


async def test_failures_are_named(origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_proxy(origin.url, tracing=tracing_to(collector.url, monkeypatch)) as proxy:
        origin.respond("", status="500 Oh No")
        assert (await proxy.get("/500")).status == 500
        origin.respond("", status="404 Not Here")
        assert (await proxy.get("/404")).status == 404
        assert (await proxy.request("PROPFIND", "/a")).status == 404
        await origin.stop()
        assert (await proxy.get("/gone")).status == 502
        client = await proxy.connect()
        await client.send("GET /bad HTTP/1.1\r\n: x\r\n\r\n")
        assert (await client.response()).status == 400
        await collector.until(lambda _: len(collector.all(SERVER)) == 5)

    def seen(kind: int, path: str) -> tuple[object, bool]:
        whole = "url.path" if kind == SERVER else "url.full"
        [span] = [one for one in collector.all(kind) if str(one.attributes.get(whole, "")).endswith(path)]
        return span.attributes.get("error.type"), span.failed

    assert (seen(SERVER, "/500"), seen(CLIENT, "/500")) == (("500", True), ("500", True))
    # the client's own failure is none of ours (HTTP conventions)
    assert (seen(SERVER, "/404"), seen(CLIENT, "/404")) == ((None, False), ("404", True))
    assert (seen(SERVER, "/gone"), seen(CLIENT, "/gone")) == (("origin-refused", True), ("origin-refused", True))
    odd = await collector.span(SERVER, http_request_method_original="PROPFIND")
    assert (odd.name, odd.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    bad = await collector.span(SERVER, http_response_status_code=400)
    assert (bad.name, bad.attributes["siding.outcome"], bad.failed) == ("HTTP", "refused", False)


async def test_a_tunnel_is_told_once_it_ended(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await turn.reader.read(5)
        turn.writer.close()

    origin.script = script
    async with running_proxy(origin.url, tracing=tracing_to(collector.url, monkeypatch)) as proxy:
        client = await proxy.connect()
        await client.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await client.head()).status == 101
        asking = await collector.span(CLIENT, http_response_status_code=101)
        assert not collector.all(SERVER)
        await client.send("hello")
        assert await client.at_end()
        server = await collector.span(SERVER, siding_outcome="tunnel")
    assert (asking.parent, server.attributes["http.response.status_code"]) == (server.id, 101)
    assert told(origin) == (server.trace, asking.id, "01")


async def test_the_access_log_names_the_span(
    origin: Origin, collector: Collector, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_proxy(origin.url, tracing=tracing_to(collector.url, monkeypatch)) as proxy:
        await proxy.get("/a", SAMPLED)
        server = await collector.span(SERVER)
    [line] = capfd.readouterr().out.splitlines()
    assert json.loads(line)["traceparent"] == f"00-{TRACE}-{server.id}-01"


async def test_off_nothing_of_a_clients_trace_is_touched(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "traceparent: nonsense", "tracestate: a=1")
    assert origin.requests[0].get("traceparent") == "nonsense"
    assert origin.requests[0].get("tracestate") == "a=1"
