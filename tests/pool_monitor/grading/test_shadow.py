"""What is asked again in the background, what bounds it, and what is told of it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pool_monitor.grading import shadow as shadow_module
from pool_monitor.grading.answers import compact
from pool_monitor.grading.calls import Answer, Ask, Call, Lane, UpstreamFault
from pool_monitor.grading.paired import Verdict
from pool_monitor.grading.reading import Form, read_answer
from pool_monitor.grading.shadow import DAY_SECONDS, MOST_WAITING, Budget, Shadow, Shadowed
from pool_monitor.grading.template_files import load_templates
from pool_monitor.grading.templates import Recognised, Template, recognise
from tests.pool_monitor.grading.samples import pretty
from tests.support import until

NOON = 20_000 * DAY_SECONDS + DAY_SECONDS / 2
[TEMPLATE] = [one for one in load_templates() if one.name == "homework-grading"]


def full(*grades: str) -> dict[str, Any]:
    """A full answer with so many questions."""
    points = {"CORRECT": 1.0, "INCORRECT": 0.0, "EMPTY": 0.0, "PARTIAL_CREDIT": 0.5}
    questions = [
        {
            "question_number": number,
            "raw_question_text": f"{number}. Question {number}",
            "question_text": f"Question {number}",
            "student_answer": f"secret {number}",
            "correct_answer": "4",
            "grade": grade,
            "points_earned": points[grade],
            "points_possible": 1.0,
            "confidence": 0.9,
            "has_visuals": False,
            "feedback": "fine",
            "sub_parts": [],
        }
        for number, grade in enumerate(grades, 1)
    ]
    counts = [grades.count(grade) for grade in ("CORRECT", "INCORRECT", "EMPTY")]
    names = ("total_correct", "total_incorrect", "total_empty")
    return {
        "subject": "Mathematics",
        "subject_confidence": 0.95,
        "total_questions_found": len(grades),
        "questions": questions,
        "performance_summary": {
            **dict(zip(names, counts, strict=True)),
            "accuracy_rate": round(counts[0] / len(grades), 2),
            "summary_text": "well done",
        },
        "processing_notes": "",
    }


RIGHT, WRONG = full("CORRECT", "CORRECT"), full("CORRECT", "INCORRECT")


def completion(content: str, finish: str = "stop") -> Answer:
    message = {"role": "assistant", "content": content}
    document = {
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }
    return Answer(200, (), orjson.dumps(document))


class Upstream:
    """Answers each call with the next answer, or the last; waits for `go` where it is told to."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.calls: list[Call] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        await self.go.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def price(_: Mapping[str, Any], usage: Mapping[str, Any] | None) -> float | None:
    return 0.25 if usage is None else 0.125


BODY = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": TEMPLATE.original}],
    "temperature": 0,
    "stream": True,
    "stream_options": {"include_usage": True},
}
CALL = Call(BODY, (("Authorization", "Bearer sk-secret"),), 1.0)


class Wall:
    now = NOON

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(
    ask: Ask,
    *,
    rate: float = 1.0,
    budget: Budget | None = None,
    price: Callable[[Mapping[str, Any], Mapping[str, Any] | None], float | None] = price,
    read: Callable[[Template, Form, str], Mapping[str, Any] | None] = read_answer,
    seconds: float = 10.0,
    wall: Wall | None = None,
) -> AsyncIterator[Shadow]:
    chance = random.Random(9)  # noqa: S311 - it draws samples
    shadow = Shadow(
        ask=ask,
        read=read,
        price=price,
        rate=rate,
        budget=budget or Budget(100, 100.0),
        clock=lambda: 500.0,
        wall=wall or Wall(),
        chance=chance,
        seconds=seconds,
    )
    shadow.start()
    try:
        yield shadow
    finally:
        await shadow.close()


async def ended(shadow: Shadow, outcome: Shadowed, times: int = 1) -> None:
    await until(lambda: shadow.tally[outcome] >= times or shadow.tally[Shadowed.FAULT] > 0)
    assert shadow.tally[outcome] == times


async def test_the_original_prompt_is_asked_after_the_compact_one() -> None:
    upstream = Upstream(completion(pretty(RIGHT)))
    async with running(upstream) as shadow:
        shadow.offer_original(CALL, TEMPLATE, pretty(WRONG))
        await ended(shadow, Shadowed.COMPARED)
        document = shadow.document()
    [asked] = upstream.calls
    assert asked.body == {name: BODY[name] for name in ("model", "messages", "temperature")}
    assert asked.lane is Lane.SHADOW
    assert asked.deadline == 510.0
    assert asked.credential == CALL.credential
    assert (document["homeworks"], document["questions"]) == (1, 2)
    # in the second question, the original alone said that it is correct
    assert document["mcnemar"] == {"onlyOriginal": 1, "onlyCompact": 0, "p": 1.0, "midP": 0.5}
    assert document["pointsDifference"] == {"estimate": -0.5, "low": -0.5, "high": -0.5}
    assert document["verdict"] == "not-enough"
    assert "equal" not in str(document["sentence"])


async def test_the_compact_prompt_is_asked_after_the_original_one() -> None:
    recognised = recognise(BODY, [TEMPLATE])
    assert isinstance(recognised, Recognised)
    upstream = Upstream(completion(orjson.dumps(compact(TEMPLATE.shape, RIGHT)).decode()))
    async with running(upstream) as shadow:
        shadow.offer_compact(CALL, recognised, pretty(WRONG))
        await ended(shadow, Shadowed.COMPARED)
        document = shadow.document()
    assert upstream.calls[0].body["messages"] == [{"role": "user", "content": TEMPLATE.compact}]
    # now it is the compact prompt that has the better grade
    assert document["mcnemar"] == {"onlyOriginal": 0, "onlyCompact": 1, "p": 1.0, "midP": 0.5}


async def test_the_callers_idempotency_key_stays_the_callers() -> None:
    upstream = Upstream(completion(pretty(RIGHT)))
    async with running(upstream) as shadow:
        shadow.offer_original(replace(CALL, fields=(*CALL.fields, ("Idempotency-Key", "k"))), TEMPLATE, pretty(WRONG))
        await ended(shadow, Shadowed.COMPARED)
    assert [asked.fields for asked in upstream.calls] == [CALL.fields]


async def test_only_a_share_is_sampled() -> None:
    upstream = Upstream(completion(pretty(RIGHT)))
    budget = Budget(0, 0)
    async with running(upstream, rate=0.2, budget=budget) as shadow:
        for _ in range(200):
            shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
            await until(lambda: shadow.document()["waiting"] == 0)
        taken = 200 - shadow.tally[Shadowed.NOT_SAMPLED]
        await ended(shadow, Shadowed.OVER_BUDGET, taken)
        assert 20 <= taken <= 60
    async with running(upstream, rate=0.0) as shadow:
        shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        assert shadow.tally.total() == 0
        assert shadow.document()["enabled"] is False
    assert upstream.calls == []


async def test_the_day_has_a_budget_of_calls() -> None:
    upstream, wall = Upstream(completion(pretty(RIGHT))), Wall()
    async with running(upstream, budget=Budget(2, 100.0), wall=wall) as shadow:
        for number in range(1, 4):
            shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
            await until(lambda number=number: shadow.tally.total() == number)  # type: ignore[misc]
        assert (shadow.tally[Shadowed.COMPARED], shadow.tally[Shadowed.OVER_BUDGET]) == (2, 1)
        wall.now += DAY_SECONDS
        shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        await ended(shadow, Shadowed.COMPARED, 3)
        assert shadow.document()["budget"] == {
            "callsToday": 1,
            "callsADay": 2,
            "dollarsToday": 0.125,
            "dollarsADay": 100.0,
        }
    assert shadow.dollars == pytest.approx(0.375)


def test_a_budget_of_dollars() -> None:
    budget = Budget(100, 1.0)
    assert budget.spend(0.6, NOON)
    assert not budget.spend(0.6, NOON)
    budget.settle(0.6, 0.4, NOON)
    assert budget.spend(0.6, NOON)
    assert budget.calls == 2
    # what was reserved yesterday cannot make today's room larger
    budget.settle(0.6, 0.0, NOON + DAY_SECONDS)
    assert (budget.calls, budget.dollars) == (0, 0.0)
    assert not Budget(0, 1.0).spend(0.0, NOON)


async def test_what_it_cost_is_by_the_tier_that_the_answer_names() -> None:
    document = orjson.loads(completion(pretty(RIGHT)).content)
    upstream = Upstream(Answer(200, (), orjson.dumps({**document, "service_tier": "priority"})))

    def by_tier(body: Mapping[str, Any], usage: Mapping[str, Any] | None) -> float | None:
        return 0.5 if body.get("service_tier") == "priority" else 0.125

    async with running(upstream, price=by_tier) as shadow:
        shadow.offer_original(CALL, TEMPLATE, pretty(WRONG))
        await ended(shadow, Shadowed.COMPARED)
    assert (shadow.dollars, shadow.budget.dollars) == (0.5, 0.5)
    assert "service_tier" not in upstream.calls[0].body


async def test_without_a_price_nothing_is_asked() -> None:
    upstream = Upstream(completion(pretty(RIGHT)))
    async with running(upstream, price=lambda _, __: None) as shadow:
        shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        await ended(shadow, Shadowed.NO_PRICE)
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("answer", "outcome", "dollars"),
    [
        (UpstreamFault(504, "upstream_timeout", "late"), Shadowed.NO_ANSWER, 0.25),
        (Answer(429, (), b"{}"), Shadowed.UPSTREAM_ERROR, 0.0),
        (Answer(500, (), b"not JSON"), Shadowed.UPSTREAM_ERROR, 0.0),
        (Answer(200, (), b"not JSON"), Shadowed.UNREADABLE, 0.25),
        (completion(pretty(RIGHT), "content_filter"), Shadowed.REFUSED, 0.125),
        (Answer(200, (), b"[]"), Shadowed.UNREADABLE, 0.25),
        (completion("I cannot grade this."), Shadowed.UNREADABLE, 0.125),
        (completion(pretty(RIGHT)[:-40]), Shadowed.UNREADABLE, 0.125),
        (completion(pretty(RIGHT), "length"), Shadowed.UNREADABLE, 0.125),
        (ZeroDivisionError("secret"), Shadowed.FAULT, 0.0),
    ],
)
async def test_a_fault_is_counted_and_the_next_is_asked(
    answer: Answer | Exception, outcome: Shadowed, dollars: float, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = Upstream(answer, completion(pretty(RIGHT)))
    with caplog.at_level(logging.DEBUG, "siding.grading"):
        async with running(upstream) as shadow:
            shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
            await until(lambda: shadow.tally[outcome] == 1)
            assert shadow.dollars == pytest.approx(dollars)
            shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
            await until(lambda: shadow.tally[Shadowed.COMPARED] == 1)
    assert "secret" not in caplog.text


async def test_it_has_a_deadline_of_its_own() -> None:
    upstream = Upstream(completion(pretty(RIGHT)))
    upstream.go.clear()
    async with running(upstream, seconds=0.01) as shadow:
        shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        await ended(shadow, Shadowed.NO_ANSWER)


async def test_so_many_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = Upstream(completion(pretty(RIGHT)))
    upstream.go.clear()
    async with running(upstream) as shadow:
        for _ in range(2):
            shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        await until(lambda: len(upstream.calls) == 2)
        for _ in range(MOST_WAITING + 3):
            shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        assert shadow.tally[Shadowed.TOO_MANY_WAITING] == 3
        assert len(upstream.calls) == 2
        upstream.go.set()
        await ended(shadow, Shadowed.COMPARED, 2 + MOST_WAITING)
        # and so much
        monkeypatch.setattr(shadow_module, "MOST_WAITING_BYTES", 1000)
        shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        assert shadow.tally[Shadowed.TOO_MANY_WAITING] == 4


async def test_closing_ends_what_is_asked_and_what_waits() -> None:
    upstream = Upstream(completion(pretty(RIGHT)))
    upstream.go.clear()
    async with running(upstream) as shadow:
        for _ in range(5):
            shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        await until(lambda: len(upstream.calls) == 2)
        await shadow.close()
        assert shadow.tally == {Shadowed.CLOSED: 5}
        shadow.offer_original(CALL, TEMPLATE, pretty(RIGHT))
        assert shadow.tally.total() == 5
        assert shadow.document()["waiting"] == 0
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("shadow")]


async def test_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "MOST_HOMEWORKS", 25)
    upstream = Upstream(completion(pretty(full(*["CORRECT"] * 20))))
    worse = pretty(full(*["CORRECT"] * 15, *["INCORRECT"] * 5))
    async with running(upstream) as shadow:
        for number in range(1, 31):
            shadow.offer_original(CALL, TEMPLATE, worse)
            await ended(shadow, Shadowed.COMPARED, number)
        document = shadow.document()
        registry = CollectorRegistry()
        registry.register(_Collector(shadow))
        metrics = generate_latest(registry).decode()
    # the oldest five are forgotten
    assert (document["homeworks"], document["questions"]) == (25, 500)
    assert document["verdict"] == Verdict.DIFFERENT.value
    assert document["difference"] == {"estimate": -0.25, "low": -0.25, "high": -0.25}
    assert document["agreement"] == {
        "grades": {"estimate": 0.75, "low": 0.75, "high": 0.75},
        "points": {"estimate": 0.75, "low": 0.75, "high": 0.75},
        "extraction": {
            "questionsFoundByBoth": {"estimate": 1.0, "low": 1.0, "high": 1.0},
            "studentAnswers": {"estimate": 1.0, "low": 1.0, "high": 1.0},
            "homeworksWithTheSameQuestions": 25,
        },
    }
    assert isinstance(document["templates"], dict)
    assert document["templates"]["homework-grading"]["homeworks"] == 25
    assert b"secret" not in orjson.dumps(document)
    for line in (
        'siding_grading_quality_offers_total{outcome="compared"} 30.0',
        'siding_grading_quality_difference_ratio{bound="estimate",template="homework-grading"} -0.25',
        'siding_grading_quality_agreement_ratio{bound="low",of="grades",template="homework-grading"} 0.75',
        'siding_grading_quality_verdict{template="homework-grading",verdict="different"} 1.0',
        'siding_grading_quality_verdict{template="homework-grading",verdict="within"} 0.0',
        'siding_grading_quality_questions{template="homework-grading"} 500.0',
        "siding_grading_quality_calls_today 30.0",
    ):
        assert line in metrics, metrics


class _Collector(Collector):
    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def collect(self) -> list[Metric]:
        return list(self._shadow.levels())
