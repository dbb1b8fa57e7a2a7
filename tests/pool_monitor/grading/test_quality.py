"""Which question is which, what is counted of them, and what may be said of the counts."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading.paired import (
    FEWEST_HOMEWORKS,
    MOST_GROUPS,
    Interval,
    Verdict,
    bootstrap,
    design_effect,
    expected_share,
    judge,
    mcnemar,
    needed,
)
from pool_monitor.grading.quality import PLAN, QualityFields, against, align, compare, fields_of, summarise
from pool_monitor.grading.shapes import Field, Shape


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - it draws samples


# -- statistics


@pytest.mark.parametrize(
    ("first", "second", "p", "mid_p"),
    [
        (12, 2, 0.01294, 0.00742),  # Armitage and Berry 1994, p. 127: two media for tubercle bacilli
        (1, 7, 0.0703, 0.0391),  # Bentur and others 2009, in Fagerland, Lydersen and Laake 2013
        (7, 1, 0.0703, 0.0391),
        (0, 0, 1.0, 1.0),
        (5, 5, 1.0, 1 - 0.24609375 / 2),
        (0, 1, 1.0, 0.5),
        (0, 6, 0.03125, 0.015625),
    ],
)
def test_mcnemar_as_in_the_textbooks(first: int, second: int, p: float, mid_p: float) -> None:
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (first, second)
    assert found.p == pytest.approx(p, abs=5e-5)
    assert found.mid_p == pytest.approx(mid_p, abs=5e-5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_sum_of_binomial_probabilities(first: int, second: int) -> None:
    total = first + second
    tail = sum(math.comb(total, count) for count in range(min(first, second) + 1))
    assert mcnemar(first, second).p == pytest.approx(min(1.0, 2 * tail / 2**total), rel=1e-9)


@given(st.integers(0, 2_000_000), st.integers(0, 2_000_000))
def test_mcnemar_of_any_counts(first: int, second: int) -> None:
    found = mcnemar(first, second)
    assert 0.0 <= found.mid_p <= found.p <= 1.0


@pytest.mark.parametrize(
    ("share", "margin", "confidence", "expected"),
    [
        # Chow, Shao and Wang, one-sample equivalence: deviation 0.1, margin 0.05, 5 % on each side
        (0.1**2, 0.05, 0.90, 35),
        (0.1, 0.02, 0.95, 2627),
        (0.05, 0.02, 0.95, 1314),
    ],
)
def test_how_many_are_needed(share: float, margin: float, confidence: float, expected: int) -> None:
    assert needed(share, margin, confidence, 0.8) == expected
    assert needed(share, margin, confidence, 0.8, design_effect=2.0) == pytest.approx(2 * expected, abs=1)


def test_before_anything_was_seen_the_plan_is_reckoned_with() -> None:
    assert needed(expected_share(0, 0)) == needed(0.1)
    assert expected_share(50, 980) == pytest.approx(0.052)


def _homeworks(chance: random.Random, count: int, first: float, second: float) -> list[tuple[int, int, int]]:
    """Homeworks of ten questions. first, second -- chance that a question is good in that way alone.

    Those of one homework go together, half of the time: all as the first of them.
    """
    made = []
    for _ in range(count):
        draws = [chance.random() for _ in range(10)]
        if chance.random() < 0.5:
            draws = draws[:1] * 10
        made.append((10, sum(one < first for one in draws), sum(first <= one < first + second for one in draws)))
    return made


def _rows(homeworks: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    return [(size, second - first) for size, first, second in homeworks]


def test_the_interval_holds_the_truth_as_often_as_it_says_though_questions_go_together() -> None:
    chance = seeded(1)
    held = independent = 0
    for _ in range(150):
        homeworks = _homeworks(chance, 120, 0.10, 0.05)
        [interval] = bootstrap(_rows(homeworks), chance, resamples=200)
        held += interval.low <= -0.05 <= interval.high
        questions = [(1, -1)] * sum(h[1] for h in homeworks) + [(1, 1)] * sum(h[2] for h in homeworks)
        questions += [(1, 0)] * (1200 - len(questions))
        [narrow] = bootstrap(questions, chance, resamples=50)
        independent += narrow.low <= -0.05 <= narrow.high
    assert 135 <= held <= 148
    assert independent < 110


def test_more_homeworks_than_are_drawn_one_by_one_have_the_same_interval() -> None:
    chance = seeded(2)
    many = _rows(_homeworks(chance, 3 * MOST_GROUPS + 7, 0.1, 0.1))
    [interval] = bootstrap(many, chance, resamples=500)
    total = sum(size for size, _ in many)
    mean = sum(difference for _, difference in many) / total
    spread = sum((difference - mean * size) ** 2 for size, difference in many) ** 0.5 / total
    assert interval.estimate == pytest.approx(mean)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = _rows(_homeworks(seeded(3), 30, 0.1, 0.1))
    assert bootstrap(rows, seeded(7)) == bootstrap(rows, seeded(7))
    assert bootstrap([], seeded(7)) == []
    assert bootstrap([(0, 0)], seeded(7)) == []


def test_questions_that_go_together_count_for_less() -> None:
    together = [(10, 10, 0), (10, 0, 10)] * 20
    apart = [(1, 1, 0), (1, 0, 1)] * 200
    assert design_effect(together) == pytest.approx(10, rel=0.05)
    assert design_effect(apart) == pytest.approx(1, rel=0.01)
    assert design_effect([(10, 0, 0)] * 5) == 1.0
    assert design_effect([(10, 1, 0)]) == 1.0


def _judged(clusters: list[tuple[int, int, int]]) -> tuple[Verdict, str]:
    found = bootstrap(_rows(clusters), seeded(4), resamples=500)
    finding = judge(clusters, found[0] if found else None, "accuracy")
    return finding.verdict, finding.sentence


@pytest.mark.parametrize(
    ("clusters", "verdict"),
    [
        ([], Verdict.NOT_ENOUGH),
        ([(10, 0, 0)] * 20, Verdict.NOT_ENOUGH),  # nothing differs, and still too few to say so
        ([(1000, 0, 0)] * (FEWEST_HOMEWORKS - 1), Verdict.NOT_ENOUGH),
        ([(10, 9, 0)] * 5, Verdict.NOT_ENOUGH),
        ([(10, 0, 0)] * 40, Verdict.WITHIN),
        ([(10, 1, 0), (10, 0, 1)] * 200, Verdict.WITHIN),
        ([(100, 1, 0)] * 40, Verdict.WITHIN),  # a difference, and one that is small enough
        ([(10, 1, 0), (10, 0, 0)] * 20, Verdict.DIFFERENT),
        ([(10, 0, 1), (10, 0, 0)] * 20, Verdict.DIFFERENT),
        ([(10, 1, 0)] * 56 + [(10, 0, 1)] * 40 + [(10, 0, 0)] * 64, Verdict.UNDECIDED),
    ],
)
def test_what_may_be_said(clusters: list[tuple[int, int, int]], verdict: Verdict) -> None:
    found, sentence = _judged(clusters)
    assert found is verdict, sentence
    assert sentence.startswith(verdict.value.replace("-", " "))
    assert "equal" not in sentence


def test_it_says_how_many_are_missing() -> None:
    _, sentence = _judged([(10, 0, 0)] * 20)
    assert sentence.startswith("not enough: 200 questions of at least 239 needed for a claim of ±2 %.")
    _, sentence = _judged([(1000, 0, 0)] * 7)
    assert sentence.startswith("not enough: 7 homeworks of at least 20 needed for a claim of ±2 %.")


@given(st.integers(0, 19), st.integers(1, 200), st.integers(0, 3))
def test_few_homeworks_never_prove_anything(count: int, size: int, apart: int) -> None:
    assert _judged([(size, min(size, apart), 0)] * count)[0] is Verdict.NOT_ENOUGH


def test_an_interval() -> None:
    assert Interval(0.0, -0.019, 0.019).within(0.02)
    assert not Interval(0.0, -0.019, 0.02).within(0.02)
    assert not Interval(0.0, -0.02, 0.01).within(0.02)
    assert Interval(0.1, 0.01, 0.2).excludes_zero
    assert Interval(-0.1, -0.2, -0.01).excludes_zero
    assert not Interval(0.1, 0.0, 0.2).excludes_zero


# -- alignment


def _question(number: object, text: str = "", **more: Any) -> dict[str, Any]:
    return {"question_number": number, "question_text": text, **more}


def _named(question: Any) -> Any:
    return question and question.get("id")


A, B, C = "Solve for x: 2x + 5 = 13", "Area of a triangle of base 8 and height 5", "Name the capital of France"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # numbers, however they are written
        ([_question(1, id="a"), _question(2, id="b")], [_question("2.", id="B"), _question("(1)", id="A")], "aA bB"),
        ([_question(1.0, id="a")], [_question("1", id="A")], "aA"),
        # one did not find the first, and numbered the rest anew: the text tells
        (
            [_question(1, A, id="a"), _question(2, B, id="b"), _question(3, C, id="c")],
            [_question(1, B + "?", id="B"), _question(2, C.upper(), id="C")],
            "a- bB cC",
        ),
        # numbers that begin anew in each section
        (
            [_question(1, A, id="a"), _question(2, B, id="b"), _question(1, C, id="c")],
            [_question(1, C, id="C"), _question(1, A, id="A"), _question(2, B, id="B")],
            "aA bB cC",
        ),
        # a text that was read quite differently is still the question of that number
        ([_question(1, "√144 + 2³", id="a")], [_question(1, "Evaluate the root", id="A")], "aA"),
        # without numbers or text, by order
        ([_question(None, id="a"), _question(None, id="b")], [_question(None, id="A")], "aA b-"),
        # more on the other side
        ([], [_question(1, id="A")], "-A"),
        # parts: nested or not, 1a or a
        (
            [_question(1, sub_parts=[_question("1a", id="a"), _question("1b", id="b")]), _question(2, id="c")],
            [_question("1b", id="B"), _question("1a", id="A"), _question(2, id="C")],
            "aA bB cC",
        ),
        (
            [_question(1, sub_parts=[_question("a", id="a")]), _question(2, sub_parts=[_question("a", id="b")])],
            [_question(2, sub_parts=[_question("2a", id="B")]), _question(1, sub_parts=[_question("1 a)", id="A")])],
            "aA bB",
        ),
        (
            [_question(1, sub_parts=[_question(2, id="a")]), _question(12, id="b")],
            [_question(12, id="B"), _question("1", sub_parts=[_question("1.2", id="A")])],
            "aA bB",
        ),
        (
            [_question(1, sub_parts=[_question(12, id="a")]), _question(12, id="b")],
            [_question(12, id="B"), _question(1, sub_parts=[_question(12, id="A")])],
            "aA bB",
        ),
    ],
)
def test_which_is_which(first: list[dict[str, Any]], second: list[dict[str, Any]], expected: str) -> None:
    pairs = align(first, second)
    assert " ".join(f"{_named(one) or '-'}{_named(other) or '-'}" for one, other in pairs) == expected


QUESTIONS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "question_number": st.one_of(st.integers(0, 5), st.sampled_from(["1a", "a", "", None]), st.floats()),
            "question_text": st.one_of(st.text(max_size=8), st.sampled_from([A, B, C]), st.none()),
            "grade": st.one_of(st.sampled_from(["CORRECT", "INCORRECT"]), st.integers()),
            "points_earned": st.one_of(st.floats(0, 1), st.text(max_size=2)),
            "sub_parts": st.one_of(st.none(), st.lists(st.just({"question_number": "a"}), max_size=2)),
        },
    ),
    max_size=6,
)


@given(QUESTIONS, QUESTIONS)
def test_each_question_is_in_exactly_one_pair(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    pairs = align(first, second)
    for side, questions in ((0, first), (1, second)):
        leaves = [part for one in questions for part in (one.get("sub_parts") or [one])]
        found = [pair[side] for pair in pairs if pair[side] is not None]
        assert sorted(map(id, found)) == sorted(map(id, leaves))


@given(QUESTIONS)
def test_an_answer_agrees_with_itself(questions: list[dict[str, Any]]) -> None:
    found = compare({"questions": questions}, {"questions": questions})
    assert found.found_by_both == found.questions
    assert found.same_count
    assert found.only_original == found.only_compact == 0


# -- comparison


def _graded(number: int, grade: str, points: float, answer: str) -> dict[str, Any]:
    return _question(number, grade=grade, points_earned=points, student_answer=answer)


def test_what_is_counted() -> None:
    original = [
        _graded(1, "CORRECT", 1.0, "x = 4"),
        _graded(2, "CORRECT", 1.0, "20 cm²"),
        _graded(3, "INCORRECT", 0.0, "18"),
        _graded(4, "CORRECT", 1.0, "36"),
    ]
    compact = [
        _graded(1, "correct", 1.0, "X=4 "),
        _graded(2, "PARTIAL_CREDIT", 0.5, "20 cm2"),
        _graded(3, "CORRECT", 1.0, "13"),
    ]
    found = compare({"questions": original}, {"questions": compact})
    assert (found.questions, found.found_by_both, found.same_count) == (4, 3, False)
    assert (found.same_answer, found.same_grade, found.same_points) == (2, 1, 1)
    # the fourth was not found in the compact way: it is not graded correct there
    assert (found.only_original, found.only_compact) == (2, 1)
    assert found.points == pytest.approx(-0.5 + 1.0 - 1.0)


@pytest.mark.parametrize("answer", [{}, {"questions": None}, {"questions": "none"}, {"questions": [1, None, "a"]}])
def test_what_is_no_answer_has_no_questions(answer: dict[str, Any]) -> None:
    found = compare(answer, {"questions": [_graded(1, "CORRECT", 1.0, "")]})
    assert (found.questions, found.found_by_both, found.only_compact) == (1, 0, 1)


def test_against_labels() -> None:
    truth = [
        _graded(1, "CORRECT", 1.0, "x = 4"),
        {"question_number": 2, "grade": "INCORRECT"},
        _graded(3, "EMPTY", 0.0, ""),
    ]
    answer = [
        _graded(1, "INCORRECT", 0.0, "x=4"),
        _graded(2, "INCORRECT", 0.5, "9"),
        _graded(7, "CORRECT", 1.0, "invented"),
    ]
    counts, right = against(truth, {"questions": answer})
    assert right == [False, True, False]
    assert (counts.questions, counts.found, counts.right, counts.extra) == (3, 2, 1, 1)
    assert (counts.read, counts.readable) == (1, 1)
    assert counts.points == pytest.approx(1.0)


def test_a_template_names_its_fields() -> None:
    record = (
        Field("no", ("integer",), column=1),
        Field("mark", ("string",), column=2, codes={"B": "bad", "G": "good"}),
        Field("score", ("number",), by="mark", values={"bad": 0, "good": 2}),
        Field("inner", rows="item"),
    )
    shape = Shape((Field("items", rows="item", short="i"),), {"item": record})
    assert fields_of(shape) == QualityFields(
        questions="items", grade="mark", points="score", parts="inner", correct="good"
    )
    plain = Shape((Field("items", rows="item", short="i"),), {"item": record[:1]})
    assert fields_of(plain) == QualityFields(questions="items", parts=PLAN.parts)


def test_many_homeworks() -> None:
    right, wrong = _graded(1, "CORRECT", 1.0, "4"), _graded(1, "INCORRECT", 0.0, "5")
    same = compare({"questions": [right]}, {"questions": [right]})
    worse = compare({"questions": [right]}, {"questions": [wrong]})
    summary = summarise([same] * 30 + [worse] * 10, seeded(5), "the share graded correct")
    assert summary.finding.verdict is Verdict.DIFFERENT
    assert summary.finding.difference is not None
    assert summary.finding.difference.estimate == pytest.approx(-0.25)
    assert summary.grades is not None
    assert summary.grades.estimate == pytest.approx(0.75)
    assert summary.points is not None
    assert summary.points.estimate == pytest.approx(-0.25)
    assert summary.answers is not None
    assert summary.answers.estimate == pytest.approx(0.75)
    assert summary.found is not None
    assert summary.found.estimate == 1.0
    assert summary.counts["questions"] == 40
    empty = summarise([], seeded(5), "the share graded correct")
    assert empty.finding.verdict is Verdict.NOT_ENOUGH
    assert empty.grades is None
