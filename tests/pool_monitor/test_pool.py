"""The pool against real servers: fairness, accounts, bounds, and coming back from every fault."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from config.kinds import MIB
from config.listen import spare_port
from deploy.postgres import Postgres, running
from pool_monitor.admission import Granted
from pool_monitor.pool import APPLICATION, Pool, PoolTimeout, PoolUnreachable, Tuning, is_forgotten
from tests.pool_monitor.support import Seen
from tests.support import PATIENCE, holds, until


def tuning(url: str, **changes: object) -> Tuning:
    plain = Tuning(url, most=4, least=0, idle=30, acquire=2, max_age=1800, statement=10, query=10, octets=MIB)
    return replace(plain, **changes)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def pool_of(url: str, seen: Seen | None = None, **changes: object) -> AsyncIterator[Pool]:
    pool = Pool(tuning(url, **changes), seen or Seen())
    pool.start()
    try:
        async with asyncio.timeout(4 * PATIENCE):
            yield pool
    finally:
        await pool.close(1)


async def one(pool: Pool, sql: str = "SELECT 1", name: str = "test", *, read_only: bool = False) -> object:
    async with pool.acquire(name) as connection:
        if read_only:
            await connection.execute("SET default_transaction_read_only = on")
        return await connection.fetchval(sql)


async def eventually(pool: Pool) -> int:
    """Try until a query works; how many attempts failed before."""
    failed = 0
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await one(pool)
                return failed
            except Exception:
                failed += 1
                await asyncio.sleep(0.02)


# -- what the plan asks


async def test_the_session_is_as_the_plan_has_it(database: str) -> None:
    async with pool_of(database, least=2) as pool:
        assert await one(pool, "SHOW application_name") == APPLICATION
        assert await one(pool, "SHOW statement_timeout") == "10s"
        await until(lambda: pool.numbers().total == 2)
        numbers = pool.numbers()
        assert (numbers.idle, numbers.waiting, numbers.holders) == (2, 0, ())


async def test_idle_connections_are_closed_down_to_the_warm_ones(database: str) -> None:
    async with pool_of(database, least=1, idle=0.1) as pool:
        await asyncio.gather(*(one(pool, "SELECT pg_sleep(0.05)") for _ in range(4)))
        assert pool.numbers().total == 4
        await holds(lambda: pool.numbers().total == 1)


async def test_old_connections_are_replaced(database: str) -> None:
    async with pool_of(database, max_age=0.05) as pool:
        first = await one(pool, "SELECT pg_backend_pid()")
        await asyncio.sleep(0.1)
        assert await one(pool, "SELECT pg_backend_pid()") != first
        assert pool.numbers().connects == 2


async def test_a_slow_query_is_ended_by_the_server(database: str) -> None:
    seen = Seen()
    async with pool_of(database, seen, statement=0.05) as pool:
        with pytest.raises(asyncpg.QueryCanceledError):
            await one(pool, "SELECT pg_sleep(5)")
        assert await one(pool) == 1
        assert pool.numbers().errors == {"57": 1}
    assert seen.failures == ["57"]


async def test_and_by_the_client(database: str) -> None:
    async with pool_of(database, query=0.05) as pool:
        with pytest.raises(TimeoutError):
            await one(pool, "SELECT pg_sleep(5)")
        assert await one(pool) == 1
        assert pool.numbers().errors == {"timeout": 1}


async def test_one_that_takes_too_long_is_no_reason_to_replace_the_others(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool_of(database, query=0.05, most=3) as pool:
        before = await asyncio.gather(*(one(pool, "SELECT pg_backend_pid() FROM pg_sleep(0.02)") for _ in range(3)))
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await one(pool, "SELECT pg_sleep(5)")
        after = await asyncio.gather(*(one(pool, "SELECT pg_backend_pid() FROM pg_sleep(0.02)") for _ in range(3)))
        assert sorted(map(str, after)) == sorted(map(str, before))
        assert pool.numbers().connects == 3
    assert "every connection is replaced" not in caplog.text


# -- first come, first served


async def test_turns_are_given_in_order(database: str) -> None:
    seen, order = Seen(), []
    async with pool_of(database, seen, most=1) as pool:

        async def work(number: int) -> None:
            async with pool.acquire(f"worker {number}"):
                order.append(number)

        async with pool.acquire("holder"):
            tasks = []
            for number in range(10):
                tasks.append(asyncio.create_task(work(number)))
                await until(lambda: pool.numbers().waiting == len(tasks))
            assert pool.numbers().oldest_wait > 0
            assert [holder.name for holder in pool.numbers().holders] == ["holder"]
        await asyncio.gather(*tasks)
        assert order == list(range(10))
        assert pool.numbers().acquired == 11
    assert seen.waits.count(Granted.AFTER_WAITING) == 10


async def test_a_wait_is_bounded_and_told(database: str) -> None:
    seen = Seen()
    async with pool_of(database, seen, most=1, acquire=0.1) as pool:
        async with pool.acquire("holder"):
            with pytest.raises(PoolTimeout, match=r"within 0\.1 s: all 1 are held"):
                await one(pool)
            assert pool.numbers().waiting == 0
        assert await one(pool) == 1
        assert pool.numbers().timeouts == 1
    assert Granted.TIMED_OUT in seen.waits


async def test_who_gives_up_holds_nobody_up(database: str) -> None:
    async with pool_of(database, most=1) as pool:
        async with pool.acquire("holder"):
            tasks = [asyncio.create_task(one(pool)) for _ in range(3)]
            await until(lambda: pool.numbers().waiting == 3)
            tasks[0].cancel()
            await until(lambda: pool.numbers().waiting == 2)
        tasks[1].cancel()
        assert await tasks[2] == 1
        await asyncio.gather(*tasks, return_exceptions=True)
        numbers = pool.numbers()
        assert (numbers.waiting, numbers.holders, numbers.cancelled, pool.admission.held) == (0, (), 2, 0)


async def test_a_cancelled_query_gives_its_connection_back(database: str) -> None:
    async with pool_of(database, most=1) as pool:
        await one(pool)
        task = asyncio.create_task(one(pool, "SELECT pg_sleep(30)"))
        await until(lambda: bool(pool.numbers().holders))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.admission.held == 0
        assert await one(pool) == 1


async def test_no_transaction_is_left_behind(database: str) -> None:
    async with pool_of(database, most=1) as pool:
        async with pool.acquire("careless") as connection:
            await connection.execute("BEGIN; CREATE TABLE t (i int)")
        assert await one(pool, "SELECT to_regclass('t')") is None


# -- the budget


async def test_a_pool_larger_than_the_server_allows_is_told(
    server: Postgres, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "siding.pool"):
        async with pool_of(database, most=100) as pool:
            await one(pool)
            await until(lambda: bool(caplog.records))
    assert "max_connections is 60" in caplog.text


async def test_a_monitors_other_connections_are_not_others(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{APPLICATION} changes", f"{APPLICATION} statistics", "backend"]
    async with running({"max_connections": "9", "superuser_reserved_connections": "0"}) as server:
        open_ones = [await asyncpg.connect(server.url(), server_settings={"application_name": name}) for name in names]
        with caplog.at_level(logging.WARNING, "siding.pool"):
            async with pool_of(server.url(), most=9):
                await until(lambda: bool(caplog.records))
        for connection in open_ones:
            await connection.close()
    assert (
        "only 6 connections are left: max_connections is 9, 0 are reserved, "
        "others use 1 and the monitor 2 beside its pool;"
    ) in caplog.text


async def test_a_server_without_room_says_so() -> None:
    async with running({"max_connections": "5", "superuser_reserved_connections": "0"}) as server:
        others = [await asyncpg.connect(server.url()) for _ in range(5)]
        try:
            async with pool_of(server.url()) as pool:
                with pytest.raises(PoolUnreachable, match="53300"):
                    await one(pool)
                await others.pop().close()
                await eventually(pool)
        finally:
            for other in others:
                await other.close()


# -- faults


async def test_a_database_that_comes_later() -> None:
    async with running() as server:
        await server.stop()
        async with pool_of(server.url(), least=1, acquire=0.2) as pool:
            with pytest.raises(PoolUnreachable, match=r"[Cc]onnect"):
                await one(pool)
            assert pool.numbers().connects == 0
            await server.start()
            await eventually(pool)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_is_survived(how: str) -> None:
    async with running() as server, pool_of(server.url(), least=2) as pool:
        await one(pool)
        await getattr(server, how)()
        with pytest.raises((PoolUnreachable, PoolTimeout, asyncpg.PostgresError, OSError)):
            await one(pool)
        await server.start()
        await eventually(pool)
        await until(lambda: pool.numbers().failure is None)


async def test_connections_that_the_server_ended_are_not_lent(database: str) -> None:
    async with pool_of(database, least=2, most=2) as pool:
        await one(pool)
        await until(lambda: pool.numbers().total == 2)
        admin = await asyncpg.connect(database)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
            APPLICATION,
        )
        await admin.close()
        await eventually(pool)
        assert pool.admission.held == 0


@contextlib.asynccontextmanager
async def ended_unnoticed(server: Postgres, database: str) -> AsyncIterator[Pool]:
    """A pool whose one connection the server has ended: it was told so, and the end is still on its way."""
    async with pool_through(server, database, most=1) as (relay, pool):
        process = await one(pool, "SELECT pg_backend_pid()")
        relay.closes.clear()
        admin = await asyncpg.connect(database)
        await admin.execute("SELECT pg_terminate_backend($1)", process)
        await relay.ended.wait()
        # by then what was sent before has arrived
        await admin.fetchval("SELECT 1")
        try:
            yield pool
        finally:
            relay.closes.set()
            await admin.close()


async def test_one_that_has_ended_while_it_was_idle_is_told_as_lost(server: Postgres, database: str) -> None:
    async with ended_unnoticed(server, database) as pool:
        with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="idle"):
            async with pool.acquire("test") as connection, connection.transaction():
                raise AssertionError
        assert pool.numbers().errors == {"08": 1}
        assert await one(pool) == 1


async def test_one_that_has_ended_is_not_lent_after_long_idleness(
    server: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool_monitor.pool.PING_AFTER_SECONDS", -1.0)
    async with ended_unnoticed(server, database) as pool:
        assert await one(pool) == 1


async def test_a_connection_that_ends_in_a_transaction_is_counted_by_its_reason(database: str) -> None:
    seen = Seen()
    async with pool_of(database, seen, most=1) as pool:
        with pytest.raises(asyncpg.AdminShutdownError):
            async with pool.acquire("test") as connection, connection.transaction():
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await one(pool) == 1
        assert pool.numbers().errors == {"57": 1}
    assert seen.failures == ["57"]


async def test_what_ends_each_connection_is_told_of_once_until_one_works(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def end_it() -> None:
        with pytest.raises(asyncpg.AdminShutdownError):
            await one(pool, "SELECT pg_terminate_backend(pg_backend_pid())")

    async with pool_of(database, most=1) as pool:
        for _ in range(3):
            await end_it()
        assert caplog.text.count("every connection is replaced") == 1
        await one(pool)
        await end_it()
        assert caplog.text.count("every connection is replaced") == 2
        assert pool.numbers().errors == {"57": 4}


async def test_a_frozen_server_holds_nobody_longer_than_agreed() -> None:
    async with running() as server, pool_of(server.url(), query=0.2, acquire=0.3) as pool:
        await one(pool)
        server.send(signal.SIGSTOP)
        try:
            began = asyncio.get_running_loop().time()
            with pytest.raises((TimeoutError, PoolTimeout, PoolUnreachable)):
                await one(pool)
            with pytest.raises((TimeoutError, PoolTimeout, PoolUnreachable)):
                await one(pool)
            assert asyncio.get_running_loop().time() - began < 8
        finally:
            server.send(signal.SIGCONT)
        await eventually(pool)


async def test_an_old_primary_is_let_go_of(database: str, caplog: pytest.LogCaptureFixture) -> None:
    admin = await asyncpg.connect(database)
    await admin.execute("CREATE TABLE t (i int)")
    async with pool_of(database, most=2) as pool:
        before = await one(pool, "SELECT pg_backend_pid()")
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await one(pool, "INSERT INTO t VALUES (1)", read_only=True)
        after = await one(pool, "SELECT pg_backend_pid()")
        assert after != before
        assert pool.numbers().errors == {"25": 1}
    await admin.close()
    assert "Exception in callback" not in caplog.text


class Relay:
    """A TCP relay that can stop answering without closing anything.

    closes -- what has ended on one side is closed once it is set. ended -- a server said that it ends one.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = spare_port()
        self.silent = False
        self.muted = 0
        self.closes, self.ended = asyncio.Event(), asyncio.Event()
        self.closes.set()
        self._opened = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._opened += 1
        number = self._opened
        with contextlib.suppress(OSError, asyncio.CancelledError):
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await asyncio.gather(self._pass(reader, other_writer, number), self._pass(other_reader, writer, number))
            finally:
                other_writer.close()
                writer.close()

    def mute_open(self) -> None:
        """From now on, connections that are open now carry nothing any more."""
        self.muted = self._opened

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        while data := await reader.read(65536):
            if not self.silent and number > self.muted:
                writer.write(data)
                await writer.drain()
            if b"57P01" in data:
                self.ended.set()
        await self.closes.wait()
        writer.close()

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def pool_through(server: Postgres, database: str, **changes: object) -> AsyncIterator[tuple[Relay, Pool]]:
    """A relay to the server, and a pool that has its connections through it."""
    async with (
        Relay(server.port) as relay,
        pool_of(database.replace(str(server.port), str(relay.port)), None, **changes) as pool,
    ):
        yield relay, pool


async def test_a_network_that_swallows_everything(server: Postgres, database: str) -> None:
    async with pool_through(server, database, query=0.2, acquire=0.3) as (relay, pool):
        await one(pool)
        relay.silent = True
        with pytest.raises((TimeoutError, PoolTimeout, PoolUnreachable)):
            await one(pool)
        with pytest.raises((TimeoutError, PoolTimeout, PoolUnreachable)):
            await one(pool)
        relay.silent = False
        await eventually(pool)
        assert pool.admission.held == 0


async def test_a_connection_that_was_idle_for_long_is_asked_first(
    server: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool_monitor.pool.PING_AFTER_SECONDS", 0.0)
    monkeypatch.setattr("pool_monitor.pool.PING_SECONDS", 0.1)
    async with pool_through(server, database, acquire=5) as (relay, pool):
        first = await one(pool, "SELECT pg_backend_pid()")
        relay.mute_open()
        assert await one(pool, "SELECT pg_backend_pid()") != first


async def test_who_leaves_while_a_connection_is_asked_does_not_take_it_along(
    server: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool_monitor.pool.PING_AFTER_SECONDS", 0.0)
    async with pool_through(server, database, most=1, acquire=1) as (relay, pool):
        await one(pool)
        for _ in range(2):
            relay.mute_open()
            task = asyncio.create_task(one(pool))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await one(pool) == 1
        assert pool.admission.held == 0


async def test_who_leaves_while_an_old_connection_is_closed_does_not_take_it_along(
    server: Postgres, database: str
) -> None:
    async with pool_through(server, database, most=1, acquire=1, max_age=0.01) as (relay, pool):
        task = asyncio.create_task(one(pool, "SELECT pg_sleep(0.1)"))
        await until(lambda: bool(pool.numbers().holders))
        await asyncio.sleep(0.03)
        relay.mute_open()
        task.cancel()
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(pool)
        assert pool.admission.held == 0


async def test_when_one_gets_no_answer_the_others_are_asked_first(
    server: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool_monitor.pool.PING_SECONDS", 0.1)
    async with pool_through(server, database, acquire=5, query=0.5) as (relay, pool):
        await asyncio.gather(*(one(pool, "SELECT pg_sleep(0.1)") for _ in range(4)))
        assert pool.numbers().total == 4
        relay.mute_open()
        with pytest.raises(TimeoutError):
            await one(pool)
        for _ in range(4):
            assert await one(pool) == 1


async def test_keep_alives_are_on(database: str) -> None:
    async with pool_of(database) as pool, pool.acquire("look") as connection:
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


async def test_what_asyncpg_forgets_is_known() -> None:
    """If it is told no more, `is_forgotten` can go."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://a:b@127.0.0.1:{server.getsockname()[1]}/c"
        for turns in range(20):
            connecting = asyncio.create_task(asyncpg.connect(url))
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait([connecting])
        del connecting
        await until(lambda: gc.collect() >= 0 and bool(told))
    assert all(map(is_forgotten, told))
    assert not is_forgotten({"message": "an unhandled fault", "exception": ConnectionError("reset")})
