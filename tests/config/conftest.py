"""A Redis of the test's own, which is tried again soon."""

from __future__ import annotations

import pytest

from tests.redis_servers import Redis


@pytest.fixture
def server(shared: Redis) -> Redis:
    return shared


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be read, and a Redis that does not answer, are tried again at once."""
    monkeypatch.setattr("config.bulletin.RETRY_SECONDS", 0.02)
    monkeypatch.setattr("config.tier.REST_SECONDS", 0.05)
