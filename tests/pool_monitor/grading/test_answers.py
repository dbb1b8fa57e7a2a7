"""The full answer and its compact form are each other's inverse, whole and streamed."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import jsonschema
import pytest
import toktok
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool_monitor.grading.answers import Doubt, NotCertain, Note, compact
from pool_monitor.grading.calls import Expansion
from pool_monitor.grading.expanding import Expander, expand, full_answer
from pool_monitor.grading.shapes import faults_of, same, without_label
from pool_monitor.grading.template_files import load_templates
from tests.pool_monitor.grading.samples import (
    POINTS,
    SCHEMA,
    compact_by_hand,
    minified,
    pretty,
    ten_questions,
    two_questions,
)

[TEMPLATE] = load_templates()
SHAPE = TEMPLATE.shape

texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", "0", '"', "\\frac{1}{2}", "a\nb", "1. x", "2) y", "\u2028", "日本語", "😀", "]}", "{", "```", "x\\"]
    ),
)
confidences = st.one_of(
    st.integers(0, 100).map(lambda n: n / 100), st.floats(0, 1), st.sampled_from([0, 1, 0.0, 1.0, 0.01, 0.955, 1e-9])
)
numbers = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 20), st.floats(0, 100))
subjects = st.sampled_from(SCHEMA["properties"]["subject"]["enum"])
grades = st.sampled_from(["CORRECT", "INCORRECT", "EMPTY", "PARTIAL_CREDIT"])


@st.composite
def questions(draw: st.DrawFn, depth: int = 1) -> dict[str, Any]:
    raw, student = draw(texts), draw(texts)
    number = draw(st.one_of(st.integers(1, 99), st.sampled_from([1, 2, "1a", "2b", ""])))
    grade = draw(grades)
    usual = draw(st.booleans())
    return {
        "question_number": number,
        "raw_question_text": raw,
        "question_text": draw(st.one_of(st.just(raw), st.just(without_label(raw, number)), texts)),
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


def test_two_hundred_questions_character_by_character() -> None:
    full = ten_questions()
    full["questions"] *= 20
    full["total_questions_found"] = 200
    full["performance_summary"] |= {"total_correct": 120, "total_incorrect": 40, "total_empty": 20}
    expander = Expander(SHAPE)
    told = "".join(map(expander.feed, minified(compact(SHAPE, full)))) + expander.finish().content
    assert same(json.loads(told), full)
    assert expander.emitted_rows == 200


def test_what_follows_is_not_generated() -> None:
    assert json.loads(compact_by_hand()) == compact(SHAPE, two_questions())
    assert minified(compact(SHAPE, two_questions())) == compact_by_hand()


def test_sub_parts_and_visuals_end_their_row() -> None:
    full = two_questions()
    first, second = full["questions"]
    second["has_visuals"] = True
    second["sub_parts"] = [
        {**first, "question_number": "2a", "raw_question_text": "2a) What?", "question_text": "What?"}
    ]
    said = compact(SHAPE, full)
    assert said["q"][1][8:] == [1, [["2a", "2a) What?", 0, "x = 4", 0, "C", 95, "Good."]]]
    assert same(json.loads(expand(SHAPE, minified(said)).content), full)


def test_what_is_not_as_computed_is_an_exception() -> None:
    full = two_questions()
    full["questions"][0] |= {"points_earned": 0.7, "points_possible": 2, "confidence": 1}
    full["performance_summary"]["accuracy_rate"] = 0.9
    full["total_questions_found"] = 3
    said = compact(SHAPE, full)
    assert said["q"][0][8] == {"points_earned": 0.7, "points_possible": 2, "confidence": 1}
    assert said["x"] == {"total_questions_found": 3, "performance_summary.accuracy_rate": 0.9}


def test_a_count_that_is_not_that_of_the_rows() -> None:
    """A whole answer has the right one; a stream had to say it before."""
    said = compact_by_hand().replace('"k":2', '"k":3')
    expanded = expand(SHAPE, said)
    assert json.loads(expanded.content)["total_questions_found"] == 2
    assert expanded.notes == (Note.COUNT_DIFFERS,)
    expander = Expander(SHAPE)
    told = "".join(map(expander.feed, said)) + expander.finish().content
    assert json.loads(told) == {**two_questions(), "total_questions_found": 3}


def test_members_in_another_order() -> None:
    said = json.loads(compact_by_hand())
    text = minified(dict(reversed(said.items())))
    assert json.loads(expand(SHAPE, text).content) == two_questions()
    expander = Expander(SHAPE)
    told = "".join(map(expander.feed, text)) + expander.finish().content
    assert told == expand(SHAPE, compact_by_hand()).content


def test_notes_may_be_left_out() -> None:
    text = compact_by_hand().replace(',"n":"Clear."', "")
    assert json.loads(expand(SHAPE, text).content) == {**two_questions(), "processing_notes": ""}


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (lambda said: "", Doubt.NO_OBJECT),
        (lambda said: "[1]", Doubt.NO_OBJECT),
        (lambda said: said.replace(':"Mathematics"', ":Mathematics"), Doubt.NOT_JSON),
        (lambda said: said.replace('"s"', '"z"'), Doubt.NOT_COMPACT),
        (lambda said: said.replace('"t"', '"u"'), Doubt.NOT_COMPACT),
        (lambda said: said.replace(',"t":"Half right."', ""), Doubt.MISSING),
        (lambda said: said.replace('"q"', '"r"'), Doubt.NOT_COMPACT),
        (lambda said: said.replace(',"Good."', ""), Doubt.ARITY),
        (lambda said: said.replace('"Good."', '"Good.",1,1,1,1'), Doubt.ARITY),
        (lambda said: said.replace('"Good."', '"Good.",7'), Doubt.ARITY),
        (lambda said: said.replace("[1,", '{"a":1},[1,'), Doubt.ARITY),
        (lambda said: said.replace('"C"', '"D"'), Doubt.VALUE),
        (lambda said: said.replace('"C"', "1"), Doubt.VALUE),
        (lambda said: said.replace("95", "null"), Doubt.VALUE),
        (lambda said: said.replace("95", "true"), Doubt.VALUE),
        (lambda said: said.replace("95", "NaN"), Doubt.NOT_JSON),
        (lambda said: said.replace("98", '"98"'), Doubt.VALUE),
        (lambda said: said.replace("[1,", "[[1],"), Doubt.VALUE),
        (lambda said: said.replace('"Good."', '"Good.",{"points_earned":"all"}'), Doubt.VALUE),
        (lambda said: said.replace('"Good."', '"Good.",{"sub_parts":[{"x":1}]}'), Doubt.VALUE),
        (lambda said: said.replace('"Good."', '"Good.",{"zz":2}'), Doubt.VALUE),
        (lambda said: said.replace('"Good."', '"Good.",{"confidence":1}'), Doubt.VALUE),
        (lambda said: said.replace('"Good."', '"Good.",{"points_earned":1,"points_earned":2}'), Doubt.NOT_JSON),
        (lambda said: said.replace('"Good."', '"Good.",{},{}'), Doubt.ARITY),
        (lambda said: said.replace('"Good."', '"Good.",[],[]'), Doubt.ARITY),
        (lambda said: said.replace('"Good."', '"Good.",1,0'), Doubt.ARITY),
        (lambda said: said.replace('"C",95', '"C",195'), Doubt.VALUE),
        (lambda said: said.replace('"C",95', '"C",-0.5'), Doubt.VALUE),
        (lambda said: said.replace('"(x - 3)(x + 3)","I"', '0,"I"'), Doubt.VALUE),
        (lambda said: said.replace('"x = 4",0,"C"', '"x = 4",0,"E"'), Doubt.VALUE),
        (lambda said: said.replace('"q":[', '"q":[,'), Doubt.NOT_JSON),
        (lambda said: said.replace(",[2,", ",,[2,"), Doubt.NOT_JSON),
        (lambda said: said.replace("]]", "],]"), Doubt.NOT_JSON),
        (lambda said: said.replace(',"t"', ',,"t"'), Doubt.NOT_JSON),
        (lambda said: said.replace('"Clear."', '"Clear.",'), Doubt.NOT_JSON),
        (lambda said: said.replace(',"t"', ',"q":[],"t"'), Doubt.NOT_COMPACT),
        (lambda said: said.replace(',"t"', ',"q":1,"t"'), Doubt.NOT_COMPACT),
        (lambda said: said.replace(',"t"', ',"t":"1","t"'), Doubt.NOT_COMPACT),
        (lambda said: said.replace(',"t"', ',"u":1,"t"'), Doubt.NOT_COMPACT),
        (lambda said: said.replace('{"s"', '{"x":1,"s"'), Doubt.VALUE),
        (lambda said: said.replace('{"s"', '{"x":{"questions":[]},"s"'), Doubt.VALUE),
        (lambda said: said.replace('{"s"', '{"x":{"a":1},"s"'), Doubt.VALUE),
        (lambda said: said[: said.index("Half")], Doubt.CUT),
        (lambda said: said[: said.index(",[2,")], Doubt.CUT),
        (lambda said: said.replace("}", "]"), Doubt.NOT_JSON),
        (lambda said: said.replace("]]", "}]"), Doubt.NOT_JSON),
        (lambda said: said + "}" * 5000, None),
        (lambda said: f"{said}\n{said}", Doubt.NOT_COMPACT),
        (lambda said: "{" + "[" * 200_000, Doubt.CUT),
    ],
)
def test_what_is_not_certain_and_why(change: Any, doubt: Doubt | None) -> None:
    said = change(compact_by_hand())
    if doubt is None:
        assert expand(SHAPE, said).found is Expansion.REPAIRED
        return
    with pytest.raises(NotCertain) as fault:
        expand(SHAPE, said)
    assert fault.value.doubt is doubt


@pytest.mark.parametrize("text", [" \n", "It is so. "])
def test_what_stands_around_the_object_is_not_looked_at_by_characters(text: str) -> None:
    """Models that have lost their way write nothing but white space, to the last token; nobody else runs meanwhile."""
    calls = 0

    def counting(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(counting)
    try:
        Expander(SHAPE).feed(100_000 * text)
    finally:
        sys.setprofile(None)
    assert calls < 1000


@settings(max_examples=400)
@given(st.data())
def test_whatever_a_model_says_is_valid_or_not_certain(data: st.DataObject) -> None:
    """A right answer with pieces taken out, put in or doubled: nothing but a valid answer comes of it, streamed too."""
    said = compact_by_hand()
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(said)))
        end = data.draw(st.integers(begin, min(len(said), begin + 12)))
        signs = ["", "[", "]", "{", "}", '"', ",", ":", "\\", "0", "1e5", "null"]
        put = data.draw(st.one_of(st.sampled_from(signs), st.text(max_size=3)))
        said = said[:begin] + put + said[end:]
    for whole in (True, False):
        try:
            if whole:
                content = expand(SHAPE, said).content
            else:
                expander = Expander(SHAPE)
                told = "".join(map(expander.feed, said))
                content = told + expander.finish().content
        except NotCertain:
            continue
        assert faults_of(SHAPE, json.loads(content)) == []


@pytest.mark.parametrize("emitted", [0, 1, 2])
def test_a_stream_is_resumed_from_a_full_answer(emitted: int) -> None:
    """What was told stays, the rest is the other answer's, and the summary is that of what was told in all."""
    said, other = compact_by_hand(), two_questions()
    other["questions"][0]["grade"] = "EMPTY"
    other["questions"][1]["feedback"] = "Other."
    expander = Expander(SHAPE)
    told = expander.feed(said[: said.index(["[1,", "[2,", '"t"'][emitted])])
    assert expander.emitted_rows == emitted
    whole = json.loads(told + expander.resume(other))
    assert jsonschema.validators.Draft202012Validator(SCHEMA).is_valid(whole)
    mine, theirs = ["Good.", "Look again."], ["Good.", "Other."]
    assert [one["feedback"] for one in whole["questions"]] == mine[:emitted] + theirs[emitted:]
    grades = [one["grade"] for one in whole["questions"]]
    assert whole["performance_summary"]["total_correct"] == grades.count("CORRECT")
    assert whole["performance_summary"]["total_empty"] == grades.count("EMPTY")


def test_a_stream_is_not_resumed_from_an_answer_with_fewer_questions() -> None:
    expander = Expander(SHAPE)
    expander.feed(compact_by_hand())
    other = two_questions()
    del other["questions"][0]
    with pytest.raises(NotCertain, match="other questions"):
        expander.resume(other)


@pytest.mark.parametrize("change", [{"question_number": 2}, {"raw_question_text": "1. Solve for y: 2y = 1"}])
def test_a_stream_is_not_resumed_from_an_answer_with_other_questions(change: dict[str, Any]) -> None:
    expander = Expander(SHAPE)
    expander.feed(compact_by_hand())
    other = two_questions()
    other["questions"][0] |= change
    with pytest.raises(NotCertain, match="other questions"):
        expander.resume(other)
    other["questions"][0] = two_questions()["questions"][0] | {"raw_question_text": "1.  solve for X:\n2x + 5 = 13"}
    expander.resume(other)


def test_a_doubt_tells_nothing_of_what_was_said() -> None:
    name = "John Smith"
    for said in (
        compact_by_hand().replace('"C"', f'"{name}"'),
        compact_by_hand().replace('"s"', f'"{name}"'),
        compact_by_hand().replace('"t"', f'"{name}"'),
        compact_by_hand().replace('"Good."', f'"Good.","{name}"'),
        compact_by_hand().replace('"Mathematics"', f'"{name}"'),
        pretty({**two_questions(), name: 1}),
        pretty({**two_questions(), "subject": name}),
    ):
        with pytest.raises(NotCertain) as fault:
            expand(SHAPE, said)
        assert "John" not in str(fault.value)


@pytest.mark.parametrize(("grade", "told"), [("CORRECT", 0), ("PARTIAL_CREDIT", "x = 4"), ("EMPTY", "x = 4")])
def test_the_correct_answer_is_left_out_where_the_student_gave_it(grade: str, told: Any) -> None:
    """0 may be a correct answer: in the row of a wrong one it says nothing with certainty."""
    full = two_questions()
    full["questions"][0] |= {"grade": grade, "points_earned": POINTS[grade]}
    said = compact(SHAPE, full)
    assert said["q"][0][4] == told
    assert json.loads(expand(SHAPE, minified(said)).content)["questions"][0]["correct_answer"] == "x = 4"


def test_a_full_answer_is_found_in_a_fence() -> None:
    assert full_answer(SHAPE, f"```json\n{pretty(two_questions())}\n```") == two_questions()
    for broken in ("", "{}", "[]", pretty(two_questions())[:-3]):
        with pytest.raises(NotCertain):
            full_answer(SHAPE, broken)


# -- the schema, against one that was written by hand


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(answers(), st.data())
def test_validity_is_that_of_the_schema(full: dict[str, Any], data: st.DataObject) -> None:
    """Of valid answers, and of answers with one thing changed."""
    document = json.loads(json.dumps(full))
    places = [document, document["performance_summary"], *document["questions"]]
    place = data.draw(st.sampled_from(places))
    name = data.draw(st.sampled_from([*place, "extra"]))
    strange: Any = data.draw(st.sampled_from([None, True, 1, 1.5, 2.0, "", "CORRECT", "Physics", [], {}, [1]]))
    if data.draw(st.booleans()):
        place[name] = strange
    else:
        place.pop(name, None)
    by_hand = jsonschema.validators.Draft202012Validator(SCHEMA).is_valid(document)
    assert (faults_of(SHAPE, document) == []) is by_hand


@pytest.mark.parametrize(
    ("number", "text", "rest"),
    [
        (1, "1. What?", "What?"),
        (2, "2) What?", "What?"),
        (3, "(3) What?", "What?"),
        (4, "Q4: What?", "What?"),
        (4, "q 4. What?", "What?"),
        (5, "Question 5: What?", "What?"),
        ("1a", "1a. What?", "What?"),
        ("1.2", " 1.2) What?", "What?"),
        (1, "2. What?", "2. What?"),
        (2, "24 : 8", "24 : 8"),
        (24, "24 : 8", "24 : 8"),
        (24, "24: 8", "24: 8"),
        (3, "3.5: 7", "3.5: 7"),
        (3, "3.5. 7", "3.5. 7"),
        (5, "5x: 10", "5x: 10"),
        (100, "100 m. How fast?", "100 m. How fast?"),
        (3, "3.14 is what?", "3.14 is what?"),
        (1, "1.", "1."),
        (2, "What is 2. 3?", "What is 2. 3?"),
        ("", ". x", ". x"),
        (1, "", ""),
    ],
)
def test_labels(number: int | str, text: str, rest: str) -> None:
    assert without_label(text, number) == rest


# -- tokens, counted with the vendor's vocabulary


def tokens(text: str) -> int:
    [count] = toktok.batch_count([text], encoding="o200k_base")
    return int(count)


def test_the_compact_prompt_has_sixty_percent_fewer_tokens() -> None:
    assert tokens(TEMPLATE.original) == 356
    assert tokens(TEMPLATE.compact) <= 0.4 * 356


def test_a_compact_answer_has_less_than_half_the_tokens() -> None:
    full = ten_questions()
    said = tokens(minified(compact(SHAPE, full)))
    assert said <= 0.5 * tokens(minified(full))
    assert said <= 0.35 * tokens(pretty(full))
