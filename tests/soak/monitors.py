"""`python -m tests.soak.monitors`: two pool monitors that share a database and a Redis, while all around breaks.

Callers judge each answer: of what was asked for, whole, with the right credential, no older than a change that was
committed GRACE_SECONDS before it was asked for, and of grading what the upstream says to who asks it without us. While
nothing is broken, only success is an answer. What was not so is printed, and the exit status is 1; so it is where
memory or descriptors grow, or a monitor logs an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import asyncpg

from config.listen import spare_port
from deploy.grading_model import Form, Way
from deploy.postgres import USER, Postgres, running
from pool_monitor import changes
from tests.deploy.processes import ROOT
from tests.options import minutes, tree, whole
from tests.pool_monitor.grading.samples import asked
from tests.redis_servers import Redis, running_redis
from tests.soak.monitor_callers import ITEMS, LINES, SHEETS, USERS, Callers
from tests.soak.monitor_upstream import Upstream
from tests.soak.process import Process, Sizes
from tests.soak.truth import Truth

SETTLED_SECONDS = 6.0
"""After which nothing of what was broken is to be noticed: the pool, the listener and the breaker try again."""
EVENTS_BETWEEN = 6
MOST_SHOWN = 40
FLAGS = (
    "ENABLE_QUERY_CACHE",
    "ENABLE_DEDUP",
    "ENABLE_REDIS_CACHE",
    "USE_OPTIMIZED_PROMPTS",
    "ENABLE_COMPLETION_CACHE",
    "BYPASS",
)
WAYS_OF_ROWS = (Way.FENCED, Way.CHATTY, Way.WRONG, Way.ARITY, Way.GRADE, Way.GARBAGE, Way.EMPTY)
"""How an answer in rows may be spoilt: the caller is to notice none of it. (A row that is left out is missing.)"""
FAILURES = (Way.TOO_MANY, Way.ERROR, Way.UNAVAILABLE, Way.RESET, Way.CUT, Way.SLOW)
TABLES = """
CREATE TABLE items (id integer PRIMARY KEY, version integer NOT NULL);
CREATE TABLE lines (id integer PRIMARY KEY, filler text NOT NULL);
"""
FILL_ITEMS = "INSERT INTO items SELECT n, 0 FROM generate_series(0, $1::int - 1) AS n"
FILL_LINES = "INSERT INTO lines SELECT n, repeat(chr(97 + n % 26), n % 300) FROM generate_series(1, $1::int) AS n"
END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND random() < $1
"""
QUERIES = """
[[query]]
name = "item"
sql = "SELECT id, version FROM items WHERE id = $1"
parameters = ["id: integer"]
ttl = 300

[[query]]
name = "all"
sql = "SELECT id, version FROM items ORDER BY id"
ttl = 300

[[query]]
name = "lines"
sql = "SELECT id, filler FROM lines ORDER BY id"

[[query]]
name = "raise"
sql = "UPDATE items SET version = version + 1 WHERE id = $1 RETURNING version"
parameters = ["id: integer"]
write = true
"""


class World:
    """All that is there, and what can be done to it."""

    def __init__(self, folder: Path, python: str, code: Path, clients: int, seed: int) -> None:
        self._folder = folder
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.truth = Truth()
        self._postgres_port = spare_port()
        self._postgres: Postgres
        self._all = contextlib.AsyncExitStack()
        self._redis_port = spare_port()
        self._redis: Redis | None = None
        self._held = contextlib.AsyncExitStack()
        self._upstream = Upstream()
        queries = folder / "queries.toml"
        queries.write_text(QUERIES)
        settings = {
            "DATABASE_URL": f"postgresql://{USER}@127.0.0.1:{self._postgres_port}/postgres",
            "REDIS_URL": f"redis://127.0.0.1:{self._redis_port}/0",
            "QUERIES_FILE": str(queries),
            "GRADING_UPSTREAM_URL": self._upstream.url,
            "GRADING_TIMEOUT_MS": "15000",
            "CACHE_SECRET": "soak-secret-of-sixteen",
            "DRAIN_SECONDS": "5",
        }
        self.monitors = {
            name: Process(python, code, "pool_monitor", settings, folder / f"{name}.log") for name in ("one", "two")
        }
        self.callers = Callers(self.truth, self.monitors, clients, seed)
        self._sizes = Sizes()

    # -- life

    async def start(self) -> None:
        # one that is killed forgets nothing that it has told
        settings = {"synchronous_commit": "on", "max_connections": "80"}
        self._postgres = await self._all.enter_async_context(running(settings, self._postgres_port))
        connection = await asyncpg.connect(self._postgres.url())
        await connection.execute(TABLES)
        await connection.execute(FILL_ITEMS, ITEMS)
        await connection.execute(FILL_LINES, LINES)
        await changes.install(connection, ["items"])
        await connection.close()
        await self._start_redis()
        await self._upstream.start()
        async with aiohttp.ClientSession() as session:
            direct = self._upstream.url.removesuffix("/v1")
            for sheet in SHEETS:
                self.callers.graded[sheet] = await self.callers.complete(session, direct, asked(sheet), USERS[0])
        for monitor in self.monitors.values():
            await monitor.start()

    async def stop(self) -> None:
        for monitor in self.monitors.values():
            if monitor.process is not None and monitor.process.returncode is None:
                await monitor.stop()
        await self._upstream.stop()
        await self._held.aclose()
        await self._all.aclose()

    async def _start_redis(self) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self._redis = await self._held.enter_async_context(running_redis(folder, port=self._redis_port))

    async def run(self, seconds: float) -> int:
        """Callers and what breaks for so long; how many things happened."""
        events = 0
        try:
            await self.start()
            self.callers.start()
            await self._rest("start")
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                names = []
                for _ in range(EVENTS_BETWEEN):
                    names.append(await self.happen())
                    events += 1
                    if time.monotonic() >= ends:
                        break
                await self._rest("; ".join(names))
        finally:
            await self.callers.stop()
            await self.stop()
        return events

    async def _rest(self, after: str) -> None:
        await asyncio.sleep(2.0)
        self._sizes.look(self.monitors, self.truth)
        seen = ", ".join(f"{what}: {count:,}" for what, count in sorted(self.callers.statuses.items()))
        print(f"after {after}: {seen}; {len(self.truth.faults)} faults", flush=True)

    # -- what happens

    async def happen(self) -> str:
        """Break one thing, mend it, and say what it was."""
        things: list[Callable[[], Awaitable[None]]] = [
            self.postgres_starts_anew,
            self.postgres_is_killed,
            self.postgres_freezes,
            self.connections_are_ended,
            self.redis_freezes,
            self.redis_starts_anew,
            self.upstream_fails,
            self.upstream_starts_anew,
            self.rows_are_spoilt,
            self.monitor_is_replaced,
            self.monitor_is_killed,
            self.flag_is_flipped,
        ]
        thing = self._dice.choice(things)
        name = thing.__name__.replace("_", " ")
        self.truth.happening = name
        await thing()
        return name

    @contextlib.asynccontextmanager
    async def _broken(self) -> AsyncIterator[None]:
        """Callers are told of what breaks here."""
        self.callers.calm = False
        try:
            yield
        finally:
            await asyncio.sleep(SETTLED_SECONDS)
            self.callers.calm = True

    def _any(self) -> Process:
        return self._dice.choice(list(self.monitors.values()))

    async def postgres_starts_anew(self) -> None:
        async with self._broken():
            await self._postgres.stop()
            await asyncio.sleep(self._dice.uniform(0, 2))
            await self._postgres.start()

    async def postgres_is_killed(self) -> None:
        async with self._broken():
            await self._postgres.kill()
            await asyncio.sleep(self._dice.uniform(0, 1))
            await self._postgres.start()

    async def postgres_freezes(self) -> None:
        async with self._broken():
            self._postgres.send(signal.SIGSTOP)
            await asyncio.sleep(self._dice.uniform(0.1, 4))
            self._postgres.send(signal.SIGCONT)

    async def connections_are_ended(self) -> None:
        async with self._broken():
            connection = await asyncpg.connect(self._postgres.url())
            await connection.execute(END, self._dice.choice((0.3, 1.0)))
            await connection.close()

    async def redis_freezes(self) -> None:
        assert self._redis is not None
        self._redis.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._dice.uniform(0.1, 3))
        self._redis.process.send_signal(signal.SIGCONT)

    async def redis_starts_anew(self) -> None:
        await self._held.aclose()
        await asyncio.sleep(self._dice.uniform(0, 2))
        self._held = contextlib.AsyncExitStack()
        await self._start_redis()

    async def upstream_fails(self) -> None:
        async with self._broken():
            self._upstream.state.always = self._dice.choice(FAILURES)
            await asyncio.sleep(self._dice.uniform(1, 4))
            self._upstream.state.always = Way.OK

    async def upstream_starts_anew(self) -> None:
        async with self._broken():
            await self._upstream.stop()
            await asyncio.sleep(self._dice.uniform(0, 2))
            await self._upstream.start()

    async def rows_are_spoilt(self) -> None:
        state = self._upstream.state
        state.only, state.always = Form.ROWS, self._dice.choice(WAYS_OF_ROWS)
        await asyncio.sleep(self._dice.uniform(1, 3))
        state.only, state.always = None, Way.OK

    async def monitor_is_replaced(self) -> None:
        async with self._broken():
            monitor = self._any()
            await monitor.stop()
            await monitor.start()

    async def monitor_is_killed(self) -> None:
        async with self._broken():
            monitor = self._any()
            await monitor.stop(signal.SIGKILL)
            await monitor.start()

    async def flag_is_flipped(self) -> None:
        monitor = self._any()
        flag, everywhere = self._dice.choice(FLAGS), self._dice.random() < 0.5
        usual = flag not in {"BYPASS", "ENABLE_COMPLETION_CACHE"}
        for value in (not usual, usual):
            await monitor.ask("PATCH", "/api/flags", {flag: value, **({"everywhere": True} if everywhere else {})})
            await asyncio.sleep(self._dice.uniform(0, 3))


def main() -> int:
    """Returns the exit status: 0 all is well, 1 something was seen that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.monitors", description=__doc__)
    parser.add_argument("--minutes", type=minutes, default=10.0)
    parser.add_argument("--clients", type=whole, default=24)
    parser.add_argument("--seed", type=int, default=1, help="of what happens and of what is asked")
    parser.add_argument("--code", type=tree, default=ROOT, help="where the monitor's code is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="siding-soak-") as folder:
        world = World(Path(folder), sys.executable, given.code, given.clients, given.seed)
        events = asyncio.run(world.run(60 * given.minutes))
        faults = world.truth.faults
        for name, monitor in world.monitors.items():
            faults += [f"{name} logged: {line}" for line in monitor.errors()]
        answers = sum(world.callers.statuses.values())
        print(f"{answers:,} answers, {events} things happened, {len(faults)} faults")
        for fault in faults[:MOST_SHOWN]:
            print(f"  {fault}")
        if faults:
            for name, monitor in world.monitors.items():
                print(f"--- {name}")
                print(monitor.log.read_text(errors="replace"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
