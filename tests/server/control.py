"""What an admin listener asks and tells, scripted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestClient

from config.everywhere import behind, set_flags
from config.flags import Flags
from proxy.observe.live import Numbers, added_up
from proxy.server.admin import PurgeOrder

SESAME = "correct horse battery staple"
BEARER = {"Authorization": f"Bearer {SESAME}"}
Client = TestClient[web.Request, web.Application]


@dataclass
class Scripted:
    """A `Control` that answers as told and remembers what it was asked."""

    state: tuple[bool, str] = (True, "serving")
    switches: Flags = field(default_factory=Flags)
    pins: dict[str, bool] = field(default_factory=lambda: {"BYPASS": False})
    orders: list[PurgeOrder] = field(default_factory=list)
    accepts: list[str] = field(default_factory=list)
    fault: Exception | None = None

    async def ready(self) -> tuple[bool, str]:
        return self.state

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        return b"siding_up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async def report_cache(self) -> dict[str, object]:
        if self.fault is not None:
            raise self.fault
        return {"cacheHits": 45, "cacheMisses": 20, "cacheHitRate": "69.23%", "enabled": True}

    async def live(self) -> Numbers:
        return added_up([])

    async def flags(self) -> dict[str, bool]:
        return self.switches.as_dict()

    async def behind_flags(self) -> dict[str, object]:
        return behind(self.switches, None) | {"pinned": self.pins}

    async def set_flags(self, changes: Mapping[str, object], *, everywhere: bool = False) -> dict[str, object]:
        return await set_flags(self.switches, changes, everywhere=everywhere, tell=None)

    async def purge(self, order: PurgeOrder) -> dict[str, object]:
        self.orders.append(order)
        return {"purged": order.kind, "value": order.value, "soft": order.soft}

    async def routes(self) -> list[dict[str, object]]:
        return [{"match": "/reports/*", "ttl": 300}]
