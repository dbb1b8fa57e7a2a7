"""Traces of real processes: both services in one trace's environment, off, without the extra, and at the end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from config.listen import spare_port
from tests.collector import CLIENT, SERVER, Collector, environ, running_collector
from tests.deploy.processes import Child, environment, python
from tests.e2e.proxies import proxy_process
from tests.support import PATIENCE, Origin

MAIN = "import sys, {module} as service; code = service.main([]); {after}; sys.exit(code)"
HEAVY = ("config.otel", "opentelemetry", "google", "requests", "redis", "psycopg")
"""What traces, Redis and PgBouncer need."""
SHOW = f"print('imported:', [name for name in sys.modules if name.startswith({HEAVY})])"
WITHOUT = "import sys; sys.modules['opentelemetry'] = None; "


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as running:
        yield running


def settings(collector: str, **more: str) -> dict[str, str]:
    return environ(collector, **more)


async def test_workers_deliver_each_for_itself(origin: Origin, collector: Collector) -> None:
    origin.respond("x", "Cache-Control: no-store")
    async with proxy_process(origin.url, workers="2", **settings(collector.url, OTEL_SERVICE_NAME="shop")) as proxy:
        async with asyncio.timeout(PATIENCE):
            while len({str(one["service.instance.id"]) for one in collector.resources}) < 2:
                async with aiohttp.ClientSession() as session, session.get(f"{proxy.url}/a?secret=1") as answer:
                    assert answer.status == 200
        asked = len(origin.requests)
        proxy.child.send(signal.SIGTERM)
        assert await proxy.child.end() == 0
    # what was under way was delivered at the end
    assert len(collector.all(SERVER)) == len(collector.all(CLIENT)) == asked
    assert {span.service for span in collector.spans} == {"shop"}
    assert b"secret" not in collector.octets
    assert "Traceback" not in proxy.child.output


@pytest.mark.parametrize("silent", [True, False])
async def test_a_collector_that_fails_costs_nothing(silent: bool, origin: Origin) -> None:
    async with running_collector(answering=False) as collector:
        url = collector.url if silent else f"http://127.0.0.1:{spare_port()}"
        bounds = {
            "OTEL_EXPORTER_OTLP_TIMEOUT": "10",
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
        }
        async with proxy_process(origin.url, **settings(url, **bounds)) as proxy:
            async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
                for _ in range(100):
                    async with session.get(f"{proxy.url}/a") as answer:
                        assert answer.status == 200
            began = time.monotonic()
            proxy.child.send(signal.SIGTERM)
            assert await proxy.child.end() == 0
            assert time.monotonic() - began < 5.0
    told = [line for line in proxy.child.lines if "siding.traces" in line and "WARNING" in line]
    assert 1 <= len(told) <= 5
    assert len(told) == len(set(map(_without_time, told)))
    assert any("the last spans are lost" in line for line in told)
    others = [line for line in proxy.child.lines if "urllib3" in line or "Traceback" in line]
    assert not others


def _without_time(line: str) -> str:
    return re.sub(r"^\S+ ", "", line)


async def address(child: Child, of: str) -> str:
    found = re.findall(r"http://([\w.:\[\]]+)(?=,)", await child.line(of))
    return str(found[-2 if of == "in front of" else -1])


async def serve_and_stop(child: Child, of: str, path: str) -> int:
    url = f"http://{await address(child, of)}{path}"
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE), session.get(url) as answer:
        status = answer.status
    child.send(signal.SIGTERM)
    assert await child.end() == 0
    assert "Traceback" not in child.output
    return status


def proxy_environment(origin: Origin, **more: str) -> dict[str, str]:
    given = {"UPSTREAM_URL": origin.url, "HOST": "127.0.0.1", "PORT": "0", "ADMIN_PORT": "0", "LOG_FORMAT": "text"}
    return environment(**given, **more)


async def test_what_is_off_is_not_imported(origin: Origin) -> None:
    off = {"OTEL_SERVICE_NAME": "shop", "OTEL_TRACES_SAMPLER": "always_on"}
    code = MAIN.format(module="proxy.__main__", after=SHOW)
    async with python("-c", code, environ=proxy_environment(origin, **off)) as child:
        assert await serve_and_stop(child, "in front of", "/a") == 200
    assert "imported: []" in child.lines
    code = MAIN.format(module="pool_monitor.__main__", after=SHOW)
    given = environment(HOST="127.0.0.1", PORT="0", LOG_FORMAT="text", **off)
    async with python("-c", code, environ=given) as child:
        assert await serve_and_stop(child, "pool monitor: ", "/healthz") == 200
    assert "imported: []" in child.lines


async def test_without_the_extra_the_services_run(origin: Origin, collector: Collector) -> None:
    code = WITHOUT + MAIN.format(module="proxy.__main__", after="pass")
    async with python("-c", code, environ=proxy_environment(origin, **settings(collector.url))) as child:
        assert await serve_and_stop(child, "in front of", "/a") == 200
    assert child.output.count("pip install 'siding-proxy[otel]'") == 1
    code = WITHOUT + MAIN.format(module="pool_monitor.__main__", after="pass")
    given = environment(HOST="127.0.0.1", PORT="0", LOG_FORMAT="text", **settings(collector.url))
    async with python("-c", code, environ=given) as child:
        assert await serve_and_stop(child, "pool monitor: ", "/healthz") == 200
    assert child.output.count("pip install 'siding-proxy[otel]'") == 1
    assert not collector.raw


async def test_the_monitor_delivers_at_its_end(collector: Collector) -> None:
    given = environment(HOST="127.0.0.1", PORT="0", LOG_FORMAT="text", **settings(collector.url))
    given |= {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    async with python("-m", "pool_monitor", environ=given) as child:
        assert await serve_and_stop(child, "pool monitor: ", "/api/queries") == 200
    [span] = collector.spans
    assert (span.service, span.name, span.kind) == ("siding-monitor", "GET /api/queries", SERVER)
    assert collector.resources[0]["deployment.environment.name"] == "test"


async def test_the_environment_of_this_run_asks_for_no_traces() -> None:
    assert not any(name.startswith("OTEL_EXPORTER") for name in os.environ)
