"""Homework as the plan's prompt has it graded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pool_monitor.grading.upstreams import ORIGINAL

SCHEMA = json.loads((Path(__file__).parent / "homework_schema.json").read_text())
"""Of an answer, as the plan has it."""
POINTS = {"CORRECT": 1.0, "INCORRECT": 0.0, "EMPTY": 0.0, "PARTIAL_CREDIT": 0.5}

TEN = [
    ("Solve for x: 2x + 5 = 13", "x = 4", "x = 4", "CORRECT", "Correct! Good step-by-step work."),
    ("Simplify: 3(a + 2b) - 2(a - b)", "a + 8b", "a + 8b", "CORRECT", "Well done distributing and combining terms."),
    (
        "What is the area of a triangle with base 8 cm and height 5 cm?",
        "40 cm²",
        "20 cm²",
        "INCORRECT",
        "Multiply by ½.",
    ),
    ("Factor: x² - 9", "(x - 3)(x + 3)", "(x - 3)(x + 3)", "CORRECT", "Perfect difference of squares."),
    ("Find the slope of the line through (1, 2) and (3, 8).", "3", "3", "CORRECT", "Correct slope calculation."),
    ("Evaluate: √144 + 2³", "18", "20", "INCORRECT", "√144 = 12 and 2³ = 8, so the total is 20."),
    ("Convert 0.375 to a fraction in lowest terms.", "375/1000", "3/8", "PARTIAL_CREDIT", "Right, but simplify it."),
    ("What is 15% of 240?", "36", "36", "CORRECT", "Correct percentage calculation."),
    ("Solve the inequality: 5 - 2x > 1", "", "x < 2", "EMPTY", "No answer was written for this question."),
    ("If f(x) = x² + 1, find f(3).", "10", "10", "CORRECT", "Great, function evaluated correctly."),
]


def question(number: int, text: str, student: str, correct: str, grade: str, feedback: str) -> dict[str, Any]:
    return {
        "question_number": number,
        "raw_question_text": f"{number}. {text}",
        "question_text": text,
        "student_answer": student,
        "correct_answer": correct,
        "grade": grade,
        "points_earned": POINTS[grade],
        "points_possible": 1.0,
        "confidence": 0.95,
        "has_visuals": False,
        "feedback": feedback,
        "sub_parts": [],
    }


def answer(questions: list[dict[str, Any]], summary: str, notes: str) -> dict[str, Any]:
    grades = [one["grade"] for one in questions]
    return {
        "subject": "Mathematics",
        "subject_confidence": 0.98,
        "total_questions_found": len(questions),
        "questions": questions,
        "performance_summary": {
            "total_correct": grades.count("CORRECT"),
            "total_incorrect": grades.count("INCORRECT"),
            "total_empty": grades.count("EMPTY"),
            "accuracy_rate": round(grades.count("CORRECT") / len(grades), 2) if grades else 0.0,
            "summary_text": summary,
        },
        "processing_notes": notes,
    }


def ten_questions() -> dict[str, Any]:
    """The size that the plan counts with."""
    questions = [question(number, *row) for number, row in enumerate(TEN, 1)]
    return answer(questions, "Strong algebra; review triangle area and exponents.", "All questions were legible.")


def compact_by_hand() -> str:
    """What a model says of a sheet of two questions; written by hand, for `two_questions`."""
    return (
        '{"s":"Mathematics","c":98,"k":2,"q":[[1,"1. Solve for x: 2x + 5 = 13",0,"x = 4",0,"C",95,"Good."],'
        '[2,"2. Factor: x² - 9",0,"(x - 3)²","(x - 3)(x + 3)","I",95,"Look again."]],"t":"Half right.","n":"Clear."}'
    )


def two_questions() -> dict[str, Any]:
    return answer(
        [
            question(1, "Solve for x: 2x + 5 = 13", "x = 4", "x = 4", "CORRECT", "Good."),
            question(2, "Factor: x² - 9", "(x - 3)²", "(x - 3)(x + 3)", "INCORRECT", "Look again."),
        ],
        "Half right.",
        "Clear.",
    )


def pretty(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2)


def minified(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def asked(sheet: str, **more: Any) -> dict[str, Any]:
    """A request that has the simulator grade this sheet."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{sheet.encode().hex()}"}}
    return {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": ORIGINAL},
            {"role": "user", "content": [{"type": "text", "text": sheet}, image]},
        ],
        **more,
    }
