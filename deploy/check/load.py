"""The same requests through Siding and past it, for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from deploy.asking import Ask, Way, why
from deploy.check.criteria import Load

SLICE_SECONDS = 2.0
LEAST_SLICES = 2


@dataclass(slots=True)
class _Record:
    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    fault: str = ""

    def add(self, ask: Ask, seconds: float, fault: str | None) -> None:
        self.seconds.append(seconds)
        if fault is not None:
            self.failed += 1
            self.fault = self.fault or f"{ask.name}: {fault}"

    def made(self) -> Load:
        return Load(tuple(sorted(self.seconds)), self.failed, self.fault)


async def loads(asks: Sequence[Ask], ways: Sequence[Way], clients: int, seconds: float) -> list[Load]:
    """A load for each way, all of them with the same mix of requests.

    Only whole rounds of `asks` are sent, and the ways take turns, so that what else this machine does meets them
    alike. The first round of each is not counted: it opens connections, and lets be stored what may be stored.
    """
    records = [_Record() for _ in ways]
    for way in ways:
        await _round(asks, way, clients, _Record())
    slices = max(LEAST_SLICES, round(seconds / SLICE_SECONDS))
    for _ in range(slices):
        for way, record in zip(ways, records, strict=True):
            until = time.monotonic() + seconds / slices
            await _round(asks, way, clients, record)
            while time.monotonic() < until:
                await _round(asks, way, clients, record)
    return [record.made() for record in records]


async def _round(asks: Sequence[Ask], way: Way, clients: int, record: _Record) -> None:
    """Each of `asks` once, by clients that take the next as soon as they have an answer."""
    left = iter(asks)

    async def client() -> None:
        for ask in left:
            began = time.perf_counter()
            try:
                status = (await way.send(ask, Accept_Encoding="gzip")).status
                fault = f"status {status}" if status >= 400 else None
            except (aiohttp.ClientError, OSError, TimeoutError) as failure:
                fault = why(failure)
            record.add(ask, time.perf_counter() - began, fault)

    await asyncio.gather(*(client() for _ in range(clients)))
