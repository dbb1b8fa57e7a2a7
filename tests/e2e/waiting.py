"""Waiting for a service by its address."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.support import PATIENCE


async def until_ready(url: str) -> None:
    """Until `/readyz` there says so, whether anybody listens yet or not."""
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
