"""A client to the origin, and what asks with it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from proxy.origin.client import OriginClient, OriginResponse
from proxy.policy.messages import Fields
from tests.support import PATIENCE

FIELDS = Fields([("Host", "app.example")])


@contextlib.asynccontextmanager
async def client_of(
    url: str,
    *,
    connect_timeout: float = 5.0,
    idle_timeout: float = 5.0,
    max_connections: int = 1024,
    max_waiting: int = 10_000,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[OriginClient]:
    client = OriginClient(
        url,
        connect_timeout=connect_timeout,
        idle_timeout=idle_timeout,
        max_connections=max_connections,
        max_waiting=max_waiting,
        ssl_context=ssl_context,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield client
    finally:
        await client.close()


async def ask(client: OriginClient, method: str = "GET", target: str = "/a") -> OriginResponse:
    return await client.request(method, target, FIELDS, None, None)


async def read_all(response: OriginResponse) -> bytes:
    pieces = []
    try:
        while piece := await response.read():
            pieces.append(piece)
    finally:
        response.close()
    return b"".join(pieces)


def at_rest(client: OriginClient) -> bool:
    return client.in_use == 0 and client.waiting == 0 and not client._busy


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece
