"""What Siding itself answers on the public listener: two JSON documents, when PUBLIC_METRICS says so, and what may go
no further.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson

from config.settings import ProxySettings
from proxy import errors
from proxy.policy import forwarding
from proxy.policy.messages import Fields, RequestHead, ResponseHead
from proxy.server.monitor import Monitor, MonitorError

REPORT_CACHE = "/api/metrics/report-cache"
DATABASE_POOL = "/api/metrics/database-pool"
PATHS = frozenset({REPORT_CACHE, DATABASE_POOL})
POOL_KEYS = ("totalCount", "idleCount", "waitingCount", "maxConnections", "activeConnections")


class LastHop:
    """Answers, as the final recipient, a TRACE or OPTIONS whose Max-Forwards is used up (RFC 9110 7.6.2).

    A TRACE is not shown what it was: it may have come with somebody's credentials (RFC 9110 9.3.8).
    local -- answers the others, or None.
    """

    def __init__(self, local: LocalMetrics | None) -> None:
        self._local = local

    async def __call__(self, request: RequestHead) -> tuple[ResponseHead, bytes] | None:
        """The answer to `request`, if it is not the origin's to give."""
        if forwarding.forwards_left(request) == 0:
            if request.method == "TRACE":
                raise errors.MethodNotSupported("TRACE is not answered here")
            return ResponseHead(200, "OK", Fields([])), b""
        return None if self._local is None else await self._local(request)


class LocalMetrics:
    """Answers `/api/metrics/*` in the origin's stead; `None` for every other request.

    report -- gives the report-cache document; the pool's comes from POOL_MONITOR_URL.
    """

    def __init__(self, settings: ProxySettings, report: Callable[[], Awaitable[dict[str, object]]]) -> None:
        self._report = report
        url = settings.pool_monitor_url
        self._monitor = Monitor(url) if url else None

    async def __call__(self, request: RequestHead) -> tuple[ResponseHead, bytes] | None:
        """The answer to `request`, if it is one of ours."""
        if request.method not in {"GET", "HEAD"}:
            return None
        if request.path == REPORT_CACHE:
            return _json(200, orjson.dumps(await self._report()))
        if request.path == DATABASE_POOL:
            return await self._pool()
        return None

    async def _pool(self) -> tuple[ResponseHead, bytes]:
        if self._monitor is None:
            return _error(503, "no-pool-monitor", "POOL_MONITOR_URL is not set: the pool is not known here")
        try:
            told = _five(await self._monitor.get(DATABASE_POOL))
        except MonitorError as fault:
            self._monitor.complain(fault)
            status = errors.OutOfDescriptors.status if fault.code == errors.OutOfDescriptors.code else 502
            return _error(status, fault.code, str(fault))
        self._monitor.works()
        return _json(200, told)

    async def close(self) -> None:
        """Close the connections to the monitor."""
        if self._monitor is not None:
            await self._monitor.close()


def _five(document: bytes) -> bytes:
    """The plan's numbers alone: who holds connections, and what the database says, is not for everybody."""
    try:
        told = orjson.loads(document)
        return orjson.dumps({name: told[name] for name in POOL_KEYS})
    except (orjson.JSONDecodeError, KeyError, TypeError) as fault:
        raise MonitorError("pool-monitor-failed", "the pool monitor answered something else than it should") from fault


def _json(status: int, content: bytes) -> tuple[ResponseHead, bytes]:
    fields = Fields([("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    reason = {200: "OK", 502: "Bad Gateway", 503: "Service Unavailable"}[status]
    return ResponseHead(status, reason, fields), content


def _error(status: int, code: str, message: str) -> tuple[ResponseHead, bytes]:
    return _json(status, orjson.dumps({"error": {"code": code, "message": message}}))
