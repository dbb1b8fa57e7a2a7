"""What is answered on the public listener in the origin's stead, where PUBLIC_METRICS says so."""

from __future__ import annotations

import asyncio
import json
import logging
import socket

import pytest

from proxy.server import monitor as module
from tests.support import PATIENCE, Origin, Turn, running_proxy

FIVE = {"totalCount": 5, "idleCount": 2, "waitingCount": 0, "maxConnections": 20, "activeConnections": 3}


@pytest.mark.parametrize("said", [{**FIVE, "holders": ["report of ada"], "advice": "role x is refused"}, FIVE])
async def test_everybody_is_told_the_plans_numbers_of_the_pool_and_no_more(said: dict[str, object]) -> None:
    monitor = await Origin().start()
    monitor.respond(json.dumps(said), "Content-Type: application/json")
    async with running_proxy(monitor.url, public_metrics=True, pool_monitor_url=monitor.url) as proxy:
        answer = await proxy.get("/api/metrics/database-pool")
    await monitor.stop()
    assert (answer.status, json.loads(answer.content)) == (200, FIVE)


@pytest.mark.parametrize("said", ["no JSON", "[]", '{"totalCount": 5}'])
async def test_what_the_monitor_should_not_say_is_not_handed_on(said: str) -> None:
    monitor = await Origin().start()
    monitor.respond(said, "Content-Type: application/json")
    async with running_proxy(monitor.url, public_metrics=True, pool_monitor_url=monitor.url) as proxy:
        answer = await proxy.get("/api/metrics/database-pool")
    await monitor.stop()
    assert (answer.status, json.loads(answer.content)["error"]["code"]) == (502, "pool-monitor-failed")


async def test_a_monitor_that_is_not_there_is_told_of_as_such_and_once(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    away = await Origin().start()
    await away.stop()
    async with running_proxy(origin.url, public_metrics=True, pool_monitor_url=away.url) as proxy:
        for _ in range(3):
            answer = await proxy.get("/api/metrics/database-pool")
            assert answer.status == 502
            assert json.loads(answer.content)["error"] == {
                "code": "pool-monitor-unreachable",
                "message": "the pool monitor did not answer",
            }
    (told,) = caplog.messages
    assert told.startswith(f"cannot connect to the pool monitor at 127.0.0.1:{away.port}: ")
    assert told.endswith(f" (POOL_MONITOR_URL is {away.url})")
    assert "origin" not in told


async def test_a_fault_of_the_monitor_is_told_again_once_it_has_worked(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "siding.monitor")
    monitor = await Origin().start()
    async with running_proxy(origin.url, public_metrics=True, pool_monitor_url=monitor.url) as proxy:
        for status in ("500 No", "500 No", "200 OK", "200 OK", "500 No"):
            monitor.respond(json.dumps(FIVE), "Content-Type: application/json", status=status)
            await proxy.get("/api/metrics/database-pool")
    await monitor.stop()
    failed = f"the pool monitor answered 500 (POOL_MONITOR_URL is {monitor.url})"
    assert caplog.messages == [failed, "the pool monitor answers again", failed]


async def test_a_monitor_whose_name_is_wrong_is_named(origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    url = "http://nowhere.invalid:8081"
    async with running_proxy(origin.url, public_metrics=True, pool_monitor_url=url) as proxy:
        assert (await proxy.get("/api/metrics/database-pool")).status == 502
    (told,) = caplog.messages
    assert told.startswith("cannot connect to the pool monitor at nowhere.invalid:8081: ")


async def test_a_monitor_that_hangs_is_said_to(
    origin: Origin, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with running_proxy(origin.url, public_metrics=True, pool_monitor_url=url) as proxy:
            async with asyncio.timeout(PATIENCE):
                assert (await proxy.get("/api/metrics/database-pool")).status == 502
    (told,) = caplog.messages
    assert told == f"the pool monitor did not answer within 0.2 s (POOL_MONITOR_URL is {url})"


async def test_a_monitor_that_breaks_off_is_not_called_the_origin(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(turn: Turn) -> None:
        turn.writer.close()

    broken = await Origin().start()
    broken.script = script
    async with running_proxy(origin.url, public_metrics=True, pool_monitor_url=broken.url) as proxy:
        assert (await proxy.get("/api/metrics/database-pool")).status == 502
    await broken.stop()
    assert caplog.messages == [
        f"the pool monitor closed the connection before it answered (POOL_MONITOR_URL is {broken.url})"
    ]
