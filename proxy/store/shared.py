"""Stored responses that replicas share, and who of them asks the origin.

Under each cache key there is a hash of records (`record`), one for each secondary key, with the number of the lease by
which it was written (a fencing token: who was held up and comes too late overwrites nothing newer), and beside it a
lease for each request that somebody asks the origin about:

    asked for --> leased, kept alive by its leader --> filled: the record is there, and told to whoever waits
                        | leader gone: ends by itself  `-> alone: not to be shared, everybody asks for himself
                        `-> the next who waits leads

Nothing here is needed to answer: where the tier cannot be had, every method says so, within the time for a call.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from config.bulletin import Standing
from config.tasks import end
from config.tier import Script, SharedTier
from config.tracing import apart
from proxy.policy.cache_key import CREDENTIAL_FIELDS
from proxy.policy.messages import StoredResponse
from proxy.policy.reuse import worth_keeping
from proxy.store.invalidations import Invalidations, Validity
from proxy.store.notices import Notices
from proxy.store.record import as_of, packed, unpacked

log = logging.getLogger("siding.shared")

LEASE_SECONDS = 1.5
"""After so long without a sign of life of its leader a lease ends, and another leads."""
BEAT_SECONDS = 0.5
ALONE_SECONDS = 1.0
"""How long those who wait, and those who come, are told that an answer is not to be shared."""
END_SECONDS = 0.1
"""After so long the end of a lease is told again, if it could not be."""
LOOK_SECONDS = 0.25
"""Who waits looks as often himself: a whisper may be lost."""
MOST_RECORD_SECONDS = 7 * 86_400.0
MAX_WRITES = 128
"""Records on their way; further ones are not shared."""

_NOW = """
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
"""
_READ = Script(_NOW + "return {now, redis.call('HGETALL', KEYS[1])}")
_LEAD = Script(
    _NOW
    + """
local held = redis.call('GET', KEYS[2])
if held == 'alone' then return {'alone', 0} end
if held then return {'held', redis.call('PTTL', KEYS[2])} end
local latest = redis.call('HGET', KEYS[1], 'token')
if latest and tonumber(latest) > tonumber(ARGV[1]) then return {'filled', 0} end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
return {'led', now}
"""
)
"""Keys: records, lease. Arguments: the latest token that was seen, how long a lease is, whose it is."""
_BEAT = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
)
_KEEP = Script(
    _NOW
    + """
local token = ARGV[1] ~= '' and ARGV[1] or now
local had = redis.call('HGET', KEYS[1], 'token ' .. ARGV[2])
if had and tonumber(had) > tonumber(token) then return 0 end
local sum = #ARGV[3]
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, 7) == 'record ' and name ~= 'record ' .. ARGV[2] then
    sum = sum + redis.call('HSTRLEN', KEYS[1], name)
  end
end
if sum > tonumber(ARGV[5]) then redis.call('DEL', KEYS[1]) end
local latest = redis.call('HGET', KEYS[1], 'token')
if not latest or tonumber(latest) < tonumber(token) then latest = token end
redis.call('HSET', KEYS[1], 'record ' .. ARGV[2], now .. ' ' .. ARGV[3], 'token ' .. ARGV[2], token, 'token', latest)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
)
"""Keys: records. Arguments: token or nothing, secondary key, record, milliseconds, most octets of all records."""
_END = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
)
"""Keys: lease. Arguments: whose it is, what it is from now on or nothing, for how many milliseconds."""


class LeaseOutcome(StrEnum):
    """What became of asking who asks the origin."""

    LED = "led"
    FILLED = "filled"
    """another replica has asked, and its answer is there"""
    ALONE = "alone"
    """another has asked, and its answer is not to be shared"""
    AWAY = "away"
    """the tier could not be had: collapsing goes on in this process"""


@dataclass(slots=True)
class Moved:
    """Octets of records, since the start."""

    read: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the records of a cache key are, and the lease of one request. name -- whispered when it ends."""

    records: str
    lease: str
    name: str


@dataclass(slots=True)
class Lease:
    """The right to ask the origin. holder -- whose it is. token -- higher than that of every earlier one."""

    place: Place
    holder: str
    token: bytes = b""
    ended: bool = False
    beating: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the tier had under a key. token -- of the latest record, 0 without one."""

    responses: tuple[StoredResponse, ...] = ()
    token: int = 0


@dataclass(frozen=True, slots=True)
class Led:
    """lease -- to ask the origin by; None where everybody asks for himself. filled -- what is there now."""

    outcome: LeaseOutcome
    lease: Lease | None = None
    filled: Seen = field(default_factory=Seen)


class SharedStore:
    """See the module. name -- that replicas have in common: it stands in keys, so it tells nothing.

    on -- the flag. here -- what is invalid in this process. secret -- CACHE_SECRET; b"" without one.
    limit -- octets of content above which a response is not shared. wall -- wall clock, seconds.
    """

    def __init__(
        self,
        tier: SharedTier,
        notices: Notices,
        *,
        name: str,
        on: Callable[[], bool],
        here: Invalidations,
        secret: bytes,
        limit: int,
        wall: Callable[[], float],
    ) -> None:
        self._tier = tier
        self._notices = notices
        self._name = name
        self._on = on
        self._here = here
        self._secret = secret
        self._limit = limit
        self._wall = wall
        self._reads: dict[str, asyncio.Task[Seen | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writing = 0
        self.moved = Moved()
        self.leases = dict.fromkeys(LeaseOutcome, 0)
        self.has_secret = bool(secret)

    @property
    def usable(self) -> bool:
        """Whether it is worth asking. Who does not hear of invalidations cannot tell what is valid."""
        return self._on() and self._tier.available and self._notices.bulletin.hears

    def _digest(self, text: str) -> str:
        return hashlib.blake2b(text.encode(), digest_size=16, key=self._secret[:64]).hexdigest()

    def _records(self, key: str) -> str:
        return f"siding:{self._name}:{{{self._digest(key)}}}:records"

    def _place(self, key: str, request: str) -> Place:
        records = self._records(key)
        name = self._digest(request)
        # in the slot of the records
        return Place(records, f"{records.removesuffix('records')}lease:{name}", name)

    # -- finding

    async def find(self, key: str) -> Seen | None:
        """What is stored under a cache key and may be used; None where the tier cannot be had.

        One round trip for all who look for the same at the same time.
        """
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = self._own(asyncio.create_task(self._read(key)))
            task.add_done_callback(lambda _: self._reads.pop(key, None))
        return await asyncio.shield(task)

    async def _read(self, key: str) -> Seen | None:
        if self._notices.bulletin.pending:
            # what is asked for now is asked for after what was just invalidated, if that has its number first
            await self._notices.bulletin.sent(LOOK_SECONDS)
        found = await self._tier.script(_READ, (self._records(key),))
        try:
            return self._seen(key, found) if found is not None else None
        except (ValueError, TypeError, IndexError, AttributeError):
            log.warning("the shared tier gave an answer that makes no sense")
            return None

    def _seen(self, key: str, found: Any) -> Seen:
        now, listed = int(found[0]), found[1]
        responses = []
        token = 0
        for name, value in zip(listed[::2], listed[1::2], strict=True):
            if name == b"token":
                token = int(value)
            elif name.startswith(b"record "):
                self.moved.read += len(value)
                stored = self._judged(value, key, now)
                if stored is not None:
                    responses.append(stored)
        return Seen(tuple(responses), token)

    def _judged(self, value: bytes, key: str, now: int) -> StoredResponse | None:
        written, _, data = value.partition(b" ")
        record = unpacked(data, key, self._secret)
        if record is None or not written.isdigit():
            return None
        state = self._notices.state(record.stored.uri, record.stored.tags, record.asked_at)
        if state is Validity.GONE:
            return None
        elapsed = (now - int(written)) / 1e6
        return as_of(record, elapsed, self._wall(), self._here.epoch, stale=state is Validity.STALE)

    # -- leading

    async def lead(self, key: str, request: str, seen: Seen | None, seconds: float) -> Led:
        """Ask to lead, or wait for who does, at most so long. request -- what tells collapsed requests apart."""
        led = await self._lead(self._place(key, request), key, seen.token if seen is not None else 0, seconds)
        self.leases[led.outcome] += 1
        return led

    async def _lead(self, place: Place, key: str, seen: int, seconds: float) -> Led:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            if not self.usable:
                return Led(LeaseOutcome.AWAY)
            with self._notices.bulletin.listen_for(place.name) as whispered:
                lease = Lease(place, secrets.token_hex(8))
                try:
                    got = await self._tier.script(
                        _LEAD, (place.records, place.lease), seen, round(1000 * LEASE_SECONDS), lease.holder
                    )
                except asyncio.CancelledError:
                    # whether it was given is not known
                    self.release(lease, alone=False)
                    raise
                match got:
                    case [b"led", bytes(token)]:
                        lease.token = token
                        lease.beating = self._begin(self._beat(lease))
                        return Led(LeaseOutcome.LED, lease)
                    case [b"filled", _]:
                        found = await self._read(key)
                        outcome = LeaseOutcome.AWAY if found is None else LeaseOutcome.FILLED
                        return Led(outcome, filled=found or Seen())
                    case [b"alone", _]:
                        return Led(LeaseOutcome.ALONE)
                    case [b"held", int(left)]:
                        await whispered(max(0.001, min(LOOK_SECONDS, left / 1000, until - loop.time())))
                    case _:
                        return Led(LeaseOutcome.AWAY)
        return Led(LeaseOutcome.ALONE)

    async def _beat(self, lease: Lease) -> None:
        while not lease.ended:
            await asyncio.sleep(BEAT_SECONDS)
            await self._tier.script(_BEAT, (lease.place.lease,), lease.holder, round(1000 * LEASE_SECONDS))

    # -- ending

    @property
    def standing(self) -> Standing:
        """Up to where the log's invalidations are known to have been before now."""
        return self._notices.standing

    def keep(self, stored: StoredResponse, asked_at: Standing, lease: Lease | None) -> None:
        """Share a response in the background, and end the lease by which its origin was asked.

        asked_at -- `standing` before it was.
        """
        if lease is not None:
            lease.ended = True
        if not self._shareable(stored) or self._writing >= MAX_WRITES:
            if lease is not None:
                self._begin(self._end(lease, shared=False))
            return
        self._begin(self._keep(stored, asked_at, lease))

    def _shareable(self, stored: StoredResponse) -> bool:
        if not self._on() or stored.part is not None or len(stored.content) > self._limit:
            return False
        return not any(name in CREDENTIAL_FIELDS for name, _ in stored.secondary_key)

    async def _keep(self, stored: StoredResponse, asked_at: Standing, lease: Lease | None) -> None:
        self._writing += 1
        kept = False
        try:
            now = self._wall()
            record = packed(stored, now, asked_at, self._secret)
            seconds = min(MOST_RECORD_SECONDS, worth_keeping(stored, now))
            secondary = self._digest(repr(stored.secondary_key))
            arguments = (lease.token if lease is not None else b"", secondary, record)
            kept = bool(
                await self._tier.script(
                    _KEEP, (self._records(stored.key),), *arguments, max(1, round(1000 * seconds)), 2 * self._limit
                )
            )
            if kept:
                self.moved.written += len(record)
        finally:
            self._writing -= 1
            if lease is not None:
                await self._end(lease, shared=kept)

    def release(self, lease: Lease, *, alone: bool) -> None:
        """End a lease without a response. alone -- its answer is not to be shared; else the next who waits leads."""
        if not lease.ended:
            lease.ended = True
            self._begin(self._end(lease, shared=not alone))

    async def _end(self, lease: Lease, *, shared: bool) -> None:
        if lease.beating is not None:
            lease.beating.cancel()
        state = b"" if shared else b"alone"
        arguments = (lease.holder, state, round(1000 * ALONE_SECONDS))
        for _ in range(round(LEASE_SECONDS / END_SECONDS)):
            if await self._tier.script(_END, (lease.place.lease,), *arguments) is not None:
                break
            # who waits would wait for the end of the lease
            await asyncio.sleep(END_SECONDS)
        await self._notices.bulletin.whisper(lease.place.name)

    # -- life

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self._own(apart(work))

    def _own(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("sharing with other replicas failed", exc_info=fault)

    async def close(self) -> None:
        """Finish what is on its way, which is bounded in time, and end the rest."""
        writing = [task for task in self._tasks if not task.done()]
        if writing:
            await asyncio.wait(writing, timeout=2 * BEAT_SECONDS)
        await end(self._tasks)
