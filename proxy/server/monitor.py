"""Asking the pool monitor for its documents, within a bounded time."""

from __future__ import annotations

import asyncio
import logging

from config.told import Told
from proxy import errors
from proxy.origin.client import OriginClient
from proxy.policy.messages import Fields

log = logging.getLogger("siding.monitor")

MAX_BYTES = 1024 * 1024
CONNECT_SECONDS = 2.0
SECONDS = 5.0
"""How long an answer may take, all in all."""


class MonitorError(Exception):
    """The monitor is away, or answers otherwise. `code` is for machines, the text for a person.

    detail -- the same for the log: it may name hosts.
    """

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail or message


class Monitor:
    """The monitor at POOL_MONITOR_URL. Whoever asks says what came of it: the log is told of each fault once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._told = Told()
        # of two bounds on silence that end together one would speak today and the other tomorrow: SECONDS goes first
        self._client = OriginClient(
            url, connect_timeout=CONNECT_SECONDS, idle_timeout=2 * SECONDS, name="the pool monitor", logs=False
        )

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
            told = f"the pool monitor did not answer within {SECONDS:g} s"
            raise MonitorError("pool-monitor-unreachable", told) from fault
        except errors.OutOfDescriptors as fault:
            raise MonitorError(fault.code, str(fault), fault.detail) from fault
        except errors.NoAnswer as fault:
            raise MonitorError("pool-monitor-unreachable", "the pool monitor did not answer", fault.detail) from fault
        if content is None or response.head.status != 200:
            raise MonitorError("pool-monitor-failed", f"the pool monitor answered {response.head.status}")
        return content

    def complain(self, fault: MonitorError, *, traced: Exception | None = None) -> None:
        """Tell the log, unless it has been told since the monitor worked. traced -- what to show in full."""
        if self._told.news(fault.detail):
            log.warning("%s (POOL_MONITOR_URL is %s)", fault.detail, self.url, exc_info=traced)

    def works(self) -> None:
        """It has answered as it should."""
        if self._told.works():
            log.info("the pool monitor answers again")

    async def close(self) -> None:
        """Close the connections to it."""
        await self._client.close()
