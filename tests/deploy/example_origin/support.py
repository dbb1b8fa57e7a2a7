"""The example origin as a program, and what asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import ClientSession

from tests.deploy.processes import PATIENCE

ORIGIN = ("-m", "deploy.example_origin", "--host", "127.0.0.1")
REPORT = "/api/parent-reports/generate"
SEPTEMBER = {"startDate": "2025-09-01", "endDate": "2025-10-01"}


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


async def exchange(origin: str, request: bytes) -> bytes:
    """Everything the origin sends on a connection that `request` is the last on."""
    host, _, port = origin.rpartition(":")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()


async def report(client: ClientSession, user: str, **more: object) -> tuple[int, Mapping[str, str], dict[str, Any]]:
    asked = {"userId": user.partition(".")[0], **SEPTEMBER, **more}
    async with client.post(REPORT, json=asked, headers=bearer(user)) as answer:
        return answer.status, answer.headers, await answer.json()
