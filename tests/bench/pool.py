"""`make bench BENCH=pool`: the pool against a bare asyncpg pool in the same run, and what depends on it.

Everything runs on this machine with a PostgreSQL of its own; the rounds alternate, medians are shown.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import asyncpg

from config.kinds import MIB
from deploy.postgres import Postgres, running
from pool_monitor import changes
from pool_monitor.advisor.detect import detect
from pool_monitor.advisor.prove import prove
from pool_monitor.pool import Pool, Tuning
from pool_monitor.pool_stats import percentile
from tests.bench.part import run
from tests.pool_monitor.support import Seen, running_monitor

ROUNDS = 5
WORKERS, CONNECTIONS, TURNS = 60, 4, 50
ROWS = 1_000_000
RATE_SECONDS = 2.0

QUERIES = """
[[query]]
name = "cached"
sql = "SELECT id, user_id FROM parent_reports WHERE user_id = $1 LIMIT 20"
parameters = ["userId: text"]
ttl = 300

[[query]]
name = "uncached"
sql = "SELECT id, user_id FROM parent_reports WHERE user_id = $1 LIMIT 20"
parameters = ["userId: text"]
ttl = 0
"""


def _tuning(url: str, most: int) -> Tuning:
    return Tuning(url, most=most, least=most, idle=30, acquire=30, max_age=1800, statement=10, query=10, octets=MIB)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


async def _waits(work: Callable[[], Awaitable[float]]) -> list[float]:
    """The waits of all workers, each taking its turns."""

    async def worker() -> list[float]:
        return [await work() for _ in range(TURNS)]

    return [wait for waits in await asyncio.gather(*(worker() for _ in range(WORKERS))) for wait in waits]


async def _fairness(url: str) -> None:
    ours: list[list[float]] = []
    bare: list[list[float]] = []
    pool = Pool(_tuning(url, CONNECTIONS), Seen())
    pool.start()
    peer = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)

    async def with_ours() -> float:
        began = time.perf_counter()
        async with pool.acquire("bench") as connection:
            waited = time.perf_counter() - began
            await connection.fetchval("SELECT pg_sleep(0.002)")
        return waited

    async def with_bare() -> float:
        began = time.perf_counter()
        async with peer.acquire() as connection:
            waited = time.perf_counter() - began
            await connection.fetchval("SELECT pg_sleep(0.002)")
        return waited

    await _waits(with_ours)
    for _ in range(ROUNDS):
        ours.append(await _waits(with_ours))
        bare.append(await _waits(with_bare))
    print(f"| wait of {WORKERS} workers on {CONNECTIONS} connections | Siding | bare asyncpg | ratio |")
    print("| --- | --- | --- | --- |")
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        mine = statistics.median(percentile(waits, share) for waits in ours)
        theirs = statistics.median(percentile(waits, share) for waits in bare)
        print(f"| {name} | {_ms(mine)} | {_ms(theirs)} | {mine / theirs:.2f} |")
    await peer.close()
    await pool.close(1)


async def _acquiring(url: str) -> None:
    pool = Pool(_tuning(url, 2), Seen())
    began = time.perf_counter()
    pool.start()
    async with pool.acquire("cold"):
        cold = time.perf_counter() - began
    warm = []
    for _ in range(2000):
        began = time.perf_counter()
        async with pool.acquire("warm"):
            warm.append(time.perf_counter() - began)
    print(f"\nacquire: cold {_ms(cold)}; warm p50 {_ms(statistics.median(warm))}, p99 {_ms(percentile(warm, 0.99))}")
    await pool.close(1)


async def _rate(ask: Callable[[], Awaitable[None]]) -> float:
    done, until = 0, time.perf_counter() + RATE_SECONDS

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await ask()
            done += 1

    await asyncio.gather(*(worker() for _ in range(16)))
    return done / RATE_SECONDS


async def _queries(url: str) -> None:
    peer = await asyncpg.create_pool(url, min_size=8, max_size=8)
    connection = await asyncpg.connect(url)
    await changes.install(connection, ["parent_reports"])
    with tempfile.TemporaryDirectory() as folder:
        async with running_monitor(url, QUERIES, Path(folder)) as client:

            async def bare() -> None:
                await peer.fetch("SELECT id, user_id FROM parent_reports WHERE user_id = $1 LIMIT 20", "u1")

            async def named(name: str) -> None:
                async with client.session.get(f"/api/queries/{name}", params={"userId": "u1"}) as answer:
                    await answer.read()

            rates: dict[str, list[float]] = {"bare asyncpg, no HTTP": [], "uncached": [], "cached": []}
            for _ in range(3):
                rates["bare asyncpg, no HTTP"].append(await _rate(bare))
                rates["uncached"].append(await _rate(lambda: named("uncached")))
                rates["cached"].append(await _rate(lambda: named("cached")))
            first = statistics.median(rates["bare asyncpg, no HTTP"])
            print("\n| named query (client and monitor in one process) | a second | of bare |\n| --- | --- | --- |")
            for name, found in rates.items():
                print(f"| {name} | {statistics.median(found):,.0f} | {statistics.median(found) / first:.2f} |")
            print(f"\nfrom COMMIT to a fresh answer: {await _freshness(client.session, connection)}")
    await peer.close()
    await connection.close()


async def _freshness(session: aiohttp.ClientSession, connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """How long the kept answer outlives a committed change."""

    async def rows() -> int:
        async with session.get("/api/queries/cached", params={"userId": "newcomer"}) as answer:
            count: int = (await answer.json())["rowCount"]
            return count

    took = []
    for _ in range(20):
        before = await rows()
        await connection.execute("INSERT INTO parent_reports (user_id, filler) VALUES ('newcomer', '')")
        began = time.perf_counter()
        while await rows() == before:
            pass
        took.append(time.perf_counter() - began)
        await connection.execute("DELETE FROM parent_reports WHERE user_id = 'newcomer'")
        await asyncio.sleep(0.02)
    return f"p50 {_ms(statistics.median(took))}, max {_ms(max(took))}"


async def _advice(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    print(f"\n| COUNT to EXISTS on {ROWS:,} rows, a third of one user | now | then |\n| --- | --- | --- |")
    found = detect("SELECT COUNT(*) AS total FROM parent_reports WHERE user_id = $1")
    assert found is not None
    for what in ("without an index", "with an index on user_id"):
        proof = await prove(connection, found)
        assert proof is not None
        before, after = proof.before, proof.after
        print(
            f"| {what} | {before.milliseconds} ms, {before.buffers} buffers | "
            f"{after.milliseconds} ms, {after.buffers} buffers ({proof.gain():.0f} times fewer) |"
        )
        await connection.execute("CREATE INDEX IF NOT EXISTS parent_reports_user ON parent_reports (user_id)")
        await connection.execute("VACUUM ANALYZE parent_reports")


async def _recovery(server: Postgres) -> None:
    pool = Pool(Tuning(server.url(), 4, 2, 30, 2, 1800, 10, 2, MIB), Seen())
    pool.start()
    async with pool.acquire("first"):
        pass
    print("\n| fault | until queries work again | errors meanwhile |\n| --- | --- | --- |")
    for name, stop in (("restart", server.stop), ("kill -9 and start", server.kill)):
        errors: dict[str, int] = {}
        await stop()
        await server.start()
        began = time.perf_counter()
        while True:
            try:
                async with pool.acquire("probe") as connection:
                    await connection.fetchval("SELECT 1")
                break
            except Exception as fault:
                kind = type(fault).__name__
                errors[kind] = errors.get(kind, 0) + 1
                await asyncio.sleep(0.005)
        told = ", ".join(f"{count} {kind}" for kind, count in errors.items()) or "none"
        print(f"| {name} | {_ms(time.perf_counter() - began)} after the server was up | {told} |")
    await pool.close(1)


async def main() -> None:
    """Run it all."""
    async with running({"shared_buffers": "512MB"}) as server:
        url = server.url()
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE parent_reports (id bigserial, user_id text, filler text)")
        await connection.execute(
            "INSERT INTO parent_reports (user_id, filler) "
            "SELECT CASE WHEN n % 3 = 0 THEN 'large_user' ELSE 'u' || n % 1000 END, repeat('x', 100) "
            "FROM generate_series(1, $1) AS n",
            ROWS,
        )
        await connection.execute("VACUUM ANALYZE parent_reports")
        await _fairness(url)
        await _acquiring(url)
        await _advice(connection)
        await connection.close()
        await _queries(url)
        await _recovery(server)


if __name__ == "__main__":
    run("pool", __doc__, main)
