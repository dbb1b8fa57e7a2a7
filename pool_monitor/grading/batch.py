"""Many chat completions at once: so many at a time, equal ones once, and their results as they come."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from config.tasks import end
from pool_monitor.grading.batch_asking import NO_TOKENS, Asking, Refusals, Reply, Tokens, refusal
from pool_monitor.grading.batch_items import Item
from pool_monitor.grading.calls import Call, OwnFault, UpstreamFault

log = logging.getLogger("siding.grading")

CONCURRENCY = 8
RUN_SECONDS = 3600.0
"""The longest for all items of a run."""
UNREAD_BYTES = 32 * 1024 * 1024
"""No more is asked for a reader who has so much yet to read."""


def tell_failed(what: str, fault: BaseException) -> None:
    """In the log, with its traceback where it is a fault of our own."""
    if isinstance(fault, UpstreamFault):
        log.error("%s: %s", what, fault.message)
    else:
        log.error(what, exc_info=fault)


Load = Callable[[], Awaitable[tuple[Mapping[str, Any], bytes]]]


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked once. items -- those that want it. load -- gives the body, decoded and as it came."""

    items: tuple[Item, ...]
    load: Load


class Crew:
    """Does works in their order, `most` at a time, each in a task of its own, ended by `close`.

    may_start -- whether another may begin now; `fill` when that has changed. idle -- called when nothing is left.
    fault -- what a work raised; then no more is begun.
    """

    def __init__(
        self,
        most: int,
        do: Callable[[Work], Awaitable[None]],
        idle: Callable[[], None],
        may_start: Callable[[], bool] = lambda: True,
    ) -> None:
        self._most = most
        self._do = do
        self._idle = idle
        self._may_start = may_start
        self._tasks: set[asyncio.Task[None]] = set()
        self.pending: deque[Work] = deque()
        self.fault: BaseException | None = None

    @property
    def active(self) -> int:
        """How many are being done."""
        return len(self._tasks)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return not self._tasks and not self.pending

    def add(self, works: Iterable[Work]) -> None:
        """At the end."""
        self.pending.extend(works)
        self.fill()

    def fill(self) -> None:
        """Begin as many as may be."""
        while self.pending and len(self._tasks) < self._most and self._may_start():
            task = asyncio.ensure_future(self._do(self.pending.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            tell_failed("a batch failed", fault)
            self.fault = self.fault or fault
            self.pending.clear()
        self.fill()
        if self.over:
            self._idle()

    def stop(self) -> None:
        """Begin no more."""
        self.pending.clear()

    async def close(self) -> None:
        """Give up whatever is left."""
        self.stop()
        await end(self._tasks)


# -- a run


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one item. first -- False for one that had another's answer."""

    item: Item
    reply: Reply
    first: bool = True

    @property
    def line(self) -> bytes:
        """JSON on one line."""
        document: dict[str, Any] = {"index": self.item.index}
        if self.item.custom_id is not None:
            document["custom_id"] = self.item.custom_id
        document["status"] = self.reply.status
        if self.reply.ok:
            document["response"] = orjson.Fragment(self.reply.body)
        else:
            document["error"] = orjson.Fragment(self.reply.error)
        return orjson.dumps(document)


@dataclass(slots=True)
class Tally:
    """What a run has come to."""

    by_status: dict[int, int] = field(default_factory=dict)
    succeeded: int = 0
    failed: int = 0
    collapsed: int = 0
    calls: int = 0
    tokens: Tokens = NO_TOKENS

    def add(self, result: Result) -> None:
        self._count(result, 1)
        if result.first:
            self.calls += result.reply.calls
            self.tokens += result.reply.tokens

    def take_back(self, result: Result) -> None:
        """It is asked again. What it has cost stays."""
        self._count(result, -1)

    def _count(self, result: Result, one: int) -> None:
        status = result.reply.status
        self.by_status[status] = self.by_status.get(status, 0) + one
        if not self.by_status[status]:
            del self.by_status[status]
        if result.reply.ok:
            self.succeeded += one
        else:
            self.failed += one
        if not result.first:
            self.collapsed += one

    def document(self, seconds: float) -> dict[str, Any]:
        """The summary."""
        tokens = {
            "prompt": self.tokens.prompt,
            "completion": self.tokens.completion,
            "total": self.tokens.prompt + self.tokens.completion,
        }
        return {
            "total": self.succeeded + self.failed,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "by_status": {str(status): count for status, count in sorted(self.by_status.items())},
            "collapsed": self.collapsed,
            "upstream_calls": self.calls,
            "seconds": round(seconds, 3),
            "tokens": tokens,
        }


class Run:
    """Works that are asked, and their results in the order in which they come, for whoever listens.

    kept -- results stay, to be heard again; else each is gone once it was heard. listeners -- how many callers have
    joined it, counted by those who let them in.
    """

    def __init__(
        self, asking: Asking, asker: Call, works: Iterable[Work], refused: Iterable[Item], *, kept: bool
    ) -> None:
        self._asking = asking
        self._asker = asker
        self._refusals = Refusals()
        self.kept = kept
        self._crew = Crew(CONCURRENCY, self._do, self._tell, self._may_start)
        self._results: list[Result | None] = []
        self._failed: list[Work] = []
        self._unread = 0
        self._starving = 0
        self._news = asyncio.Event()
        self.listeners = 0
        self.bytes = 0
        self.tally = Tally()
        self._begin(works, [Result(item, refusal(item.refused)) for item in refused if item.refused is not None])

    @property
    def over(self) -> bool:
        """Whether every item has its result."""
        return self._crew.over

    @property
    def summary(self) -> dict[str, Any]:
        return self.tally.document((self._ended if self.over else self._asking.clock()) - self._began)

    def _begin(self, works: Iterable[Work], results: Iterable[Result] = ()) -> None:
        self._began = self._ended = self._asking.clock()
        self._until = self._began + RUN_SECONDS
        for result in results:
            self._add(result)
        self._crew.add(works)

    def ask_failed_again(self) -> None:
        """Those whose answer may be another now, unless somebody has heard them and listens still."""
        if self.listeners or not self._failed:
            return
        works, self._failed = self._failed, []
        self._refusals = Refusals()
        again = {item.index for work in works for item in work.items}
        for result in self._results:
            if result is not None and result.item.index in again:
                self.tally.take_back(result)
                self.bytes -= len(result.reply.body)
        self._results = [one for one in self._results if one is not None and one.item.index not in again]
        self._begin(works)

    async def _do(self, work: Work) -> None:
        call = self._asker.asking(*await work.load())
        reply = self._refused(call) or await self._asked(call)
        if self.kept and reply.may_change:
            self._failed.append(work)
        for place, item in enumerate(work.items):
            self._add(Result(item, reply, first=place == 0))
        self._tell()

    def _refused(self, call: Call) -> Reply | None:
        """What is told of an item that is not asked, where all before it were refused."""
        last = self._refusals.last(None) or self._refusals.last(call.model)
        return replace(last, request_id="", tokens=NO_TOKENS, calls=0) if last is not None else None

    async def _asked(self, call: Call) -> Reply:
        reply = await self._asking.reply(call, self._until)
        self._refusals.heed(reply, call.model)
        return reply

    def _add(self, result: Result) -> None:
        self._results.append(result)
        self.tally.add(result)
        self.bytes += len(result.reply.body)
        self._unread += len(result.reply.body)

    def _may_start(self) -> bool:
        return self._starving > 0 or self._unread < UNREAD_BYTES

    def _tell(self) -> None:
        self._ended = self._asking.clock()
        self._news.set()
        self._news = asyncio.Event()

    async def listen(self) -> AsyncGenerator[Result, None]:
        """Every result: those that are there at once, the others as they come. Raises UpstreamFault when it fails."""
        heard = 0
        while True:
            while heard < len(self._results):
                result = self._results[heard]
                if not self.kept:
                    self._results[heard] = None
                heard += 1
                if result is not None:
                    yield result
            if self._crew.fault is not None:
                raise OwnFault()
            if self.over:
                return
            await self._hunger()

    async def _hunger(self) -> None:
        """Wait for news, as one who has read everything."""
        news = self._news
        self._starving += 1
        self._unread = 0
        try:
            self._crew.fill()
            await news.wait()
        finally:
            self._starving -= 1

    async def close(self) -> None:
        """Give up what is not done."""
        await self._crew.close()
