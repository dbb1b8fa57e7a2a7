"""The wrapper between the vendor's SDK and an upstream that misbehaves on command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

import openai
from aiohttp import web

from tests.pool_monitor.grading.samples import compact_by_hand, pretty, two_questions
from tests.pool_monitor.grading.upstreams import (
    ORIGINAL,
    Asked,
    Upstream,
    chunks,
    completion,
    running_upstream,
    streamed,
    whole,
)
from tests.pool_monitor.support import Client, running_monitor
from tests.sdk import sdk
from tests.support import until

FULL = two_questions()
SAID = compact_by_hand()
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"}}
BEFORE, AFTER = "The student is Zoë, grade 7.\n\n", "\n\nBe kind;  two spaces stay."


def messages(prompt: str = ORIGINAL) -> list[dict[str, Any]]:
    """As the plan's service sends it."""
    return [
        {"role": "system", "content": BEFORE + prompt + AFTER},
        {"role": "user", "content": [{"type": "text", "text": "Here it is."}, IMAGE]},
    ]


def asked_for(prompt: str = ORIGINAL, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": messages(prompt), "max_tokens": 4000, **more}


@dataclass
class Wrapped:
    """A monitor before an upstream, and what asks it."""

    upstream: Upstream
    monitor: Client

    @property
    def url(self) -> str:
        return str(self.monitor.session._base_url)

    def sdk(self, key: str = "sk-one", **options: Any) -> openai.AsyncOpenAI:
        return sdk(f"{self.url}/v1", key, **options)

    async def flag(self, **flags: bool) -> None:
        answered = await self.monitor.ask("PATCH", "/api/flags", json=flags)
        assert answered.status == 200

    def metric(self, name: str, **labels: str) -> float:
        return self.monitor.monitor._metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def wrapping(**settings: Any) -> AsyncIterator[Wrapped]:
    async with (
        running_upstream() as upstream,
        running_monitor(None, grading_upstream_url=upstream.url, **settings) as monitor,
    ):
        yield Wrapped(upstream, monitor)


def says(compact: str, original: str = pretty(FULL), finish: str = "stop") -> Any:
    """An upstream that says the one to the compact prompt, and the other to the original."""

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        text, ends = (compact, finish) if asked.compact else (original, "stop")
        if asked.body.get("stream"):
            pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
            usage = bool((asked.body.get("stream_options") or {}).get("include_usage"))
            return await streamed(request, chunks(pieces, ends, usage))
        return await whole(completion(text, ends))

    return answering


async def graded(sdk: openai.AsyncOpenAI, **more: Any) -> Any:
    async with sdk:
        return await sdk.chat.completions.create(**asked_for(**more))


async def graded_in_a_stream(sdk: openai.AsyncOpenAI, **more: Any) -> tuple[str, list[Any]]:
    async with sdk:
        stream = await sdk.chat.completions.create(**asked_for(stream=True, **more))
        got = [chunk async for chunk in stream]
    return "".join(one.choices[0].delta.content or "" for one in got if one.choices), got


BROKEN = {
    "cut": SAID[:150],
    "cut between rows": SAID[: SAID.index(",[2,")],
    "a column less": SAID.replace(',"Good."', ""),
    "an unknown grade": SAID.replace('"I"', '"X"'),
    "a text for a number": SAID.replace("95", '"high"'),
    "no rows": '{"s":"Mathematics","c":98,"k":0,"t":"","n":""}',
    "another subject": SAID.replace("Mathematics", "Alchemy"),
    "no JSON": "I cannot read this image.",
    "empty": "",
    "another object": '{"questions":[]}',
    "half of the full form": pretty(FULL)[:300],
    "an array": "[1,2,3]",
}


async def together(wrapped: Wrapped, *asked: Any) -> int:
    """How often the upstream was asked for these, all at once."""
    go = asyncio.Event()

    async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await whole(completion(SAID if asked.compact else pretty(FULL)))

    wrapped.upstream.answering = answering
    tasks = [asyncio.create_task(one) for one in asked]
    monitored = wrapped.monitor.monitor.grading
    await until(
        lambda: (
            len(wrapped.upstream.asked) + sum(one.listeners - 1 for one in monitored.grading.collapse._askings.values())
            >= len(asked)
        )
    )
    go.set()
    await asyncio.gather(*tasks)
    return len(wrapped.upstream.asked)


async def begun_and_left(wrapped: Wrapped, asking: Coroutine[Any, Any, object]) -> None:
    """Who asks an upstream that never answers goes away, and the upstream sees itself left."""
    left = asyncio.Event()

    async def forever(asked: Asked, request: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.set()
            raise
        raise AssertionError

    wrapped.upstream.answering = forever
    task = asyncio.create_task(asking)
    await until(lambda: len(wrapped.upstream.asked) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(10):
        await left.wait()
