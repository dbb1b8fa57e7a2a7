"""The shared tier with real servers: one, Sentinel's master, a cluster; and what it is when they are away."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis.asyncio

from config.tier import CALL_SECONDS, FAILURES, Result, Script, SharedTier, State
from tests.programs import redis_program
from tests.redis_servers import (
    CLUSTERS_FORGET,
    Cluster,
    Redis,
    Watched,
    collect_connections,
    running_cluster,
    running_redis,
    running_sentinel,
)
from tests.support import PATIENCE, holds

pytestmark = CLUSTERS_FORGET

UNHURRIED = 2.0
"""Seconds for a call where it is not its time that is tested: the machine may be busy elsewhere."""


@pytest.fixture(autouse=True)
async def _collected() -> AsyncIterator[None]:
    yield
    await collect_connections()


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
    began = await tier.read("key", ["one", "two", "three"])
    assert began is not None
    now = await tier.count_up({"one": 1, "two": 2, "four": 1})
    assert now is not None
    assert [count - before for count, before in zip(now, began[2], strict=False)][:2] == [1, 2]
    found = await tier.read("key", ["one", "two", "three", "four"])
    assert found is not None
    value, left, counted = found
    assert value == b"value"
    assert [now - before for now, before in zip(counted, began[2], strict=False)] == [1, 2, 0]
    # one that begins anew never stands where it once stood
    assert abs(counted[3] / 1e6 - time.time()) < PATIENCE
    assert 59 < left <= 60
    nothing = await tier.read("nothing", ())
    assert nothing == (None, 0.0, [])


async def test_one_server(server: Redis) -> None:
    seen: list[Result] = []
    tier = SharedTier(server.url, seconds=UNHURRIED, observe=lambda result, _: seen.append(result))
    await exercise(tier)
    await tier.close()
    assert set(seen) == {Result.OK}


async def test_the_number_of_the_database(server: Redis) -> None:
    tier = SharedTier(server.url.removesuffix("0") + "3", seconds=UNHURRIED)
    await exercise(tier)
    await tier.close()
    async with redis.asyncio.Redis(port=server.port, db=3) as client:
        assert await client.get("key") == b"value"


async def test_a_cluster_whose_keys_are_on_several_nodes(cluster: Cluster) -> None:
    tier = SharedTier(cluster.url, seconds=UNHURRIED)
    # the first call finds the nodes, which may take longer than a call does
    await until_it_answers(tier)
    await exercise(tier)
    names = [f"counter {number}" for number in range(30)]
    assert await tier.count_up(dict.fromkeys(names, 1)) is not None
    before, _, after = [
        await tier.read("key", names),
        await tier.count_up(dict.fromkeys(names, 1)),
        await tier.read("key", names),
    ]
    assert isinstance(before, tuple)
    assert isinstance(after, tuple)
    assert after[2] == [one + 1 for one in before[2]]
    await tier.close()


async def test_sentinels_with_a_password_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running_sentinel(tmp_path, password="p+ss & w?rd") as watched:
        for user in ("", "sentinel_username=watcher&"):
            tier = SharedTier(f"{watched.url}?{user}sentinel_password=p+ss%20%26%20w%3Frd", seconds=UNHURRIED)
            await exercise(tier)
            await tier.close()
        assert not caplog.records
        for query in ("", "?sentinel_password=s3cret"):
            tier = SharedTier(f"{watched.url}{query}", seconds=UNHURRIED)
            for _ in range(FAILURES):
                assert not await tier.write("key", b"value", 60)
            assert not tier.available
            await tier.close()
    said = [message.rpartition(": ")[2] for message in caplog.messages if "is left alone" in message]
    assert said == ["auth:AuthenticationError"] * 2
    assert "s3cret" not in caplog.text


async def test_a_connection_in_use_follows_the_master_when_it_is_back(server: Redis, tmp_path: Path) -> None:
    """It may have stayed a server that others write to: nothing else would ever end it."""
    (tmp_path / "other").mkdir()
    async with running_redis(tmp_path / "other") as other, redis.asyncio.Redis(port=server.port) as first:
        tier = SharedTier("redis+sentinel://127.0.0.1:1/main/0", seconds=UNHURRIED)
        pool, masters = tier._client.connection_pool, [server]
        pool.sentinel_manager = SimpleNamespace(discover_master=lambda _: _address(masters[-1]))
        using = asyncio.create_task(tier.run(lambda client: client.blpop("queue", timeout=PATIENCE)))

        async def blocked() -> int:
            return int((await first.info("clients"))["blocked_clients"])

        await holds(blocked)
        masters.append(other)
        async with tier.listening(UNHURRIED) as reader:
            reader.connection_pool.sentinel_manager = pool.sentinel_manager
            await tier.follow(reader)
            await first.rpush("queue", "done")
            assert await using == (b"queue", b"done")
            await tier.follow(reader)
        assert await tier.write("key", b"value", 60)
        assert await first.get("key") is None
        await tier.close()


async def test_a_sentinel_that_does_not_answer_is_asked_once_and_then_the_next() -> None:
    """redis-py would ask it four times, with some four seconds of waiting between them."""
    asked: list[int] = []

    async def leave(number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(number)
        writer.close()

    servers = [await asyncio.start_server(partial(leave, number), "127.0.0.1", 0) for number in range(2)]
    hosts = ",".join(f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers)
    tier = SharedTier(f"redis+sentinel://{hosts}/main/0", seconds=UNHURRIED)
    try:
        with pytest.raises(redis.asyncio.sentinel.MasterNotFoundError):
            async with tier.listening(PATIENCE) as client:
                await client.get("x")
    finally:
        await tier.close()
        for server in servers:
            server.close()
    assert asked == [0, 1]


async def test_sentinels_that_hang_hold_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.tier.FOLLOW_SECONDS", 0.01)
    tier = SharedTier("redis+sentinel://127.0.0.1:1/main/0")
    asked = []

    async def hang(_: str) -> None:
        asked.append(True)
        await asyncio.Event().wait()

    async with tier.listening(UNHURRIED) as reader, asyncio.timeout(PATIENCE):
        for client in (reader, tier._client):
            client.connection_pool.sentinel_manager = SimpleNamespace(discover_master=hang)
        await tier.follow(reader)
    assert asked == [True, True]
    await tier.close()


async def _address(server: Redis) -> tuple[str, int]:
    return "127.0.0.1", server.port


async def test_a_server_that_does_not_write_gives_counters_by_which_nothing_holds(server: Redis) -> None:
    tier = SharedTier(server.url, seconds=UNHURRIED)
    async with redis.asyncio.Redis(port=server.port) as client:
        await client.config_set("maxmemory", "1")
        await client.config_set("maxmemory-policy", "noeviction")
        one, other = await tier.read("key", ["counter"]), await tier.read("key", ["counter"])
    assert one is not None
    assert other is not None
    assert one[2] != other[2]
    assert tier.failed == 0
    await tier.close()


async def until_it_answers(tier: SharedTier, key: str = "key") -> None:
    await holds(lambda: tier.write(key, b"again", 60))


async def test_a_new_master_is_found(watched: Watched) -> None:
    tier = SharedTier(watched.url)
    await until_it_answers(tier)
    await exercise(tier)
    watched.master.process.kill()
    await watched.master.process.wait()
    await until_it_answers(tier)
    async with redis.asyncio.Redis(port=watched.replica.port) as client:
        assert await client.get("key") == b"again"
    await tier.close()


async def test_what_does_not_answer_is_left_alone_and_tried_in_the_background(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.tier.REST_SECONDS", 0.05)
    tier = SharedTier(server.url)
    await until_it_answers(tier)
    os.kill(server.process.pid, signal.SIGSTOP)
    states = []
    for _ in range(FAILURES):
        states.append(tier.state)
        assert await tier.read("key", ()) is None
    states.append(tier.state)
    assert states == [State.CLOSED] * FAILURES + [State.OPEN]
    failed = tier.failed
    began = asyncio.get_running_loop().time()
    assert [await tier.read("key", ()) for _ in range(100)] == [None] * 100
    assert asyncio.get_running_loop().time() - began < CALL_SECONDS
    assert tier.failed == failed
    await holds(lambda: tier.state is State.HALF_OPEN)
    await holds(lambda: tier.state is State.OPEN)
    assert tier.failed == failed + 1
    os.kill(server.process.pid, signal.SIGCONT)
    await holds(lambda: tier.state is State.CLOSED)
    found = await tier.read("key", ())
    assert found is not None
    assert found[0] == b"again"
    await tier.close()


async def test_a_cluster_that_is_away_is_left_alone(cluster: Cluster) -> None:
    tier = SharedTier(cluster.url)
    await until_it_answers(tier)
    for node in cluster.nodes:
        node.process.kill()
        await node.process.wait()
    async with asyncio.timeout(PATIENCE):
        while tier.state is State.CLOSED:
            assert not await tier.write("key", b"value", 60)
    await tier.close()


async def test_what_is_frozen_among_many_calls_holds_none_up_for_long(server: Redis) -> None:
    tier = SharedTier(server.url)
    await until_it_answers(tier)
    os.kill(server.process.pid, signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE):
        assert set(await asyncio.gather(*(tier.read("key", ()) for _ in range(500)))) == {None}
    assert tier.state is State.OPEN
    await tier.close()


async def test_a_script_is_known_by_its_digest_and_sent_where_it_is_not(server: Redis) -> None:
    script = Script("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}")
    tier = SharedTier(server.url, seconds=UNHURRIED)
    assert await tier.script(script, ("a",), "b") == [b"a", b"b", 1]
    assert await tier.script(script, ("a",), 2) == [b"a", b"2", 2]
    async with redis.asyncio.Redis(port=server.port) as client:
        await client.script_flush()
    assert await tier.script(script, ("a",), 2.5) == [b"a", b"2.5", 3]
    assert await tier.script(Script("return redis.call('NOTHING')"), ()) is None
    await tier.close()


async def test_a_script_in_a_cluster(cluster: Cluster) -> None:
    script = Script("return redis.call('INCR', KEYS[1])")
    tier = SharedTier(cluster.url, seconds=UNHURRIED)
    await until_it_answers(tier)
    assert [await tier.script(script, (f"{{{number}}}",)) for number in range(20)] == [1] * 20
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
    assert await tier.count_up({"counter": 1}) is None
    await tier.close()


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
        AttributeError("'NoneType' object has no attribute 'is_connected'"),
        ConnectionResetError(),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_whatever_the_client_makes_of_a_lost_connection_fails_the_call_alone(fault: Exception) -> None:
    async def call(_: object) -> bool:
        raise fault

    tier = SharedTier("redis://127.0.0.1:1/0")
    assert not await tier.run(call)
    assert tier.failed == 1
    await tier.close()


async def test_what_is_refused_among_what_is_not_is_told(server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async with redis.asyncio.Redis(port=server.port) as client:
        await client.config_set("maxmemory", "1")
        await client.config_set("maxmemory-policy", "noeviction")
    tier = SharedTier(server.url, seconds=UNHURRIED)
    for _ in range(5):
        assert await tier.read("key", ()) is not None
        assert not await tier.write("key", b"secret" * 1000, 60)
    await tier.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the shared tier refuses SET: command not allowed when used memory > 'maxmemory'."
    ]


async def test_a_cancelled_call_does_not_give_its_answer_to_another(server: Redis) -> None:
    tier = SharedTier(server.url, seconds=UNHURRIED)
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
    program = redis_program()
    process = await asyncio.create_subprocess_exec(
        program.path,
        *("--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)),
        stdout=asyncio.subprocess.DEVNULL,
        env=program.environ,
    )
    tier = SharedTier(f"unix://{path}", seconds=UNHURRIED)
    await until_it_answers(tier, "other")
    await exercise(tier)
    await tier.close()
    process.kill()
    await process.wait()
