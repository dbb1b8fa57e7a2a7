"""The simulator answers the vendor's SDK as the vendor would, in both forms, and misbehaves when told to."""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import jsonschema
import openai
import pytest

import deploy.grading_model
import deploy.grading_sheets
import deploy.grading_simulator
from deploy.grading_model import Form, Way
from deploy.grading_sheets import NAMED, drawn, in_full, in_rows
from pool_monitor.grading.template_files import load_templates
from tests.deploy.processes import PATIENCE, ROOT, environment
from tests.grading_simulators import Running, running_simulator
from tests.pool_monitor.grading.samples import SCHEMA
from tests.sdk import sdk

[TEMPLATE] = load_templates()


@pytest.fixture
async def simulator() -> AsyncIterator[Running]:
    async with running_simulator() as running:
        yield running


def asked(prompt: str, *texts: str, image: str = "AAAA", **more: Any) -> dict[str, Any]:
    parts: list[Any] = [{"type": "text", "text": text} for text in texts]
    parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}})
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": parts}]
    return {"model": "gpt-4o-mini", "messages": messages, **more}


async def said(simulator: Running, **given: Any) -> Any:
    async with sdk(simulator.url) as client:
        answer = await client.chat.completions.create(**given)
        return json.loads(answer.choices[0].message.content or "")


@pytest.mark.parametrize("module", [deploy.grading_model, deploy.grading_sheets, deploy.grading_simulator])
def test_it_knows_nothing_of_the_expansion(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in names if name.startswith("pool_monitor")]


@pytest.mark.parametrize("sheet", [*NAMED.values(), *map(drawn, range(30))])
def test_the_full_form_is_valid_and_adds_up(sheet: Any) -> None:
    full = in_full(sheet)
    jsonschema.validate(full, SCHEMA)
    counted = full["performance_summary"]
    grades = [one["grade"] for one in full["questions"]]
    assert full["total_questions_found"] == len(grades) == len(in_rows(sheet)["q"])
    assert counted["total_correct"] == grades.count("CORRECT")
    assert 0 <= counted["accuracy_rate"] <= 1


def test_drawn_sheets_differ_and_hold_every_kind() -> None:
    sheets = [drawn(seed) for seed in range(200)]
    questions = [one for sheet in sheets for one in sheet.questions]
    assert drawn(7) == drawn(7)
    assert {one.grade for one in questions} == {"CORRECT", "INCORRECT", "EMPTY", "PARTIAL_CREDIT"}
    assert any(one.visuals for one in questions)
    assert any(one.parts for one in questions)
    assert len({sheet.subject for sheet in sheets}) > 5


async def test_the_prompt_decides_the_form_and_the_image_the_sheet(simulator: Running) -> None:
    full = await said(simulator, **asked(TEMPLATE.original))
    rows = await said(simulator, **asked(TEMPLATE.compact))
    other = await said(simulator, **asked(TEMPLATE.original, image="BBBB"))
    assert next(iter(full)) == "subject"
    assert [row[1] for row in rows["q"]] == [one["raw_question_text"] for one in full["questions"]]
    assert other != full
    assert simulator.state.forms == {"original": 2, "compact": 1}


async def test_streams_are_the_same_in_pieces(simulator: Running) -> None:
    given = asked(TEMPLATE.original, "sheet: ten-questions", stream=True, stream_options={"include_usage": True})
    async with sdk(simulator.url) as client:
        got = [chunk async for chunk in await client.chat.completions.create(**given)]
    text = "".join(one.choices[0].delta.content or "" for one in got if one.choices)
    assert json.loads(text) == in_full(NAMED["ten-questions"])
    assert got[-1].usage is not None
    assert got[-2].choices[0].finish_reason == "stop"


async def test_a_limit_cuts(simulator: Running) -> None:
    async with sdk(simulator.url) as client:
        answer = await client.chat.completions.create(**asked(TEMPLATE.original, max_tokens=40))
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40


async def test_the_rest_of_the_api(simulator: Running) -> None:
    async with sdk(simulator.url) as client:
        assert [one.id async for one in await client.models.list()] == ["gpt-4o-mini"]
        vectors = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
        file = await client.files.create(file=("a.txt", b"content"), purpose="user_data")
        assert (await client.files.content(file.id)).content == b"content"
        assert (await client.files.retrieve(file.id)).filename == "a.txt"
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file.id)
        with pytest.raises(openai.NotFoundError):
            await client.images.generate(prompt="x")
        with pytest.raises(openai.BadRequestError):
            await client.post("/chat/completions", body={"model": "x"}, cast_to=httpx2.Response)
    assert len(vectors.data) == 2


async def test_without_a_key_nothing_is_answered(simulator: Running) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{simulator.url}/models") as answer:
        assert answer.status == 401


@pytest.mark.parametrize(
    ("way", "status"),
    [(Way.TOO_MANY, 429), (Way.QUOTA, 429), (Way.ERROR, 500), (Way.UNAVAILABLE, 503)],
)
async def test_errors(simulator: Running, way: Way, status: int) -> None:
    with pytest.raises(openai.APIStatusError) as fault:
        await said(simulator, **asked(TEMPLATE.original, f"simulate: {way}"))
    assert fault.value.status_code == status
    assert fault.value.response.headers["x-request-id"]


@pytest.mark.parametrize("way", [Way.CUT_JSON, Way.FENCED, Way.CHATTY, Way.GARBAGE, Way.EMPTY])
async def test_what_is_no_json(simulator: Running, way: Way) -> None:
    with pytest.raises(json.JSONDecodeError):
        await said(
            simulator, **asked(TEMPLATE.compact, "sheet: ten-questions", extra_headers={"X-Simulate": way.value})
        )


async def test_what_is_json_but_wrong(simulator: Running) -> None:
    ways = {}
    for way in (Way.OK, Way.ARITY, Way.GRADE, Way.MISSING_ROWS, Way.WRONG):
        simulator.state.next = [way]
        ways[way] = await said(simulator, **asked(TEMPLATE.compact, "sheet: ten-questions"))
    right = ways[Way.OK]["q"]
    assert len(ways[Way.ARITY]["q"][-1]) == len(right[-1]) - 1
    assert ways[Way.GRADE]["q"][-1][5] == "Z"
    assert len(ways[Way.MISSING_ROWS]["q"]) == len(right) - 1
    assert ways[Way.WRONG] == in_full(NAMED["ten-questions"])


@pytest.mark.parametrize("way", [Way.RESET, Way.CUT])
@pytest.mark.parametrize("stream", [False, True])
async def test_broken_connections(simulator: Running, way: Way, stream: bool) -> None:
    simulator.state.always = way

    async def ask() -> None:
        async with sdk(simulator.url) as client:
            answer = await client.chat.completions.create(**asked(TEMPLATE.original, stream=stream))
            if stream:
                [_ async for _ in answer]

    with pytest.raises((openai.APIConnectionError, httpx2.HTTPError)):
        await ask()


async def test_refusals_and_filters(simulator: Running) -> None:
    async with sdk(simulator.url) as client:
        simulator.state.next = [Way.REFUSAL, Way.FILTER]
        refused = await client.chat.completions.create(**asked(TEMPLATE.original))
        filtered = await client.chat.completions.create(**asked(TEMPLATE.original))
    assert refused.choices[0].message.content is None
    assert refused.choices[0].message.refusal
    assert filtered.choices[0].finish_reason == "content_filter"


async def test_it_is_told_from_outside(simulator: Running) -> None:
    base = simulator.url.removesuffix("/v1")
    async with aiohttp.ClientSession(base) as session:
        async with session.put("/simulate", json={"always": "garbage", "only": "compact"}) as answer:
            assert answer.status == 200
        assert await said(simulator, **asked(TEMPLATE.original))
        with pytest.raises(json.JSONDecodeError):
            await said(simulator, **asked(TEMPLATE.compact))
        async with session.get("/simulate") as answer:
            told = await answer.json()
        assert told["forms"] == {"original": 1, "compact": 1}
        assert told["most"] == 1
        assert "sk-test" not in json.dumps(told)
        async with session.put("/simulate", json={"always": "nonsense"}) as answer:
            assert answer.status == 400
        async with session.delete("/simulate") as answer:
            assert (await answer.json())["forms"] == {}
    assert simulator.state.only is None


async def test_it_can_grade_otherwise_in_rows(simulator: Running) -> None:
    simulator.state.disagree = 100
    rows = await said(simulator, **asked(TEMPLATE.compact, "sheet: ten-questions"))
    grades = [one.grade for one in NAMED["ten-questions"].questions]
    assert all((row[5] == "C") is not (grade == "CORRECT") for row, grade in zip(rows["q"], grades, strict=True))


def test_as_a_process_of_its_own() -> None:
    command = [sys.executable, "-W", "error", "-m", "deploy.grading_simulator", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("grading simulator: http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_forms_and_ways_are_named() -> None:
    assert {form.value for form in Form} == {"original", "compact", "other"}
    assert Way("429") is Way.TOO_MANY
