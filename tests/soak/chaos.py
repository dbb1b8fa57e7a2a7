"""What breaks around the proxies, a thing at a time, and is mended again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp

from config.listen import spare_port
from tests.redis_servers import Redis, Watched, running_redis, running_sentinel
from tests.soak.clients import Clients
from tests.soak.process import READY_SECONDS, Process
from tests.soak.service import RULES, Mishaps, Service
from tests.soak.truth import Truth

FLAGS = ("ENABLE_QUERY_CACHE", "ENABLE_ETAG", "ENABLE_DEDUP", "ENABLE_COMPRESSION", "ENABLE_REDIS_CACHE", "BYPASS")
SETTLED_SECONDS = 3.0
"""After which nothing of what was broken is to be noticed."""
UNTOLD = re.compile(r"^siding_replica_untold\S* (\S+)$", re.MULTILINE)


class Proxy(Process):
    """A proxy's process."""

    def __init__(self, python: str, code: Path, settings: dict[str, str], log: Path) -> None:
        super().__init__(python, code, "proxy", settings, log)
        port = spare_port()
        self.admin = f"http://127.0.0.1:{port}"
        self.environ["ADMIN_PORT"] = str(port)

    async def untold(self) -> bool:
        """Whether the other proxies have still to be told of something."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin}/metrics") as answer:
            found = UNTOLD.findall(await answer.text())
        return not found or any(float(number) for number in found)


class Chaos:
    """Everything that is there, and what can be done to it."""

    def __init__(
        self,
        folder: Path,
        python: str,
        code: Path,
        truth: Truth,
        service: Service,
        clients: Clients,
        seed: int,
        workers: int,
        watched: bool,
    ) -> None:
        """watched -- Redis is a master and its replica, watched by a Sentinel."""
        self._folder = folder
        self._truth = truth
        self._service = service
        self._clients = clients
        self._workers = workers
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._redis_port = spare_port()
        self._redis: Redis | Watched | None = None
        self._sentinel = watched
        self._held = contextlib.AsyncExitStack()
        rules = folder / "rules.toml"
        rules.write_text(RULES)
        settings = {
            "UPSTREAM_URL": service.url,
            "REDIS_URL": f"redis{'+sentinel' * watched}://127.0.0.1:{self._redis_port}/{'main/' * watched}0",
            "RULES_FILE": str(rules),
            "CACHE_SECRET": "soak-secret-of-sixteen",
            "CACHE_MAX_BYTES": "2MB",
            "DRAIN_SECONDS": "5",
            "WORKERS": str(workers),
        }
        self.proxies = {name: Proxy(python, code, settings, folder / f"{name}.log") for name in ("one", "two")}

    async def start(self) -> None:
        await self._start_redis()
        await self._service.start()
        for proxy in self.proxies.values():
            await proxy.start()

    async def stop(self) -> None:
        for proxy in self.proxies.values():
            if proxy.process is not None and proxy.process.returncode is None:
                await proxy.stop()
        await self._service.stop()
        await self._held.aclose()

    async def _start_redis(self) -> None:
        running = running_sentinel if self._sentinel else running_redis
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self._redis = await self._held.enter_async_context(running(folder, port=self._redis_port))

    async def happen(self) -> str:
        """Break one thing, mend it, and say what it was."""
        things: list[Callable[[], Awaitable[None]]] = [
            self.redis_freezes,
            self.redis_starts_anew,
            self.service_starts_anew,
            self.service_fails,
            self.proxy_is_replaced,
            self.proxy_is_killed,
            self.flag_is_flipped,
            self.something_is_purged,
        ]
        if self._workers > 1:
            things.append(self.worker_is_killed)
        if self._sentinel:
            things.append(self.master_is_lost)
        thing = self._dice.choice(things)
        name = thing.__name__.replace("_", " ")
        self._truth.happening = name
        await thing()
        return name

    def _any_proxy(self) -> tuple[str, Proxy]:
        return self._dice.choice(list(self.proxies.items()))

    @contextlib.asynccontextmanager
    async def _broken(self) -> AsyncIterator[None]:
        """Callers are told of what breaks here."""
        self._clients.calm = False
        try:
            yield
        finally:
            await asyncio.sleep(SETTLED_SECONDS)
            self._clients.calm = True

    async def redis_freezes(self) -> None:
        """Long enough for a Sentinel to make another the master; who was it is told so when it is there again."""
        assert self._redis is not None
        master = self._redis
        if isinstance(master, Watched):
            await master.look()
            master = master.master
        master.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._dice.uniform(0.1, 3))
        master.process.send_signal(signal.SIGCONT)
        await self.all_is_told()

    async def master_is_lost(self) -> None:
        """And with it what its replica had not heard of."""
        assert isinstance(self._redis, Watched)
        await self._redis.look()
        replica = self._redis.replica.process
        replica.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._dice.uniform(0, 0.5))
        self._redis.master.process.kill()
        replica.send_signal(signal.SIGCONT)
        await self._redis.fail_over()
        await self.all_is_told()

    async def redis_starts_anew(self) -> None:
        await self._held.aclose()
        await asyncio.sleep(self._dice.uniform(0, 2))
        self._held = contextlib.AsyncExitStack()
        await self._start_redis()
        await self.all_is_told()

    async def service_starts_anew(self) -> None:
        async with self._broken():
            await self._service.stop()
            await asyncio.sleep(self._dice.uniform(0, 2))
            await self._service.start()

    async def service_fails(self) -> None:
        async with self._broken():
            dice = self._dice
            self._service.mishaps = Mishaps(*(dice.choice((0.0, 0.05, 0.3)) for _ in range(4)))
            await asyncio.sleep(dice.uniform(1, 4))
            self._service.mishaps = Mishaps()

    async def proxy_is_replaced(self) -> None:
        name, proxy = self._any_proxy()
        async with self._broken():
            await proxy.stop()
            self._truth.forget(name)
            await proxy.start()

    async def proxy_is_killed(self) -> None:
        name, proxy = self._any_proxy()
        async with self._broken():
            # what it had no time to tell the other nobody can know
            self._clients.writes.clear()
            await self.all_is_told()
            await proxy.stop(signal.SIGKILL)
            self._truth.forget(name)
            self._clients.writes.set()
            await proxy.start()

    async def worker_is_killed(self) -> None:
        """Neither the others nor its successor may tell anything older than what it had answered."""
        _, proxy = self._any_proxy()
        async with self._broken():
            os.kill(self._dice.choice(proxy.workers()), signal.SIGKILL)

    async def all_is_told(self) -> None:
        """No change is on its way to the service, or to the other proxy."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                # other processes have no event to wait for
                while await self._untold():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                return
        self._truth.fault(f"not told within {READY_SECONDS:g} s: {await self._untold()}")

    async def _untold(self) -> list[str]:
        """Who has still to tell of something."""
        changing = ["a change is on its way"] if self._clients.writing else []
        return changing + [name for name, proxy in self.proxies.items() if await proxy.untold()]

    async def flag_is_flipped(self) -> None:
        _, proxy = self._any_proxy()
        flag, everywhere = self._dice.choice(FLAGS), self._dice.random() < 0.5
        for value in (flag == "BYPASS", flag != "BYPASS"):
            await proxy.ask("PATCH", "/api/flags", {flag: value, **({"everywhere": True} if everywhere else {})})
            await asyncio.sleep(self._dice.uniform(0, 2))

    async def something_is_purged(self) -> None:
        _, proxy = self._any_proxy()
        what = self._dice.choice(({"all": True}, {"tag": "reports"}, {"prefix": "/items/"}, {"url": "/items/1"}))
        await proxy.ask("POST", "/api/purge", {**what, "soft": self._dice.random() < 0.3})
