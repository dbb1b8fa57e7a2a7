"""Two proxies in front of one origin: one with its fast ways, one that has everything parsed by aiohttp and handled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from proxy.server.protocol import ClientServer
from tests.support import PATIENCE, Client, Message, Origin, Proxy, running_proxy, until

MADE_HERE = ("x-request-id", "traceparent", "cdn-loop")
"""Other for each request, or for each proxy."""

Answer = tuple[bytes, bytes]
"""Head and content as the client got them."""


def server_of(proxy: Proxy) -> ClientServer:
    """The server of a proxy that was started."""
    server = proxy.worker._server
    assert server is not None
    return server


def slowed(proxy: Proxy) -> None:
    """Leave `proxy` nothing but the ordinary way."""
    server = server_of(proxy)
    server.take, server.express, server.lexicon = server.only_read, None, None


class Side:
    """A proxy, and one client that keeps its connection while it may."""

    def __init__(self, proxy: Proxy, origin: Origin) -> None:
        self.proxy = proxy
        self._origin = origin
        self._client: Client | None = None

    async def ask(self, pieces: Sequence[bytes], method: str) -> tuple[Message | None, list[bytes]]:
        """Send a request in `pieces`; the answer (None: closed without one), and what the origin was asked."""
        before = len(self._origin.requests)
        client = self._client = self._client or await self.proxy.connect()
        for piece in pieces:
            await client.send(piece)
            if len(pieces) > 1:
                await asyncio.sleep(0)
        answer: Message | None
        try:
            answer = await client.response(method)
        except (AssertionError, ConnectionError, asyncio.IncompleteReadError):
            answer = None
        if answer is None or answer.get("connection") == "close" or answer.start.startswith("HTTP/1.0"):
            client.close()
            self._client = None
        await until(lambda: not self.proxy.worker.handler.fetches.running)
        await until(lambda: self.proxy.worker.handler.in_flight == 0)
        return answer, [told(request) for request in self._origin.requests[before:]]


def told(request: Message) -> bytes:
    """What the origin was asked, without what is made anew for each request."""
    lines = [f"{name}: {value}" for name, value in request.fields if name.lower() not in MADE_HERE]
    return "\n".join([request.start, *lines, ""]).encode("latin-1") + request.content


def seen(answer: Message | None) -> object:
    """What the client saw."""
    if answer is None:
        return None
    return answer.raw_head, answer.content, [interim.raw_head for interim in answer.interim]


@contextlib.asynccontextmanager
async def both(
    origin: Origin, *, rules: str | None = None, directory: Path | None = None
) -> AsyncIterator[tuple[Side, Side]]:
    """The fast and the slow side, on one clock."""
    async with (
        running_proxy(origin.url, rules=rules, directory=directory) as fast,
        running_proxy(origin.url, rules=rules, directory=directory, wall=fast.clock) as slow,
    ):
        slow.clock = fast.clock
        slowed(slow)
        async with asyncio.timeout(30 * PATIENCE):
            yield Side(fast, origin), Side(slow, origin)
