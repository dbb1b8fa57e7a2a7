"""Some homeworks are asked again in the background with the other prompt, and the two answers compared.

It is the caller's key that pays for the second answer: the operator who sets SHADOW_SAMPLE_RATE does so knowingly, and
SHADOW_CALLS_A_DAY and SHADOW_DOLLARS_A_DAY bound it. Of what was asked and answered only counts are kept.

Answers that could not be expanded are no part of it: the caller got the original prompt's answer then.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from config.tasks import end
from pool_monitor.grading.calls import Ask, Call, Lane, UpstreamFault
from pool_monitor.grading.jsons import decoded, weight_of
from pool_monitor.grading.outcomes import said_by, tier_of, usage_of
from pool_monitor.grading.paired import seeded
from pool_monitor.grading.quality import Compared, Summary, compare, fields_of, summarise
from pool_monitor.grading.quality_report import PREFIX, summary_json, summary_levels
from pool_monitor.grading.reading import Form, Read
from pool_monitor.grading.templates import Recognised, Template

log = logging.getLogger("siding.grading")

AT_ONCE = 2
MOST_WAITING = 8
MOST_WAITING_BYTES = 64 * 1024 * 1024
MOST_HOMEWORKS = 5000
DAY_SECONDS = 86_400.0
WHAT = "the share of questions graded correct"
_NOT_REPEATED = frozenset({"stream", "stream_options", "store", "metadata"})
"""A background answer is neither streamed nor stored for the caller."""


class Shadowed(StrEnum):
    """What became of an answer that was offered for comparison."""

    NOT_SAMPLED = "not-sampled"
    """by chance, before anybody looked what it says"""
    COMPARED = "compared"
    TOO_MANY_WAITING = "too-many-waiting"
    OVER_BUDGET = "over-budget"
    NO_PRICE = "no-price"
    """what it would cost is not known, so no budget can hold it"""
    UPSTREAM_ERROR = "upstream-error"
    NO_ANSWER = "no-answer"
    """none in time, or none at all"""
    REFUSED = "refused"
    """one of the answers is, by the model or a filter: there are no grades to compare"""
    UNREADABLE = "unreadable"
    """one of the answers is not in the full form, and cannot be made it with certainty"""
    FAULT = "fault"
    CLOSED = "closed"


Price = Callable[[Mapping[str, Any], Mapping[str, Any] | None], float | None]
"""Dollars for a body: estimated, or by the `usage` that was reported; None where the model has no known price."""


class Budget:
    """So many calls and dollars a day (UTC). now -- wall seconds."""

    def __init__(self, calls_a_day: int, dollars_a_day: float) -> None:
        self.calls_a_day = calls_a_day
        self.dollars_a_day = dollars_a_day
        self.calls = 0
        self.dollars = 0.0
        self._day = -1.0

    def turn(self, now: float) -> None:
        """A new day begins with nothing spent."""
        day = now // DAY_SECONDS
        if day != self._day:
            self._day, self.calls, self.dollars = day, 0, 0.0

    def spend(self, dollars: float, now: float) -> bool:
        """Reserve a call that costs so much; False where the day has no room for it."""
        self.turn(now)
        if self.calls >= self.calls_a_day or self.dollars + dollars > self.dollars_a_day:
            return False
        self.calls += 1
        self.dollars += dollars
        return True

    def settle(self, reserved: float, spent: float, now: float) -> None:
        """It has cost something else than was reserved."""
        self.turn(now)
        self.dollars = max(0.0, self.dollars + spent - reserved)


@dataclass(frozen=True, slots=True)
class _Job:
    """call -- the caller's. body -- that is to be asked, in `form`. answer -- what the caller got to the other one."""

    call: Call
    body: Mapping[str, Any]
    template: Template
    form: Form
    answer: str
    weight: int


class Shadow:
    """Samples, asks, compares. `start` it on the loop, and `close` it.

    rate -- share of offers that are taken. clock, wall -- monotonic and wall seconds. seconds -- for one answer, its
    turn included.
    """

    def __init__(
        self,
        *,
        ask: Ask,
        read: Read,
        price: Price,
        rate: float,
        budget: Budget,
        clock: Callable[[], float],
        wall: Callable[[], float],
        chance: random.Random,
        seconds: float,
    ) -> None:
        self.rate = rate
        self.budget = budget
        self.tally: Counter[Shadowed] = Counter()
        self.dollars = 0.0
        self._ask = ask
        self._read = read
        self._price = price
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._seconds = seconds
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(MOST_WAITING)
        self._waiting_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._kept: deque[tuple[str, Compared]] = deque(maxlen=MOST_HOMEWORKS)
        self._unseen = 0
        self._refreshing = asyncio.Lock()
        self._all = summarise((), seeded(), WHAT)
        self._by_template: dict[str, Summary] = {}

    def start(self) -> None:
        """Begin to work on what is offered."""
        if self.rate > 0:
            self._tasks = [asyncio.create_task(self._work(), name=f"shadow {number}") for number in range(AT_ONCE)]

    async def close(self) -> None:
        """End what is being asked; nothing is taken any more."""
        self._closed = True
        await end(self._tasks)
        self._tasks.clear()
        while not self._queue.empty():
            self._drop(self._queue.get_nowait(), Shadowed.CLOSED)

    # -- offers

    def offer_original(self, call: Call, template: Template, answer: str) -> None:
        """The caller, who sent `call`, got this full answer, made of the compact one: ask the original prompt too."""
        if self.draws():
            self._offer(call, call.body, template, Form.ORIGINAL, answer)

    def offer_refused(self) -> None:
        """The model, or a filter, refused the caller an answer."""
        if self.draws():
            self.tally[Shadowed.REFUSED] += 1

    def draws(self) -> bool:
        """Whether this is one of those that are compared."""
        if self._closed or self.rate <= 0:
            return False
        if self._chance.random() >= self.rate:
            self.tally[Shadowed.NOT_SAMPLED] += 1
            return False
        return True

    def offer_compact(self, call: Call, recognised: Recognised, answer: str) -> None:
        """The caller got this answer to the original prompt, and it was drawn: ask the compact one too."""
        self._offer(call, recognised.body, recognised.template, Form.COMPACT, answer)

    def _offer(self, call: Call, body: Mapping[str, Any], template: Template, form: Form, answer: str) -> None:
        if self._closed:
            return
        asked = {name: value for name, value in body.items() if name not in _NOT_REPEATED}
        weight = weight_of(asked) + len(call.content) + len(answer)
        job = _Job(call, asked, template, form, answer, weight)
        if self._queue.full() or self._waiting_bytes + job.weight > MOST_WAITING_BYTES:
            self.tally[Shadowed.TOO_MANY_WAITING] += 1
            return
        self._waiting_bytes += job.weight
        self._queue.put_nowait(job)

    def _drop(self, job: _Job, outcome: Shadowed) -> None:
        self._waiting_bytes -= job.weight
        self.tally[outcome] += 1

    # -- in the background

    async def _work(self) -> None:
        while True:
            job = await self._queue.get()
            outcome = Shadowed.CLOSED
            try:
                outcome = await self._compare(job)
                await self._refresh()
            except Exception as fault:
                outcome = Shadowed.FAULT
                log.warning("a homework could not be compared: %s", type(fault).__name__)
            finally:
                self._drop(job, outcome)
            del job

    async def _compare(self, job: _Job) -> Shadowed:
        estimated = await asyncio.to_thread(self._price, job.body, None)
        if estimated is None:
            return Shadowed.NO_PRICE
        if not self.budget.spend(estimated, self._wall()):
            return Shadowed.OVER_BUDGET
        call = await asyncio.to_thread(job.call.asking_again, job.body)
        call = replace(call, lane=Lane.SHADOW, deadline=self._clock() + self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._ask(call)
        except (UpstreamFault, TimeoutError):
            # it may be billed all the same
            self.dollars += estimated
            return Shadowed.NO_ANSWER
        completion = decoded(answer.content)
        said, usage, tier = said_by(completion), usage_of(completion), tier_of(completion)
        body = {**call.body, "service_tier": tier} if tier else call.body
        spent = (self._price(body, usage) if usage is not None else estimated) if answer.ok else 0.0
        spent = estimated if spent is None else spent
        self.budget.settle(estimated, spent, self._wall())
        self.dollars += spent
        if not answer.ok:
            return Shadowed.UPSTREAM_ERROR
        if said is not None and said.refused:
            return Shadowed.REFUSED
        whole = said.content if said is not None and said.finish_reason == "stop" else None
        compared = await asyncio.to_thread(self._compared, job, whole)
        if compared is None:
            return Shadowed.UNREADABLE
        self._kept.append((job.template.name, compared))
        self._unseen += 1
        return Shadowed.COMPARED

    def _compared(self, job: _Job, said: str | None) -> Compared | None:
        """In a thread: answers may be long."""
        # what the caller got is a full answer already, whichever prompt it was made of
        got = self._read(job.template, Form.ORIGINAL, job.answer)
        asked = self._read(job.template, job.form, said) if said is not None else None
        if got is None or asked is None:
            return None
        original, compact = (asked, got) if job.form is Form.ORIGINAL else (got, asked)
        return compare(original, compact, fields_of(job.template.shape))

    async def _refresh(self) -> None:
        """Reckon anew when there is a hundredth more; in a thread, for it takes a part of a second."""
        async with self._refreshing:
            if not self._unseen or self._unseen * 100 < len(self._kept):
                return
            self._unseen = 0
            self._all, self._by_template = await asyncio.to_thread(_summaries, list(self._kept))

    # -- what was found

    def document(self) -> dict[str, object]:
        """The `/api/metrics/grading-quality` answer. Its figures may lack the latest hundredth of the homeworks."""
        self.budget.turn(self._wall())
        return {
            "enabled": self.rate > 0,
            "sampleRate": self.rate,
            "budget": {
                "callsToday": self.budget.calls,
                "callsADay": self.budget.calls_a_day,
                "dollarsToday": round(self.budget.dollars, 6),
                "dollarsADay": self.budget.dollars_a_day,
            },
            "waiting": self._queue.qsize(),
            "offers": {outcome.value: self.tally[outcome] for outcome in Shadowed},
            "compares": f"{WHAT}, compact minus original",
            **summary_json(self._all),
            "templates": {name: summary_json(summary) for name, summary in self._by_template.items()},
        }

    def levels(self) -> Iterable[Metric]:
        """The same for Prometheus."""
        self.budget.turn(self._wall())
        offers = CounterMetricFamily(
            f"{PREFIX}_offers",
            "Answers that were expanded or refused, or came while that is off, by what became of comparing them.",
            labels=["outcome"],
        )
        for outcome in Shadowed:
            offers.add_metric([outcome.value], self.tally[outcome])
        yield offers
        yield CounterMetricFamily(f"{PREFIX}_dollars", "Spent on comparisons.", self.dollars)
        yield GaugeMetricFamily(f"{PREFIX}_calls_today", "Calls for comparison on this day (UTC).", self.budget.calls)
        yield GaugeMetricFamily(f"{PREFIX}_dollars_today", "Spent on this day (UTC).", self.budget.dollars)
        yield from summary_levels(self._by_template)


def _summaries(kept: list[tuple[str, Compared]]) -> tuple[Summary, dict[str, Summary]]:
    """Of all, and by template. In a thread."""
    names = sorted({name for name, _ in kept})
    by_template = {
        name: summarise([compared for other, compared in kept if other == name], seeded(), WHAT) for name in names
    }
    if len(names) == 1:
        return by_template[names[0]], by_template
    return summarise([compared for _, compared in kept], seeded(), WHAT), by_template
