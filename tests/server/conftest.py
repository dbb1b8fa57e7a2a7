"""Admin listeners and their clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from proxy.server.admin import admin_app
from tests.server.control import SESAME, Client, Scripted


@pytest.fixture
def control() -> Scripted:
    return Scripted()


@pytest.fixture
async def client(control: Scripted) -> AsyncIterator[Client]:
    """A client of a listener without ADMIN_TOKEN."""
    async with TestClient(TestServer(admin_app(control))) as client:
        yield client


@pytest.fixture
async def guarded(control: Scripted) -> AsyncIterator[Client]:
    """A client of a listener with ADMIN_TOKEN."""
    async with TestClient(TestServer(admin_app(control, SecretStr(SESAME)))) as client:
        yield client
