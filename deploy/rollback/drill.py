"""All ways back, on the local stack under load: what is lost, and how long each takes.

A flag takes effect when the first request is sent after which no answer shows the old state any more. Lost is a
request that gets no answer, another status than 200, or another content than it should.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import aiohttp
import orjson

from config.flags import FlagName
from deploy.asking import Answer, Ask, Way, why
from deploy.check.monitor import HOMEWORK
from deploy.local import Prepared, prepare
from deploy.parts import SIMULATOR
from deploy.rollback.act import flip, standing
from deploy.rollback.switches import PROBES, SAFE
from deploy.stack import Part, Stack, answers
from pool_monitor.grading.template_files import load_templates

CLIENTS = 8
PROBERS = 4
BEFORE = 5
"""So many answers of each prober show the old state, before anything is done."""
SETTLED = 25
"""So many answers of each prober in a row show the new state: then it is there."""
FLAG_SECONDS = 1.0
"""The target."""
PATIENCE_SECONDS = 10.0
START_SECONDS = 60.0
HOLD_SECONDS = 0.25
"""How long the load goes on in each state."""
REPORTERS = 2
"""Clients that ask for what takes the origin seconds; the others never wait for these."""
FEWER_TOKENS = 300
"""A grading's prompt has more tokens as it is, and fewer as a compact one."""
PROXYS = (
    FlagName.ENABLE_QUERY_CACHE,
    FlagName.ENABLE_ETAG,
    FlagName.ENABLE_COMPRESSION,
    FlagName.ENABLE_DEDUP,
    FlagName.ENABLE_REDIS_CACHE,
    FlagName.BYPASS,
)
MONITORS = (FlagName.USE_OPTIMIZED_PROMPTS, FlagName.ENABLE_QUERY_CACHE, FlagName.BYPASS)
HERE = {"HOST": "127.0.0.1", "PORT": "0", "ADMIN_PORT": "0", "MONITOR_HOST": "127.0.0.1", "MONITOR_PORT": "0"}
NOT_SETTINGS = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONDONTWRITEBYTECODE"})
"""What of the environment is not a setting."""
QUICK = (
    Ask("subjects", "GET", "/api/subjects", {}, None),
    Ask("page", "GET", "/", {"Accept-Encoding": "gzip"}, None),
    Ask("announcements", "GET", "/api/announcements", {}, None),
    Ask("homework", "GET", "/api/homework", {"Authorization": "Bearer demo"}, None),
)
REPORT = Ask(
    "report",
    "POST",
    "/api/parent-reports/generate",
    {"Authorization": "Bearer demo", "Content-Type": "application/json"},
    b'{"userId": "demo", "startDate": "2025-09-01", "endDate": "2025-10-01"}',
)
QUERY = Ask("query", "GET", "/api/queries/report-exists?userId=large_user", {}, None)
HAS = {
    "subjects": b'"subjects"',
    "page": b"<h1>Example origin</h1>",
    "announcements": b'"announcements"',
    "homework": b'"homework"',
    "report": b'"demo"',
    "query": b'{"exists":true}',
    "grading": b'"choices"',
}
"""What the content of a right answer contains."""


def grading() -> Ask:
    """A homework for the monitor, with a prompt that it knows."""
    [template, *_] = load_templates()
    messages = [
        {"role": "system", "content": template.original},
        {"role": "user", "content": HOMEWORK},
    ]
    content = {"model": "gpt-4o-mini", "messages": messages, "response_format": {"type": "json_object"}}
    fields = {"Authorization": "Bearer drill", "Content-Type": "application/json"}
    return Ask("grading", "POST", "/v1/chat/completions", fields, orjson.dumps(content))


@dataclass(frozen=True, slots=True)
class _Sight:
    """A request whose answer shows whether a flag is on."""

    ask: Ask
    shows: Callable[[Answer], bool]


def _sights_of_proxy() -> Mapping[FlagName, _Sight]:
    return {
        name: _Sight(Ask("probe", "GET", probe.path, probe.fields, None), probe.shows) for name, probe in PROBES.items()
    }


def _sights_of_monitor() -> Mapping[FlagName, _Sight]:
    return {
        FlagName.USE_OPTIMIZED_PROMPTS: _Sight(grading(), _compact),
        FlagName.ENABLE_QUERY_CACHE: _Sight(QUERY, lambda answer: answer.fields.get("X-Query-Cache") == "hit"),
        FlagName.BYPASS: _Sight(QUERY, lambda answer: answer.fields.get("X-Query-Cache") == "bypass"),
    }


def _compact(answer: Answer) -> bool:
    try:
        return bool(orjson.loads(answer.content)["usage"]["prompt_tokens"] < FEWER_TOKENS)
    except (ValueError, KeyError, TypeError):
        return False


class DrillFailed(Exception):
    """The drill could not be done. Its text says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the drill. seconds -- until it took effect; None where it did not.

    seen -- by answers; otherwise the listener has said so, and it takes effect with the next request.
    """

    name: str
    requests: int
    lost: int
    seconds: float | None
    limit: float | None = FLAG_SECONDS
    seen: bool = True

    @property
    def met(self) -> bool:
        return self.lost == 0 and self.seconds is not None and (self.limit is None or self.seconds < self.limit)


@dataclass(slots=True)
class _Traffic:
    """Clients that never rest, and where they are sent."""

    client: aiohttp.ClientSession
    url: str
    monitor: str
    sent: int = 0
    lost: int = 0
    under_way: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    async def run(self, asks: Sequence[Ask], *, monitor: bool = False) -> None:
        for ask in itertools.cycle(asks):
            url = self.monitor if monitor else self.url
            self.under_way[url] = self.under_way.get(url, 0) + 1
            try:
                answer = await Way(url, self.client).send(ask)
                right = answer.status == 200 and HAS[ask.name] in answer.plain
                self._count(ask, None if right else f"status {answer.status}, {answer.content[:80]!r}")
            except (aiohttp.ClientError, OSError, TimeoutError) as fault:
                self._count(ask, why(fault))
            finally:
                self.under_way[url] -= 1

    def _count(self, ask: Ask, fault: str | None) -> None:
        self.sent += 1
        if fault is not None:
            self.lost += 1
            self.faults.append(f"{ask.method} {ask.path}: {fault}")


@dataclass(slots=True)
class _Watch:
    """What probers see. streaks -- of each, answers in a row that show what is wanted. before -- that did not.

    last_before -- when the last of those was sent.
    """

    wanted: bool
    streaks: list[int]
    before: list[int]
    last_before: float = 0.0
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, prober: int, sent: float, *, shows: bool) -> None:
        """An answer."""
        if shows == self.wanted:
            self.streaks[prober] += 1
            return
        self.streaks[prober] = 0
        self.before[prober] += 1
        self.last_before = max(self.last_before, sent)
        if min(self.before) >= BEFORE:
            self.ready.set()

    @property
    def settled(self) -> bool:
        return self.ready.is_set() and min(self.streaks) >= SETTLED


async def _until_shown(way: Way, sight: _Sight, wanted: bool, act: Callable[[], Awaitable[None]]) -> float | None:
    """Act, and tell how long it took to show; None if it did not, or stood so before, for PATIENCE_SECONDS."""
    watch = _Watch(wanted, [0] * PROBERS, [0] * PROBERS)
    began = 0.0

    async def prober(number: int) -> None:
        while not watch.settled:
            sent = time.monotonic()
            watch.saw(number, sent, shows=sight.shows(await way.send(sight.ask)))

    async def acting() -> None:
        nonlocal began
        await watch.ready.wait()
        began = time.monotonic()
        await act()

    try:
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(acting())
            for number in range(PROBERS):
                group.create_task(prober(number))
    except TimeoutError:
        return None
    return max(0.0, watch.last_before - began)


@contextlib.asynccontextmanager
async def _started(parts: Sequence[Part]) -> AsyncIterator[Stack]:
    """Parts that run while the block does. Raises DrillFailed."""
    stack = Stack(parts, attended=False)
    run = asyncio.create_task(stack.run(""))
    up = asyncio.create_task(stack.up.wait())
    try:
        await asyncio.wait({run, up}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not stack.up.is_set():
            raise DrillFailed(
                f"{', '.join(part.name for part in parts)} did not start: try `siding up`, which says why"
            )
        yield stack
        stack.stop()
        await run
    finally:
        up.cancel()
        run.cancel()
        await asyncio.gather(run, up, return_exceptions=True)


@dataclass(slots=True)
class Drill:
    """A drill on the local stack. tell -- is called with what comes next."""

    tell: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)
    sent: int = 0
    faults: list[str] = field(default_factory=list)

    async def run(self, environ: Mapping[str, str]) -> None:
        """Take every step. Raises DrillFailed and PortTaken."""
        kept = {name: value for name, value in environ.items() if name in NOT_SETTINGS}
        prepared = prepare([], {**kept, **HERE, "LOG_LEVEL": "warning"}, "siding rollback --drill")
        *others, proxy = map(_hasty, prepared.parts)
        through, past = f"http://{prepared.addresses.public}", f"http://{prepared.addresses.origin}"
        self.tell("the local stack starts")
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=30)
        async with (
            _started(others),
            aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as client,
        ):
            traffic = _Traffic(client, through, f"http://{prepared.monitor.monitor}")
            clients: list[asyncio.Task[None]] = []
            try:
                async with _started([proxy]):
                    clients = _clients(traffic)
                    await self._flags(prepared, traffic)
                    await self._step("around: clients go to the origin", traffic, _moved(traffic, past), None)
                    self.tell("the proxy stops, and another starts")
                # the monitor has nothing to purge at this one
                again = replace(proxy, ready=answers(f"http://{prepared.addresses.admin}/readyz"))
                async with _started([again]):
                    await self._step("undo: clients go through Siding", traffic, _moved(traffic, through), None)
                    await _moved(traffic, past)
            finally:
                for one in clients:
                    one.cancel()
                await asyncio.gather(*clients, return_exceptions=True)
            self.sent, self.faults = traffic.sent, traffic.faults

    async def _flags(self, prepared: Prepared, traffic: _Traffic) -> None:
        public, monitor = Way(traffic.url, traffic.client), Way(traffic.monitor, traffic.client)
        sights = _sights_of_proxy()
        for flag in PROXYS:
            await self._flag(traffic, f"http://{prepared.addresses.admin}", "proxy", flag, public, sights.get(flag))
        sights = _sights_of_monitor()
        for flag in MONITORS:
            await self._flag(traffic, traffic.monitor, "monitor", flag, monitor, sights.get(flag))

    async def _step(
        self,
        name: str,
        traffic: _Traffic,
        effect: Awaitable[float | None],
        limit: float | None = FLAG_SECONDS,
        *,
        seen: bool = True,
    ) -> None:
        self.tell(name)
        sent, lost = traffic.sent, traffic.lost
        took = await effect
        await asyncio.sleep(HOLD_SECONDS)
        self.steps.append(Step(name, traffic.sent - sent, traffic.lost - lost, took, limit, seen))

    async def _flag(
        self, traffic: _Traffic, admin: str, where: str, flag: FlagName, way: Way, sight: _Sight | None
    ) -> None:
        """To its safe side, and back."""
        for on in (SAFE[flag], not SAFE[flag]):

            async def act(on: bool = on) -> None:
                before = await standing(traffic.client, admin)
                await flip(traffic.client, admin, before, {flag: on}, None, here=False)

            effect = _timed(act) if sight is None else _until_shown(way, sight, on, act)
            await self._step(f"{where}: {flag} {'on' if on else 'off'}", traffic, effect, seen=sight is not None)


def _hasty(part: Part) -> Part:
    """The grading simulator takes no time to think: what is measured is not its own."""
    if part.name != SIMULATOR:
        return part
    return replace(part, command=(*part.command, "--latency-ms", "20", "--ms-per-token", "0"))


def _clients(traffic: _Traffic) -> list[asyncio.Task[None]]:
    """Of the proxy, and one each of the monitor's two halves."""
    reporters = [traffic.run([REPORT]) for _ in range(REPORTERS)]
    others = [traffic.run(QUICK) for _ in range(CLIENTS - REPORTERS)]
    monitors = [traffic.run([ask], monitor=True) for ask in (QUERY, grading())]
    return [asyncio.create_task(one) for one in (*reporters, *others, *monitors)]


async def _timed(act: Callable[[], Awaitable[None]]) -> float:
    """What no single answer shows takes effect with the next request, once the listener says that it is changed."""
    began = time.monotonic()
    await act()
    return time.monotonic() - began


async def _moved(traffic: _Traffic, url: str) -> float:
    """Send clients elsewhere; how long the last requests took that were still on their way."""
    before, traffic.url = traffic.url, url
    began = time.monotonic()
    while traffic.under_way.get(before):  # noqa: ASYNC110 - a count, and it falls within milliseconds
        await asyncio.sleep(0.001)
    return time.monotonic() - began


def table(steps: Sequence[Step]) -> str:
    """For a terminal."""
    rows = [
        (
            step.name,
            str(step.requests),
            str(step.lost),
            "not seen" if step.seconds is None else f"{1000 * step.seconds:.0f} ms",
            "by answers" if step.seen else "by its listener",
            "met" if step.met else "MISSED",
        )
        for step in steps
    ]
    rows.insert(0, ("step", "requests", "lost", "took effect in", "seen", "verdict"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
