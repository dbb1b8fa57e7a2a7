"""What `siding-monitor evaluate` asks: a homework, in one of several ways, and again; and what it keeps of the answers.

Every answer is appended to a file as soon as it is there, so that what was paid for is not asked a second time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import openai
import orjson

from pool_monitor.grading.calls import Left
from pool_monitor.grading.dataset import Homework
from pool_monitor.grading.outcomes import added
from pool_monitor.grading.reading import Form, Read
from pool_monitor.grading.templates import Template, recognise

MOST_FAULTS_IN_A_ROW = 10
RETRIES = 3
HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""The next one would fail as well."""


class Stopped(Exception):
    """It makes no sense to ask on. Its text says why."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to grade: which prompt, and in which detail the model sees the images."""

    form: Form
    detail: str

    @property
    def name(self) -> str:
        return f"{self.form.value}, detail {self.detail}"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What all requests have in common. temperature -- None: the model's own."""

    model: str
    temperature: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """One answer that is wanted. key -- a digest of what is asked, and the how manieth time."""

    homework: Homework
    arm: Arm
    repeat: int
    key: str


def body_of(homework: Homework, detail: str, template: Template, parameters: Parameters) -> dict[str, Any]:
    """The request with the original prompt, as a caller would send it. Reads the images."""
    text = "\n\n".join(part for part in (homework.before, template.original, homework.after) if part)
    images = [{"type": "image_url", "image_url": {"url": image.url(), "detail": detail}} for image in homework.images]
    content: list[dict[str, Any]] = [{"type": "text", "text": text}, *images]
    body: dict[str, Any] = {"model": parameters.model, "messages": [{"role": "user", "content": content}]}
    return body if parameters.temperature is None else {**body, "temperature": parameters.temperature}


def in_form(body: Mapping[str, Any], form: Form, templates: Sequence[Template]) -> Mapping[str, Any] | Left:
    """The request as the pool monitor would ask it; why it would not make it smaller, where it would not."""
    if form is Form.ORIGINAL:
        return body
    recognised = recognise(body, templates)
    return recognised if isinstance(recognised, Left) else recognised.body


def key_of(body: Mapping[str, Any], form: Form, repeat: int) -> str:
    """A digest of prompt, images, model and parameters."""
    content = orjson.dumps([body, form.value, repeat], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()


# -- what is kept


@dataclass(frozen=True, slots=True)
class Result:
    """answer -- None where the model's could not be read. usage -- of all that was asked for it, as reported.

    again -- the compact answer was not certain, and the original prompt was asked after it, as for a caller.
    """

    answer: Mapping[str, Any] | None
    usage: Mapping[str, Any] | None
    again: bool = False


class Results:
    """A file of results, a line of JSON each. Raises OSError when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, Result] = {}
        self._file: IO[bytes] = path.open("a+b")
        self._file.seek(0)
        end = b"\n"
        for line in self._file:
            end = line[-1:]
            self._load(line)
        if end != b"\n":
            # what was half written when it was interrupted
            self._file.write(b"\n")

    def _load(self, line: bytes) -> None:
        try:
            record = orjson.loads(line)
            key, answer, usage, again = (record[name] for name in ("key", "answer", "usage", "again"))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return
        told = all(one is None or isinstance(one, dict) for one in (answer, usage))
        if isinstance(key, str) and told and isinstance(again, bool):
            self.kept[key] = Result(answer, usage, again)

    def keep(self, job: Job, result: Result) -> None:
        """Add a result, and have it on the disk."""
        record = {
            "key": job.key,
            "homework": job.homework.name,
            "arm": job.arm.name,
            "repeat": job.repeat,
            "answer": result.answer,
            "usage": result.usage,
            "again": result.again,
        }
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.kept[job.key] = result

    def close(self) -> None:
        self._file.close()


# -- asking


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said. text -- None where it said nothing, or not to its end."""

    text: str | None
    usage: Mapping[str, Any] | None


Complete = Callable[[Mapping[str, Any]], Awaitable[Said]]
"""Raises openai.OpenAIError."""


def completer(client: openai.AsyncOpenAI) -> Complete:
    """Chat completions by the vendor's SDK."""

    async def complete(body: Mapping[str, Any]) -> Said:
        completion = await client.chat.completions.create(**body)
        usage = completion.usage.model_dump(exclude_none=True) if completion.usage is not None else None
        choice = completion.choices[0] if completion.choices else None
        whole = choice is not None and choice.finish_reason == "stop"
        return Said(choice.message.content if choice is not None and whole else None, usage)

    return complete


class Asker:
    """Gets one result, in the way a caller of the pool monitor would."""

    def __init__(
        self, complete: Complete, read: Read, template: Template, templates: Sequence[Template], parameters: Parameters
    ) -> None:
        self._complete = complete
        self._read = read
        self._template = template
        self._templates = templates
        self._parameters = parameters

    async def result(self, job: Job) -> Result:
        """Raises openai.OpenAIError, OSError and Stopped."""
        original = await asyncio.to_thread(body_of, job.homework, job.arm.detail, self._template, self._parameters)
        asked = in_form(original, job.arm.form, self._templates)
        if isinstance(asked, Left):
            raise Stopped(f"{job.homework.name}: its prompt would be left as it is: {asked.value}")
        said = await self._complete(asked)
        answer = self._read(self._template, job.arm.form, said.text) if said.text is not None else None
        if answer is not None or job.arm.form is Form.ORIGINAL:
            return Result(answer, said.usage)
        second = await self._complete(original)
        answer = self._read(self._template, Form.ORIGINAL, second.text) if second.text is not None else None
        return Result(answer, added(said.usage, second.usage), again=True)


class Progress:
    """Told of every job that has ended, and tells on. faults -- how many have failed; last -- how the last one did."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.done = 0
        self.faults = 0
        self.in_a_row = 0
        self.last = ""
        self._tell = tell

    def kept(self) -> None:
        self.done += 1
        self.in_a_row = 0
        self._tell()

    def failed(self, fault: Exception) -> None:
        self.faults += 1
        self.in_a_row += 1
        self.last = f"{type(fault).__name__}: {fault}"[:300]
        self._tell()


async def run(
    jobs: Sequence[Job], asker: Asker, keep: Callable[[Job, Result], None], at_once: int, progress: Progress
) -> None:
    """Get every result, so many at once. What fails is counted and left out. Raises Stopped."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            try:
                keep(job, await asker.result(job))
            except HOPELESS as fault:
                raise Stopped(f"the upstream refuses: {fault}") from fault
            except (openai.OpenAIError, OSError) as fault:
                progress.failed(fault)
                if progress.in_a_row >= MOST_FAULTS_IN_A_ROW:
                    raise Stopped(f"{progress.in_a_row} failed one after the other: {progress.last}") from fault
            else:
                progress.kept()

    stopped: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(jobs))):
                group.create_task(work())
    except* Stopped as faults:
        stopped = faults.exceptions[0]
    if stopped is not None:
        raise stopped
