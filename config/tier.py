"""The tier that replicas share: a Redis, each call bounded in time, and never the outage.

After a few failures in a row it is left alone, and tried in the background until it answers; callers wait for none of
that. A single server, the master that Sentinels name, or a cluster (`redis_place`) are all the same to whoever calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from config.redis_place import Mode, Place, read_place
from config.tasks import end
from config.tracing import apart, here

log = logging.getLogger("siding.tier")

CALL_SECONDS = 0.05
CONNECT_SECONDS = 0.5
FAILURES = 3
"""Failures in a row after which the tier is left alone."""
QUIET_SECONDS = 60.0
"""From one word on what is refused to the next."""
REST_SECONDS = 1.0
"""From one try to the next, give or take a fifth, so that replicas do not all come back at once."""
FOLLOW_SECONDS = 0.7
"""For all Sentinels together to say who is the master, where it is only to be seen whether it is still the same."""
MASTERS = 3
"""How often one is looked for until all connections are sure to be to it."""
MAX_CALLS = 32
"""Calls, and so connections to each server; further ones wait within their time: a burst is no storm of connects."""

_Answer = TypeVar("_Answer")
Observe = Callable[["Result", float], None]


class Result(StrEnum):
    """How a call ended."""

    OK = "ok"
    TIMED_OUT = "timed-out"
    FAILED = "failed"


class State(StrEnum):
    """Whether the tier is called."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    """it is being tried"""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script. text -- its source. digest -- by which a server that has had it knows it."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


def _nobody(_: Result, __: float) -> None:
    """Nobody asks."""


class SharedTier:
    """A Redis at `url` (`redis_place`). seconds -- the longest for a call. observe -- told of every call that was made.

    Every call returns None, or False, where the tier cannot be had; none raises.
    """

    def __init__(self, url: str, *, seconds: float = CALL_SECONDS, observe: Observe = _nobody) -> None:
        self.observe = observe
        self._place = read_place(url)
        self._seconds = seconds
        # who has no Redis does not wait for it, with all that it loads
        from config import redis_client  # noqa: PLC0415

        self._redis = redis_client
        self._client, self._closing = redis_client.connected(self._place, seconds)
        self._turns = asyncio.Semaphore(MAX_CALLS)
        self._whereabouts = _whereabouts(self._place)
        self._masters: WeakKeyDictionary[Any, deque[Any]] = WeakKeyDictionary()
        self._trying: asyncio.Task[None] | None = None
        self._failures = 0
        self._quiet_until = 0.0
        self.failed = 0
        self.evictions = 0
        self.state = State.CLOSED

    @property
    def available(self) -> bool:
        """Whether a call would be made now."""
        return self.state is State.CLOSED

    async def read(self, key: str, counters: Sequence[str]) -> tuple[bytes | None, float, list[int]] | None:
        """A value with the seconds it has left, and counters, in one round trip; None where the tier cannot be had.

        A counter that is not there, or no more, begins at the time, in a second one: none ever comes to stand as it
        once stood.
        """

        async def call(client: Any) -> tuple[bytes | None, float, list[int]]:
            pipeline = client.pipeline(transaction=False)
            pipeline.get(key)
            pipeline.pttl(key)
            # one by one: in a cluster they need not be on the same node
            for counter in counters:
                pipeline.get(counter)
            value, left, *counted = await pipeline.execute()
            if None in counted:
                pipeline = client.pipeline(transaction=False)
                for counter in counters:
                    _begin(pipeline, counter)
                    pipeline.get(counter)
                counted = (await pipeline.execute(raise_on_error=False))[1::2]
                for count in counted:
                    if isinstance(count, Exception):
                        raise count
            # a server that does not write gives each caller another number, by which nothing holds
            return value, max(0, left) / 1000, [int(count) if count else time.time_ns() for count in counted]

        return await self.run(call, "PIPELINE GET")

    async def write(self, key: str, value: bytes, seconds: float) -> bool:
        """Keep a value for so long."""

        async def call(client: Any) -> bool:
            await client.set(key, value, px=max(1, round(1000 * seconds)))
            return True

        return await self.run(call, "SET") or False

    async def count_up(self, counters: Mapping[str, int]) -> list[int] | None:
        """Add to each counter what is given with it; how they stand then, None where the tier cannot be had."""

        async def call(client: Any) -> list[int]:
            pipeline = client.pipeline(transaction=False)
            for counter, amount in counters.items():
                _begin(pipeline, counter)
                pipeline.incrby(counter, amount)
            return [int(count) for count in (await pipeline.execute())[1::2]]

        return await self.run(call, "PIPELINE INCRBY")

    async def script(self, script: Script, keys: Sequence[str], *arguments: str | bytes | float) -> Any:
        """What a script answers, whose keys are all in one slot; None where the tier cannot be had."""
        return await self.run(lambda client: self.run_script(client, script, keys, *arguments), "EVALSHA")

    async def run_script(
        self, client: Any, script: Script, keys: Sequence[str], *arguments: str | bytes | float
    ) -> Any:
        """Run a script by its digest, or by its text where the server has not had it yet. Raises FAULTS."""
        try:
            return await client.evalsha(script.digest, len(keys), *keys, *arguments)
        except self._redis.NoScriptError:
            return await client.eval(script.text, len(keys), *keys, *arguments)

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """`config.redis_client.FAULTS`."""
        return self._redis.FAULTS

    @property
    def refusal(self) -> type[Exception]:
        """What a call raises that was answered, by a refusal."""
        return self._redis.ResponseError

    async def knock(self) -> None:
        """Ask it for nothing but an answer, unless it is left alone already: so the breaker learns how it stands."""
        if self.state is State.CLOSED:
            await self._ping()

    async def run(self, call: Callable[[Any], Awaitable[_Answer]], command: str = "PIPELINE") -> _Answer | None:
        """What `call` returns, given the client; None where the tier cannot be had. command -- as spans name it."""
        if self.state is not State.CLOSED:
            return None
        return await self._timed(call, self._seconds, command)

    async def _timed(self, call: Callable[[Any], Awaitable[_Answer]], seconds: float, command: str) -> _Answer | None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds), self._turns:
                answer = await call(self._client)
        except self._redis.FAULTS as fault:
            timed_out = isinstance(fault, self._redis.TIMEOUTS)
            self._called(Result.TIMED_OUT if timed_out else Result.FAILED, time.monotonic() - began, command)
            if isinstance(fault, self._redis.ResponseError):
                self._refused(command, str(fault))
            self._fail(fault)
            return None
        self._called(Result.OK, time.monotonic() - began, command)
        self._failures = 0
        return answer

    def _called(self, result: Result, seconds: float, command: str) -> None:
        self.observe(result, seconds)
        trace = here()
        if trace is not None:
            # keys and values stay untold: they speak of who asks for what
            about = {"db.system.name": "redis", "db.operation.name": command, **self._whereabouts}
            trace.past(command, seconds, about, error=None if result is Result.OK else result.value)

    def _refused(self, command: str, why: str) -> None:
        """Say now and then that it answers, but refuses: for want of memory, or of rights for this command alone."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            log.warning("the shared tier refuses %s: %s", command, why)

    def _fail(self, fault: BaseException) -> None:
        self.failed += 1
        self._failures += 1
        if self._failures >= FAILURES and self.state is State.CLOSED:
            log.warning("the shared tier is left alone until it answers again: %s", reason_of(fault))
            self.state = State.OPEN
            self._trying = apart(self._try_again())

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(REST_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - it spreads load
            self.state = State.HALF_OPEN
            if await self._ping():
                break
            self.state = State.OPEN
        self.state = State.CLOSED
        log.info("the shared tier answers again")

    async def _ping(self) -> bool:
        # connecting takes longer than a call on a connection does
        return bool(await self._timed(lambda client: client.ping(), CONNECT_SECONDS + self._seconds, "PING"))

    async def look(self, client: Any) -> None:
        """See how many keys its servers have dropped for want of memory. Raises FAULTS."""
        everywhere = {"target_nodes": self._redis.PRIMARIES} if self._place.mode is Mode.CLUSTER else {}
        found = await client.info("stats", **everywhere)
        servers = found.values() if everywhere and "evicted_keys" not in found else (found,)
        self.evictions = sum(int(server["evicted_keys"]) for server in servers)

    async def follow(self, client: Any) -> None:
        """Leave, for the next call, a server that is no longer the master, where Sentinels know who is.

        It may go on for seconds as if it were, and whoever is connected to it hears of nothing.
        """
        if self._place.mode is Mode.SENTINEL:
            await asyncio.gather(*map(self._follow, (client.connection_pool, self._client.connection_pool)))

    async def _follow(self, pool: Any) -> None:
        masters = self._masters.setdefault(pool, deque([pool.master_address], MASTERS))
        # Sentinels that hang are not to keep the reader from reading
        with suppress(*self._redis.FAULTS):
            async with asyncio.timeout(FOLLOW_SECONDS):
                masters.append(await pool.get_master_address())
            if len(set(masters)) > 1:
                # connections that were in use, or being made, when the pool heard of it are back by now
                await pool.disconnect(inuse_connections=False)

    @asynccontextmanager
    async def listening(self, seconds: float) -> AsyncIterator[Any]:
        """A client of its own that may wait so long for an answer. What it does is not bounded, and raises FAULTS."""
        client, closing = self._redis.connected(self._place, seconds)
        try:
            yield client
        finally:
            await self._redis.closed(closing)

    async def close(self) -> None:
        """Close its connections."""
        await end([self._trying])
        await self._redis.closed(self._closing)


def reason_of(fault: BaseException) -> str:
    """Why it cannot be had, in words: of Sentinels redis-py shows the whole client, and then what they said."""
    return re.sub(r"<redis\.asyncio.*?> - ", "", str(fault)) or type(fault).__name__


def _begin(pipeline: Any, counter: str) -> None:
    pipeline.set(counter, time.time_ns() // 1000, nx=True)


def _whereabouts(place: Place) -> dict[str, str | int]:
    """For spans; which of several servers it was is not known there."""
    if place.mode is Mode.SOCKET:
        return {"db.namespace": str(place.number)}
    if place.mode is not Mode.SINGLE:
        return {}
    [(host, port)] = place.hosts
    return {"db.namespace": str(place.number), "server.address": host, "server.port": port}
