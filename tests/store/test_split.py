"""Masters that change, and servers that both believe to be one: against a world in which everything may happen.

Proxies of two workers each tell and read logs on servers that are simulated, one step at a time: each call is carried
out and answered when the world says so, on whichever server its connection goes to then; or it fails, carried out or
not, or carried out much later. Servers are copied up to any point of their past (what a replica had got of it), and
such a copy becomes a master beside the other.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
from redis.exceptions import ReadOnlyError

from config import bulletin as module
from config.bulletin import Standing
from config.tier import Script, SharedTier
from proxy.store.invalidations import Invalidations, Validity
from proxy.store.notices import Notices
from proxy.store.telling import Notice, note

STEPS = 400
PATIENCE = 2_000
"""Rounds in which everything goes well, before somebody is not to be brought up to date any more."""
URIS = ("http://a/x", "http://a/y")


@dataclass
class Data:
    """What a server holds: the state beside the log, and its entries by number and mark."""

    replid: str
    state: dict[str, Any] = field(default_factory=dict)
    entries: list[tuple[int, str, dict[bytes, bytes]]] = field(default_factory=list)


def _listed(data: Data) -> list[bytes]:
    """The state, as HGETALL tells it in a script."""
    return [text for name, value in data.state.items() for text in (name.encode(), str(value).encode())]


class Server:
    """A Redis, as far as a log needs one. past -- what it held after each change."""

    clock = itertools.count(1_000_000, 10_000)
    names = itertools.count(1)

    def __init__(self, data: Data | None = None) -> None:
        self.data = Data("") if data is None else deepcopy(data)
        self.data.replid = f"server {next(self.names)}"
        self.past = [deepcopy(self.data)]
        self.follows: Server | None = None

    def copy(self, back: int) -> Server:
        """A master that had got of this one all but the last changes."""
        return Server(self.past[-1 - back % len(self.past)])

    def holds(self) -> Data:
        return self.data if self.follows is None else self.follows.holds()

    def _changes(self) -> Data:
        if self.follows is not None:
            raise ReadOnlyError("it is a replica")
        return self.data

    def _begin(self, new: str, generation: str, number: int, mark: str) -> None:
        data = self.holds()
        state = data.state
        lost = not state or state["server"] != data.replid
        if state and state["generation"] == generation:
            lost = lost or state["last"] < number
            there = next((its for its in data.entries if its[0] == number), None)
            lost = lost or (there is not None and mark != "" and there[1] != mark)
        if lost:
            last = max(next(self.clock), number + 1, state.get("last", 0) + 1)
            self._changes().entries = []
            state.update(generation=new, last=last, server=data.replid)

    def hello(self, new: str, generation: str, number: int, mark: str) -> list[Any]:
        self._begin(new, generation, number, mark)
        data = self.holds()
        first = f"{data.entries[0][0]}-{data.entries[0][1]}".encode() if data.entries else b""
        return [_listed(data), first, b"0-0"]

    def following(self, number: int) -> list[Any]:
        data = self.holds()
        return [_listed(data), next((f"{its[0]}-{its[1]}".encode() for its in data.entries if its[0] >= number), b"")]

    def tell(
        self, begin: Sequence[Any], mark: str, by: str, elsewhere: tuple[str, int], entries: Sequence[bytes]
    ) -> list[Any]:
        self._begin(*begin)
        data = self._changes()
        log = str(data.state["generation"]).encode()
        its, there = elsewhere
        for entry in entries[there if its.encode() == log else 0 :]:
            data.state["last"] += 1
            data.entries.append((data.state["last"], mark, {b"log": log, b"by": by.encode(), b"entry": entry}))
        return [log, data.state["last"]]

    def xread(self, place: str) -> list[Any]:
        number, mark = (int(part) for part in place.split("-"))
        later = [its for its in self.holds().entries if (its[0], int(its[1])) > (number, mark)][: module.MOST_AT_ONCE]
        return [(f"{number}-{mark}".encode(), fields) for number, mark, fields in later]

    def run(self, work: Callable[[Server], Any]) -> Any:
        found = work(self)
        if self.follows is None and self.past[-1] != self.data:
            self.past.append(deepcopy(self.data))
        return found


@dataclass
class Call:
    """One that waits to be carried out, and then for its answer."""

    place: Place
    work: Callable[[Server], Any]
    done: asyncio.Future[Any]
    answer: Any = None
    was_done: bool = False


@dataclass
class Place:
    """Where a client's connections go."""

    server: Server


class Client:
    """What redis-py's client is to the log."""

    def __init__(self, world: World, place: Place) -> None:
        self._world = world
        self._place = place

    async def _ask(self, work: Callable[[Server], Any]) -> Any:
        call = Call(self._place, work, asyncio.get_running_loop().create_future())
        self._world.calls.append(call)
        return await call.done

    async def evalsha(self, digest: str, keys: int, *given: Any) -> Any:
        if digest == module._NEXT.digest:
            return await self._ask(lambda server: server.following(int(given[keys])))
        new, generation, number, mark, *rest = given[keys:]
        begin = str(new), str(generation), int(number), str(mark)
        if digest == module._HELLO.digest:
            return await self._ask(lambda server: server.hello(*begin))
        own, by, _, elsewhere, there, count, *entries = rest
        assert count == 0
        return await self._ask(lambda server: server.tell(begin, str(own), str(by), (elsewhere, there), entries))

    async def xread(self, places: Mapping[str, str], count: int, block: int | None) -> Any:
        [entries, whispers] = places
        found = await self._ask(lambda server: server.xread(places[entries]))
        # there is always something else to hear, so that it is never for want of news that a reader looks around
        word = (whispers.encode(), [(b"1-1", {b"word": b"word"})])
        return [(entries.encode(), found), word] if found else [word]


class Tier:
    """What `SharedTier` is to the log."""

    def __init__(self, world: World) -> None:
        first = world.servers[0]
        self.calling, self.reading = Place(first), Place(first)
        self._client, self._reader = Client(world, self.calling), Client(world, self.reading)
        self.faults = (TimeoutError, ReadOnlyError)

    async def run_script(self, client: Client, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        return await client.evalsha(script.digest, len(keys), *keys, *arguments)

    async def script(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        try:
            return await self.run_script(self._client, script, keys, *arguments)
        except self.faults:
            return None

    @asynccontextmanager
    async def listening(self, _: float) -> AsyncIterator[Client]:
        yield self._reader

    async def look(self, _: Client) -> None: ...

    async def follow(self, _: Client) -> None: ...

    async def knock(self) -> None: ...


class Worker:
    """A worker's process. here -- what it knows to be invalid of what it holds itself."""

    def __init__(self, world: World, proxy: Proxy, logs: Collection[str] = ()) -> None:
        """logs -- that the others read."""
        self.world, self.proxy = world, proxy
        self.tier = Tier(world)
        self.here = Invalidations()
        self.life = next(proxy.lives)
        self.notices = Notices(cast("SharedTier", self.tier), "name", proxy.name, self.here, None, self._logged)
        self.notices.bulletin.start(logs)

    def _logged(self, count: int, upto: Standing) -> None:
        for other in self.proxy.workers:
            if other is not self:
                self.world.words.append(partial(other.notices.sibling_logged, self.life, count, upto))

    def change(self, uri: str) -> None:
        """As `sibling_told` is awaited before a change is answered."""
        self.here.purge_uri(uri)
        self._tell([("uri", uri, False)])

    def joined(self) -> str:
        """Another has. The log that is read here."""
        name, notices = self.notices.sibling_joined()
        if notices:
            self._tell(notices)
        return name

    def _tell(self, notices: list[Notice]) -> None:
        count = self.notices.tell(notices)
        for other in self.proxy.workers:
            if other is not self:
                for notice in notices:
                    note(other.here, notice)
                other.notices.sibling_told(self.life, count, notices)

    def kill(self) -> None:
        bulletin = self.notices.bulletin
        bulletin._closing = True
        for task in (bulletin._reading, bulletin._sending):
            if task is not None:
                task.cancel()


class Proxy:
    """Its workers. changed -- when it last answered a change, by URI."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lives = itertools.count()
        self.workers: list[Worker] = []
        self.changed = dict.fromkeys(URIS, 0)


@dataclass
class Record:
    """A shared one, of what the origin had at a time; as it is held by who asked, too."""

    uri: str
    asked: int
    at: Standing
    by: Worker
    epoch: int


class World:
    """See the module."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.late: list[Call] = []
        self.words: list[Callable[[], None]] = []
        self.servers = [Server()]
        self.records: list[Record] = []
        self.time = 0
        self.proxies = [Proxy("one"), Proxy("two")]
        for proxy in self.proxies:
            for _ in range(2):
                proxy.workers.append(Worker(self, proxy))

    @property
    def workers(self) -> list[Worker]:
        return [worker for proxy in self.proxies for worker in proxy.workers]

    async def settle(self) -> None:
        """Let everybody do what can be done without an answer."""
        for _ in range(12):
            await asyncio.sleep(0)

    def step(self, what: int, which: int) -> None:
        """One thing."""
        self.time += 1
        things = (
            [self._carry_out] * 4
            + [self._answer] * 4
            + [self._fail, self._carry_out_late, self._promote, self._demote, self._connect, self._replace]
            + [self._change, self._change, self._record, self._say, self._all_goes_well]
        )
        things[what % len(things)](which)

    def _carry_out_late(self, _: int) -> None:
        """What its caller has given up."""
        if self.late:
            self._work(self.late.pop(0))

    def _promote(self, which: int) -> None:
        """A replica of a server, which goes on as it was."""
        if len(self.servers) < 3:
            self.servers.append(self.servers[which % len(self.servers)].copy(which // 4))

    def _demote(self, which: int) -> None:
        """A server becomes the replica of a master, or one itself."""
        server, master = self.servers[which % len(self.servers)], self.servers[which // 4 % len(self.servers)]
        server.follows = master if server is not master and master.follows is None else None

    def _connect(self, which: int) -> None:
        """What a worker calls, or reads, is another server from now on."""
        tier = self.workers[which % 4].tier
        (tier.calling if which & 4 else tier.reading).server = self.servers[which // 8 % len(self.servers)]

    def _change(self, which: int) -> None:
        worker, uri = self.workers[which % 4], URIS[which // 4 % 2]
        worker.proxy.changed[uri] = self.time
        worker.change(uri)

    def _record(self, which: int) -> None:
        worker, uri = self.workers[which % 4], URIS[which // 4 % 2]
        self.records.append(Record(uri, self.time, worker.notices.standing, worker, worker.here.epoch))

    def _say(self, _: int) -> None:
        """What one worker says to another arrives."""
        if self.words:
            self.words.pop(0)()

    def _replace(self, which: int) -> None:
        """A worker is killed, and another is there in its place."""
        if which >= 24:
            return
        worker = self.workers[which % 4]
        proxy = worker.proxy
        worker.kill()
        place = proxy.workers.index(worker)
        del proxy.workers[place]
        while self.words:
            self.words.pop(0)()
        for other in proxy.workers:
            other.notices.sibling_gone(worker.life)
        logs: list[str] = []
        worker = Worker(self, proxy, logs)
        proxy.workers.insert(place, worker)
        logs += [name for other in proxy.workers if other is not worker and (name := other.joined())]

    def _all_goes_well(self, _: int = 0) -> None:
        """For once."""
        for call in self.calls:
            if not call.was_done:
                self._work(call)
        while self.calls:
            self._answer(0)
        while self.words:
            self.words.pop(0)()

    def _carry_out(self, which: int) -> None:
        waiting = [call for call in self.calls if not call.was_done]
        if waiting:
            self._work(waiting[which % len(waiting)])

    @staticmethod
    def _work(call: Call) -> None:
        call.was_done = True
        try:
            call.answer = call.place.server.run(call.work)
        except ReadOnlyError as fault:
            call.answer = fault

    def _answer(self, which: int) -> None:
        ready = [call for call in self.calls if call.was_done]
        if ready:
            call = ready[which % len(ready)]
            self.calls.remove(call)
            if not call.done.done():
                if isinstance(call.answer, Exception):
                    call.done.set_exception(call.answer)
                else:
                    call.done.set_result(call.answer)

    def _fail(self, which: int) -> None:
        if self.calls:
            call = self.calls.pop(which % len(self.calls))
            if not call.was_done:
                # the connection stays with that server
                self.late.append(Call(Place(call.place.server), call.work, call.done))
            if not call.done.done():
                call.done.set_exception(TimeoutError())

    def judge(self) -> None:
        """No worker may use what is older than a change that its proxy has answered."""
        for worker in self.workers:
            # who has not heard anything yet uses none
            for record in self.records if worker.notices.bulletin.hears else ():
                if record.asked < worker.proxy.changed[record.uri]:
                    found = worker.notices.state(record.uri, (), record.at)
                    assert found is not Validity.VALID, (record, self.workers.index(worker))

    async def end(self) -> None:
        """All is well again: everybody knows of everything."""
        master = self.servers[self.time % len(self.servers)]
        for server in self.servers:
            server.follows = None if server is master else master
        self.late.clear()
        for _ in range(PATIENCE):
            for worker in self.workers:
                worker.tier.calling.server = worker.tier.reading.server = master
            self._all_goes_well()
            await self.settle()
            if all(self._knows_all(worker, master) for worker in self.workers):
                break
        else:
            pytest.fail("somebody will never know all")
        latest = {uri: max(proxy.changed[uri] for proxy in self.proxies) for uri in URIS}
        for worker in self.workers:
            for record in self.records:
                if record.asked < latest[record.uri]:
                    found = worker.notices.state(record.uri, (), record.at)
                    assert found is not Validity.VALID, ("at the end", record, self.workers.index(worker))
        for record in self.records:
            if record.asked < latest[record.uri] and record.by in self.workers:
                found = record.by.here.state(record.uri, (), record.epoch)
                assert found is not Validity.VALID, ("what it holds itself", record)
        for worker, other, uri in itertools.product(self.workers, self.workers, URIS):
            assert worker.notices.state(uri, (), other.notices.standing) is Validity.VALID, (worker.life, other.life)

    @staticmethod
    def _knows_all(worker: Worker, master: Server) -> bool:
        bulletin = worker.notices.bulletin
        there = Standing(master.data.state.get("generation", ""), master.data.state.get("last", 0))
        return not bulletin.pending and bulletin.hears and bulletin.read == there

    async def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        await self.settle()


async def live(steps: Sequence[tuple[int, int]]) -> None:
    world = World()
    try:
        await world.settle()
        for what, which in steps:
            world.step(what, which)
            await world.settle()
            world.judge()
        await world.end()
        world.judge()
    finally:
        await world.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(module, "DEAF_SECONDS", 1e6)
    monkeypatch.setattr(module, "FOLLOW_SECONDS", 0.0)
    monkeypatch.setattr(module, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(module.log, "disabled", True)


@pytest.mark.parametrize("seed", [*range(40), 1520, 1570, 2716, 11870])
def test_no_proxy_contradicts_what_it_has_answered(seed: int) -> None:
    """And in the end all know of everything, and use what is new."""
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    asyncio.run(live([(dice.randrange(256), dice.randrange(64)) for _ in range(STEPS + seed % 3)]))
