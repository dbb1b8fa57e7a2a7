"""The tuned asyncpg pool behind first-in-first-out admission: warm, bounded, and back by itself after a fault."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import asyncpg

from config.tasks import end
from config.told import Told
from pool_monitor.admission import Admission, Granted, TimedOut
from pool_monitor.faults import FAULTS, READ_ONLY, describe, is_gone, kind_of, reason_of, sqlstate
from pool_monitor.incoming import Incoming
from pool_monitor.pool_stats import Holder, Numbers
from pool_monitor.traces import database_place, pool_waited, queried

log = logging.getLogger("siding.pool")
logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)  # failures to connect are told here, once, in a line

APPLICATION = "siding-monitor"
"""What pg_stat_activity shows as application_name, of the pool's connections."""
OURS = f"{APPLICATION}%"
"""Those of a monitor's other connections begin so, too."""
BESIDE = 2
"""What it has of them for as long as it runs: for the server's statistics, and for news of changed tables."""
WAITS_KEPT = 1000
"""The latest waits, of which percentiles are told."""
PING_AFTER_SECONDS = 15.0
"""A connection that was idle for longer is asked whether it still lives before it is used."""
PING_SECONDS = 1.0
RELEASE_SECONDS = 2.0
"""How long giving back may take (a query may have to be cancelled first); then the connection is cut."""
AGE_JITTER = 0.1
RETRY_SECONDS = (0.1, 5.0)
"""First and longest pause between attempts to reach a database that is not there."""
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
BUDGET = """
SELECT current_setting('max_connections')::int AS allowed,
       current_setting('superuser_reserved_connections')::int
       + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       (SELECT count(*)::int FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND application_name NOT LIKE $1 AND pid <> pg_backend_pid()) AS others
"""
"""The server's connections, and those of others than applications like the given one. Version 16 reserves more."""


async def connected_once(url: str) -> Any:
    """A connection for a command, which closes it.

    Without prepared statements: a PgBouncer would find them again for whoever has the connection next.
    """
    settings = {"application_name": APPLICATION}
    return await asyncpg.connect(url, timeout=10, statement_cache_size=0, server_settings=settings)


def is_forgotten(context: Mapping[str, Any]) -> bool:
    """Whether a loop tells of the future that asyncpg (0.32) forgets where it is given up just as it has connected."""
    return "future" in context and str(context.get("exception")) == "unexpected connection_lost() call"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the plan sets. Durations in seconds. octets -- of a query's answer. pgbouncer -- None: find out."""

    url: str
    most: int
    least: int
    idle: float
    acquire: float
    max_age: float
    statement: float
    query: float
    octets: int
    pgbouncer: bool | None = None


class Observer(Protocol):
    """Told of what happens, as it happens."""

    def waited(self, how: Granted, seconds: float) -> None:
        """A wait for a turn has ended."""

    def connected(self, seconds: float, ok: bool) -> None:
        """An attempt to connect has ended."""

    def used(self, seconds: float) -> None:
        """A connection was given back."""

    def failed(self, sqlstate_class: str) -> None:
        """An error, by the class of its SQLSTATE, or `timeout`."""


class PoolError(Exception):
    """No connection could be had. `code` tells how."""

    code = "database-unavailable"


class PoolTimeout(PoolError):
    """None came free, or none could be made, in time."""

    code = "database-timeout"


class PoolUnreachable(PoolError):
    """The database cannot be reached, or refuses."""

    code = "database-unreachable"


@dataclass(slots=True)
class Record:
    """What is remembered of a connection. Monotonic seconds."""

    born: float
    ends: float
    idle_since: float
    incoming: Incoming
    prepared: bool = False
    """Its codecs for results are set."""


class Tracked(asyncpg.Connection):
    """A connection with its record."""

    __slots__ = ("record",)
    record: Record

    async def _get_statement(self, *arguments: Any, **options: Any) -> Any:
        """What the server says of a statement, and asyncpg asks about its types, is no part of its answer."""
        record: Record | None = getattr(self, "record", None)
        bounds = record.incoming.end() if record is not None else None
        inherited: Any = super()
        statement = await inherited._get_statement(*arguments, **options)
        if record is not None and bounds is not None:
            record.incoming.begin(*bounds)
        return statement


Connection = Any
"""An asyncpg connection, lent by the pool."""


@dataclass(slots=True)
class _Lease:
    name: str
    since: float
    record: Record


class Pool:
    """See the module. `start` returns at once; whoever acquires before the database is reached waits for it.

    clock -- monotonic seconds.
    """

    def __init__(self, tuning: Tuning, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self.tuning = tuning
        self._observer = observer
        self._clock = clock
        self._began = clock()
        self._place = database_place(tuning.url)
        self._bouncer = bool(tuning.pgbouncer)
        self._inner: asyncpg.Pool[Any] | None = None
        self._opened = asyncio.Event()
        self._opener: asyncio.Task[None] | None = None
        self._waits: deque[float] = deque(maxlen=WAITS_KEPT)
        self._leases: dict[int, _Lease] = {}
        self._failure: str | None = None
        self._told = Told()
        self._doubted_at = 0.0
        self._connecting = 0
        self._counts = {"acquired": 0, "timeouts": 0, "cancelled": 0, "connects": 0, "connect_failures": 0}
        self._errors: dict[str, int] = {}
        self.admission = Admission(tuning.most, clock, self._waited)

    # -- life

    def start(self) -> None:
        """Begin to connect."""
        self._opener = asyncio.create_task(self._open())

    async def close(self, seconds: float) -> None:
        """Close every connection; those still lent after `seconds` are cut."""
        await end([self._opener])
        if self._inner is not None:
            try:
                async with asyncio.timeout(seconds):
                    await self._inner.close()
            except TimeoutError:
                self._inner.terminate()

    @property
    def through_pgbouncer(self) -> bool:
        """Whether connections are a PgBouncer's, which keeps no state between transactions."""
        return self._bouncer

    async def _open(self) -> None:
        pause = RETRY_SECONDS[0]
        while True:
            try:
                self._inner = await self._create()
            except Exception as fault:
                if self._finds_pgbouncer(fault):
                    continue
                self._failed_to_connect(fault)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - a spread, not a secret
                pause = min(2 * pause, RETRY_SECONDS[1])
                continue
            self._opened.set()
            await self._check_budget()
            return

    async def _create(self) -> asyncpg.Pool[Any]:
        tuning = self.tuning
        settings = {"application_name": APPLICATION}
        if not self._bouncer:
            settings["statement_timeout"] = str(round(tuning.statement * 1000))
        pool = asyncpg.create_pool(
            tuning.url,
            min_size=tuning.least,
            max_size=tuning.most,
            max_inactive_connection_lifetime=tuning.idle,
            timeout=tuning.acquire,
            command_timeout=tuning.query,
            connect=self._connect,
            connection_class=Tracked,
            statement_cache_size=0 if self._bouncer else 100,
            server_settings=settings,
        )
        return await pool

    def _finds_pgbouncer(self, fault: Exception) -> bool:
        """PgBouncer refuses startup parameters that it does not know: then nothing is left to the session."""
        if not self._is_pgbouncers(fault):
            return False
        log.info("DATABASE_URL is a PgBouncer: no prepared statements are kept, timeouts are set by transaction")
        self._bouncer = True
        return True

    def _is_pgbouncers(self, fault: BaseException) -> bool:
        if self._bouncer or self.tuning.pgbouncer is not None:
            return False
        return isinstance(fault, asyncpg.PostgresError) and "startup parameter" in str(fault)

    async def _connect(self, *arguments: Any, **options: Any) -> Any:
        """Makes a connection, for asyncpg's pool."""
        began = self._clock()
        self._connecting += 1
        try:
            connection = await asyncpg.connect(*arguments, **options)
        except BaseException as fault:
            self._counts["connect_failures"] += 1
            self._observer.connected(self._clock() - began, ok=False)
            if isinstance(fault, Exception) and not self._is_pgbouncers(fault):
                self._failed_to_connect(fault)
            raise
        finally:
            self._connecting -= 1
        now = self._clock()
        life = self.tuning.max_age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311 - a spread
        incoming = Incoming(connection._transport)
        record = cast("Tracked", connection).record = Record(now, now + life, now, incoming)
        try:
            _keep_alive(connection)
        except OSError:
            # it has ended again: then that is found when it is used
            log.debug("a connection was lost as soon as it was made")
        # what is closed is not the connection any more that it was
        connection.add_termination_listener(lambda _: _closed(record))
        self._failure = None
        self._counts["connects"] += 1
        self._observer.connected(now - began, ok=True)
        log.info("connection opened in %.1f ms (server process %s)", 1000 * (now - began), connection.get_server_pid())
        return connection

    def _failed_to_connect(self, fault: Exception) -> None:
        failure = describe(fault, self.tuning.url)
        if failure != self._failure:
            log.error("cannot connect to the database: %s", failure)
        self._failure = failure

    async def _check_budget(self) -> None:
        """Say so at once when the server cannot give as many connections as the pool may want."""
        try:
            connection = await asyncpg.connect(self.tuning.url, timeout=self.tuning.acquire, statement_cache_size=0)
            try:
                row = await connection.fetchrow(BUDGET, OURS, timeout=self.tuning.acquire)
            finally:
                connection.terminate()
        except FAULTS as fault:
            log.warning("the server's connection budget could not be read: %s", describe(fault))
            return
        assert row is not None
        left = row["allowed"] - row["reserved"] - row["others"] - BESIDE
        if self.tuning.most > left:
            log.warning(
                "DB_POOL_MAX is %d, but only %d connections are left: max_connections is %d, %d are reserved, "
                "others use %d and the monitor %d beside its pool; lower DB_POOL_MAX or raise max_connections",
                self.tuning.most,
                max(0, left),
                row["allowed"],
                row["reserved"],
                row["others"],
                BESIDE,
            )

    # -- lending

    @contextlib.asynccontextmanager
    async def acquire(self, name: str, seconds: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection to `name` (a query, a route), within `seconds` in all.

        Raises PoolTimeout and PoolUnreachable. A fault of the connection while it is lent ends it.
        """
        bound = self.tuning.acquire if seconds is None else seconds
        began = self._clock()
        try:
            connection = await self._admit(began + bound, bound)
        except PoolError as fault:
            pool_waited(name, self._clock() - began, fault.code)
            raise
        fault_told: str | None = None
        try:
            lease = _Lease(name, self._clock(), connection.record)
            pool_waited(name, lease.since - began)
            self._leases[id(lease)] = lease
            self._counts["acquired"] += 1
            log.debug("connection acquired by %s", name)
            try:
                yield connection
            except Exception as fault:
                reason = reason_of(fault)
                fault_told = kind_of(reason)
                await self._note(reason)
                if reason is not fault:
                    raise reason from None
                raise
            else:
                self._told.works()
            finally:
                del self._leases[id(lease)]
                used = self._clock() - lease.since
                self._observer.used(used)
                queried(name, used, self._place, fault_told)
                await self._give_back(connection, lease.record)
        finally:
            self.admission.leave()

    async def _admit(self, deadline: float, bound: float) -> Connection:
        """A connection, and the turn that goes with it."""
        await self._reach(bound)
        try:
            await self.admission.enter(max(0.0, deadline - self._clock()))
        except TimedOut:
            self._counts["timeouts"] += 1
            raise PoolTimeout(
                f"no connection came free within {bound:g} s: all {self.tuning.most} are held and "
                f"{self.admission.waiting} others wait"
            ) from None
        try:
            return await self._take(deadline, bound)
        except BaseException:
            self.admission.leave()
            raise

    async def _reach(self, seconds: float) -> None:
        if self._opened.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await self._opened.wait()
        except TimeoutError:
            raise PoolUnreachable(self._failure or "the database has not answered yet") from None

    async def _take(self, deadline: float, bound: float) -> Connection:
        """A connection that lives. Whoever has a turn never waits for another, only for connecting."""
        assert self._inner is not None
        while True:
            left = deadline - self._clock()
            try:
                connection: Connection = await self._inner.acquire(timeout=max(0.001, left))
            except TimeoutError:
                self._counts["timeouts"] += 1
                self._failure = f"connecting took longer than {bound:g} s"
                raise PoolTimeout(self._failure) from None
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
                self._count_error(fault)
                raise PoolUnreachable(describe(fault, self.tuning.url)) from fault
            try:
                if await self._is_fit(connection):
                    return connection
            except BaseException:
                # who asked may leave meanwhile; it is not theirs yet
                await self._drop(connection)
                raise
            await self._drop(connection)

    async def _is_fit(self, connection: Connection) -> bool:
        now, record = self._clock(), cast("Record", connection.record)
        trusted = record.idle_since > max(now - PING_AFTER_SECONDS, self._doubted_at)
        return now < record.ends and (trusted or await _lives(connection))

    async def _drop(self, connection: Connection) -> None:
        """Cut a connection; one that is cut is the pool's again at once, so nothing is waited for."""
        assert self._inner is not None
        with contextlib.suppress(asyncpg.InterfaceError):
            # unless it has ended already
            connection.terminate()
        await self._inner.release(connection)

    async def _give_back(self, connection: Connection, record: Record) -> None:
        assert self._inner is not None
        now = self._clock()
        record.idle_since = now
        try:
            if now >= record.ends and not connection.is_closed():
                await connection.close(timeout=RELEASE_SECONDS)
            await self._inner.release(connection, timeout=RELEASE_SECONDS)
        except FAULTS as fault:
            log.warning("connection cut: it could not be given back: %s", describe(fault))

    async def _note(self, fault: Exception) -> None:
        """Count an error of the database, and let go of what a fail-over or a restart has made useless."""
        if not isinstance(fault, (asyncpg.PostgresError, OSError, TimeoutError)):
            # asyncpg's InterfaceError is about how it was called
            return
        self._count_error(fault)
        if isinstance(fault, TimeoutError) and fault.errno is None:
            # a bound of ours ran out: it was slow, or the network is gone, and then the others are of no use either
            self._doubted_at = self._clock()
            return
        state = sqlstate(fault)
        if state == READ_ONLY or is_gone(fault):
            if self._told.news(describe(fault)):
                log.error("connection error %s: every connection is replaced: %s", state, describe(fault))
            assert self._inner is not None
            await self._inner.expire_connections()

    def _count_error(self, fault: BaseException) -> None:
        kind = "timeout" if isinstance(fault, TimeoutError) else sqlstate(fault)[:2]
        self._errors[kind] = self._errors.get(kind, 0) + 1
        self._observer.failed(kind)

    # -- accounts

    def _waited(self, how: Granted, seconds: float) -> None:
        if how is Granted.CANCELLED:
            self._counts["cancelled"] += 1
        self._waits.append(seconds)
        self._observer.waited(how, seconds)

    def numbers(self) -> Numbers:
        """The pool now. Takes no connection and never waits."""
        now, inner = self._clock(), self._inner
        return Numbers(
            most=self.tuning.most,
            least=self.tuning.least,
            total=(inner.get_size() if inner is not None else 0) + self._connecting,
            idle=inner.get_idle_size() if inner is not None else 0,
            waiting=self.admission.waiting,
            connecting=self._connecting,
            oldest_wait=self.admission.oldest_wait(),
            waits=tuple(self._waits),
            holders=tuple(Holder(lease.name, now - lease.since) for lease in self._leases.values()),
            errors=dict(self._errors),
            uptime=now - self._began,
            failure=self._failure,
            **self._counts,
        )


def _closed(record: Record) -> None:
    log.info("connection closed (%.0f s old)", time.monotonic() - record.born)


async def _lives(connection: Connection) -> bool:
    try:
        await connection.execute("SELECT 1", timeout=PING_SECONDS)
    except FAULTS:
        return False
    return True


def _keep_alive(connection: Any) -> None:
    """Let the system find a peer that is gone without a word; asyncpg has no setting for it."""
    sock = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
