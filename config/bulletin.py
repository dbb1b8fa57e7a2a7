"""A log that all replicas write to and read: each hears of every entry, in one order, whenever it was away.

The entries are numbered, and stand in a Redis stream; its readers wait on it, so they hear within a round trip. One
that was away goes on where it was. A log of which something is missing is told apart by a gap in the numbers, and one
that began anew (a Redis that lost its data) by its generation. Beside the entries go whispers, which may be lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import orjson

from config.tasks import end
from config.tier import Script, SharedTier, reason_of
from config.tracing import apart
from config.words import counted

log = logging.getLogger("siding.bulletin")

KEPT_ENTRIES = 20_000
"""Who was away for longer than that takes as missed whatever there was."""
MARK_BITS = 48
LAST_MARK = str(2**64 - 1)
"""An entry's id is its number and a mark, by which it is told from another that was given its number."""
KEPT_WHISPERS = 1_000
MOST_AT_ONCE = 500
MOST_PENDING = 10_000
WAIT_SECONDS = 0.5
"""How long a reader waits for news before it looks whether the log is still the same."""
DEAF_SECONDS = 1.5
"""Without a sign of life for so long, nothing that has been heard can be relied on."""
RETRY_SECONDS = 0.5
READ_SECONDS = 2.0
CLOSE_SECONDS = 2.0
"""So long who ends tries to tell the rest: more than once, for it may be a single call that fails."""
LOOK_SECONDS = 10.0
FOLLOW_SECONDS = 1.0
"""How often a reader asks whether the server is still the one to ask, and the log the one that it reads: where whispers
come all the time it never waits in vain, and another log may have no later number for long."""

_BEGIN = """
local info = redis.pcall('INFO', 'replication')
local server = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''
local state = redis.call('HMGET', KEYS[1], 'generation', 'last', 'server')
local lost = not state[1] or (server ~= '' and state[3] and state[3] ~= '' and state[3] ~= server)
if state[1] == ARGV[2] then
  lost = lost or tonumber(state[2]) < tonumber(ARGV[3])
  local there = redis.call('XRANGE', KEYS[2], ARGV[3] .. '-0', ARGV[3] .. '-18446744073709551615', 'COUNT', 1)
  lost = lost or (there[1] and ARGV[4] ~= '' and there[1][1] ~= ARGV[3] .. '-' .. ARGV[4])
end
if lost then
  local time = redis.call('TIME')
  local last = math.max(time[1] * 1000000 + time[2], tonumber(ARGV[3]) + 1, tonumber(state[2] or 0) + 1)
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'last', string.format('%.0f', last), 'server', server)
end
"""
"""Arguments: a new generation; the generation, and number and mark of the last entry, that the caller knows.

A server that has lost the log, or its end (be there another entry by that number), begins a new one. So does one that
has taken another's place, or was started anew, for nobody can tell what it did not get: the history of its data has
another name then (`master_replid`, where it may be asked for). Its numbers go on from the time, in microseconds, so
that none is ever given twice: what was marked with an older number, and comes late, is older than all that follows.
"""
_HELLO = Script(
    _BEGIN
    + """
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
local whisper = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
return {redis.call('HGETALL', KEYS[1]), first[1] and first[1][1] or '', whisper[1] and whisper[1][1] or '0-0'}
"""
)
"""Keys: state, entries, whispers. Arguments as for the beginning. The state, first entry's id, last whisper's."""
_TELL = Script(
    _BEGIN
    + """
local count = tonumber(ARGV[10])
local log = redis.call('HGET', KEYS[1], 'generation')
local last = tonumber(redis.call('HGET', KEYS[1], 'last'))
local there = log == ARGV[8] and tonumber(ARGV[9]) or 0
for i = 11 + 2 * count + there, #ARGV do
  last = redis.call('HINCRBY', KEYS[1], 'last', 1)
  local id = string.format('%.0f-', last) .. ARGV[5]
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], id, 'log', log, 'by', ARGV[6], 'entry', ARGV[i])
end
for i = 11, 10 + 2 * count, 2 do
  redis.call('HSET', KEYS[1], 'kept ' .. ARGV[i], ARGV[i + 1], 'at ' .. ARGV[i], string.format('%.0f', last))
end
return {log, last}
"""
)
"""Keys: state, entries. Arguments: as for the beginning, the entries' mark, who tells, how many entries are kept, a log
and how many of the entries it has already, how many things to keep with the state, their names and values, then the
entries. The log, and the last one's number, which is kept beside the names: who has heard more than that knows better
than a server that has an old copy of its data."""
_NEXT = Script("""
local next = redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', '+', 'COUNT', 1)
return {redis.call('HGETALL', KEYS[1]), next[1] and next[1][1] or ''}
""")
"""Keys: state, entries. Argument: a number. The state, and the id of the first entry from there on."""

NOWHERE = ("", 0)
Entry = list[Any]


class Standing(NamedTuple):
    """A place in a log: only places in the same one can be compared. log -- its generation."""

    log: str
    number: int


class Reader(Protocol):
    """Who hears of the entries. None of this may raise."""

    def began(self, number: int, since: int) -> None:
        """Everything after `number` will be told, from now on; what was before is not known. It may be another log.

        since -- from there on it has been known here that this is the log: what was told to others before is not in it.
        """

    def took(self, number: int, by: str, entry: Entry) -> None:
        """An entry. by -- who told it."""

    def missed(self, *, surely: bool) -> None:
        """There were, or (not surely) may have been, entries that nobody can tell any more; `began` follows."""

    def moved(self, stands: Collection[str]) -> tuple[Sequence[Entry], Mapping[str, Any]]:
        """What the readers of another log are to be told by who comes to it, and may have told things elsewhere.

        And what is to be kept with it beside what `stands`: a server that lost its data has lost that, too.
        """
        ...

    def kept(self, kept: Mapping[str, Any], upto: int) -> None:
        """What is kept with the log, where not all of it may have been heard; entries up to that number say no more.

        What is still to be told here (`Bulletin.is_newer`) is newer.
        """

    def logged(self, left: int, upto: Standing) -> None:
        """What was told here is in a log up to there, all but the last `left` entries. It need not be the one read."""


class Bulletin:
    """See the module. name -- of the log, without anything secret. by -- of who tells; None: this one alone."""

    def __init__(self, tier: SharedTier, name: str, reader: Reader, by: str | None = None) -> None:
        self._tier = tier
        self.by = by or secrets.token_hex(8)
        self._reader = reader
        # one slot of a cluster for all of it
        self._state = f"siding:{{{name}}}:log"
        self._entries, self._whispers = f"{self._state}:entries", f"{self._state}:whispers"
        self._generation = ""
        self.position = 0
        self.published, self._published_in = 0, ""
        self._mark = self._own_mark = ""
        self.told = self.heard = 0
        self._last_whisper = "0-0"
        self._greeted = 0
        # from there on this has been known to be the log
        self._since = 0
        self._heard_at = -DEAF_SECONDS
        self._deaf = False
        self._pending: list[bytes] = []
        # of all entries, the number of the last that is there or was, and of the first that no log has
        self._last, self._first = 0, 1
        self._progress = asyncio.Event()
        self._keeping: dict[str, bytes] = {}
        # where it was told here, last
        self._kept_at: dict[str, Standing] = {}
        # another log than the one that is read, and how many of those have been told to it
        self._elsewhere = NOWHERE
        self._sending: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._others: Collection[str] = ()
        self._closing = False
        self._waiting: dict[str, set[asyncio.Event]] = {}

    # -- telling

    @property
    def read(self) -> Standing:
        """Up to where the log has been read."""
        return Standing(self._generation, self.position)

    @property
    def known(self) -> Standing:
        """Up to where there are entries, as far as is known here."""
        ours = self.published if self._published_in == self._generation else 0
        return Standing(self._generation, max(self.position, ours))

    @property
    def settled(self) -> bool:
        """Whether everything told here has come back to here, and so to everybody who listens."""
        return not self.pending and self.position >= self.published

    @property
    def pending(self) -> bool:
        """Whether something is still to be told."""
        return self.untold > 0

    @property
    def untold(self) -> int:
        """How much is still to be told."""
        return len(self._pending) + len(self._keeping)

    def is_telling(self, name: str) -> bool:
        """Whether what is told here of `name`, which is kept, has no place in a log yet, as far as is known here."""
        return name in self._keeping

    def is_newer(self, name: str, number: int) -> bool:
        """Whether what was told here of `name` comes after that entry of the log that is read."""
        at = self._kept_at.get(name)
        return self.is_telling(name) or (at is not None and at.log == self._generation and at.number > number)

    def tell(
        self, entries: Sequence[Entry], keep: Mapping[str, Any] | None = None, instead: Sequence[Entry] = ()
    ) -> None:
        """Tell in the background, however long it takes. keep -- what is kept with the log, for those who come later.

        instead -- what is told where too much waits to be told.
        """
        self._pending += [orjson.dumps(entry) for entry in entries]
        self._keeping |= {name: orjson.dumps(value) for name, value in (keep or {}).items()}
        if len(self._pending) > MOST_PENDING and instead:
            self._pending, self._elsewhere = [orjson.dumps(entry) for entry in instead], NOWHERE
        # of those instead the last stands for all that they replace
        self._last += len(entries)
        if self._sending is None or self._sending.done():
            self._sending = apart(self._send())

    async def sent(self, seconds: float, names: Collection[str] = ()) -> bool:
        """Wait until the log has what was told so far, whatever is told meanwhile, and what is kept of those names.

        False where it does not within that time.
        """
        last = self._last

        def is_there() -> bool:
            return self._first > last and not any(map(self.is_telling, names))

        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not is_there():
                    await self._progress.wait()
        return is_there()

    async def _send(self) -> None:
        while self.pending and not self._closing:
            batch = self._pending[:MOST_AT_ONCE]
            # with the last entry: what is told of it last, and what is kept, are to be the same
            keeping = dict(self._keeping) if len(batch) == len(self._pending) else {}
            pairs = [part for pair in keeping.items() for part in pair]
            mark = str(secrets.randbits(MARK_BITS))
            # it may last, and what is told there each time would soon be all that there is
            elsewhere = NOWHERE if self._elsewhere[0] == self._generation else self._elsewhere
            arguments = (mark, self.by, KEPT_ENTRIES, *elsewhere, len(keeping), *pairs, *batch)
            got = await self._tier.script(_TELL, (self._state, self._entries), *self._known(), *arguments)
            match got:
                case [bytes(its), int(last)] if its.decode() != elsewhere[0] and self._generation in {"", its.decode()}:
                    upto = Standing(its.decode(), last)
                case [bytes(its), int()]:
                    # what went into another log than the one that is read here is told again
                    if self._pending[: len(batch)] == batch:
                        self._elsewhere = its.decode(), len(batch)
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                case _:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
            self._elsewhere = NOWHERE
            # what was replaced meanwhile, or told again, is still to be told
            if self._pending[: len(batch)] == batch:
                self._pending = self._pending[len(batch) :]
                self._first = self._last + 1 - len(self._pending)
                for name, value in keeping.items():
                    self._kept_at[name] = upto
                    if self._keeping.get(name) is value:
                        del self._keeping[name]
            self._published_in, self.published, self._own_mark = *upto, mark if batch else ""
            self.told += len(batch)
            self._reader.logged(len(self._pending), upto)
            self._progress.set()
            self._progress = asyncio.Event()

    async def whisper(self, word: str) -> None:
        """Say to whoever waits for it now."""

        async def call(client: Any) -> bool:
            await client.xadd(self._whispers, {"word": word}, maxlen=KEPT_WHISPERS, approximate=True)
            return True

        await self._tier.run(call)

    # -- hearing

    @property
    def hears(self) -> bool:
        """Whether news arrive."""
        return time.monotonic() - self._heard_at < DEAF_SECONDS

    @contextmanager
    def listen_for(self, word: str) -> Iterator[Callable[[float], Awaitable[None]]]:
        """Listen for a word from now on; what is given waits until it is whispered, at most so many seconds."""
        event = asyncio.Event()
        self._waiting.setdefault(word, set()).add(event)

        async def whispered(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()

        try:
            yield whispered
        finally:
            waiting = self._waiting[word]
            waiting.discard(event)
            if not waiting:
                del self._waiting[word]

    def start(self, others: Collection[str] = ()) -> None:
        """Begin to read.

        others -- logs that are read by who tells this one what it tells there. What they read in another than the one
        that is found is not in that.
        """
        self._others = others
        self._reading = asyncio.create_task(self._read_on())

    async def _read_on(self) -> None:
        looked = followed = -LOOK_SECONDS
        while not self._closing:
            try:
                async with self._tier.listening(READ_SECONDS) as client:
                    await self._greet(client)
                    # what there is, and whether it may be read at all
                    await self._read(client, None)
                    while not self._closing:
                        await self._read(client, WAIT_SECONDS)
                        if time.monotonic() - looked >= LOOK_SECONDS:
                            looked = time.monotonic()
                            await self._tier.look(client)
                        if time.monotonic() - followed >= FOLLOW_SECONDS:
                            followed = time.monotonic()
                            await self._tier.follow(client)
                            await self._greet(client)
            except self._tier.faults as fault:
                self._lost(fault)
                # where nothing else is asked, the breaker would never know that nobody answers
                await self._tier.knock()
            except Exception:
                log.exception("reading the log of the replicas failed")
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - it spreads load

    def _lost(self, fault: BaseException) -> None:
        """Say once why nothing is heard; that a connection was lost and made again is not worth a word."""
        if not self._deaf and not self.hears:
            self._deaf = True
            why = "the shared tier cannot be used, for the log of the replicas cannot be read: %s"
            log.warning(why, reason_of(fault))

    def _known(self) -> tuple[str, str, int, str]:
        """Arguments of the beginning."""
        if self._published_in == self._generation and self.published >= self.position and self._own_mark:
            return secrets.token_hex(8), self._generation, self.published, self._own_mark
        return secrets.token_hex(8), self._generation, self.position, self._mark

    async def _greet(self, client: Any) -> None:
        """Find the place in the log."""
        keys = (self._state, self._entries, self._whispers)
        listed, first, whisper = await self._tier.run_script(client, _HELLO, keys, *self._known())
        state = _state_of(listed)
        place = Standing(state[b"generation"].decode(), int(state[b"last"]))
        if place.log == self._generation:
            self._greeted = place.number
            if place.number > self.position and (not first or _number(first) > self.position + 1):
                await self._skip(client)
            return
        start = _number(first) - 1 if first else place.number
        known = bool(self._generation)
        elsewhere = known or any(others != place.log for others in self._others)
        stands = _kept_in(state)
        since, again = start, frozenset[str]()
        if elsewhere:
            taken = await self._take_place(client, place, self._unheard(state, stands))
            if taken is None:
                # it is yet another by now
                return await self._greet(client)
            since, again = taken
        # from here on without a break: nothing may be judged by the numbers of another log
        self._generation, self.position, self._mark, self._others = place.log, start, "", ()
        self._greeted, self._since = place.number, since
        self._last_whisper = whisper.decode()
        if self._published_in != place.log:
            self.published = 0
        if known:
            log.warning("the log of the replicas began anew: what was told meanwhile may have been lost")
            self._reader.missed(surely=False)
        self._reader.began(start, since)
        self._told_kept({name: value for name, value in stands.items() if name not in again}, place.number)

    def _unheard(self, state: Mapping[bytes, bytes], stands: Collection[str]) -> Collection[str]:
        """What of that was told after all that has been heard here, by the numbers, which are never given twice."""
        return [name for name in stands if int(state.get(f"at {name}".encode(), 0)) > self.position]

    def _told_kept(self, stands: Mapping[str, bytes], upto: int) -> None:
        self._reader.kept({name: orjson.loads(value) for name, value in stands.items()}, upto)

    async def _take_place(
        self, client: Any, place: Standing, stands: Collection[str]
    ) -> tuple[int, frozenset[str]] | None:
        """A number after all that was asked before this log was known here; None if it is this log no more.

        And what is kept from here, which does not stand there, or outdated.

        It may have been there all the time, beside the other, while two servers believed to be the master: then what
        was told to the other its readers do not know either.
        """
        entries, keep = self._reader.moved(stands)
        pairs = [part for name, value in keep.items() for part in (name, orjson.dumps(value))]
        mark = str(secrets.randbits(MARK_BITS))
        told = (mark, self.by, KEPT_ENTRIES, *NOWHERE, len(keep), *pairs, *map(orjson.dumps, entries))
        known = (secrets.token_hex(8), *place, "")
        generation, number = await self._tier.run_script(client, _TELL, (self._state, self._entries), *known, *told)
        return (int(number), frozenset(keep)) if generation.decode() == place.log else None

    async def _skip(self, client: Any, *, foreign: bool = False) -> None:
        """Go on where the log begins, or where the next entry is, when those before are no more there.

        foreign -- the next entry is another log's, though it stands in this one: somebody has put it there.
        """
        listed, following = await self._tier.run_script(client, _NEXT, (self._state, self._entries), self.position + 1)
        state = _state_of(listed)
        if state.get(b"generation", b"").decode() != self._generation:
            # the connection is to another server by now, whose log is yet to be found
            return
        last = int(state[b"last"])
        place = _number(following) - (not foreign) if following else last
        if place == self.position:
            return
        log.warning("entries of the log of the replicas were missed: they are no more there")
        self._reader.missed(surely=True)
        self.position, self._mark = place, ""
        self._begin_here()
        self._told_kept(_kept_in(state), last)

    def _begin_here(self) -> None:
        """Behind what was missed. What is not in this log, for it was told elsewhere, is no more in it than before."""
        self._since = max(self._since, self.position)
        self._reader.began(self.position, self._since)

    async def _read(self, client: Any, wait: float | None) -> None:
        """Hear what is new. wait -- for so many seconds where there is nothing; None does not."""
        places = {self._entries: f"{self.position}-{self._mark or LAST_MARK}", self._whispers: self._last_whisper}
        block = None if wait is None else round(1000 * wait)
        found = await client.xread(places, count=MOST_AT_ONCE, block=block)
        if not found and wait is not None:
            await self._greet(client)
        for stream, entries in found or ():
            for identity, fields in entries:
                if stream.decode() == self._whispers:
                    self._last_whisper = identity.decode()
                    self._whispered(fields[b"word"].decode())
                    continue
                number, mark = _number(identity), identity.partition(b"-")[2].decode()
                ours = number != self.published or self._own_mark in {"", mark}
                # the connection may be to another server by now
                its = fields.get(b"log", b"").decode() in {"", self._generation}
                if not (ours and its and self._took(number, fields)):
                    generation = self._generation
                    await self._greet(client)
                    if generation == self._generation:
                        await self._skip(client, foreign=not its)
                    return
                self._mark = mark
        if self.position >= self._greeted:
            self._caught_up()

    def _caught_up(self) -> None:
        """All that there was."""
        self._heard_at = time.monotonic()
        if self._deaf:
            self._deaf = False
            log.info("the log of the replicas can be read now")

    def _whispered(self, word: str) -> None:
        for event in self._waiting.get(word, ()):
            event.set()

    def _took(self, number: int, fields: Mapping[bytes, bytes]) -> bool:
        if number != self.position + 1:
            return False
        self.position = number
        self.heard += 1
        try:
            entry, by = orjson.loads(fields[b"entry"]), fields[b"by"].decode()
        except (orjson.JSONDecodeError, KeyError, UnicodeDecodeError):
            log.warning("an entry of the log of the replicas cannot be read, so it is taken as a missed one")
            self._reader.missed(surely=True)
            self._begin_here()
            return True
        self._reader.took(number, by, entry)
        return True

    async def close(self) -> None:
        """Tell what is to be told, in so much time, and stop."""
        try:
            await self.sent(CLOSE_SECONDS, tuple(self._keeping))
        finally:
            # a cancellation alone may get lost
            self._closing = True
            await end([self._reading, self._sending])
        if self.pending:
            what = [counted(len(self._pending), "notice"), *self._keeping]
            log.warning("the other replicas may never have been told, and it is lost: %s", ", ".join(what))


def _state_of(listed: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(listed[::2], listed[1::2], strict=True))


def _kept_in(state: Mapping[bytes, bytes]) -> dict[str, bytes]:
    return {name[5:].decode(): value for name, value in state.items() if name.startswith(b"kept ")}


def _number(identity: bytes) -> int:
    return int(identity.partition(b"-")[0])
