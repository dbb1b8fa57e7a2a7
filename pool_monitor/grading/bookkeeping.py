"""Keeps the books of grading beside the event loop: counts tokens of what was asked, and saves the days.

Counting never holds up an answer, and is given up where it cannot keep pace: the books then say of how many only what
was reported is in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from config.tasks import end
from config.told import Told
from pool_monitor.grading import sse, tokens
from pool_monitor.grading.accounting import NO_TEMPLATE, Accounts, Tally, Usage, asked, passed, spared
from pool_monitor.grading.calls import Expansion, UpstreamFault
from pool_monitor.grading.decoding import without_coding
from pool_monitor.grading.jsons import decoded, weight_of
from pool_monitor.grading.models import Models
from pool_monitor.grading.outcomes import Outcome, model_of, tier_of, usage_of
from pool_monitor.grading.templates import Template

log = logging.getLogger("siding.grading")

MOST_WAITING = 1000
MOST_WAITING_BYTES = 64 * 1024 * 1024
"""Askings that wait to be counted, with their images: a class hands in its homework at once."""
MOST_SEEN_BYTES = 1024 * 1024
"""Of an answer that is passed on, what is looked at for the usage that it states: of events the end."""
SAVE_SECONDS = 30.0
CLOSE_SECONDS = 2.0
"""How long is counted on at the end."""
FILE = "grading-accounts.json"


def name_of(outcome: Outcome, models: Models) -> str:
    """The model that is billed: what was asked for may be the caller's own name for it (a deployment, an alias)."""
    return outcome.model if models.find(outcome.model) is not None else outcome.call.model


def tally_of(outcome: Outcome, models: Models) -> Tally:
    """One asking's tokens. Slow for large texts and images."""
    model = models.find(name_of(outcome, models))
    template = outcome.template
    before, after = tokens.count(template.original, model), tokens.count(template.compact, model)
    found = tokens.estimate(outcome.call.body, model)
    said = tokens.count(outcome.compact, model)
    told = tokens.count(outcome.full, model)
    return asked(
        prompt_before=before,
        prompt_after=after,
        text=max(0, found.text - before),
        image=found.image,
        image_after=tokens.estimate(outcome.asked, model).image,
        unknown_images=found.unknown_images,
        output_before=told,
        output_after=said,
        usage=Usage.of(outcome.usage),
        asked_again=outcome.expansion is Expansion.ASKED_AGAIN,
    )


def _with_messages_alone(outcome: Outcome) -> Outcome:
    """What tokens are counted of; nothing else is held."""

    def alone(body: Mapping[str, Any]) -> dict[str, Any]:
        return {name: body[name] for name in ("model", "messages") if name in body}

    return replace(outcome, call=outcome.call.asking(alone(outcome.call.body)), asked=alone(outcome.asked))


@dataclass(frozen=True, slots=True)
class _Asking:
    """One that waits to be counted. count -- gives the label of model and tier, and the tally; slow. weight -- in
    bytes. stated -- what is known without counting."""

    template: str
    count: Callable[[], tuple[str, Tally]]
    weight: int
    stated: tuple[str, Tally]


class Bookkeeping:
    """Takes what was asked, and gives the books. wall -- seconds since 1970. folder -- None: they end with us."""

    def __init__(
        self, models: Models, wall: Callable[[], float], folder: Path | None, observe: Callable[[str, str, Tally], None]
    ) -> None:
        """observe -- told of every tally, with its template and the label of model and tier."""
        self._models = models
        self._observe = observe
        self._wall = wall
        self._file = folder / FILE if folder is not None else None
        self.accounts = Accounts(models)
        self.uncounted = 0
        self._waiting: asyncio.Queue[_Asking] = asyncio.Queue(MOST_WAITING)
        self._bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = False
        self._told = Told()

    # -- what is told

    def expanded(self, outcome: Outcome) -> None:
        """An asking in the compact form has ended."""
        if outcome.expansion is not Expansion.FAILED or outcome.usage is not None or outcome.begun:
            label = self._models.label(name_of(outcome, self._models), outcome.tier)
            weight = weight_of(outcome.call.body.get("messages")) + len(outcome.compact) + len(outcome.full)
            stated = label, passed(Usage.of(outcome.usage))
            count = partial(tally_of, _with_messages_alone(outcome), self._models)
            self._later(_Asking(outcome.template.name, lambda: (label, count()), weight, stated))

    def passed(self, content: bytes, coding: str) -> None:
        """A completion was answered as it came. coding -- the answer's Content-Encoding."""

        def tally() -> tuple[str, Tally]:
            model, usage, tier = stated_in(content, coding)
            return self._models.label(model, tier), passed(Usage.of(usage))

        self._later(_Asking(NO_TEMPLATE, tally, len(content), (self._models.label(""), passed(None))))

    def spared(self, template: Template | None, content: bytes, coding: str) -> None:
        """A completion was answered by an answer that was there, or on its way for another."""

        def tally() -> tuple[str, Tally]:
            model, usage, tier = stated_in(content, coding)
            return self._models.label(model, tier), spared(Usage.of(usage))

        name = template.name if template is not None else NO_TEMPLATE
        self._later(_Asking(name, tally, len(content), (self._models.label(""), spared(None))))

    def _later(self, asking: _Asking) -> None:
        if self._waiting.full() or (self._bytes and self._bytes + asking.weight > MOST_WAITING_BYTES):
            self._uncounted(asking)
        else:
            self._bytes += asking.weight
            self._waiting.put_nowait(asking)

    def _uncounted(self, asking: _Asking) -> None:
        self.uncounted += 1
        self._add(asking.template, *asking.stated)

    def _add(self, template: str, label: str, tally: Tally) -> None:
        self.accounts.add(self._wall(), template, label, tally)
        self._observe(template, label, tally)
        self._changed = True

    def document(self) -> dict[str, Any]:
        """For `GET /api/metrics/grading`."""
        return {**self.accounts.document(), "uncounted": self.uncounted}

    # -- the work

    async def start(self) -> None:
        """Take the saved books over, see whether they can be saved, and begin to count."""
        # nobody is served meanwhile: better nobody yet
        await asyncio.to_thread(tokens.warm)
        if self._file is not None:
            await asyncio.to_thread(self._restore, self._file)
            try:
                await asyncio.to_thread(_try, self._file.parent)
            except OSError as fault:
                self._not_saved(self._file, fault)
            self._tasks.append(asyncio.create_task(self._save_now_and_then(self._file)))
        self._tasks.append(asyncio.create_task(self._count()))

    def _restore(self, file: Path) -> None:
        try:
            saved = orjson.loads(file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, orjson.JSONDecodeError) as fault:
            log.warning("the books of grading in %s cannot be read, so they begin anew: %s", file, fault)
            return
        if not self.accounts.restore(saved):
            log.warning("the books of grading in %s are of another version, so they begin anew", file)

    async def _count(self) -> None:
        while True:
            asking = await self._waiting.get()
            try:
                await self._count_one(asking)
            except Exception:
                log.exception("an asking could not be counted")
            finally:
                self._bytes -= asking.weight
                self._waiting.task_done()
            del asking

    async def _count_one(self, asking: _Asking) -> None:
        try:
            label, tally = await asyncio.to_thread(asking.count)
        except BaseException:
            self._uncounted(asking)
            raise
        self._add(asking.template, label, tally)

    async def counted(self) -> None:
        """Wait until everything told so far is in the books."""
        await self._waiting.join()

    async def _save_now_and_then(self, file: Path) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self._save(file)

    async def _save(self, file: Path) -> None:
        if not self._changed:
            return
        self._changed = False
        try:
            await asyncio.to_thread(_write, file, orjson.dumps(self.accounts.as_saved()))
            self._told.works()
        except OSError as fault:
            self._changed = True
            self._not_saved(file, fault)

    def _not_saved(self, file: Path, fault: OSError) -> None:
        reason = fault.strerror or str(fault)
        if self._told.news(reason):
            log.warning(
                "the books of grading cannot be saved in %s, so they end with this process: %s", file.parent, reason
            )

    async def close(self) -> None:
        """Count what waits, for a moment, and save."""
        if self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.counted()
        await end(self._tasks)
        while not self._waiting.empty():
            self._uncounted(self._waiting.get_nowait())
        if self._file is not None:
            await self._save(self._file)


def _try(folder: Path) -> None:
    """Write there what leaves nothing behind. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"books")


def _write(file: Path, content: bytes) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, file)


def stated(content: bytes, coding: str) -> Mapping[str, Any] | None:
    """The answer's document, or the last of its events'; None where there is none. coding -- its Content-Encoding."""
    try:
        plain = without_coding(content, coding)
        # what a model says may look like events, too
        if (whole := decoded(plain)) is not None:
            return whole
        decoder = sse.Decoder()
        events = [*decoder.feed(plain[-MOST_SEEN_BYTES:]), decoder.rest()]
    except (ValueError, UpstreamFault):
        return None
    said = (one.document for one in reversed(events) if one is not None)
    return next((document for document in said if document is not None), None)


def stated_in(content: bytes, coding: str) -> tuple[str, Mapping[str, Any] | None, str]:
    """The model, the `usage` and the tier that an answer states, whole or as events; "", None, "" where it does not."""
    document = stated(content, coding) or {}
    return model_of(document), usage_of(document), tier_of(document)
