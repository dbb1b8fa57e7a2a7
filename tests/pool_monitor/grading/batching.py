"""Batches by the vendor's SDK, and forms as they are sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import orjson
from aiohttp import web

from tests.pool_monitor.grading.upstreams import Asked, whole
from tests.pool_monitor.grading.wrapped import SAID, asked_for, says


async def answering(asked: Asked, request: web.Request) -> web.StreamResponse:
    """It has no batches of its own."""
    if asked.method == "GET":
        return await whole({"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False})
    answered: web.StreamResponse = await says(SAID)(asked, request)
    return answered


def line(number: int, **more: Any) -> bytes:
    body = asked_for(seed=number)
    given = {"custom_id": f"hw-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **more}
    return orjson.dumps(given)


async def theirs(asked: Asked, request: web.Request) -> web.StreamResponse:
    """The upstream's own files and batches."""
    if asked.path.startswith("/v1/files"):
        return await whole({"id": "file-theirs", "object": "file"})
    return await whole({"id": "batch_theirs", "object": "batch", "status": "validating"})


async def begun(sdk: openai.AsyncOpenAI, content: bytes, **more: Any) -> Any:
    file = await sdk.files.create(file=("homework.jsonl", content), purpose="batch")
    wanted = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return await sdk.batches.create(input_file_id=file.id, **wanted)


async def ended(sdk: openai.AsyncOpenAI, batch: Any) -> Any:
    async with asyncio.timeout(20):
        while batch.status not in {"completed", "failed", "cancelled", "expired"}:
            await asyncio.sleep(0.01)
            batch = await sdk.batches.retrieve(batch.id)
    return batch


async def lines_of(sdk: openai.AsyncOpenAI, file_id: str | None) -> list[Any]:
    assert file_id is not None
    content = await sdk.files.content(file_id)
    return [json.loads(one) for one in content.content.splitlines()]


def multipart(*parts: tuple[str, bytes], boundary: str = "xyz") -> bytes:
    content = b""
    for name, value in parts:
        file = b'; filename="f.bin"' if name == "file" else b""
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
        content += head % (boundary.encode(), name.encode(), file) + value + b"\r\n"
    return content + b"--%b--\r\n" % boundary.encode()
