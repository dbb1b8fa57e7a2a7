"""`python -m tests.soak`: two proxies that share a Redis, before a service, with callers, while all around breaks.

Callers judge each answer: it is of what was asked for, whole, for nobody else, and never older than a change that was
answered by the same proxy; while nothing is broken that callers may notice (Redis, flags and purges are not), only
success is an answer. At rest, both proxies tell what the service has. What was not so is printed, and the exit status
is 1; so it is where memory or descriptors grow, or a proxy logs an error.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from config.process import INTERRUPTED
from tests.deploy.processes import ROOT
from tests.options import minutes, tree, whole
from tests.soak.chaos import SETTLED_SECONDS, Chaos
from tests.soak.clients import HOST, USERS, Clients
from tests.soak.process import Sizes
from tests.soak.service import Service
from tests.soak.truth import ITEMS, Truth, is_sound

EVENTS_BETWEEN = 8
"""Things that happen from one rest to the next."""
MOST_SHOWN = 20


@dataclass
class Report:
    """What became of it. faults -- each a line; empty where all is well. logs -- of the proxies, from warnings on."""

    answers: int
    events: int
    faults: list[str]
    logs: list[str]


class Soak:
    """One run. folder -- for the proxies' logs and Redis."""

    def __init__(
        self, folder: Path, python: str, code: Path, clients: int, seed: int, workers: int = 1, watched: bool = False
    ) -> None:
        self._truth = Truth()
        self._service = Service(self._truth, seed)
        self._clients = Clients(self._truth, {}, clients, seed)
        self._chaos = Chaos(folder, python, code, self._truth, self._service, self._clients, seed, workers, watched)
        self._clients.proxies = {name: proxy.url for name, proxy in self._chaos.proxies.items()}
        self._sizes = Sizes()

    async def run(self, seconds: float) -> Report:
        """Callers and what breaks for so long, and what was seen."""
        events = 0
        try:
            await self._chaos.start()
            self._clients.start()
            await self._rest("start")
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                names = []
                for _ in range(EVENTS_BETWEEN):
                    names.append(await self._chaos.happen())
                    events += 1
                    if time.monotonic() >= ends:
                        break
                await self._rest("; ".join(names))
        finally:
            await self._clients.stop()
            await self._chaos.stop()
        logs: list[str] = []
        for name, proxy in self._chaos.proxies.items():
            self._truth.faults += [f"{name} logged: {line}" for line in proxy.errors()]
            lines = proxy.log.read_text(errors="replace").splitlines()
            logs += [f"{name}: {line}" for line in lines if " siding.access: " not in line]
        return Report(sum(self._clients.statuses.values()), events, self._truth.faults, sorted(logs))

    async def _rest(self, after: str) -> None:
        """Nothing changes: both proxies tell of every change that was answered, and hold no more than they did."""
        self._clients.writes.clear()
        await self._chaos.all_is_told()
        await asyncio.sleep(SETTLED_SECONDS)
        dice = random.Random(0)  # noqa: S311 - not for secrets
        async with aiohttp.ClientSession(headers=HOST) as session:
            for proxy in self._clients.proxies:
                self._truth.floors[proxy] = Counter(self._truth.told)
                for number in range(ITEMS):
                    await self._clients.look_at_item(session, proxy, str(number), dice)
                await self._look_at_report(session, proxy)
        self._clients.writes.set()
        self._sizes.look(self._chaos.proxies, self._truth)
        seen = ", ".join(f"{status}: {count:,}" for status, count in sorted(self._clients.statuses.items()))
        print(f"after {after}: {seen}; {len(self._truth.faults)} faults", flush=True)

    async def _look_at_report(self, session: aiohttp.ClientSession, proxy: str) -> None:
        for user in USERS:
            url, fields = f"{self._clients.proxies[proxy]}/reports", {"Authorization": user}
            async with session.post(url, json={"student": "1"}, headers=fields) as answer:
                version = is_sound(await answer.read(), "report", "1", user)
                if version is None or version < self._truth.told["marks"]:
                    self._truth.fault(f"at rest, {proxy} tells {user} version {version} of marks: {answer.headers}")


def main() -> int:
    """Returns the exit status: 0 all is well, 1 something was seen that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=minutes, default=10.0)
    parser.add_argument("--clients", type=whole, default=24)
    parser.add_argument(
        "--sentinel", action="store_true", help="Redis is a master and a replica, watched by a Sentinel"
    )
    parser.add_argument("--workers", type=whole, default=1, help="of each proxy")
    parser.add_argument("--seed", type=int, default=1, help="of what happens and of what is asked")
    parser.add_argument("--code", type=tree, default=ROOT, help="where the proxy's code is, compiled or not")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="siding-soak-") as folder:
        soak = Soak(Path(folder), sys.executable, given.code, given.clients, given.seed, given.workers, given.sentinel)
        try:
            report = asyncio.run(soak.run(60 * given.minutes))
        except KeyboardInterrupt:
            return INTERRUPTED
    print(f"{report.answers:,} answers, {report.events} things happened, {len(report.faults)} faults")
    for fault in report.faults[:MOST_SHOWN]:
        print(f"  {fault}")
    if report.faults:
        for line in report.logs:
            print(f"  {line}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
