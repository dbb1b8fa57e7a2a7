"""Homework sheets for the grading simulator, and how a model writes its grading of them down, in either form.

This knows the two forms by the prompts alone, as a model would: nothing here is shared with what expands one into the
other, so that both can be held against each other.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, replace
from typing import Any

POINTS = {"CORRECT": 1.0, "INCORRECT": 0.0, "EMPTY": 0.0, "PARTIAL_CREDIT": 0.5}
CODES = {"CORRECT": "C", "INCORRECT": "I", "EMPTY": "E", "PARTIAL_CREDIT": "P"}
_NUMBER = re.compile(r"^(?:Q?\d+[a-z]?[.):]|\(\d+\))\s+")


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it stands on the paper, and how it is graded. confidence -- percent."""

    number: int | str
    printed: str
    student: str
    correct: str
    grade: str
    feedback: str
    confidence: int = 95
    visuals: bool = False
    cleaned: str | None = None
    parts: tuple[Question, ...] = ()

    @property
    def text(self) -> str:
        """Without what is printed in front of it."""
        return self.cleaned if self.cleaned is not None else _NUMBER.sub("", self.printed)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A graded homework."""

    subject: str
    confidence: int
    questions: tuple[Question, ...]
    summary: str
    notes: str


def _share(percent: int) -> float:
    return float(f"{percent // 100}.{percent % 100:02d}")


def in_full(sheet: Sheet) -> dict[str, Any]:
    """As the original prompt wants it."""
    right = wrong = empty = 0
    for one in sheet.questions:
        right += one.grade == "CORRECT"
        wrong += one.grade == "INCORRECT"
        empty += one.grade == "EMPTY"
    count = len(sheet.questions)
    return {
        "subject": sheet.subject,
        "subject_confidence": _share(sheet.confidence),
        "total_questions_found": count,
        "questions": [_question_in_full(one) for one in sheet.questions],
        "performance_summary": {
            "total_correct": right,
            "total_incorrect": wrong,
            "total_empty": empty,
            "accuracy_rate": float(f"{right / count:.2f}") if count else 0.0,
            "summary_text": sheet.summary,
        },
        "processing_notes": sheet.notes,
    }


def _question_in_full(one: Question) -> dict[str, Any]:
    return {
        "question_number": one.number,
        "raw_question_text": one.printed,
        "question_text": one.text,
        "student_answer": one.student,
        "correct_answer": one.correct,
        "grade": one.grade,
        "points_earned": POINTS[one.grade],
        "points_possible": 1.0,
        "confidence": _share(one.confidence),
        "has_visuals": one.visuals,
        "feedback": one.feedback,
        "sub_parts": [_question_in_full(part) for part in one.parts],
    }


def in_rows(sheet: Sheet) -> dict[str, Any]:
    """As the compact prompt wants it."""
    return {
        "s": sheet.subject,
        "c": sheet.confidence,
        "k": len(sheet.questions),
        "q": [_row(one) for one in sheet.questions],
        "t": sheet.summary,
        "n": sheet.notes,
    }


def _row(one: Question) -> list[Any]:
    row: list[Any] = [
        one.number,
        one.printed,
        0 if one.text == _NUMBER.sub("", one.printed) else one.text,
        one.student,
        0 if one.correct == one.student and one.grade == "CORRECT" else one.correct,
        CODES[one.grade],
        one.confidence,
        one.feedback,
    ]
    if one.visuals:
        row.append(1)
    if one.parts:
        row.append([_row(part) for part in one.parts])
    return row


def printed(document: object, *, compact: bool) -> str:
    """As a model prints it: the compact form on one line."""
    if compact:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(document, ensure_ascii=False, indent=2)


# -- sheets

_POOL: tuple[tuple[str, str, str, str, str], ...] = (
    ("Mathematics", "Solve for x: 2x + 5 = 13", "x = 4", "x = 5", "Subtract 5 on both sides first."),
    ("Mathematics", "Factor: x² - 9", "(x - 3)(x + 3)", "(x - 3)²", "Think of a difference of squares."),
    ("Mathematics", "What is 15% of 240?", "36", "24", "15% is 10% and half of it again."),
    (
        "Mathematics",
        "Evaluate \\(\\frac{3}{4} + \\frac{1}{8}\\)",
        "\\(\\frac{7}{8}\\)",
        "\\(\\frac{4}{12}\\)",
        "Find a common denominator.",
    ),
    (
        "Mathematics",
        "Differentiate f(x) = 3x^2 \\cdot e^{x}",
        "6x e^{x} + 3x^2 e^{x}",
        "6x e^{x}",
        "Use the product rule.",
    ),
    (
        "Physics",
        "A car travels 150 km in 2 h. What is its mean speed?",
        "75 km/h",
        "300 km/h",
        "Divide distance by time.",
    ),
    ("Physics", "State Newton's second law.", "F = ma", "F = mv", "Force changes velocity: mass times acceleration."),
    ("Chemistry", "Balance: H₂ + O₂ → H₂O", "2H₂ + O₂ → 2H₂O", "H₂ + O₂ → H₂O₂", "Count the atoms on both sides."),
    ("Biology", "What do plants take up for photosynthesis?", "CO₂ and water", "oxygen", "They give oxygen off."),
    ("English", 'Who says "To be, or not to be"?', "Hamlet", '"Macbeth"', "It is the prince of Denmark."),
    (
        "English",
        'Correct the sentence:\n"Me and him goes home."',
        '"He and I go home."',
        '"Him and I goes home."',
        "Mind the verb.",
    ),
    ("History", "In which year did the Berlin Wall fall?", "1989", "1991", "Two years before the Union ended."),
    ("Geography", "首都北京在哪个国家?", "中国", "日本", "再想一想。"),
    ("Computer Science", "What does `len([1, [2, 3]])` give in Python?", "2", "3", "The inner list is one element."),
)

_SUMMARIES = ("A solid piece of work.", "Good; some rules need another look.", "Keep practising, you are close.")
_NOTES = ("All questions were legible.", "The lower left corner is blurred.", "")


def drawn(seed: int | str) -> Sheet:
    """A sheet that follows from `seed`: the same image is always read the same."""
    dice = random.Random(f"sheet {seed}")  # noqa: S311 - repeatable on purpose
    subject = dice.choice(sorted({one[0] for one in _POOL}))
    pool = [one for one in _POOL if one[0] == subject]
    questions = tuple(_drawn_question(dice, number, dice.choice(pool)) for number in range(1, dice.randint(1, 12) + 1))
    return Sheet(subject, dice.randint(80, 100), questions, dice.choice(_SUMMARIES), dice.choice(_NOTES))


def _drawn_question(dice: random.Random, number: int, drawn_from: tuple[str, str, str, str, str]) -> Question:
    _, text, right, wrong, hint = drawn_from
    grade = dice.choices(list(POINTS), weights=(6, 2, 1, 1))[0]
    student = {"CORRECT": right, "EMPTY": ""}.get(grade, wrong)
    feedback = {"CORRECT": "Well done.", "EMPTY": "No answer was given."}.get(grade, hint)
    mark = dice.choice((f"{number}. ", f"{number}) ", f"Q{number}: ", ""))
    one = Question(number, mark + text, student, right, grade, feedback, dice.randint(60, 100))
    if dice.random() < 0.1:
        one = replace(one, visuals=True)
    if dice.random() < 0.1:
        parts = tuple(replace(one, number=f"{number}{letter}", printed=f"{number}{letter}) {text}") for letter in "ab")
        one = replace(one, parts=parts)
    return one


def _plain(count: int) -> tuple[Question, ...]:
    questions = []
    for index in range(count):
        _, text, right, wrong, hint = _POOL[index % len(_POOL)]
        correct = index % 3 != 2
        grade, student = ("CORRECT", right) if correct else ("INCORRECT", wrong)
        feedback = "Well done." if correct else hint
        questions.append(Question(index + 1, f"{index + 1}. {text}", student, right, grade, feedback))
    return tuple(questions)


def _named() -> dict[str, Sheet]:
    part = Question("1a", "1a) 2 + 2 = ?", "4", "4", "CORRECT", "Right.")
    return {
        "ten-questions": Sheet("Mathematics", 98, _plain(10), _SUMMARIES[0], _NOTES[0]),
        "two-hundred": Sheet("Mathematics", 90, _plain(200), _SUMMARIES[1], _NOTES[0]),
        "empty-sheet": Sheet("Other", 40, (), "There is nothing on this page.", "No questions were found."),
        "latex": Sheet(
            "Mathematics",
            97,
            (
                Question(1, "1. $\\int_0^1 x^2\\,dx = \\;?$", "$\\frac13$", "$\\frac{1}{3}$", "CORRECT", "Fine."),
                Question(2, "2. \\begin{pmatrix}1 & 0\\\\0 & 1\\end{pmatrix}^{-1}", "", "the same", "EMPTY", '"Try!"'),
            ),
            "Good \\LaTeX.",
            'back\\slash, "quotes",\nnew line,\ttab',
        ),
        "unicode": Sheet(
            "English",
            88,
            (
                Question(
                    1,
                    "1. ما معنى «كتاب»؟",
                    "book 📖",
                    "book",
                    "PARTIAL_CREDIT",
                    "Zoë: naïve — très bien…",
                    cleaned="ما معنى «كتاب»؟",
                ),
            ),
            "日本語も大丈夫。",
            "\u2028 and \u200b are there.",
        ),
        "sub-parts": Sheet(
            "Mathematics",
            100,
            (
                Question(
                    1,
                    "1. Add.",
                    "4, 7",
                    "4, 6",
                    "PARTIAL_CREDIT",
                    "One of two.",
                    parts=(
                        part,
                        replace(
                            part, number="1b", printed="1b) 3 + 3 = ?", student="7", correct="6", grade="INCORRECT"
                        ),
                    ),
                ),
                Question(2, "2. What does the drawing show?", "a cube", "a cube", "CORRECT", "Yes.", 100, visuals=True),
            ),
            "Look at 1b again.",
            "",
        ),
    }


NAMED = _named()
