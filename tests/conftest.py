"""Fixtures that every folder shares."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support import Origin


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """A scripted origin, stopped afterwards."""
    server = await Origin().start()
    yield server
    await server.stop()
