"""Which prompt is known, what is left as it is, and templates that an operator writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading.calls import Left
from pool_monitor.grading.template_files import PACKAGED, TemplatesError, load_templates
from pool_monitor.grading.templates import MOST_PARTS, MOST_TEXT, Recognised, Template, may_hold, recognise
from tests.pool_monitor.grading.upstreams import COMPACT, ORIGINAL, TEMPLATE

KNOWN = (TEMPLATE,)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def asked(content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": content}], **more}


def recognised(body: dict[str, Any]) -> Recognised:
    before = copy.deepcopy(body)
    found = recognise(body, KNOWN)
    assert isinstance(found, Recognised), found
    assert body == before
    return found


@pytest.mark.parametrize("role", ["system", "developer", "user"])
@pytest.mark.parametrize("parts", [False, True])
def test_wherever_it_stands(role: str, parts: bool) -> None:
    content: Any = [IMAGE, {"type": "text", "text": f"a {ORIGINAL} b"}, {"type": "text", "text": "c"}]
    expected: Any = [IMAGE, {"type": "text", "text": f"a {COMPACT} b"}, {"type": "text", "text": "c"}]
    if not parts:
        content, expected = f"a {ORIGINAL} b", f"a {COMPACT} b"
    body = asked(content, role, temperature=0.1, seed=7)
    found = recognised(body)
    assert found.body == asked(expected, role, temperature=0.1, seed=7)
    assert list(found.body) == list(body)


def test_an_image_is_not_copied() -> None:
    body = asked([IMAGE, {"type": "text", "text": ORIGINAL}])
    content = recognised(body).body["messages"][0]["content"]
    assert content[0] is body["messages"][0]["content"][0]


def test_so_many_parts_are_looked_through_and_no_more() -> None:
    prompt, other = {"type": "text", "text": ORIGINAL}, {"role": "user", "content": "x"}
    recognised(asked([prompt] + [{}] * (MOST_PARTS - 2)))
    assert recognise(asked([prompt] + [{}] * (MOST_PARTS - 1)), KNOWN) is Left.UNRECOGNISED
    recognised({"messages": [asked(ORIGINAL)["messages"][0]] + [other] * (MOST_PARTS - 1)})
    assert recognise({"messages": asked(ORIGINAL)["messages"] + [other] * MOST_PARTS}, KNOWN) is Left.UNRECOGNISED


def test_so_much_text_is_looked_through_and_no_more() -> None:
    most = "x" * (MOST_TEXT - len(ORIGINAL) - 1)
    recognised(asked(f"{ORIGINAL}\n{most}"))
    recognised(asked([{"type": "text", "text": ORIGINAL}, {**IMAGE, "image_url": {"url": most * 2}}]))
    assert recognise(asked(f"{ORIGINAL}\n{most}x"), KNOWN) is Left.UNRECOGNISED


@given(st.lists(st.sampled_from([" ", "\n", "\t", "\r\n", "\u00a0", "  \n    "]), min_size=1, max_size=6))
def test_white_space_does_not_matter(blanks: list[str]) -> None:
    words = ORIGINAL.split()
    text = "".join(word + blanks[index % len(blanks)] for index, word in enumerate(words)).strip()
    found = recognised(asked(f"Before. {text}\n\nAfter."))
    assert found.body["messages"][0]["content"] == f"Before. {COMPACT}\n\nAfter."


@given(st.text(max_size=50), st.text(max_size=50))
def test_what_stands_around_it_stays_word_for_word(before: str, after: str) -> None:
    found = recognised(asked(f"{before} {ORIGINAL} {after}"))
    assert found.body["messages"][0]["content"] == f"{before} {COMPACT} {after}"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ({}, Left.UNRECOGNISED),
        ({"messages": None}, Left.UNRECOGNISED),
        (
            {"messages": [None, 1, {}, {"role": "user"}, {"role": [], "content": [None, {"type": "text"}]}]},
            Left.UNRECOGNISED,
        ),
        (asked("Grade this completed homework."), Left.UNRECOGNISED),
        (asked(ORIGINAL.replace("separate", "seperate")), Left.UNRECOGNISED),
        (asked(ORIGINAL[:-1]), Left.UNRECOGNISED),
        (asked(ORIGINAL, "assistant"), Left.UNRECOGNISED),
        (asked(COMPACT), Left.UNRECOGNISED),
        (asked(f"{ORIGINAL}\n{ORIGINAL}"), Left.SEVERAL_PROMPTS),
        (asked(ORIGINAL, response_format={"type": "json_schema", "json_schema": {}}), Left.STRUCTURED_OUTPUT),
        (asked(ORIGINAL, response_format="json"), Left.STRUCTURED_OUTPUT),
        (asked(ORIGINAL, n=2), Left.SEVERAL_CHOICES),
        (asked(ORIGINAL, n="1"), Left.SEVERAL_CHOICES),
        (asked(ORIGINAL, n=[]), Left.SEVERAL_CHOICES),
        (asked(ORIGINAL, tools=[{}]), Left.TOOLS),
        (asked(ORIGINAL, functions=[{}]), Left.TOOLS),
        (asked(ORIGINAL, logprobs=True), Left.SAMPLING),
        (asked(ORIGINAL, logit_bias={"1": 1}), Left.SAMPLING),
        (asked(ORIGINAL, stop=["}"]), Left.SAMPLING),
        (asked(ORIGINAL, stream=1), Left.ODD_STREAM),
        (asked(ORIGINAL, stream="true"), Left.ODD_STREAM),
        (asked(ORIGINAL, prediction={}), None),
        (asked(ORIGINAL, prediction={"type": "content"}), Left.SAMPLING),
        (asked(ORIGINAL, modalities=["text", "audio"]), Left.NOT_TEXT),
        (asked(ORIGINAL, audio={"voice": "x"}), Left.NOT_TEXT),
        (asked(ORIGINAL, n=1, tools=[], response_format={"type": "json_object"}, modalities=["text"]), None),
        (asked(ORIGINAL, n=None, response_format=None, stop=None, modalities=None), None),
    ],
)
def test_what_is_left_as_it_is(body: dict[str, Any], left: Left | None) -> None:
    found = recognise(body, KNOWN)
    assert (found if isinstance(found, Left) else None) is left


@pytest.mark.parametrize("role", ["assistant", "tool", "function"])
def test_a_conversation_is_left_as_it_is(role: str) -> None:
    body = asked(ORIGINAL)
    body["messages"].append({"role": role, "content": "{}"})
    assert recognise(body, KNOWN) is Left.CONVERSATION


@pytest.mark.parametrize("options", [0, orjson.OPT_INDENT_2])
def test_content_that_may_hold_a_known_prompt_is_never_missed(options: int) -> None:
    assert may_hold(orjson.dumps(asked(ORIGINAL), option=options), KNOWN)
    assert may_hold(json.dumps(asked(ORIGINAL)).encode(), KNOWN)
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in ORIGINAL)
    assert may_hold(f'{{"messages":[{{"role":"user","content":"{escaped}"}}]}}'.encode(), KNOWN)
    assert not may_hold(orjson.dumps(asked("Tell a joke.")), KNOWN)
    assert not may_hold(orjson.dumps(asked(ORIGINAL)), ())


# -- templates of an operator's own

ESSAY = """
name = "essay"
original = "Grade this essay by the rubric of the school, and return JSON with title, marks and remarks for each."
compact = "Grade this essay. JSON: {\\"t\\":title,\\"m\\":[[remark,points]]}"
[answer]
title = { type = "string", short = "t" }
marks = { rows = "mark", short = "m" }
count = { type = "integer", count = "marks" }
[records.mark]
remark = { type = "string", column = 1 }
points = { type = "number", column = 2 }
"""


def with_file(folder: Path, text: str | bytes) -> tuple[Template, ...]:
    (folder / "one.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_templates(folder)


def test_another_template_needs_no_code(tmp_path: Path) -> None:
    known = with_file(tmp_path, ESSAY)
    assert [template.name for template in known] == ["homework-grading", "essay"]
    found = recognise(asked(f"Hello. {known[1].original}"), known)
    assert isinstance(found, Recognised)
    assert found.template is known[1]
    assert found.body["messages"][0]["content"] == f"Hello. {known[1].compact}"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("name =", "nom ="), "name"),
        (('"essay"', '"An Essay"'), "name"),
        (('"essay"', '"homework-grading"'), "two templates have this name"),
        (("column = 2", "column = 3"), "its columns are [1, 3]"),
        (("column = 2", "colum = 2"), "colum"),
        (("column = 2", 'column = "2"'), "column"),
        (('type = "number"', 'type = "float"'), "type"),
        (('type = "number", ', ""), "it has no type"),
        ((", column = 2", ""), "it is in no column, and follows from nothing"),
        ((", column = 2", ', column = 2, same_as = "points"'), "same_as"),
        ((', short = "t"', ""), "it has no short key, and follows from nothing"),
        (('short = "t"', 'short = "m"'), "two fields have the same short key"),
        (('short = "t"', 'short = "x"'), "kept for exceptions"),
        (('count = "marks"', 'count = "remarks"'), "allowed: marks"),
        (('rows = "mark"', 'rows = "marke"'), "allowed: mark"),
        (("marks = { rows", "marks = { raws"), "raws"),
        (("[answer]", "[answer"), "it is not TOML"),
    ],
)
def test_every_fault_is_told(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    assert change[0] in ESSAY
    with pytest.raises(TemplatesError) as raised:
        with_file(tmp_path, ESSAY.replace(*change))
    assert fault in str(raised.value)


def test_all_faults_of_all_files_are_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff")
    (tmp_path / "b.toml").write_text("name = 1\n")
    with pytest.raises(TemplatesError) as raised:
        with_file(tmp_path, ESSAY.replace('"essay"', '"Essay"'))
    assert all(name in str(raised.value) for name in ("a.toml", "b.toml", "one.toml"))
    assert len(raised.value.faults) > 4


def test_a_prompt_within_another_is_a_fault(tmp_path: Path) -> None:
    text = (PACKAGED / "homework_grading.toml").read_text().replace('name = "homework-grading"', 'name = "longer"')
    text = text.replace("original = '''Grade", "original = '''Dear model.\nGrade")
    with pytest.raises(TemplatesError, match="its original is in that of"):
        with_file(tmp_path, text)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TemplatesError, match="it is no folder"):
        load_templates(tmp_path / "nowhere")
