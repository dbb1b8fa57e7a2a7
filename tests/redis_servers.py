"""Real Redis servers of a test's own: one, a master with a replica and a Sentinel, or a cluster of three nodes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from config.listen import SPARE, spare_port
from tests.programs import redis_program
from tests.support import PATIENCE, holds

GOING_OUT = 32_768
SLOTS = 16_384
CLUSTERS_FORGET = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:loop is closed:ResourceWarning")
"""For modules with clusters: redis-py's client forgets connections when it learns anew what nodes there are. They are
found when the loop of their test is gone, in the test after it."""


@dataclass
class Redis:
    port: int
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextlib.asynccontextmanager
async def _server(directory: Path, *arguments: str, port: int | None = None) -> AsyncIterator[Redis]:
    """A server that can be stopped, frozen and killed, and is gone afterwards."""
    port = port or spare_port()
    program = redis_program()
    process = await asyncio.create_subprocess_exec(
        program.path,
        *arguments,
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
        stdout=asyncio.subprocess.DEVNULL,
        env=program.environ,
    )
    try:
        async with redis.asyncio.Redis(port=port) as client, asyncio.timeout(PATIENCE):
            while True:
                try:
                    await client.ping()
                    break
                except redis.exceptions.AuthenticationError:
                    break
                except redis.exceptions.ConnectionError:
                    await asyncio.sleep(0.01)
        yield Redis(port, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def running_redis(directory: Path, *options: str, port: int | None = None) -> AsyncIterator[Redis]:
    """One server, which forgets."""
    async with _server(directory, "--save", "", *options, port=port) as server:
        yield server


@dataclass
class Watched:
    """A master, its replica, and the Sentinel that watches them."""

    master: Redis
    replica: Redis
    sentinel: Redis
    directory: Path
    held: contextlib.AsyncExitStack
    password: str = ""
    """Of the Sentinel."""

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/main/0"

    async def look(self) -> None:
        """Which of them is the master now."""
        async with redis.asyncio.Redis(
            port=self.sentinel.port, password=self.password, decode_responses=True
        ) as client:
            found: Any = await client.sentinel_get_master_addr_by_name("main")
        if int(found[1]) == self.replica.port:
            self.master, self.replica = self.replica, self.master

    async def fail_over(self) -> None:
        """The master is lost; the replica is it from now on, and in its place comes another."""
        lost = self.master
        lost.process.kill()
        await lost.process.wait()
        async with asyncio.timeout(6 * PATIENCE):
            while self.master is lost:
                await asyncio.sleep(0.05)
                await self.look()
        following = ("--save", "", "--replicaof", "127.0.0.1", str(self.master.port))
        again = await self.held.enter_async_context(_server(self.directory, *following, port=lost.port))
        self.replica.process = again.process


@contextlib.asynccontextmanager
async def running_sentinel(directory: Path, port: int | None = None, password: str = "") -> AsyncIterator[Watched]:
    """A fail-over takes a second or two. port, password -- of the Sentinel, and of its user `watcher`."""
    async with contextlib.AsyncExitStack() as stack:
        folders = [directory / name for name in ("master", "replica", "sentinel")]
        for folder in folders:
            folder.mkdir()
        plain = ("--save", "")
        master = await stack.enter_async_context(_server(folders[0], *plain))
        following = ("--replicaof", "127.0.0.1", str(master.port))
        replica = await stack.enter_async_context(_server(folders[1], *plain, *following))
        file = folders[2] / "sentinel.conf"
        file.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
        )
        if password:
            with file.open("a") as more:
                more.write(f'requirepass "{password}"\nuser watcher on ">{password}" ~* &* +@all\n')
        sentinel = await stack.enter_async_context(_server(folders[2], str(file), "--sentinel", port=port))
        async with redis.asyncio.Redis(port=sentinel.port, password=password, decode_responses=True) as client:
            await holds(lambda: client.sentinel_slaves("main"))
        yield Watched(master, replica, sentinel, directory, stack, password)


@dataclass
class Cluster:
    """Three nodes that share the slots."""

    nodes: list[Redis]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"


@contextlib.asynccontextmanager
async def running_cluster(directory: Path) -> AsyncIterator[Cluster]:
    """The ports by which the nodes find each other are 10,000 above: no spare ones, nor for connections going out."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for number in range(3):
            folder = directory / f"node{number}"
            folder.mkdir()
            options = ("--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
            nodes.append(await stack.enter_async_context(_server(folder, *options, port=_low_port())))
        for number, node in enumerate(nodes):
            async with redis.asyncio.Redis(port=node.port) as client:
                begin, end = number * SLOTS // 3, (number + 1) * SLOTS // 3
                await client.cluster("ADDSLOTS", *range(begin, end))
                await client.cluster("MEET", "127.0.0.1", nodes[0].port)
        for node in nodes:
            async with redis.asyncio.Redis(port=node.port) as client, asyncio.timeout(PATIENCE):
                while (await client.cluster("INFO"))["cluster_state"] != "ok":  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
        yield Cluster(nodes)


def _low_port() -> int:
    while not SPARE.stop <= (port := spare_port()) + 10_000 < GOING_OUT:
        pass
    return port


async def collect_connections() -> None:
    """What a test left open is found in its own event loop, and not in the middle of another test."""
    gc.collect()
    await asyncio.sleep(0)


def client_of(server: Redis, **options: Any) -> Any:
    """A client whose answers are octets."""
    return redis.asyncio.Redis(port=server.port, **options)
