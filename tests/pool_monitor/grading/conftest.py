"""The grading upstream's client before an origin."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.pool_monitor.grading.upstream_bench import Bench, running
from tests.pool_monitor.grading.wrapped import Wrapped, wrapping
from tests.support import Origin


@pytest.fixture
async def bench(origin: Origin) -> AsyncIterator[Bench]:
    async with running(origin) as bench:
        yield bench


@pytest.fixture
async def wrapped() -> AsyncIterator[Wrapped]:
    async with wrapping() as one:
        yield one
