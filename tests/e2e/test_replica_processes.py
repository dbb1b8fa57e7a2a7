"""Real processes that share a Redis, seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp

from tests.e2e.proxies import Running, proxy_process
from tests.redis_servers import Redis
from tests.support import PATIENCE, Gate, Origin, holds

SECRET = "0123456789abcdef" * 2
FRESH = "Cache-Control: max-age=60"
HOST = {"Host": "app.example"}
"""Behind a balancer replicas are asked for the same URI."""
REPLICAS = 10
CLIENTS = 50


@contextlib.asynccontextmanager
async def replicas(origin: Origin, shared: Redis, count: int, **options: str) -> AsyncIterator[list[Running]]:
    async with contextlib.AsyncExitStack() as stack:
        contexts = [
            # who is busy with something else is not away
            proxy_process(origin.url, redis_url=shared.url, redis_timeout_ms="1000", cache_secret=SECRET, **options)
            for _ in range(count)
        ]
        yield list(await asyncio.gather(*map(stack.enter_async_context, contexts)))


async def metric(session: aiohttp.ClientSession, proxy: Running, name: str) -> float:
    """The sum of a metric's samples."""
    async with session.get(f"{proxy.admin}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


async def hears(session: aiohttp.ClientSession, *proxies: Running, workers: int = 1) -> None:
    """All of their workers hear of the others."""

    async def all_do() -> bool:
        # their parent hears, too
        processes = workers + 1 if workers > 1 else 1
        return all([await metric(session, proxy, "siding_replica_hears") == processes for proxy in proxies])

    await holds(all_do)


def worker_of(proxy: Running) -> int:
    """The process of one of its workers."""
    parent = proxy.child.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())


async def test_ten_replicas_with_fifty_clients_each_ask_once(origin: Origin, shared: Redis) -> None:
    gate = Gate(origin, FRESH)
    connector = aiohttp.TCPConnector(limit=0)
    async with replicas(origin, shared, REPLICAS) as proxies, aiohttp.ClientSession(connector=connector) as session:
        await hears(session, *proxies)

        async def ask(url: str) -> tuple[int, bytes]:
            async with session.get(f"{url}/cold", headers=HOST) as answer:
                return answer.status, await answer.read()

        clients = [asyncio.create_task(ask(proxy.url)) for proxy in proxies for _ in range(CLIENTS)]
        await gate.asked()

        async def all_wait() -> bool:
            return all([await metric(session, one, "siding_in_flight_requests") == CLIENTS for one in proxies])

        await holds(all_wait, 3 * PATIENCE)
        gate.open.set()
        async with asyncio.timeout(PATIENCE):
            assert set(await asyncio.gather(*clients)) == {(200, b"one")}
        assert len(origin.requests) == 1


async def test_a_replica_that_is_killed_while_it_asks_is_replaced(origin: Origin, shared: Redis) -> None:
    gate = Gate(origin, FRESH)
    async with replicas(origin, shared, 2) as (first, second), aiohttp.ClientSession() as session:
        await hears(session, first, second)

        async def ask(proxy: Running) -> bytes:
            async with session.get(f"{proxy.url}/a", headers=HOST) as answer:
                return await answer.read()

        dying = asyncio.create_task(ask(first))
        await gate.asked()
        waiting = asyncio.create_task(ask(second))

        async def waits() -> bool:
            return await metric(session, second, "siding_in_flight_requests") > 0

        await holds(waits)
        async with asyncio.timeout(PATIENCE):
            first.child.send(signal.SIGKILL)
            await gate.asked(2)
            gate.open.set()
            assert await waiting == b"one"
        assert isinstance((await asyncio.gather(dying, return_exceptions=True))[0], aiohttp.ClientError)


async def test_a_replica_that_was_frozen_hears_what_it_missed(origin: Origin, shared: Redis) -> None:
    origin.respond("old", FRESH)
    async with replicas(origin, shared, 2) as (first, second), aiohttp.ClientSession() as session:
        await hears(session, first, second)

        async def ask(proxy: Running) -> str:
            async with session.get(f"{proxy.url}/a", headers=HOST) as answer:
                return await answer.text()

        assert [await ask(first), await ask(second)] == ["old", "old"]
        os.kill(second.child.process.pid, signal.SIGSTOP)
        async with session.post(f"{first.admin}/api/purge", json={"url": "/a"}) as answer:
            assert answer.status == 200
        origin.respond("new", FRESH)
        assert await ask(first) == "new"
        os.kill(second.child.process.pid, signal.SIGCONT)

        async def is_new() -> bool:
            return await ask(second) == "new"

        await holds(is_new)


async def test_workers_of_one_replica_are_replicas_as_well(origin: Origin, shared: Redis) -> None:
    """Purges and flags, told to one parent, reach the workers of another; what one worker has the others have."""
    origin.respond("old", FRESH)
    async with (
        replicas(origin, shared, 1, workers="2") as [fleet],
        replicas(origin, shared, 1) as [single],
        aiohttp.ClientSession() as session,
    ):

        async def ask(proxy: Running) -> str:
            async with aiohttp.ClientSession() as fresh, fresh.get(f"{proxy.url}/a", headers=HOST) as answer:
                return await answer.text()

        async def all_new() -> bool:
            return {await ask(fleet) for _ in range(6)} == {"new"}

        await hears(session, fleet, workers=2)
        await hears(session, single)
        assert {await ask(fleet) for _ in range(10)} == {"old"}
        assert await ask(single) == "old"
        assert len(origin.requests) == 1
        origin.respond("new", FRESH)
        async with session.post(f"{single.admin}/api/purge", json={"url": "/a"}) as answer:
            assert answer.status == 200
        await holds(all_new)
        for flipped, other, on in ((fleet, single, False), (single, fleet, True)):
            order = {"ENABLE_ETAG": on, "everywhere": True}
            async with session.patch(f"{flipped.admin}/api/flags", json=order) as answer:
                assert (await answer.json())["everywhere"] is True

            async def is_flipped(other: Running = other, on: bool = on) -> bool:
                async with session.get(f"{other.admin}/api/flags") as answer:
                    return (await answer.json())["ENABLE_ETAG"] is on

            await holds(is_flipped)


async def test_a_flag_that_is_handed_back_is_in_all_workers_what_their_settings_say(
    origin: Origin, shared: Redis
) -> None:
    """Those that are replaced included; be it told to their parent or to another replica."""
    async with (
        replicas(origin, shared, 1, workers="2", enable_etag="off") as [fleet],
        replicas(origin, shared, 1) as [single],
        aiohttp.ClientSession() as session,
    ):
        await hears(session, fleet, workers=2)
        await hears(session, single)

        async def stand(on: bool) -> bool:
            async with session.get(f"{fleet.admin}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            states = [line.rsplit(" ", 1)[1] for line in lines if line.startswith('siding_flag{flag="ENABLE_ETAG"')]
            async with session.get(f"{fleet.admin}/api/flags") as answer:
                return [*states, (await answer.json())["ENABLE_ETAG"]] == [f"{on:.1f}", f"{on:.1f}", on]

        for told in (fleet, single):
            for value, on in ((True, True), (None, False)):
                order = {"ENABLE_ETAG": value, "everywhere": True}
                async with session.patch(f"{told.admin}/api/flags", json=order) as answer:
                    assert (await answer.json())["everywhere"] is True
                await holds(partial(stand, on))
        os.kill(worker_of(fleet), signal.SIGKILL)
        await hears(session, fleet, workers=2)
        assert await stand(on=False)


async def test_a_worker_that_is_replaced_takes_back_no_flag_that_was_flipped_here_alone(
    origin: Origin, shared: Redis
) -> None:
    async with replicas(origin, shared, 1, workers="2") as [fleet], aiohttp.ClientSession() as session:
        await hears(session, fleet, workers=2)
        for order in ({"ENABLE_ETAG": False, "everywhere": True}, {"ENABLE_ETAG": True}):
            async with session.patch(f"{fleet.admin}/api/flags", json=order) as answer:
                assert answer.status == 200
        os.kill(worker_of(fleet), signal.SIGKILL)
        await hears(session, fleet, workers=2)
        async with session.get(f"{fleet.admin}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        states = [line.rsplit(" ", 1)[1] for line in lines if line.startswith('siding_flag{flag="ENABLE_ETAG"')]
        assert states == ["1.0", "1.0"]
