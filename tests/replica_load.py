"""Clients that keep asking several proxies, and what became of them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp


@dataclass
class Seen:
    """Answers by status (0: none), latencies in seconds, and how many had another's content."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    mixed_up: int = 0

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != 200)

    def quantile(self, share: float) -> float:
        ranked = sorted(self.seconds)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0


class Load:
    """`clients` clients that ask `urls` for one of `paths` after another, whose content is the path."""

    def __init__(self, urls: Sequence[str], clients: int, paths: int) -> None:
        self._urls = urls
        self._clients = clients
        self._paths = paths
        self._dice = random.Random(1)  # noqa: S311 - repeatable on purpose
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.seen = Seen()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(self._clients)]

    async def asked(self, more: int) -> None:
        """Until so many more answers have come."""
        goal = len(self.seen.seconds) + more
        while len(self.seen.seconds) < goal:  # noqa: ASYNC110 - they come from other tasks
            await asyncio.sleep(0.005)

    async def stop(self) -> Seen:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self.seen

    async def _ask_on(self, number: int) -> None:
        url = self._urls[number % len(self._urls)]
        async with aiohttp.ClientSession() as session:
            for _ in itertools.count():
                if self._stopping:
                    return
                path = f"/{self._dice.randrange(self._paths)}"
                began = time.perf_counter()
                try:
                    async with session.get(url + path, headers={"Host": "app.example"}) as answer:
                        content = await answer.read()
                        self.seen.statuses[answer.status] += 1
                        self.seen.mixed_up += answer.status == 200 and content != path.encode()
                except aiohttp.ClientError:
                    self.seen.statuses[0] += 1
                self.seen.seconds.append(time.perf_counter() - began)
