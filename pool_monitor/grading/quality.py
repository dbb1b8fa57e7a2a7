"""Two full answers to one homework, compared question by question; numbers alone come out. Pure.

What an answer looks like is data: `QualityFields` names the fields, and by default those of the plan's template.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from pool_monitor.grading.paired import Finding, Interval, bootstrap, judge
from pool_monitor.grading.shapes import Shape

MOST_QUESTIONS = 300
"""Further ones of an answer are not compared."""
DEEPEST = 3
"""Parts of parts of parts; what is in those is not looked at."""
MOST_TEXT = 400
"""Characters of a question by which it is recognised."""
ALIKE = 0.6
"""Dice's coefficient of two texts' trigrams from which they are taken for the same question."""
UNLIKE = 0.2
"""Below, they are not even the same question where their numbers are equal."""
SAME_POINTS = 1e-6

Answer = Mapping[str, Any]
Question = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QualityFields:
    """The names that a template's full answer has for what is compared.

    texts -- what was asked, the first of them that is there. correct -- the grade of a correct answer.
    """

    questions: str = "questions"
    number: str = "question_number"
    texts: tuple[str, ...] = ("question_text", "raw_question_text")
    answer: str = "student_answer"
    grade: str = "grade"
    points: str = "points_earned"
    parts: str = "sub_parts"
    correct: str = "CORRECT"


PLAN = QualityFields()
Numbered = tuple[str, Question]
Pair = tuple[Question | None, Question | None]
"""A question as the one and as the other answer has it; None where it was not found."""


def fields_of(shape: Shape) -> QualityFields:
    """As a template says: where its questions and their parts are, what is a grade, and which gives most points."""
    rows = shape.rows
    record = shape.record(rows.rows or "")
    points = next((one for one in record if one.by is not None and one.values), None)
    parts = next((one.name for one in record if one.rows is not None), PLAN.parts)
    if points is None or points.by is None:
        return replace(PLAN, questions=rows.name, parts=parts)
    best = max(points.values, key=lambda grade: float(points.values[grade]))
    return replace(PLAN, questions=rows.name, parts=parts, grade=points.by, points=points.name, correct=best)


# -- alignment


def plain(text: object) -> str:
    """A text without white space and differences of case; "" for what is none."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split()) if isinstance(text, str) else ""


def _number(number: object) -> str:
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if number is None:
        return ""
    return re.sub(r"[^\w.]|_|\.(?!\d)", "", re.sub(r"(?<=\d)[\W_]+(?=\d)", ".", str(number).casefold()))


def _within(above: str, number: str) -> str:
    """A part's number with that of its question, which it may have already."""
    rest = number.removeprefix(above)
    if rest != number and not rest[:1].isdigit():
        return number
    return f"{above}.{number}" if above and number[:1].isdigit() else above + number


def _text(question: Question, named: QualityFields) -> str:
    return next((text for name in named.texts if (text := plain(question.get(name))[:MOST_TEXT])), "")


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    return 2 * len(one & other) / (len(one) + len(other))


def _trigrams(text: str) -> frozenset[str]:
    return frozenset(text[at : at + 3] for at in range(max(1, len(text) - 2))) if text else frozenset()


class _Alignment:
    """Which question of one list is which of another; each is taken once."""

    def __init__(self, first: Sequence[Numbered], second: Sequence[Numbered], named: QualityFields) -> None:
        self._lists = first, second
        self._numbers = tuple([number for number, _ in questions] for questions in self._lists)
        self._grams = tuple([_trigrams(_text(one, named)) for _, one in questions] for questions in self._lists)
        self._left: tuple[dict[int, None], dict[int, None]] = (
            dict.fromkeys(range(len(first))),
            dict.fromkeys(range(len(second))),
        )
        self._taken: dict[int, int] = {}

    def _take(self, one: int, other: int) -> None:
        self._taken[one] = other
        del self._left[0][one], self._left[1][other]

    def _alike(self, one: int, other: int, without_text: float) -> float:
        mine, theirs = self._grams[0][one], self._grams[1][other]
        return _likeness(mine, theirs) if mine and theirs else without_text

    def by_number(self, least: float) -> None:
        """Equal numbers, in their order, where the texts are at least so alike; without text it is the number alone."""
        places: dict[str, list[int]] = {}
        for other in self._left[1]:
            places.setdefault(self._numbers[1][other], []).append(other)
        for one in list(self._left[0]):
            candidates = places.get(self._numbers[0][one], []) if self._numbers[0][one] else []
            found = next((other for other in candidates if self._alike(one, other, 1.0) >= least), None)
            if found is not None:
                candidates.remove(found)
                self._take(one, found)

    def by_text(self) -> None:
        """What is alike, the most alike first."""
        alike = [
            (-likeness, one, other)
            for one in self._left[0]
            for other in self._left[1]
            if (likeness := self._alike(one, other, 0.0)) >= ALIKE
        ]
        for _, one, other in sorted(alike):
            if one in self._left[0] and other in self._left[1]:
                self._take(one, other)

    def by_order(self) -> None:
        """What has neither number nor text, one after the other."""
        bare = [
            [at for at in self._left[side] if not self._numbers[side][at] and not self._grams[side][at]]
            for side in (0, 1)
        ]
        for one, other in zip(*bare, strict=False):
            self._take(one, other)

    def pairs(self) -> list[Pair]:
        first, second = self._lists
        found: list[Pair] = [
            (question, second[self._taken[one]][1] if one in self._taken else None)
            for one, (_, question) in enumerate(first)
        ]
        return found + [(None, second[other][1]) for other in self._left[1]]


def _listed(answer: Answer, name: str) -> list[Question]:
    listed = answer.get(name)
    return [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []


def _leaves(questions: Iterable[Question], named: QualityFields, above: str, depth: int) -> Iterator[Numbered]:
    for question in questions:
        number = _within(above, _number(question.get(named.number)))
        parts = _listed(question, named.parts) if depth else []
        if parts:
            yield from _leaves(parts, named, number, depth - 1)
        else:
            yield number, question


def questions_of(questions: Iterable[Question], named: QualityFields) -> list[Numbered]:
    """Every question with its number; one that has parts is these, numbered 1a whether said as 1a or as a."""
    return list(islice(_leaves(questions, named, "", DEEPEST), MOST_QUESTIONS))


def align(first: Iterable[Question], second: Iterable[Question], named: QualityFields = PLAN) -> list[Pair]:
    """Each question with itself in the other list: by number, else by text, else by order."""
    alignment = _Alignment(questions_of(first, named), questions_of(second, named), named)
    alignment.by_number(UNLIKE)
    alignment.by_text()
    alignment.by_number(0.0)
    alignment.by_order()
    return alignment.pairs()


# -- comparison


def _points(question: Question | None, named: QualityFields) -> float:
    value = (question or {}).get(named.points)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _grade(question: Question | None, named: QualityFields) -> str:
    return plain((question or {}).get(named.grade))


@dataclass(frozen=True, slots=True)
class Compared:
    """One homework in the original and the compact way; counts of questions, and none of its texts.

    only_original, only_compact -- graded correct in that way alone. A question that one way did not find is not
    correct in it, its grade differs, and it has no points there. points -- compact minus original, added up.
    """

    questions: int
    found_by_both: int
    same_answer: int
    same_grade: int
    same_points: int
    same_count: bool
    only_original: int
    only_compact: int
    points: float


def compare(original: Answer, compact: Answer, named: QualityFields = PLAN) -> Compared:
    """Two answers to one homework whose true grades nobody knows."""
    pairs = align(_listed(original, named.questions), _listed(compact, named.questions), named)
    correct = plain(named.correct)
    good = [(_grade(one, named) == correct, _grade(other, named) == correct) for one, other in pairs]
    both = [(one, other) for one, other in pairs if one is not None and other is not None]
    differences = [_points(other, named) - _points(one, named) for one, other in pairs]
    return Compared(
        questions=len(pairs),
        found_by_both=len(both),
        same_answer=sum(plain(one.get(named.answer)) == plain(other.get(named.answer)) for one, other in both),
        same_grade=sum(_grade(one, named) == _grade(other, named) for one, other in both),
        same_points=sum(abs(_points(one, named) - _points(other, named)) < SAME_POINTS for one, other in both),
        same_count=len(both) == len(pairs),
        only_original=sum(one and not other for one, other in good),
        only_compact=sum(other and not one for one, other in good),
        points=sum(differences),
    )


@dataclass(frozen=True, slots=True)
class Labelled:
    """How near one answer comes to the labels; counts of labelled questions.

    read -- the student's answer is as labelled, of `readable`, those that have it labelled and were found.
    extra -- questions that the labels do not have. points -- points too many or too few, added up.
    """

    questions: int
    found: int
    right: int
    read: int
    readable: int
    extra: int
    points: float


def against(truth: Sequence[Question], answer: Answer, named: QualityFields = PLAN) -> tuple[Labelled, list[bool]]:
    """How near an answer comes to the labels, and for each of these, parts one by one, whether its grade is right."""
    pairs = align(truth, _listed(answer, named.questions), named)
    labelled = [(label, found) for label, found in pairs if label is not None]
    right = [found is not None and _grade(label, named) == _grade(found, named) for label, found in labelled]
    readable = [(label, found) for label, found in labelled if named.answer in label and found is not None]
    counts = Labelled(
        questions=len(labelled),
        found=sum(found is not None for _, found in labelled),
        right=sum(right),
        read=sum(plain(label[named.answer]) == plain(found.get(named.answer)) for label, found in readable),
        readable=len(readable),
        extra=len(pairs) - len(labelled),
        points=sum(
            abs(_points(label, named) - _points(found, named)) for label, found in labelled if named.points in label
        ),
    )
    return counts, right


# -- many homeworks


@dataclass(frozen=True, slots=True)
class Summary:
    """What many compared homeworks show. Intervals are None where there are no questions."""

    finding: Finding
    counts: Mapping[str, float]
    grades: Interval | None
    points: Interval | None
    points_agree: Interval | None
    answers: Interval | None
    found: Interval | None


def summarise(homeworks: Sequence[Compared], chance: random.Random, what: str) -> Summary:
    """The verdict on these homeworks. what -- whose difference it is, in words."""
    rows = [
        (
            one.questions,
            one.only_compact - one.only_original,
            one.same_grade,
            one.points,
            one.same_points,
            one.same_answer,
            one.found_by_both,
        )
        for one in homeworks
    ]
    intervals: list[Interval | None] = [*bootstrap(rows, chance)] or [None] * 6
    difference, *others = intervals
    clusters = [(one.questions, one.only_original, one.only_compact) for one in homeworks]
    return Summary(judge(clusters, difference, what), total(homeworks), *others)


def total(homeworks: Iterable[Compared | Labelled]) -> Mapping[str, float]:
    """Every count added up, by name."""
    sums: Counter[str] = Counter()
    for one in homeworks:
        sums.update(asdict(one))
    return sums
