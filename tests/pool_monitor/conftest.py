"""A real PostgreSQL for the whole session, and databases of their own for the tests."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from deploy.postgres import Postgres, running
from tests.pool_monitor.reports_table import TABLE

_numbers = itertools.count()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[Postgres]:
    """One server for all tests that do it no harm."""
    async with running({"shared_preload_libraries": "pg_stat_statements", "max_connections": "60"}) as postgres:
        yield postgres


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[str]:
    """The URL of an empty database."""
    name = f"test{next(_numbers)}"
    admin = await asyncpg.connect(server.url())
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        yield server.url(name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture
async def reports(database: str) -> str:
    """A database with reports in it."""
    connection = await asyncpg.connect(database)
    await connection.execute(TABLE)
    await connection.execute("INSERT INTO reports (user_id, title) VALUES ('ann', 'first'), ('ann', 'second')")
    await connection.close()
    return database
