"""One batch of the batches API: how it stands, and how it is asked for and answered, to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO

import orjson

from config.words import counted, quoted
from pool_monitor.grading.batch import Crew, Work, tell_failed
from pool_monitor.grading.batch_asking import NO_TOKENS, Asking, Refusals, Reply, Tokens, refusal
from pool_monitor.grading.batch_files import PIECE_BYTES, Draft, File, Files, NoRoom, new_id
from pool_monitor.grading.batch_input import Entered, asked_at, error_of
from pool_monitor.grading.batch_items import Item
from pool_monitor.grading.calls import CHAT, Call, OwnFault, UpstreamFault
from pool_monitor.grading.jsons import loaded
from pool_monitor.grading.receiving import TIMES_SLOWER, done_to

log = logging.getLogger("siding.grading")

WINDOW = "24h"
WINDOW_SECONDS = 86_400.0
CANCEL_SECONDS = 30.0
"""How long what was asked already may take when a batch is cancelled."""


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


# -- what is answered


_UNASKED = {
    Status.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was executed."),
    Status.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    Status.FAILED: ("batch_failed", "The batch failed before this request was executed."),
}


def output_line(item: Item, reply: Reply) -> bytes:
    """A line of the output file, or of that of errors.

    https://platform.openai.com/docs/api-reference/batch/request-output
    """
    response, error = None, None
    if reply.answered:
        body = orjson.Fragment(reply.body)
        request_id = reply.request_id or new_id("req_siding-")
        response = {"status_code": reply.status, "request_id": request_id, "body": body}
    else:
        fault = loaded(reply.error)
        code = "request_timeout" if reply.status == 504 else fault["code"]
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


# -- while it runs


class Running:
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
            self._batch.errors.append(what_failed(why))

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
        call = self._asker.asking(*await work.load())
        if self._refusals.last(call.model) is not None:
            return
        reply = await self._asking.reply(call, self._until)
        if not reply.answered and self._asking.clock() >= self._until:
            return
        self._batch.tokens += reply.tokens
        self._heed(reply, call.model)
        for item in work.items:
            # before it is written: it has its line, even if it is given up meanwhile
            del self._left[item.index]
            await self._write(item, reply)

    def _heed(self, reply: Reply, model: str) -> None:
        """With a key that is refused fifty thousand others would be, too."""
        self._refusals.heed(reply, model)
        if self._refusals.last(None) is not None:
            self._ends(_refused())
            self._crew.stop()
        elif self._refusals.last(model) is not None:
            message = f"The upstream forbids what this batch asks of the model {quoted(model)}."
            self._ends(UpstreamFault(403, "permission_denied", message))

    async def _write(self, item: Item, reply: Reply) -> None:
        if reply.ok:
            self._batch.completed += 1
        else:
            self._batch.failed += 1
        await self._add(self._output if reply.ok else self._errors, output_line(item, reply))

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


def _work(stream: BinaryIO, items: tuple[Item, ...], at: int, size: int) -> Work:
    async def load() -> tuple[Mapping[str, Any], bytes]:
        return await done_to(size * TIMES_SLOWER, asked_at, stream, at, size)

    return Work(items, load)


def _refused() -> UpstreamFault:
    return UpstreamFault(401, "invalid_api_key", "The upstream refuses the key of this batch.")


def what_failed(fault: Exception) -> dict[str, Any]:
    """As a batch tells it."""
    told = fault if isinstance(fault, UpstreamFault) else OwnFault()
    return error_of(told.code, told.message)
