"""What an evaluation on labelled homework has shown, as JSON and as text. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pool_monitor.grading.dataset import Homework
from pool_monitor.grading.evaluate_runs import Arm, Result
from pool_monitor.grading.paired import Finding, Interval, bootstrap, judge, seeded
from pool_monitor.grading.quality import QualityFields, against, compare, total
from pool_monitor.grading.quality_report import finding_json, interval_json

Answers = Mapping[tuple[str, Arm, int], Result]
"""By homework's name, way and repeat."""
Bill = Callable[[Mapping[str, Any]], float | None]
"""Dollars for a `usage`; None where the model has no known price."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One way. accuracy -- share of labelled questions with the right grade. points_off -- mean of a question.

    read -- share of the labelled students' answers that were read as labelled, of questions that were found.
    tokens and dollars -- as reported, for all that was asked; None where nothing was.
    """

    accuracy: Interval | None
    found: float | None
    read: float | None
    extra: int
    points_off: float | None
    unreadable: int
    again: int
    prompt_tokens: int | None
    completion_tokens: int | None
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Two ways compared. agreement -- share of questions with the same grade. itself -- the same of the first way
    when it is asked twice, which no other way can be expected to exceed; None without repeats."""

    arms: tuple[Arm, Arm]
    figures: tuple[Figures, Figures]
    finding: Finding
    points: Interval | None
    agreement: Interval | None
    itself: Interval | None


def evaluate(
    homeworks: Sequence[Homework],
    arms: tuple[Arm, Arm],
    repeats: int,
    answers: Answers,
    named: QualityFields,
    bill: Bill,
) -> Evaluation:
    """Compare two ways on the homeworks that were graded in both."""
    rows: list[list[float]] = []
    clusters: list[tuple[int, int, int]] = []
    for homework in homeworks:
        graded = [
            _graded(homework, answers[homework.name, arms[0], repeat], answers[homework.name, arms[1], repeat], named)
            for repeat in range(repeats)
            if all((homework.name, arm, repeat) in answers for arm in arms)
        ]
        if graded:
            rows.append([sum(column) for column in zip(*(row for row, _ in graded), strict=True)])
            # a question that is asked again is no further question
            clusters.append(graded[0][1])
    found: list[Interval | None] = [*bootstrap(rows, seeded())] or [None] * 5
    first, second, difference, points, agreement = found
    return Evaluation(
        arms,
        (
            _figures(homeworks, arms[0], repeats, answers, named, bill, first),
            _figures(homeworks, arms[1], repeats, answers, named, bill, second),
        ),
        judge(clusters, difference, "accuracy"),
        points,
        agreement,
        _itself(homeworks, arms[0], answers, named) if repeats > 1 else None,
    )


def _graded(
    homework: Homework, first: Result, second: Result, named: QualityFields
) -> tuple[list[float], tuple[int, int, int]]:
    """Size and sums for the bootstrap, and the counts of discordant questions."""
    one, right = against(homework.questions, first.answer or {}, named)
    other, also = against(homework.questions, second.answer or {}, named)
    both = compare(first.answer or {}, second.answer or {}, named)
    agreeing = both.same_grade / both.questions * one.questions if both.questions else 0.0
    only_first = sum(mine and not theirs for mine, theirs in zip(right, also, strict=True))
    only_second = sum(theirs and not mine for mine, theirs in zip(right, also, strict=True))
    row = [one.questions, one.right, other.right, other.right - one.right, other.points - one.points, agreeing]
    return row, (one.questions, only_first, only_second)


def _itself(homeworks: Sequence[Homework], arm: Arm, answers: Answers, named: QualityFields) -> Interval | None:
    rows = []
    for homework in homeworks:
        twice = [answers.get((homework.name, arm, repeat)) for repeat in (0, 1)]
        if twice[0] is not None and twice[1] is not None:
            both = compare(twice[0].answer or {}, twice[1].answer or {}, named)
            rows.append((both.questions, both.same_grade))
    found = bootstrap(rows, seeded())
    return found[0] if found else None


def _figures(
    homeworks: Sequence[Homework],
    arm: Arm,
    repeats: int,
    answers: Answers,
    named: QualityFields,
    bill: Bill,
    accuracy: Interval | None,
) -> Figures:
    kept = [
        (homework, result)
        for homework in homeworks
        for repeat in range(repeats)
        if (result := answers.get((homework.name, arm, repeat))) is not None
    ]
    counts = total(against(homework.questions, result.answer or {}, named)[0] for homework, result in kept)
    usages = [result.usage for _, result in kept if result.usage is not None]
    dollars = [bill(usage) for usage in usages]
    return Figures(
        accuracy,
        _share(counts, "found", "questions"),
        _share(counts, "read", "readable"),
        int(counts.get("extra", 0)),
        _share(counts, "points", "questions"),
        sum(result.answer is None for _, result in kept),
        sum(result.again for _, result in kept),
        sum(int(usage.get("prompt_tokens", 0)) for usage in usages) if usages else None,
        sum(int(usage.get("completion_tokens", 0)) for usage in usages) if usages else None,
        sum(one for one in dollars if one is not None) if dollars and None not in dollars else None,
    )


def _share(counts: Mapping[str, float], part: str, whole: str) -> float | None:
    return counts[part] / counts[whole] if counts.get(whole) else None


# -- as JSON


def evaluation_json(evaluation: Evaluation) -> dict[str, object]:
    """All figures."""
    return {
        **finding_json(evaluation.finding),
        "compares": [arm.name for arm in evaluation.arms],
        "ways": [_figures_json(one) for one in evaluation.figures],
        "pointsOffDifference": interval_json(evaluation.points),
        "gradeAgreement": interval_json(evaluation.agreement),
        "gradeAgreementOfTheFirstWithItself": interval_json(evaluation.itself),
    }


def _figures_json(figures: Figures) -> dict[str, object]:
    return {
        "accuracy": interval_json(figures.accuracy),
        "questionsFound": figures.found,
        "studentAnswersRead": figures.read,
        "questionsInvented": figures.extra,
        "pointsOff": figures.points_off,
        "unreadable": figures.unreadable,
        "askedAgain": figures.again,
        "promptTokens": figures.prompt_tokens,
        "completionTokens": figures.completion_tokens,
        "dollars": figures.dollars,
    }


# -- as text


def evaluation_text(evaluation: Evaluation) -> str:
    """A table for a person at a terminal, and the verdict."""
    lines = [_line("", *(arm.name for arm in evaluation.arms))]
    for label, show in _ROWS:
        lines.append(_line(label, *(show(figures) for figures in evaluation.figures)))
    test = evaluation.finding.test
    lines += [
        "",
        evaluation.finding.sentence,
        f"right in the first alone: {test.first_only}, in the second alone: {test.second_only}; "
        f"McNemar's exact test p = {test.p:.3g} (mid-p {test.mid_p:.3g})",
        f"same grade in both: {_interval(evaluation.agreement)} of the questions",
    ]
    if evaluation.itself is not None:
        lines.append(f"same grade when the first is asked twice: {_interval(evaluation.itself)}")
    return "\n".join(lines)


def _line(label: str, *cells: str) -> str:
    return f"{label:<26}" + "".join(f"{cell:<30}" for cell in cells).rstrip()


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.estimate:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _count(value: int | None) -> str:
    return "not reported" if value is None else f"{value:,}"


def dollars_text(value: float | None) -> str:
    """Money; it may be little."""
    return "no known price" if value is None else f"${value:.4f}"


_ROWS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("accuracy (95 % CI)", lambda one: _interval(one.accuracy)),
    ("questions found", lambda one: _percent(one.found)),
    ("student's answers read", lambda one: _percent(one.read)),
    ("questions invented", lambda one: _count(one.extra)),
    ("points off a question", lambda one: "-" if one.points_off is None else f"{one.points_off:.3f}"),
    ("answers not readable", lambda one: _count(one.unreadable)),
    ("asked again", lambda one: _count(one.again)),
    ("tokens in", lambda one: _count(one.prompt_tokens)),
    ("tokens out", lambda one: _count(one.completion_tokens)),
    ("money", lambda one: dollars_text(one.dollars)),
)
