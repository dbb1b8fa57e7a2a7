"""What the caller gets through the wrapper is what it got without it: the same sheets, read by a simulator that writes
both forms on its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import openai
import pytest

from deploy.grading_model import Form, Way
from deploy.grading_sheets import NAMED
from tests.grading_simulators import Running, running_simulator
from tests.pool_monitor.grading.samples import SCHEMA, asked, pretty
from tests.pool_monitor.support import Client, running_monitor
from tests.sdk import sdk

SHEETS = [f"sheet: {name}" for name in NAMED] + [f"page {number}" for number in range(25)]


@dataclass
class Both:
    """A simulator, and a monitor before it."""

    simulator: Running
    monitor: Client

    def sdk(self, *, through: bool) -> openai.AsyncOpenAI:
        url = f"{self.monitor.session._base_url}/v1" if through else self.simulator.url
        return sdk(url)


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    async with running_simulator() as simulator, running_monitor(None, grading_upstream_url=simulator.url) as monitor:
        yield Both(simulator, monitor)


async def graded(sdk: openai.AsyncOpenAI, sheet: str, **more: Any) -> str:
    answer = await sdk.chat.completions.create(**asked(sheet, **more))
    return answer.choices[0].message.content or ""


async def streamed(sdk: openai.AsyncOpenAI, sheet: str, **more: Any) -> str:
    stream = await sdk.chat.completions.create(**asked(sheet, stream=True, **more))
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


@pytest.mark.parametrize("sheet", SHEETS)
async def test_the_answer_is_the_one_without_us(both: Both, sheet: str) -> None:
    async with both.sdk(through=False) as direct, both.sdk(through=True) as through:
        without = await graded(direct, sheet)
        assert await graded(through, sheet) == without
        assert await streamed(through, sheet) == without
    jsonschema.validate(json.loads(without), SCHEMA)
    assert both.simulator.state.forms == {"original": 1, "compact": 2}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("way", "forms"),
    [
        (Way.FENCED, {"compact": 1}),
        (Way.CHATTY, {"compact": 1}),
        (Way.WRONG, {"compact": 1}),
        (Way.CUT_JSON, {"compact": 1, "original": 1}),
        (Way.ARITY, {"compact": 1, "original": 1}),
        (Way.GRADE, {"compact": 1, "original": 1}),
        (Way.GARBAGE, {"compact": 1, "original": 1}),
        (Way.EMPTY, {"compact": 1, "original": 1}),
    ],
)
async def test_whatever_the_model_says_the_caller_is_served(
    both: Both, way: Way, forms: dict[str, int], stream: bool
) -> None:
    both.simulator.state.always, both.simulator.state.only = way, Form.ROWS
    async with both.sdk(through=False) as direct, both.sdk(through=True) as through:
        got = await (streamed if stream else graded)(through, "sheet: ten-questions")
        assert both.simulator.state.forms == forms
        assert json.loads(got) == json.loads(await graded(direct, "sheet: ten-questions"))


async def test_rows_that_are_missing_are_counted_as_they_are(both: Both) -> None:
    both.simulator.state.always, both.simulator.state.only = Way.MISSING_ROWS, Form.ROWS
    async with both.sdk(through=True) as through:
        got = json.loads(await graded(through, "sheet: ten-questions"))
    assert got["total_questions_found"] == len(got["questions"]) == 9
    jsonschema.validate(got, SCHEMA)


@pytest.mark.parametrize(
    ("way", "fault"),
    [
        (Way.QUOTA, openai.RateLimitError),
        (Way.ERROR, openai.InternalServerError),
        (Way.RESET, openai.InternalServerError),
        (Way.CUT, openai.InternalServerError),
    ],
)
async def test_what_is_the_upstreams_fault_is_an_error_of_the_vendors_kind(
    both: Both, way: Way, fault: type[Exception]
) -> None:
    both.simulator.state.always = way
    async with both.sdk(through=True) as through:
        with pytest.raises(fault):
            await graded(through, "page")


async def test_a_model_that_takes_too_long_is_given_up(both: Both) -> None:
    async with (
        running_simulator() as simulator,
        running_monitor(None, grading_upstream_url=simulator.url, grading_timeout_ms=200) as monitor,
    ):
        simulator.state.always = Way.HANG
        async with sdk(f"{monitor.session._base_url}/v1") as through:
            with pytest.raises(openai.APIStatusError) as fault:
                await graded(through, "page")
        assert (fault.value.status_code, fault.value.code) == (504, "upstream_timeout")


async def test_a_busy_upstream_is_waited_for(both: Both) -> None:
    both.simulator.state.next = [Way.TOO_MANY]
    both.simulator.state.retry_after = 0.01
    async with both.sdk(through=True) as through:
        assert await graded(through, "sheet: ten-questions")
    assert both.simulator.state.forms == {"compact": 2}


async def test_the_rest_of_the_api_is_as_without_us(both: Both) -> None:
    async with both.sdk(through=True) as sdk:
        assert [one.id async for one in await sdk.models.list()] == ["gpt-4o-mini"]
        vectors = await sdk.embeddings.create(model="m", input="text")
        assert len(vectors.data[0].embedding) == 32
        file = await sdk.files.create(file=("a.bin", bytes(range(256)) * 4000), purpose="user_data")
        assert (await sdk.files.content(file.id)).content == bytes(range(256)) * 4000
        await sdk.files.delete(file.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve(file.id)
        talk = await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello!"}])
    assert talk.choices[0].message.content == "You said: Hello!"


async def test_json_mode_and_a_limit(both: Both) -> None:
    async with both.sdk(through=False) as direct, both.sdk(through=True) as through:
        form = {"response_format": {"type": "json_object"}}
        assert await graded(through, "sheet: latex", **form) == await graded(direct, "sheet: latex")
        whole = await graded(direct, "sheet: ten-questions")
        cut = await graded(through, "sheet: ten-questions", max_tokens=200)
    assert pretty(json.loads(whole)).startswith(cut)
    assert '"question_number": 2' in cut
