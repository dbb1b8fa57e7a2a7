"""Start, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.observe.events import PurgeKind
from proxy.server.admin import PurgeOrder
from tests.fast.passing import connection_of, one_that_does_not_read, one_that_holds_little
from tests.fast.sides import server_of
from tests.redis_servers import Redis
from tests.scenarios.replicas import heard, settled, several
from tests.support import PATIENCE, Gate, Origin, Proxy, Turn, running_proxy, until

STALE = "Cache-Control: max-age=60, stale-while-revalidate=60"


async def test_a_drain_lets_requests_finish_and_takes_no_new_ones(origin: Origin) -> None:
    gate = Gate(origin, content=b"finished")
    async with running_proxy(origin.url) as proxy, aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
        idle = await proxy.connect()
        await idle.send("")
        busy = await proxy.connect()
        await busy.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        await gate.asked()
        async with session.get(f"{proxy.admin}/readyz") as ready:
            assert ready.status == 200
        draining = asyncio.create_task(proxy.worker.drain())
        assert await idle.at_end()
        async with session.get(f"{proxy.admin}/readyz") as ready:
            assert ready.status == 503
        async with session.get(f"{proxy.admin}/healthz") as alive:
            assert alive.status == 200
        with pytest.raises(ConnectionError):
            await proxy.connect()
        assert not draining.done()
        gate.open.set()
        answer = await busy.response()
        assert (answer.content, answer.get("connection")) == (b"finished", "close")
        assert await busy.at_end()
        await draining


async def test_a_drain_is_bounded_and_what_it_cuts_is_not_said_to_have_left(
    origin: Origin, capfd: pytest.CaptureFixture[str]
) -> None:
    async def script(turn: Turn) -> None:
        await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url, drain_seconds=0.1) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: a\r\nCache-Control: no-store\r\n\r\n")
        await until(lambda: len(origin.requests) == 1)
        await proxy.worker.drain()
        assert await client.at_end()
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert 'siding_requests_total{method="GET",outcome="cut",route="other",status="none"} 1.0' in metrics
    assert '"outcome":"cut"' in capfd.readouterr().out


async def test_who_leaves_while_it_drains_has_left(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: a\r\nCache-Control: no-store\r\n\r\n")
        await until(lambda: len(origin.requests) == 1)
        draining = asyncio.create_task(proxy.worker.drain())
        await until(lambda: proxy.worker._draining)
        client.close()
        await draining
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert 'siding_requests_total{method="GET",outcome="client-gone",route="other",status="none"} 1.0' in metrics


async def test_a_drain_waits_until_the_rest_of_an_answer_is_sent(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request has ended: what is left is for the client to take."""
    unsent: list[int] = []
    async with running_proxy(origin.url) as proxy, one_that_does_not_read(origin, proxy) as (client, connection):
        transport, server = connection.transport, server_of(proxy)
        assert transport is not None
        shutdown = server.shutdown

        async def end(timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's own
            unsent.append(transport.get_write_buffer_size())
            await shutdown(timeout)

        monkeypatch.setattr(server, "shutdown", end)
        draining = asyncio.create_task(proxy.worker.drain())
        await until(transport.is_closing)
        async with asyncio.timeout(PATIENCE):
            while await asyncio.get_running_loop().sock_recv(client, 2**16):
                pass
            await draining
        assert unsent == [0]


@contextlib.asynccontextmanager
async def drained_of_all(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """It drains meanwhile, and has no connection left when it cuts those that it has."""
    left: list[int] = []
    server = server_of(proxy)
    shutdown = server.shutdown

    async def end(timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's own
        left.append(len(server.connections))
        await shutdown(timeout)

    monkeypatch.setattr(server, "shutdown", end)
    draining = asyncio.create_task(proxy.worker.drain())
    await until(lambda: server.draining)
    yield
    await draining
    assert left == [0]


@pytest.mark.parametrize("target", ["/a", "http://app.example/a"])
async def test_a_drain_waits_for_a_request_whose_task_has_yet_to_begin(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Nothing counts it yet but its connection."""
    gate = Gate(origin)
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await until(lambda: bool(server_of(proxy).connections))
        connection = connection_of(proxy)
        await client.send(f"GET {target} HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await until(lambda: connection._request_in_progress or connection._unanswered)
        assert not proxy.worker.handler.in_flight
        async with drained_of_all(proxy, monkeypatch):
            await gate.asked()
            gate.open.set()
            assert (await client.response()).content == b"one"


async def test_a_drain_waits_for_what_came_behind_an_answer(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(7 * 2**20)
    origin.respond(content, "Cache-Control: max-age=60")
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        await proxy.get("/a")
        await until(lambda: not (server_of(proxy).connections or proxy.worker.handler.fetches.running))
        gate = Gate(origin)
        client = await one_that_holds_little(proxy)
        await client.send("".join(f"GET /{name} HTTP/1.1\r\nHost: app.example\r\n\r\n" for name in "ab"))
        assert (await client.head()).get("connection") is None
        assert connection_of(proxy)._early
        async with drained_of_all(proxy, monkeypatch):
            assert await client.reader.readexactly(len(content)) == content
            await gate.asked(2)
            gate.open.set()
            second = await client.response()
            assert (second.content, second.get("connection")) == (b"one", "close")


@pytest.mark.parametrize("target", ["/a", "http://app.example/a"])
async def test_a_drain_waits_for_who_has_yet_to_take_the_end_of_its_last_answer(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    gate = Gate(origin, content=b"x" * 60_000)
    loop = asyncio.get_running_loop()
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(client, ("127.0.0.1", proxy.port))
            await until(lambda: bool(server_of(proxy).connections))
            transport = connection_of(proxy).transport
            assert transport is not None
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await loop.sock_sendall(client, f"GET {target} HTTP/1.1\r\nHost: app.example\r\n\r\n".encode())
            await gate.asked()
            async with drained_of_all(proxy, monkeypatch):
                gate.open.set()
                await until(transport.is_closing)
                assert transport.get_write_buffer_size()
                received = bytearray()
                while piece := await loop.sock_recv(client, 2**16):
                    received += piece
                assert received.endswith(gate.content)


async def test_a_drain_does_not_wait_for_a_connection_that_is_over(origin: Origin) -> None:
    """aiohttp counts it until the task that it has for it has ended."""
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        await proxy.connect()
        server = server_of(proxy)
        await until(lambda: bool(server.connections))
        connection = connection_of(proxy)
        assert connection.transport is not None
        connection.transport.abort()
        await until(lambda: connection.transport is None)
        assert server.connections
        server.begin_drain()
        assert not server.leaving.count


async def test_a_drain_answers_what_came_behind_an_answer_that_was_not_said_to_be_the_last(origin: Origin) -> None:
    content = bytes(7 * 2**20)
    origin.respond(content, "Cache-Control: max-age=60")
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        await proxy.get("/a")
        await until(lambda: not (server_of(proxy).connections or proxy.worker.handler.fetches.running))
        client = await one_that_holds_little(proxy)
        await client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        first = await client.head()
        connection = connection_of(proxy)
        assert connection._early
        server_of(proxy).begin_drain()
        assert first.get("connection") is None
        assert await client.reader.readexactly(len(content)) == content
        second = await client.response()
        assert (second.content, second.get("connection")) == (content, "close")
        assert await client.at_end()


async def test_a_drain_lets_a_request_finish_whose_task_has_yet_to_begin(origin: Origin) -> None:
    """aiohttp has parsed it, and makes the task in its next turn; from Python 3.12 on it is begun when it is made."""
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await until(lambda: bool(server_of(proxy).connections))
        connection = connection_of(proxy)
        await client.send("GET http://a/a HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: connection._unanswered and not connection._messages)
        assert connection._request_in_progress is (sys.version_info >= (3, 12))
        server_of(proxy).begin_drain()
        assert (await client.response()).content == b"hello"


class Behind:
    """An origin whose answer nobody waits for: it validates behind a stale response, and never comes to an end."""

    def __init__(self, origin: Origin) -> None:
        self.validating, self.go, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._origin = origin
        origin.script = self.script

    async def script(self, turn: Turn) -> None:
        if len(self._origin.requests) > 1:
            await turn.send(f"HTTP/1.1 200 OK\r\n{STALE}\r\nContent-Length: 3\r\n\r\nt")
            self.validating.set()
            leaving = asyncio.create_task(turn.reader.read(1))
            leaving.add_done_callback(lambda _: self.left.set())
            await self.go.wait()
            await turn.send("wo")
            return
        await turn.answer("one", STALE)

    async def begin(self, proxy: Proxy, *others: Proxy) -> None:
        await proxy.get("/a")
        await until(lambda: not proxy.worker.handler.fetches.running)
        if others:
            await settled(proxy)
        await proxy.worker.purge(PurgeOrder(PurgeKind.ALL, soft=True))
        if others:
            await heard(proxy, *others)
        assert "stale-while-revalidate" in ((await proxy.get("/a")).get("cache-status") or "")
        await self.validating.wait()


async def test_a_drain_does_not_wait_for_what_nobody_waits_for(origin: Origin) -> None:
    """The memory that it would be stored in ends with the process."""
    behind = Behind(origin)
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        await behind.begin(proxy)
        await proxy.worker.drain()
        await behind.left.wait()


async def test_a_drain_lets_what_other_replicas_wait_for_come_to_its_end(origin: Origin, shared: Redis) -> None:
    behind = Behind(origin)
    async with several(origin, shared.url) as (one, other), asyncio.timeout(PATIENCE):
        await behind.begin(one, other)
        draining = asyncio.create_task(one.worker.drain())
        await until(lambda: not one.worker.handler.requests.count)
        behind.go.set()
        await draining
        await settled(one)
        assert (await other.get("/a")).content == b"two"
    assert len(origin.requests) == 2


async def test_a_drain_does_not_wait_for_what_another_replica_asks_for(origin: Origin, shared: Redis) -> None:
    behind = Behind(origin)
    async with several(origin, shared.url) as (one, other), asyncio.timeout(PATIENCE):
        await behind.begin(other, one)
        assert "stale-while-revalidate" in ((await one.get("/a")).get("cache-status") or "")
        assert one.worker.handler.fetches.running
        await one.worker.drain()
        assert len(origin.requests) == 2
        behind.go.set()
