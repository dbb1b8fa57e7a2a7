"""WORKERS > 1: processes that share the public port, and a parent that speaks for them on the admin listener.

Each worker has a cache of its own (CACHE_MAX_BYTES is divided among them) and collapses its own requests.
What one invalidates, the parent tells the others; purges go to all; numbers are added up. Flags are the parent's: it
alone tells other replicas, and hears, of those that are set in all of them.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import cast

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from config.bulletin import Standing
from config.everywhere import FlagsEverywhere, behind
from config.everywhere import set_flags as everywhere_or_here
from config.flags import Flags
from config.listen import open_socket
from config.logs import configure_logging
from config.metrics import write_out
from config.rules import RouteTable
from config.settings import ProxySettings
from config.tasks import end as end_tasks
from config.tier import SharedTier
from config.tier_metrics import tier_levels
from proxy.app import AdminListener, Worker, set_up_tracing
from proxy.channel import Channel, ChannelError
from proxy.loop import run
from proxy.observe.live import Numbers, added_up
from proxy.observe.metrics import hit_rate
from proxy.server.admin import PurgeOrder, admin_app, purged
from proxy.server.live import LiveSettings
from proxy.siblings import KNOWN_SECONDS, Siblings
from proxy.store.replicas import log_name

log = logging.getLogger("siding.fleet")

READY_SECONDS = 1.0
"""A worker that does not answer its parent for so long does not serve."""
RESTART_SECONDS = 1.0
"""A worker that died is replaced after this long, so that one that cannot start does not spin."""
STOP_GRACE_SECONDS = 5.0
UNKNOWN_LOG = "?"
"""No log has that name."""


# -- in a worker's process


def work(
    settings: ProxySettings, flags: Mapping[str, bool], routes: RouteTable, port: int, end: socket.socket, group: str
) -> None:
    """A worker's life: serve, answer the parent, drain on SIGTERM or when the parent is gone."""
    configure_logging(settings.log_level, settings.log_format)
    # a terminal tells all processes; the parent tells its workers
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if settings.redis_url is not None:
        import config.redis_client  # noqa: F401, PLC0415 - before it serves
    run(_work(settings, flags, routes, port, end, group))


async def _work(
    settings: ProxySettings,
    initial: Mapping[str, bool],
    routes: RouteTable,
    port: int,
    end: socket.socket,
    group: str,
) -> None:
    flags = Flags(settings)
    flags.update(initial)

    async def answer(name: str, argument: object) -> object:
        return await _answer_parent(worker, name, argument)

    channel = Channel(answer)
    worker = Worker(
        settings,
        flags,
        routes,
        siblings=Siblings(channel),
        group=group,
        tracing=set_up_tracing(),
    )

    await channel.open(end)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    logs: Collection[str] = ()
    try:
        # before the first client, so that no purge and no flip of a flag passes it by
        with suppress(ChannelError):
            logs = cast("list[str]", await channel.call("listening"))
        await worker.start(open_socket(settings.host, port, share=True), logs)
        channel.tell("serving", None)
        waits = {asyncio.create_task(asked.wait()), asyncio.create_task(channel.closed.wait())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await worker.drain()
    finally:
        await channel.close()
        await worker.close()


async def _answer_parent(worker: Worker, name: str, argument: object) -> object:
    match name:
        case "ready":
            return await worker.ready()
        case "metrics":
            return (await worker.metrics("text/plain"))[0].decode()
        case "report_cache":
            return await worker.report_cache()
        case "live":
            return await worker.live()
        case "set_flags":
            return await worker.set_flags(cast("Mapping[str, object]", argument))
        case "purge":
            return await worker.purge(PurgeOrder(**cast("dict[str, str | bool]", argument)))  # type: ignore[arg-type]
        case "invalidate":
            who, count, lines = cast("tuple[int, int, list[str]]", argument)
            worker.sibling_told(who, count, lines)
            return None
        case "logged":
            who, count, upto = cast("tuple[int, int, tuple[str, int]]", argument)
            worker.sibling_logged(who, count, Standing(*upto))
            return None
        case "gone":
            worker.sibling_gone(cast("int", argument))
            return None
        case "joined":
            return await worker.sibling_joined()
    raise ValueError(f"unknown call {name!r}")


# -- in the parent


class Member:
    """A worker's process as the parent sees it. listening -- to the parent. serving -- clients.

    life -- counts the processes of all workers: no two have the same.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.life = 0
        self.process: BaseProcess | None = None
        self.channel: Channel | None = None
        self.listening = False
        self.serving = False


class Fleet:
    """Keeps the workers alive and answers for all of them (`server.admin.Control`)."""

    def __init__(self, settings: ProxySettings, routes: RouteTable, port: int) -> None:
        self._settings = settings
        self._routes = routes
        self._port = port
        self._flags = Flags(settings)
        self._flags.subscribe(self._flipped)
        self._tier: SharedTier | None = None
        self._everywhere: FlagsEverywhere | None = None
        if settings.redis_url is not None:
            self._tier = SharedTier(settings.redis_url, seconds=settings.redis_timeout_ms / 1000)
            self._everywhere = FlagsEverywhere(self._tier, log_name(settings.upstream_url), self._flags)
        self._members = [Member(number) for number in range(settings.workers)]
        self._keepers: list[asyncio.Task[None]] = []
        self._draining = False
        self._lives = 0
        self._context = multiprocessing.get_context("spawn")
        self._group = secrets.token_hex(8)

    def start(self) -> None:
        """Start the workers, and keep starting them."""
        if self._everywhere is not None:
            self._everywhere.bulletin.start()
        self._keepers = [asyncio.create_task(self._keep(member)) for member in self._members]

    async def _keep(self, member: Member) -> None:
        while not self._draining:
            try:
                await self._live(member)
            except OSError as fault:
                log.error("worker %d could not be started: %s", member.number, fault)
                await asyncio.sleep(RESTART_SECONDS)
                continue
            if not self._draining:
                assert member.process is not None
                log.error("worker %d ended (%s) and is replaced", member.number, member.process.exitcode)
                await asyncio.sleep(RESTART_SECONDS)

    async def _live(self, member: Member) -> None:
        ours, theirs = socket.socketpair()
        channel = Channel(partial(self._answer_worker, member))
        await channel.open(ours)
        # what is told before that it hears of when it listens
        member.channel = channel
        self._lives += 1
        member.life = self._lives
        member.process = self._context.Process(
            target=work,
            args=(self._settings, self._flags.as_dict(), self._routes, self._port, theirs, self._group),
            name=f"siding worker {member.number}",
        )
        try:
            # a process, so a matter of milliseconds; and nothing may be said to it before it is there
            member.process.start()
        except OSError:
            await member.channel.close()
            raise
        finally:
            theirs.close()
        if self._draining:
            member.process.terminate()
        await member.channel.closed.wait()
        member.listening = member.serving = False
        self._tell_others(member, "gone", member.life)
        await asyncio.to_thread(member.process.join)
        await member.channel.close()

    async def _answer_worker(self, member: Member, name: str, argument: object) -> object:
        if name == "listening":
            return await self._bring_up_to_date(member)
        if name == "serving":
            member.serving = True
        elif name == "invalidated":
            await self._spread(member, [member.life, *cast("list[object]", argument)])
        elif name == "logged":
            self._tell_others(member, "logged", [member.life, *cast("list[object]", argument)])
        return None

    def _others(self, member: Member) -> Iterator[tuple[Member, Channel]]:
        for other in self._members:
            if other is not member and other.channel is not None:
                yield other, other.channel

    def _tell_others(self, member: Member, name: str, argument: object) -> None:
        for _, channel in self._others(member):
            channel.tell(name, argument)

    async def _spread(self, member: Member, told: list[object]) -> None:
        """Until all others that serve know what `member` has invalidated."""
        calls = []
        for other, channel in self._others(member):
            if other.serving:
                calls.append(channel.call("invalidate", told))
            else:
                # it has nothing stored yet, and hears of it before it has
                channel.tell("invalidate", told)
        await asyncio.gather(*calls, return_exceptions=True)

    async def _bring_up_to_date(self, member: Member) -> list[str]:
        """Flags that were flipped while it started, and what others have told; it hears of all that follows.

        Returns the logs that they read (`config.bulletin`); of who does not say it in time, `UNKNOWN_LOG`.
        """
        assert member.channel is not None
        member.listening = True
        others = [
            asyncio.create_task(channel.call("joined")) for other, channel in self._others(member) if other.serving
        ]
        try:
            await member.channel.call("set_flags", self._flags.as_dict())
        except ChannelError as fault:
            log.warning("worker %d did not take its flags: %s", member.number, fault)
        if others:
            await asyncio.wait(others, timeout=KNOWN_SECONDS)
        told = [one.result() if one.done() and one.exception() is None else UNKNOWN_LOG for one in others]
        await end_tasks(others)
        return [name for name in cast("list[str]", told) if name]

    async def stop(self) -> None:
        """SIGTERM to all; those that outlive their drain are killed."""
        self._draining = True
        for member in self._members:
            if member.process is not None and member.process.is_alive():
                member.process.terminate()
        _, late = await asyncio.wait(self._keepers, timeout=self._settings.drain_seconds + STOP_GRACE_SECONDS)
        if late:
            for member in self._members:
                if member.process is not None:
                    member.process.kill()
            await asyncio.wait(late)
        if self._everywhere is not None and self._tier is not None:
            await self._everywhere.bulletin.close()
            await self._tier.close()

    async def _ask_all(self, name: str, argument: object = None) -> dict[int, object]:
        """The answers, by the workers' numbers."""
        asked = {one.number: one.channel for one in self._members if one.listening and one.channel is not None}
        calls = (channel.call(name, argument) for channel in asked.values())
        answers = await asyncio.gather(*calls, return_exceptions=True)
        good: dict[int, object] = {}
        for number, answer in zip(asked, answers, strict=True):
            if isinstance(answer, ChannelError):
                log.warning("worker %d did not answer %r: %s", number, name, answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                good[number] = answer
        return good

    def _flipped(self, _: str, __: bool) -> None:
        """Of all flags, so that it ends as this one does who has missed something, or starts."""
        for member in self._members:
            if member.channel is not None:
                member.channel.tell("set_flags", self._flags.as_dict())

    # -- server.admin.Control

    async def ready(self) -> tuple[bool, str]:
        """Ready once every worker serves, and while all of them answer."""
        if self._draining:
            return False, "draining: no new connections are accepted"
        serving = sum(await asyncio.gather(*map(_answers, self._members)))
        return serving == len(self._members), f"{serving} of {len(self._members)} workers serve"

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Every worker's exposition, told apart by a `worker` label; OpenMetrics where `accept` asks for it."""
        registry = CollectorRegistry()
        texts = {number: str(text) for number, text in (await self._ask_all("metrics")).items()}
        registry.register(_Merged(texts, list(self._levels())))
        return await asyncio.to_thread(write_out, registry, accept)

    def _levels(self) -> Iterator[Metric]:
        if self._everywhere is not None and self._tier is not None:
            yield from tier_levels(self._tier, self._everywhere.bulletin, self._everywhere.pins, repeats=True)

    async def report_cache(self) -> dict[str, object]:
        """The workers' numbers added up."""
        reports = [cast("dict[str, object]", report) for report in (await self._ask_all("report_cache")).values()]
        total: dict[str, object] = {}
        for report in reports:
            for name, value in report.items():
                if isinstance(value, int) and not isinstance(value, bool):
                    total[name] = cast("int", total.get(name, 0)) + value
                else:
                    total.setdefault(name, value)
        hits, misses = cast("int", total.get("cacheHits", 0)), cast("int", total.get("cacheMisses", 0))
        total["cacheHitRate"] = hit_rate(hits, misses)
        return total

    async def live(self) -> Numbers:
        """The workers' numbers added up; of those that answered."""
        return added_up([cast("Numbers", numbers) for numbers in (await self._ask_all("live")).values()])

    async def flags(self) -> dict[str, bool]:
        """Every flag."""
        return self._flags.as_dict()

    async def behind_flags(self) -> dict[str, object]:
        """Why they stand so."""
        return behind(self._flags, self._everywhere.pins if self._everywhere is not None else None)

    async def set_flags(self, changes: Mapping[str, object], *, everywhere: bool = False) -> dict[str, object]:
        """Flip flags here, for workers to come, and in every worker; `workers` of `workersExpected` where not all did.

        Raises FlagError.
        """
        tell = self._everywhere.pins.tell if self._everywhere is not None else None
        state = await everywhere_or_here(self._flags, changes, everywhere=everywhere, tell=tell)
        asked = [member for member in self._members if member.listening]
        # the whole state, so that what one has missed is made good with the next change
        answers = await self._ask_all("set_flags", self._flags.as_dict())
        # one that starts takes them before it serves
        late = sum(member.listening and member.number not in answers for member in asked)
        return state | (_workers(len(self._members) - late, len(self._members)) if late else {})

    async def purge(self, order: PurgeOrder) -> dict[str, object]:
        """Purge in every worker."""
        asked = {"kind": order.kind, "value": order.value, "soft": order.soft}
        answers = cast("dict[int, dict[str, bool]]", await self._ask_all("purge", asked))
        done = purged(order, [one["everywhere"] for one in answers.values() if "everywhere" in one])
        if len(answers) == len(self._members):
            return done
        # a worker that starts has nothing stored yet; one that did not answer may
        return done | _workers(len(answers), len(self._members))

    async def routes(self) -> list[dict[str, object]]:
        """The route rules in force."""
        return self._routes.describe()


def _workers(done: int, expected: int) -> dict[str, object]:
    """Of a change that not all have made, as far as is known."""
    return {"workers": done, "workersExpected": expected}


async def _answers(member: Member) -> bool:
    """Whether it serves, as far as can be seen."""
    if not member.serving or member.channel is None:
        return False
    try:
        async with asyncio.timeout(READY_SECONDS):
            await member.channel.call("ready")
    except (ChannelError, TimeoutError):
        return False
    return True


class _Merged(Collector):
    """Expositions of several workers as one, each sample labelled with its worker's number; `parent`: the parent's."""

    def __init__(self, texts: Mapping[int, str], parents: Sequence[Metric]) -> None:
        self._texts = texts
        self._parents = parents

    def collect(self) -> list[Metric]:
        """The merged families."""
        families: dict[str, Metric] = {}
        of_workers = ((str(number), text_string_to_metric_families(text)) for number, text in self._texts.items())
        for worker, found in (*of_workers, ("parent", self._parents)):
            for family in found:
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={**sample.labels, "worker": worker}))
        return list(families.values())


async def serve(
    settings: ProxySettings,
    routes: RouteTable,
    public: socket.socket,
    admin: socket.socket,
    stop: Callable[[], Awaitable[object]],
) -> None:
    """Run the fleet and its admin listener until `stop` returns. `public` only reserves the port."""
    fleet = Fleet(settings, routes, public.getsockname()[1])
    listener = AdminListener(admin_app(fleet, settings.admin_token, LiveSettings.of(settings)))
    try:
        await listener.start(admin)
        fleet.start()
        await stop()
        await fleet.stop()
    finally:
        public.close()
        await listener.close()
