"""The full answer and its compact form are each other's inverse, whole and streamed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pool_monitor.grading.answers import Doubt, NotCertain, Note, compact
from pool_monitor.grading.calls import Expansion
from pool_monitor.grading.expanding import Expander, expand, full_answer
from pool_monitor.grading.shapes import faults_of, json_schema, same, without_label
from pool_monitor.grading.template_files import load_templates

[TEMPLATE] = load_templates()
SHAPE = TEMPLATE.shape
SCHEMA = json.loads((Path(__file__).parent / "homework_schema.json").read_text())

texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["", "0", '"', "\\frac{1}{2}", "a\nb", "1. x", "2) y", "\u2028", "日本語", "😀", "]}", "{", "```", "x\\"]),
)
confidences = st.one_of(
    st.integers(0, 100).map(lambda n: n / 100), st.floats(0, 1), st.sampled_from([0, 1, 0.0, 1.0, 0.01, 0.955, 1e-9])
)
numbers = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 20), st.floats(0, 100))
subjects = st.sampled_from(SCHEMA["properties"]["subject"]["enum"])
grades = st.sampled_from(["CORRECT", "INCORRECT", "EMPTY", "PARTIAL_CREDIT"])
POINTS = {"CORRECT": 1.0, "INCORRECT": 0.0, "EMPTY": 0.0, "PARTIAL_CREDIT": 0.5}


@st.composite
def questions(draw: st.DrawFn, depth: int = 1) -> dict[str, Any]:
    raw, student = draw(texts), draw(texts)
    grade = draw(grades)
    usual = draw(st.booleans())
    return {
        "question_number": draw(st.one_of(st.integers(1, 99), st.sampled_from(["1a", "2b", ""]))),
        "raw_question_text": raw,
        "question_text": draw(st.one_of(st.just(raw), st.just(without_label(raw)), texts)),
        "student_answer": student,
        "correct_answer": draw(st.one_of(st.just(student), texts)),
        "grade": grade,
        "points_earned": POINTS[grade] if usual else draw(numbers),
        "points_possible": 1.0 if usual else draw(numbers),
        "confidence": draw(confidences),
        "has_visuals": draw(st.booleans()),
        "feedback": draw(texts),
        "sub_parts": draw(st.lists(questions(depth - 1), max_size=2)) if depth else [],
    }


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    rows = draw(st.lists(questions(), max_size=4))
    usual = draw(st.booleans())
    counts = {grade: sum(row["grade"] == grade for row in rows) for grade in POINTS}
    rate = round(counts["CORRECT"] / len(rows), 2) if rows else 0.0
    whole = st.integers(0, 9)
    return {
        "subject": draw(subjects),
        "subject_confidence": draw(confidences),
        "total_questions_found": len(rows) if usual else draw(whole),
        "questions": rows,
        "performance_summary": {
            "total_correct": counts["CORRECT"] if usual else draw(whole),
            "total_incorrect": counts["INCORRECT"] if usual else draw(whole),
            "total_empty": counts["EMPTY"] if usual else draw(whole),
            "accuracy_rate": rate if usual else draw(confidences),
            "summary_text": draw(texts),
        },
        "processing_notes": draw(texts),
    }


def minified(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(answers())
def test_nothing_is_lost(full: dict[str, Any]) -> None:
    assert faults_of(SHAPE, full) == []
    expanded = expand(SHAPE, minified(compact(SHAPE, full)))
    assert same(json.loads(expanded.content), full)
    assert expanded.found is Expansion.EXPANDED


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(answers(), st.lists(st.floats(0, 1), max_size=12))
def test_a_stream_tells_the_same_however_it_is_cut(full: dict[str, Any], cuts: list[float]) -> None:
    said = minified(compact(SHAPE, full))
    whole = expand(SHAPE, said).content
    expander, told = Expander(SHAPE), ""
    places = [0, *sorted(round(cut * len(said)) for cut in cuts), len(said)]
    for begin, end in itertools.pairwise(places):
        told += expander.feed(said[begin:end])
        assert whole.startswith(told)
    told += expander.finish().content
    assert told == whole
