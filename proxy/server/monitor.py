"""Asking the pool monitor for its documents, within a bounded time."""

from __future__ import annotations

import asyncio

from proxy import errors
from proxy.origin.client import OriginClient
from proxy.policy.messages import Fields

MAX_BYTES = 1024 * 1024
CONNECT_SECONDS = 2.0
SECONDS = 5.0
"""How long an answer may take, all in all."""


class MonitorError(Exception):
    """The monitor is away, or answers otherwise. `code` is for machines, the text for a person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Monitor:
    """The monitor at POOL_MONITOR_URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = OriginClient(url, connect_timeout=CONNECT_SECONDS, idle_timeout=SECONDS)

    async def get(self, path: str) -> bytes:
        """A document's content. Raises MonitorError."""
        fields = Fields([("Host", "pool-monitor"), ("Accept", "application/json")])
        try:
            async with asyncio.timeout(SECONDS):
                response = await self._client.request("GET", path, fields, None, None)
                try:
                    content = await response.settle(MAX_BYTES, SECONDS)
                finally:
                    response.close()
        except TimeoutError as fault:
            told = f"the pool monitor did not answer within {SECONDS:.0f} s"
            raise MonitorError("pool-monitor-unreachable", told) from fault
        except errors.OriginError as fault:
            raise MonitorError("pool-monitor-unreachable", "the pool monitor did not answer") from fault
        if content is None or response.head.status != 200:
            raise MonitorError("pool-monitor-failed", f"the pool monitor answered {response.head.status}")
        return content

    async def close(self) -> None:
        """Close the connections to it."""
        await self._client.close()
