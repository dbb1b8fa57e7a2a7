"""Redis is never the outage: whatever becomes of it, each client gets its own answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from config.bulletin import Bulletin
from tests.redis_faults import FAULTS
from tests.redis_servers import (
    CLUSTERS_FORGET,
    client_of,
    collect_connections,
    running_cluster,
    running_redis,
    running_sentinel,
)
from tests.relay import relayed
from tests.replica_load import Load
from tests.scenarios.replicas import FRESH, admin, heard, ready, replicas_of, settled, several, status_of
from tests.support import PATIENCE, Origin, Proxy, Turn, holds, until

pytestmark = CLUSTERS_FORGET

PATHS = 200
SHORT = "Cache-Control: max-age=1"


@pytest.fixture(autouse=True)
async def _collected() -> AsyncIterator[None]:
    yield
    await collect_connections()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.tier.REST_SECONDS", 0.1)
    monkeypatch.setattr("config.bulletin.RETRY_SECONDS", 0.1)


async def tells_its_path(turn: Turn) -> None:
    """An origin whose answers tell which they are."""
    await turn.answer(turn.request.target.encode(), SHORT)


def asking(proxies: list[Proxy], clients: int = 16) -> Load:
    """Clients that have begun to ask them."""
    load = Load([f"http://127.0.0.1:{proxy.port}" for proxy in proxies], clients=clients, paths=PATHS)
    load.start()
    return load


async def share(origin: Origin, proxies: list[Proxy]) -> None:
    """They share again."""
    await ready(*proxies)
    one, other = proxies
    origin.respond(b"again", FRESH)
    async with asyncio.timeout(PATIENCE):
        for number in range(1000):
            await one.get(f"/again/{number}")
            await settled(one)
            if "detail=shared" in status_of(await other.get(f"/again/{number}")):
                return


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_client_fails(origin: Origin, tmp_path: Path, fault: str) -> None:
    origin.script = tells_its_path
    begin, end = FAULTS[fault]
    async with (
        running_redis(tmp_path) as server,
        relayed(server.port) as relay,
        several(origin, f"redis://127.0.0.1:{relay.port}/0") as proxies,
    ):
        load = asking(proxies)
        async with asyncio.timeout(6 * PATIENCE):
            await load.asked(300)
            await begin(server, relay)
            await load.asked(600)
            await end(server, relay)
            await load.asked(300)
            seen = await load.stop()
        assert (seen.failed, seen.mixed_up) == (0, 0)
        await share(origin, proxies)


async def test_no_client_fails_when_the_server_is_killed_and_another_starts(origin: Origin, tmp_path: Path) -> None:
    origin.script = tells_its_path
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_redis(tmp_path))
        proxies = await stack.enter_async_context(several(origin, server.url))
        load = asking(proxies)
        async with asyncio.timeout(6 * PATIENCE):
            await load.asked(300)
            server.process.kill()
            await server.process.wait()
            await load.asked(600)
            await stack.enter_async_context(running_redis(tmp_path, port=server.port))
            await load.asked(300)
            seen = await load.stop()
        assert (seen.failed, seen.mixed_up) == (0, 0)
        await share(origin, proxies)


async def test_no_client_fails_while_sentinel_makes_another_master(origin: Origin, tmp_path: Path) -> None:
    origin.script = tells_its_path
    async with running_sentinel(tmp_path) as watched, several(origin, watched.url) as proxies:
        load = asking(proxies)
        async with asyncio.timeout(6 * PATIENCE):
            await load.asked(300)
            watched.master.process.kill()
            await watched.master.process.wait()
            await load.asked(600)
            seen = await load.stop()
        assert (seen.failed, seen.mixed_up) == (0, 0)
        await share(origin, proxies)
        async with client_of(watched.replica) as client:
            assert await client.dbsize() > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_cluster_that_loses_a_node(origin: Origin, tmp_path: Path) -> None:
    """Two thirds of the keys are shared still, if the log is among what is left; nobody fails in any case."""
    origin.script = tells_its_path
    async with running_cluster(tmp_path) as cluster, several(origin, cluster.url) as proxies:
        one, other = proxies
        await share(origin, proxies)
        origin.script = tells_its_path
        await admin(one, "POST", "/api/purge", b'{"all": true}')
        await heard(one, other)
        load = asking(proxies)
        async with asyncio.timeout(6 * PATIENCE):
            await load.asked(300)
            cluster.nodes[1].process.kill()
            await cluster.nodes[1].process.wait()
            await load.asked(600)
            seen = await load.stop()
        assert (seen.failed, seen.mixed_up) == (0, 0)
    # redis-py leaves connections open to nodes that it has lost, until they are collected
    del proxies, one, other
    gc.collect()


async def test_while_it_is_away_collapsing_goes_on_in_each_process(origin: Origin, tmp_path: Path) -> None:
    async with running_redis(tmp_path) as server, several(origin, server.url) as proxies:
        os.kill(server.process.pid, signal.SIGSTOP)
        go = asyncio.Event()

        async def script(turn: Turn) -> None:
            await go.wait()
            await turn.answer(b"one", FRESH)

        origin.script = script
        clients = [asyncio.create_task(proxy.get("/a")) for proxy in proxies for _ in range(20)]
        async with asyncio.timeout(PATIENCE):
            await until(lambda: len(origin.requests) >= 2)
            go.set()
            answers = await asyncio.gather(*clients)
        assert {answer.content for answer in answers} == {b"one"}
        assert len(origin.requests) == 2
        # and memory answers what it has, at once
        assert "siding; hit" in status_of(await proxies[0].get("/a"))


def failures(proxies: list[Proxy]) -> int:
    """Calls of the tier that were given up, or failed."""
    return sum(proxy.worker.replicas.tier.failed for proxy in proxies if proxy.worker.replicas is not None)


async def test_connections_to_a_tier_that_comes_back_are_few(origin: Origin, tmp_path: Path) -> None:
    origin.script = tells_its_path
    async with (
        running_redis(tmp_path) as server,
        relayed(server.port) as relay,
        several(origin, f"redis://127.0.0.1:{relay.port}/0") as proxies,
    ):
        load = asking(proxies, clients=40)
        async with asyncio.timeout(6 * PATIENCE):
            await load.asked(300)
            relay.cut()
            before, failed = relay.connections, failures(proxies)
            await load.asked(600)
            await load.stop()
        assert relay.most <= 2 * (32 + 4)
        # a call that is given up spoils its connection: on a machine that is busy elsewhere, calls take too long
        assert relay.connections - before <= 2 * (32 + 4) + failures(proxies) - failed
        await ready(*proxies)


def established(port: int) -> int:
    """Connections of this machine to a port of its own, as whoever opened them sees them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(there.endswith(f":{port:04X}") and state == "01" for _, _, there, state, *_ in lines)


async def test_connections_to_a_tier_that_is_frozen_are_few(origin: Origin, tmp_path: Path) -> None:
    """Each try that is given up leaves none behind."""
    origin.script = tells_its_path
    async with running_redis(tmp_path) as server, several(origin, server.url) as proxies:
        load = asking(proxies, clients=40)
        async with asyncio.timeout(6 * PATIENCE):
            await load.asked(300)
            os.kill(server.process.pid, signal.SIGSTOP)
            failed, counts = failures(proxies), []
            for tries in (6, 8, 10):
                while failures(proxies) - failed < tries:
                    await load.asked(10)
                counts.append(established(server.port))
            await load.stop()
            os.kill(server.process.pid, signal.SIGCONT)
        assert max(counts) <= 2 * (32 + 4)
        assert counts[-1] <= counts[0]
        await ready(*proxies)


async def test_what_was_shared_before_a_loss_of_data_was_noticed_can_be_invalidated(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is of a log that is no more, and must not outlive the invalidations of the new one."""
    noticing, greet = asyncio.Event(), Bulletin._greet
    noticing.set()

    async def greet_late(bulletin: Bulletin, client: Any) -> None:
        await noticing.wait()
        await greet(bulletin, client)

    monkeypatch.setattr(Bulletin, "_greet", greet_late)
    async with running_redis(tmp_path) as shared, several(origin, shared.url) as (one, other):
        origin.respond(b"x", FRESH)
        for number in range(5):
            await one.request("PUT", f"/before/{number}", content=b"")
        await settled(one, other)
        noticing.clear()
        positions = [replicas_of(proxy).notices.bulletin.position for proxy in (one, other)]
        async with client_of(shared) as client:
            await client.flushall()
        origin.respond(b"old", FRESH)
        await one.get("/a")
        await holds(lambda: not replicas_of(one).store._tasks)
        noticing.set()
        for proxy, before in zip((one, other), positions, strict=True):
            bulletin = replicas_of(proxy).notices.bulletin
            await holds(lambda: bulletin.position != before)  # noqa: B023 - it is awaited at once
        await ready(one, other)
        origin.respond(b"new", FRESH)
        await one.request("PUT", "/a", content=b"")
        await heard(one, other)
        assert (await other.get("/a")).content == b"new"
        assert (await one.get("/a")).content == b"new"
