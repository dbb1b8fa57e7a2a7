"""What is answered on the public listener in the origin's stead, where PUBLIC_METRICS says so."""

from __future__ import annotations

import json

import pytest

from tests.support import Origin, running_proxy

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
