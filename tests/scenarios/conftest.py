"""Fixtures that scenarios share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.redis_servers import Redis
from tests.scenarios.replicas import several
from tests.support import Origin, Proxy


@pytest.fixture
async def pair(origin: Origin, shared: Redis) -> AsyncIterator[list[Proxy]]:
    async with several(origin, shared.url) as proxies:
        yield proxies
