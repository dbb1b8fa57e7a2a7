"""What blocks the event loop is seen."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from config import lag
from tests.support import holds


async def test_what_holds_the_loop_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "EVERY_SECONDS", 0.01)
    registry = CollectorRegistry()
    meter = lag.LoopLag(registry)

    def seen(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"siding_event_loop_lag_seconds_{name}", labels) or 0.0

    meter.start()
    await holds(lambda: seen("count"))
    before = seen("count") - seen("bucket", le="0.05")
    time.sleep(0.15)  # noqa: ASYNC251 - what is measured
    await holds(lambda: seen("count") - seen("bucket", le="0.05") != before)
    meter.stop()
    count = seen("count")
    await asyncio.sleep(0.05)
    assert seen("count") == count
