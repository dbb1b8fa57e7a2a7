"""The batches API of OpenAI, answered here in minutes: a file of requests becomes a file of answers.

Nothing outlasts a restart: a batch that was running is gone then, and asking for it gives 404. There is no discount
either: each request is asked, and billed, as if it had come alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, BinaryIO

from config.tracing import apart
from pool_monitor.grading.batch import CONCURRENCY, tell_failed
from pool_monitor.grading.batch_asking import Asking
from pool_monitor.grading.batch_files import File, Files, new_id
from pool_monitor.grading.batch_input import Entered, Unusable, entered_in, error_of
from pool_monitor.grading.batch_items import Shares
from pool_monitor.grading.batch_running import WINDOW_SECONDS, Batch, Running, Status, what_failed
from pool_monitor.grading.calls import Call, CallersFault, Lane, UpstreamFault
from pool_monitor.grading.turns import Turns

log = logging.getLogger("siding.grading")

BATCH_PREFIX = "batch_siding-"
MOST_RUNNING = 4
MOST_BATCHES = 1000
OWNERS_SHARE = 2
"""One caller's are no more than this part of them."""


class _Unobserved:
    def waited(self, lane: Lane, seconds: float) -> None:
        """See ObserveWait."""


class Batches:
    """Every batch. shares -- whether equal bodies of this content may have one answer. wall -- seconds since 1970.

    running -- batches at once; others wait in `validating`, callers in turn. window_seconds -- the longest for one.
    """

    def __init__(
        self,
        files: Files,
        asking: Asking,
        *,
        wall: Callable[[], float],
        shares: Shares,
        concurrency: int = CONCURRENCY,
        running: int = MOST_RUNNING,
        most: int = MOST_BATCHES,
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        self.files = files
        self._asking = asking
        self._wall = wall
        self._shares = shares
        self._concurrency = concurrency
        self._turns = Turns(running, asking.clock, _Unobserved(), 2 * most)
        self._most = most
        self._window = window_seconds
        self._batches: dict[str, Batch] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._batches)

    async def close(self) -> None:
        """End every batch; they are gone."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._batches.clear()

    def create(
        self,
        source: File,
        asker: Call,
        metadata: Mapping[str, str] | None = None,
        keep_seconds: float | None = None,
    ) -> Batch:
        """Begin one. keep_seconds -- how long its output is kept, if shorter than usual. Raises UpstreamFault."""
        self._sweep()
        own, share = sum(one.owner == source.owner for one in self._batches.values()), self._most // OWNERS_SHARE
        if len(self._batches) >= self._most or own >= share:
            whose = f"{share} batches of yours" if own >= share else f"{self._most} batches"
            raise UpstreamFault(429, "too_many_batches", f"there are {whose}", retry_after=60)
        batch = Batch(new_id(BATCH_PREFIX), source.owner, source, metadata, keep_seconds, self._wall())
        self._batches[batch.id] = batch
        # it is read even when the file is deleted before its turn comes
        source.octets.hold()
        task = apart(self._go(batch, asker))
        self._tasks[batch.id] = task
        task.add_done_callback(lambda _: self._over(batch))
        return batch

    def _over(self, batch: Batch) -> None:
        del self._tasks[batch.id]
        batch.input.octets.close()

    def find(self, owner: str, batch_id: str) -> Batch:
        """Raises UpstreamFault (404): there is none, or it is another's."""
        self._sweep()
        batch = self._batches.get(batch_id)
        if batch is None or batch.owner != owner:
            message = f"No batch found with id '{batch_id}'."
            raise CallersFault(404, "batch_not_found", message)
        return batch

    def of(self, owner: str, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """The newest first, and whether there are more. Raises UpstreamFault."""
        self._sweep()
        newest = (one for one in reversed(self._batches.values()) if one.owner == owner)
        if after is not None:
            self.find(owner, after)
            for one in newest:
                if one.id == after:
                    break
        found = list(islice(newest, limit + 1))
        return found[:limit], len(found) > limit

    def cancel(self, batch: Batch) -> None:
        """Ask no more for it. Raises UpstreamFault (409) when it has ended."""
        if batch.status.ended or batch.status is Status.FINALIZING:
            message = f"Cannot cancel a batch with status '{batch.status}'."
            raise CallersFault(409, "batch_ended", message)
        began = batch.status is Status.IN_PROGRESS
        batch.enter(Status.CANCELLING, self._wall())
        batch.news.set()
        if not began and Status.IN_PROGRESS not in batch.times:
            self._tasks[batch.id].cancel()
            batch.enter(Status.CANCELLED, self._wall())

    def _sweep(self) -> None:
        """Forget what ended long ago."""
        before = self._wall() - self.files.keep_seconds
        for one in list(self._batches.values()):
            if one.status.ended and one.times[one.status] <= before:
                del self._batches[one.id]

    @asynccontextmanager
    async def _turn(self, owner: str, until: float) -> AsyncIterator[None]:
        try:
            await self._turns.enter(Lane.BATCH, owner, until)
        except UpstreamFault:
            # its time is over, so it asks for nothing
            yield
            return
        try:
            yield
        finally:
            self._turns.leave()

    async def _go(self, batch: Batch, asker: Call) -> None:
        until = self._asking.clock() + self._window
        async with self._turn(batch.owner, until):
            try:
                with batch.input.octets.opened() as stream:
                    entered = await asyncio.to_thread(entered_in, stream, batch.input, self._shares)
                    batch.total = entered.total
                    batch.enter(Status.IN_PROGRESS, self._wall())
                    running = Running(batch, self._asking, asker, self.files, until, self._concurrency)
                    await self._run(batch, running, stream, entered)
            except Unusable as fault:
                self._fail(batch, fault.errors)
            except Exception:
                log.exception("the requests of a batch cannot be read")
                self._fail(batch, [error_of("internal_error", "The input file cannot be read.")])

    async def _run(self, batch: Batch, running: Running, stream: BinaryIO, entered: Entered) -> None:
        status = Status.FAILED
        try:
            try:
                status = await running.run(stream, entered)
            except Exception as fault:
                batch.errors = [what_failed(fault)]
            if status is not Status.CANCELLED:
                batch.enter(Status.FINALIZING, self._wall())
            status = await running.finish(status)
        except Exception as fault:
            tell_failed("the output of a batch cannot be kept", fault)
            status, batch.errors = Status.FAILED, [*batch.errors, what_failed(fault)]
        finally:
            running.discard()
        batch.enter(status, self._wall())

    def _fail(self, batch: Batch, errors: list[dict[str, Any]]) -> None:
        batch.errors = errors
        batch.enter(Status.FAILED, self._wall())
