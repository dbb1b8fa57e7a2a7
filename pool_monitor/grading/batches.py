"""The batches API of OpenAI, answered here in minutes: a file of requests becomes a file of answers.

Nothing outlasts a restart: a batch that was running is gone then, and asking for it gives 404. There is no discount
either: each request is asked, and billed, as if it had come alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import Any, BinaryIO

import orjson

from config.tracing import apart
from config.words import counted, quoted
from pool_monitor.grading.batch import CONCURRENCY, Crew, Work, tell_failed
from pool_monitor.grading.batch_asking import NO_TOKENS, Asking, Outcome, Refusals, Tokens, refusal
from pool_monitor.grading.batch_files import PIECE_BYTES, Draft, File, Files, NoRoom, Octets, lines_of, new_id
from pool_monitor.grading.batch_items import CHAT, Item, Parsed, Refused, Shares, parse_line, together
from pool_monitor.grading.calls import Call, CallersFault, Lane, UpstreamFault
from pool_monitor.grading.turns import Turns

log = logging.getLogger("siding.grading")

BATCH_PREFIX = "batch_siding-"
WINDOW = "24h"
WINDOW_SECONDS = 86_400.0
MOST_LINES = 50_000
"""As many as OpenAI takes."""
MOST_RUNNING = 4
MOST_BATCHES = 1000
OWNERS_SHARE = 2
"""One caller's are no more than this part of them."""
CANCEL_SECONDS = 30.0
"""How long what was asked already may take when a batch is cancelled."""
MOST_ERRORS = 50
MOST_METADATA = 16


class Status(StrEnum):
    """As OpenAI's."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in {Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED}


_UNASKED = {
    Status.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was executed."),
    Status.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    Status.FAILED: ("batch_failed", "The batch failed before this request was executed."),
}


@dataclass(slots=True, eq=False)
class Batch:
    """times -- when each status began, in seconds since 1970. news -- set when it is cancelled, or nothing is left."""

    id: str
    owner: str
    input: File
    metadata: Mapping[str, str] | None
    keep_seconds: float | None
    created: float
    status: Status = Status.VALIDATING
    times: dict[Status, float] = field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    tokens: Tokens = NO_TOKENS
    errors: list[dict[str, Any]] = field(default_factory=list)
    output: File | None = None
    error_output: File | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, status: Status, now: float) -> None:
        self.status = status
        self.times[status] = now

    @property
    def document(self) -> dict[str, Any]:
        """As OpenAI's API tells it."""
        times = {f"{status}_at": _whole(self.times.get(status)) for status in Status if status is not Status.VALIDATING}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": CHAT,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input.id,
            "completion_window": WINDOW,
            "status": self.status.value,
            "output_file_id": self.output.id if self.output is not None else None,
            "error_file_id": self.error_output.id if self.error_output is not None else None,
            "created_at": int(self.created),
            "expires_at": int(self.created + WINDOW_SECONDS),
            **times,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": _usage(self.tokens),
            "metadata": self.metadata,
        }


def _whole(moment: float | None) -> int | None:
    return int(moment) if moment is not None else None


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {"cached_tokens": tokens.cached},
        "output_tokens": tokens.completion,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.prompt + tokens.completion,
    }


# -- what is asked for


@dataclass(frozen=True, slots=True)
class Entered:
    """A file's requests. works -- by groups of equal ones, each with where its line is."""

    groups: list[tuple[tuple[Item, ...], int, int]]
    refused: list[Item]

    @property
    def total(self) -> int:
        return len(self.refused) + sum(len(items) for items, _, _ in self.groups)


class Unusable(Exception):
    """Nothing of a file is asked. errors -- as a batch tells them."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors[0]["message"])
        self.errors = errors


def error_of(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    """One of a batch's errors."""
    return {"code": code, "message": message, "line": line, "param": param}


def _lines(stream: BinaryIO, file: File) -> Iterator[tuple[int, int, bytes]]:
    """Number, place and content of each line that is not blank."""
    at = file.begin
    with lines_of(stream, file.begin, file.size) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, at, line
            at += len(line)


def endpoint_of(octets: Octets, begin: int, size: int) -> str | None:
    """Where the first request of a file is to go; None where it does not tell. Raises OSError."""
    with octets.opened() as stream, lines_of(stream, begin, size) as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        document = orjson.loads(first)
    except orjson.JSONDecodeError:
        return None
    url = document.get("url") if isinstance(document, dict) else None
    return url if isinstance(url, str) else None


def entered_in(stream: BinaryIO, file: File, shares: Shares, most: int = MOST_LINES) -> Entered:
    """What is in a file that was opened as this stream. Raises Unusable, OSError.

    One line that is wrong spoils the file: with OpenAI it fails the validation of the batch
    (platform.openai.com/docs/guides/batch), and the caller may have sent another file than it thinks.
    """
    places: list[tuple[int, int]] = []
    parsed: list[Parsed] = []
    numbers: list[int] = []
    seen: set[str] = set()
    for number, at, line in _lines(stream, file):
        if len(parsed) >= most:
            message = f"The batch has more than {counted(most, 'request')}."
            raise Unusable([error_of("too_many_requests", message)])
        one = _without_twins(parse_line(len(parsed), line, number, strict=True), seen)
        parsed.append(replace(one, body=None))
        places.append((at, len(line)))
        numbers.append(number)
    if not parsed:
        raise Unusable([error_of("empty_file", "The input file has no requests.")])
    refused = [one.item for one in parsed if one.item.refused is not None]
    refusals = [(item.index, item.refused) for item in refused if item.refused is not None]
    wrong = [_error(why, numbers[index]) for index, why in refusals if why.is_of_line or len(refusals) == len(parsed)]
    if wrong:
        raise Unusable(wrong[:MOST_ERRORS])
    groups = [
        (tuple(one.item for one in group), *places[group[0].item.index])
        for group in together(parsed, lambda one: shares(_body_at(stream, *places[one.item.index])))
    ]
    return Entered(groups, refused)


def _error(refused: Refused, line: int) -> dict[str, Any]:
    return error_of(refused.code, refused.message, line, refused.param)


def _without_twins(one: Parsed, seen: set[str]) -> Parsed:
    custom_id = one.item.custom_id
    if custom_id is None or one.item.refused is not None:
        return one
    if custom_id in seen:
        message = f"the custom_id {quoted(custom_id)} was used before in this file"
        return replace(one, item=replace(one.item, refused=Refused("duplicate_custom_id", message, "custom_id")))
    seen.add(custom_id)
    return one


def _work(stream: BinaryIO, items: tuple[Item, ...], at: int, size: int) -> Work:
    async def load() -> Mapping[str, Any]:
        return _body_at(stream, at, size)

    return Work(items, load)


def _body_at(stream: BinaryIO, at: int, size: int) -> Mapping[str, Any]:
    body: Mapping[str, Any] = orjson.loads(os.pread(stream.fileno(), size, at))["body"]
    return body


# -- what is answered


def output_line(item: Item, outcome: Outcome) -> bytes:
    """A line of the output file, or of that of errors.

    https://platform.openai.com/docs/api-reference/batch/request-output
    """
    response, error = None, None
    if outcome.answered:
        body = orjson.Fragment(outcome.body)
        request_id = outcome.request_id or new_id("req_siding-")
        response = {"status_code": outcome.status, "request_id": request_id, "body": body}
    else:
        fault = outcome.error
        code = "request_timeout" if outcome.status == 504 else fault["code"]
        error = {"code": code, "message": fault["message"]}
    return _line(item, response, error)


def _unasked(item: Item, status: Status) -> bytes:
    """The line of a request that was not asked before its batch ended so."""
    code, message = _UNASKED.get(status, _UNASKED[Status.FAILED])
    return _line(item, None, {"code": code, "message": message})


def _line(item: Item, response: object, error: object) -> bytes:
    document = {"id": new_id("batch_req_siding-"), "custom_id": item.custom_id, "response": response, "error": error}
    return orjson.dumps(document) + b"\n"


_UNKEPT = {"code": "storage_full", "message": "There was no room for the answer to this request."}
_LONGEST_UNANSWERED = max(len(_line(Item(0), None, _UNKEPT)), *(len(_unasked(Item(0), status)) for status in _UNASKED))


# -- batches


class _Running:
    """One batch while it runs. until -- monotonic seconds."""

    def __init__(self, batch: Batch, asking: Asking, asker: Call, files: Files, until: float, concurrency: int) -> None:
        self._batch = batch
        self._asking = asking
        self._asker = asker
        self._files = files
        self._until = until
        self._crew = Crew(concurrency, self._do, batch.news.set)
        self._refusals = Refusals()
        self._why: UpstreamFault | None = None
        """Why it ends before its end."""
        self._left: dict[int, Item] = {}
        self._output = files.draft()
        self._errors = files.draft()

    async def run(self, stream: BinaryIO, entered: Entered) -> Status:
        """How it ended; what was asked has its line. Where there is no more room, or the key is refused, that is so
        with what was answered before; only where that is nothing has it failed."""
        batch, crew = self._batch, self._crew
        works = [_work(stream, *group) for group in entered.groups]
        self._left = {item.index: item for work in works for item in work.items}
        try:
            self._set_aside()
        except NoRoom as fault:
            self._full(fault)
            batch.failed = len(entered.refused)
            return Status.FAILED
        for item in entered.refused:
            if item.refused is not None:
                await self._write(item, refusal(item.refused))
        try:
            crew.add(works)
            await batch.news.wait()
            if batch.status is Status.CANCELLING:
                await self._wind_up()
        finally:
            await crew.close()
        if isinstance(crew.fault, Exception):
            raise crew.fault
        if batch.status is Status.CANCELLING:
            return Status.CANCELLED
        if self._refusals.key and not batch.completed:
            self._ends(_refused())
        if self._why is not None:
            return Status.COMPLETED if batch.completed else Status.FAILED
        return Status.EXPIRED if self._left else Status.COMPLETED

    def _set_aside(self) -> None:
        """What is answered is paid for: before anything is asked there is room for what is still in memory when no
        other is left, and for a line of each that has no answer then. Raises NoRoom."""
        self._output.set_aside(2 * PIECE_BYTES)
        names = sum(len(orjson.dumps(item.custom_id)) for item in self._left.values())
        self._errors.set_aside(2 * PIECE_BYTES + names + len(self._left) * _LONGEST_UNANSWERED)

    def _ends(self, why: UpstreamFault) -> None:
        """It will not be whole."""
        if self._why is None:
            self._why = why
            self._batch.errors.append(_what_failed(why))

    async def _wind_up(self) -> None:
        crew = self._crew
        crew.stop()
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                while crew.active:
                    self._batch.news.clear()
                    await self._batch.news.wait()
        except TimeoutError:
            log.warning("a cancelled batch gives up %s", counted(crew.active, "request"))

    async def _do(self, work: Work) -> None:
        body = await work.load()
        model = str(body.get("model"))
        if self._refusals.last(model) is not None:
            return
        outcome = await self._asking.outcome(self._asker, body, self._until)
        if not outcome.answered and self._asking.clock() >= self._until:
            return
        self._batch.tokens += outcome.tokens
        self._heed(outcome, model)
        for item in work.items:
            # before it is written: it has its line, even if it is given up meanwhile
            del self._left[item.index]
            await self._write(item, outcome)

    def _heed(self, outcome: Outcome, model: str) -> None:
        """With a key that is refused fifty thousand others would be, too."""
        self._refusals.heed(outcome, model)
        if self._refusals.last(None) is not None:
            self._ends(_refused())
            self._crew.stop()
        elif self._refusals.last(model) is not None:
            message = f"The upstream forbids what this batch asks of the model {quoted(model)}."
            self._ends(UpstreamFault(403, "permission_denied", message))

    async def _write(self, item: Item, outcome: Outcome) -> None:
        if outcome.ok:
            self._batch.completed += 1
        else:
            self._batch.failed += 1
        await self._add(self._output if outcome.ok else self._errors, output_line(item, outcome))

    async def _add(self, draft: Draft, line: bytes) -> None:
        try:
            await draft.write(line)
        except NoRoom as fault:
            # the line waits for what is set aside
            self._full(fault)

    def _full(self, why: NoRoom) -> None:
        self._crew.stop()
        if not isinstance(self._why, NoRoom):
            tell_failed("a batch ends before its end", why)
        self._ends(why)

    async def finish(self, status: Status) -> Status:
        """Make files of what there is; how it ended, then."""
        batch = self._batch
        batch.failed += len(self._left)
        self._output.ending = self._errors.ending = True
        unkept = await self._unkept(self._output)
        batch.completed -= len(unkept)
        batch.failed += len(unkept)
        unkept += await self._unkept(self._errors)
        try:
            for line in unkept:
                await self._errors.write(_line(Item(0, orjson.loads(line)["custom_id"]), None, _UNKEPT))
            for item in self._left.values():
                await self._errors.write(_unasked(item, status))
            await self._errors.flush()
        except NoRoom as fault:
            # the disk is full: what is on it is kept
            self._full(fault)
            self._errors.without_rest()
        batch.output = await self._kept(self._output, "output")
        batch.error_output = await self._kept(self._errors, "error")
        lost = status is Status.COMPLETED and self._why is not None and not batch.completed
        return Status.FAILED if lost else status

    async def _unkept(self, draft: Draft) -> list[bytes]:
        """Put what is in memory to disk; the lines for which there is no room."""
        try:
            await draft.flush()
            return []
        except NoRoom as fault:
            self._full(fault)
        unkept: list[bytes] = []
        for line in draft.without_rest().splitlines(keepends=True):
            try:
                await draft.write(line)
                await draft.flush()
            except NoRoom:
                unkept.append(draft.without_rest())
        return unkept

    async def _kept(self, draft: Draft, what: str) -> File | None:
        if not draft.size:
            return None
        batch = self._batch
        name = f"{batch.id}_{what}.jsonl"
        return await self._files.keep(draft, batch.owner, "batch_output", name, seconds=batch.keep_seconds)

    def discard(self) -> None:
        """Remove what no file was made of."""
        self._output.discard()
        self._errors.discard()


class _Unobserved:
    def waited(self, lane: Lane, seconds: float) -> None:
        """See ObserveWait."""


def _refused() -> UpstreamFault:
    return UpstreamFault(401, "invalid_api_key", "The upstream refuses the key of this batch.")


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
                    running = _Running(batch, self._asking, asker, self.files, until, self._concurrency)
                    await self._run(batch, running, stream, entered)
            except Unusable as fault:
                self._fail(batch, fault.errors)
            except Exception:
                log.exception("the requests of a batch cannot be read")
                self._fail(batch, [error_of("internal_error", "The input file cannot be read.")])

    async def _run(self, batch: Batch, running: _Running, stream: BinaryIO, entered: Entered) -> None:
        status = Status.FAILED
        try:
            try:
                status = await running.run(stream, entered)
            except Exception as fault:
                batch.errors = [_what_failed(fault)]
            if status is not Status.CANCELLED:
                batch.enter(Status.FINALIZING, self._wall())
            status = await running.finish(status)
        except Exception as fault:
            tell_failed("the output of a batch cannot be kept", fault)
            status, batch.errors = Status.FAILED, [*batch.errors, _what_failed(fault)]
        finally:
            running.discard()
        batch.enter(status, self._wall())

    def _fail(self, batch: Batch, errors: list[dict[str, Any]]) -> None:
        batch.errors = errors
        batch.enter(Status.FAILED, self._wall())


def _what_failed(fault: Exception) -> dict[str, Any]:
    if isinstance(fault, UpstreamFault):
        return error_of(fault.code, fault.message)
    return error_of("internal_error", "A fault of Siding's own; its log has the details.")
