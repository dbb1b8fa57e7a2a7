"""`make bench BENCH=shared`: what the shared tier is worth, and what its faults cost. Everything on this machine.

Real proxies as processes, a Redis of our own behind a relay that can spoil it, one counting origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

from config.bulletin import Bulletin
from config.tasks import end
from config.tier import SharedTier
from pool_monitor.pool_stats import percentile
from tests.bench.part import run
from tests.config.listeners import Listener
from tests.e2e.proxies import Running, proxy_process
from tests.redis_faults import FAULTS
from tests.redis_servers import Redis, running_redis
from tests.relay import relayed
from tests.replica_load import Load
from tests.support import Origin, Turn, holds

SECRET = "0123456789abcdef" * 2
HOST = {"Host": "app.example"}
KEYS = 2_000
STORM = 20_000
FAULT_SECONDS = 2.0
A_DAY = 60.0
"""Seconds into which a day is pressed: 300 s of freshness are 0.21 s then."""
PARENTS, SESSIONS, LOADS, ARCHIVES = 400, 6, 4, 60
RULES = f"""
[[route]]
match = "/api/reports"
methods = ["POST"]
ttl = {300 * A_DAY / 86_400:.4f}
key = ["body", "authorization"]
invalidated_by = ["POST /api/homework/*"]
"""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


@contextlib.asynccontextmanager
async def _origin() -> AsyncIterator[Origin]:
    origin = await Origin().start()

    async def script(turn: Turn) -> None:
        await asyncio.sleep(0.005)
        await turn.answer(turn.request.target.encode(), "Cache-Control: max-age=2")

    origin.script = script
    try:
        yield origin
    finally:
        await origin.stop()


@contextlib.asynccontextmanager
async def _pair(origin: Origin, **settings: str) -> AsyncIterator[list[Running]]:
    options = {"cache_secret": SECRET, **settings}
    async with proxy_process(origin.url, **options) as one, proxy_process(origin.url, **options) as other:
        # as a machine does that collects logs
        reading = [asyncio.create_task(_read_all(proxy)) for proxy in (one, other)]
        await asyncio.sleep(1.0 if "redis_url" in settings else 0.0)
        yield [one, other]
        await end(reading)


async def _read_all(proxy: Running) -> None:
    assert proxy.child.process.stdout is not None
    while await proxy.child.process.stdout.read(2**16):
        pass


async def _timed(session: aiohttp.ClientSession, url: str) -> float:
    began = time.perf_counter()
    async with session.get(url, headers=HOST) as answer:
        await answer.read()
    return time.perf_counter() - began


async def _tiers(server: Redis) -> None:
    """What a hit takes, by where it is."""
    async with (
        _origin() as origin,
        _pair(origin, redis_url=server.url) as (one, other),
        aiohttp.ClientSession() as asking,
    ):

        async def script(turn: Turn) -> None:
            await turn.answer(b"x" * 2000, "Cache-Control: max-age=600")

        origin.script = script
        print("\n| one client, 2 KB, one after the other | p50 | p99 |\n| --- | --- | --- |")
        targets = [f"/{number}" for number in range(KEYS)]
        for name, base in (
            ("the origin, directly", origin.url),
            ("a miss: read, lease, origin; kept behind", one.url),
            ("a hit in Redis, kept in memory then", other.url),
            ("a hit in memory", other.url),
        ):
            times = sorted([await _timed(asking, base + target) for target in targets])
            print(f"| {name} | {_ms(statistics.median(times))} | {_ms(percentile(times, 0.99))} |")
            await asyncio.sleep(0.2)
        print(f"\n{KEYS} keys: {len(origin.requests) - KEYS} requests of two replicas at the origin")


async def _storm(server: Redis) -> None:
    """Invalidations from one replica to another."""
    tiers, heard = [SharedTier(server.url) for _ in range(2)], [Listener(), Listener()]
    one, other = (Bulletin(tier, "bench", listener) for tier, listener in zip(tiers, heard, strict=True))
    for bulletin in (one, other):
        bulletin.start()
    await holds(lambda: one.hears and other.hears)
    times = []
    for number in range(300):
        began = time.perf_counter()
        one.tell([["tag", str(number), False]])
        while other.position <= number:  # noqa: ASYNC110 - its time is what is measured
            await asyncio.sleep(0)
        times.append(time.perf_counter() - began)
    times.sort()
    middle, late = _ms(statistics.median(times)), _ms(percentile(times, 0.99))
    print(f"\na purge reaches another replica after p50 {middle}, p99 {late}")
    began = time.perf_counter()
    goal = other.position + STORM
    for number in range(0, STORM, 100):
        one.tell([["tag", str(each), False] for each in range(number, number + 100)])
        await asyncio.sleep(0)
    await holds(lambda: other.position >= goal)
    took = time.perf_counter() - began
    rate, missed = STORM / took, len(heard[1].missings)
    print(f"a storm of {STORM:,} purges: {rate:,.0f} a second, heard by another; missed: {missed}")
    for bulletin, tier in zip((one, other), tiers, strict=True):
        await bulletin.close()
        await tier.close()


async def _faulty(name: str, folder: Path) -> str:
    """A row: the load before, while and after a fault."""
    await asyncio.to_thread(folder.mkdir)
    async with (
        running_redis(folder) as server,
        relayed(server.port) as relay,
        _origin() as origin,
        _pair(origin, redis_url=f"redis://127.0.0.1:{relay.port}/0") as proxies,
    ):
        load = Load([proxy.url for proxy in proxies], clients=8, paths=400)
        load.start()
        await asyncio.sleep(FAULT_SECONDS)
        before = len(load.seen.seconds), len(origin.requests)
        p99 = load.seen.quantile(0.99)
        load.seen.seconds.clear()
        if name in FAULTS:
            await FAULTS[name][0](server, relay)
        await asyncio.sleep(FAULT_SECONDS)
        asked, reached = len(load.seen.seconds), len(origin.requests) - before[1]
        bad = load.seen.quantile(0.99), load.seen.quantile(1.0)
        if name in FAULTS:
            await FAULTS[name][1](server, relay)
        await asyncio.sleep(FAULT_SECONDS / 2)
        seen = await load.stop()
    share = f"{reached / asked:.1%}" if asked else "-"
    return (
        f"| {name} | {asked:,} | {reached:,} ({share}) | {seen.failed + seen.mixed_up} "
        f"| {_ms(p99)} | {_ms(bad[0])} | {_ms(bad[1])} |"
    )


async def _faults(folder: Path) -> None:
    print(
        f"\n| Redis, for {FAULT_SECONDS:.0f} s | requests | at the origin | client errors "
        "| p99 before | p99 | slowest |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in ("as it should be", *FAULTS):
        print(await _faulty(name, folder / name.replace(" ", "-")), flush=True)


def _day(dice: random.Random) -> list[tuple[float, str, int]]:
    """What happens when, in seconds of the pressed day: a parent loads a report, or a homework is archived."""
    events: list[tuple[float, str, int]] = []
    for parent in range(PARENTS):
        for _ in range(SESSIONS):
            # most of it in the evening
            begins = dice.triangular(0, 86_400, 70_000)
            events += [(begins + dice.uniform(0, 300), "report", parent) for _ in range(LOADS)]
    events += [(dice.triangular(0, 86_400, 60_000), "archive", dice.randrange(PARENTS)) for _ in range(ARCHIVES)]
    return sorted((at * A_DAY / 86_400, what, who) for at, what, who in events)


async def _replay(urls: Sequence[str]) -> None:
    dice = random.Random(1)  # noqa: S311 - repeatable on purpose
    events = _day(dice)
    began = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(at: float, what: str, who: int, url: str) -> None:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            path = "/api/reports" if what == "report" else f"/api/homework/{who}/archive"
            fields = {**HOST, "Authorization": f"Bearer {who}", "Content-Type": "application/json"}
            async with session.post(url + path, data=b'{"range": "week"}', headers=fields) as answer:
                await answer.read()

        await asyncio.gather(*(one(at, what, who, dice.choice(urls)) for at, what, who in events))


async def _a_day(server: Redis, folder: Path) -> None:
    """Origin calls of a day, with a balancer that sends each request to either replica."""
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    loads = PARENTS * SESSIONS * LOADS
    print(
        f"\na day in {A_DAY:.0f} s: {PARENTS} parents, {SESSIONS} visits each, {LOADS} loads of a report within "
        f"five minutes, {ARCHIVES} changes that spoil all reports; two replicas\n"
        "\n| | report requests at the origin | fewer |\n| --- | --- | --- |"
    )
    for name, settings in (("memory alone", {}), ("with Redis", {"redis_url": server.url})):
        async with _origin() as origin, _pair(origin, rules_file=str(rules), **settings) as proxies:
            await _replay([proxy.url for proxy in proxies])
            reached = sum(request.target == "/api/reports" for request in origin.requests)
        print(f"| {name} | {reached:,} of {loads:,} | {1 - reached / loads:.1%} |", flush=True)


async def _main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "redis").mkdir()
        async with running_redis(folder / "redis") as server:
            await _tiers(server)
            await _storm(server)
            await _a_day(server, folder)
        await _faults(folder)


if __name__ == "__main__":
    run("shared", __doc__, _main)
