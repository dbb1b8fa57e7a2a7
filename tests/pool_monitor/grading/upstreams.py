"""An upstream that a test writes: it keeps what it was asked, and answers as it is told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from pool_monitor.grading.template_files import load_templates
from tests.support import serving

[TEMPLATE] = load_templates()
ORIGINAL, COMPACT = TEMPLATE.original, TEMPLATE.compact


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    fields: list[tuple[str, str]]
    content: bytes

    @property
    def body(self) -> Any:
        return orjson.loads(self.content)

    @property
    def prompt(self) -> str:
        """All of its texts."""
        texts = []
        for message in self.body["messages"]:
            parts = message["content"]
            texts += [parts] if isinstance(parts, str) else [part.get("text", "") for part in parts]
        return "\n".join(texts)

    @property
    def compact(self) -> bool:
        return COMPACT in self.prompt


Answering = Callable[[Asked, web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Upstream:
    """What a test may look at and change. tried -- askings for a completion of nothing, told `tells`."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answering: Answering | None = None
    tried: list[Asked] = field(default_factory=list)
    tells: int = 400

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.raw_path, list(request.headers.items()), await request.read())
        if asked.content == b"{}" and asked.path == "/v1/chat/completions":
            self.tried.append(asked)
            return await whole({"error": {"message": "m", "code": None}}, self.tells)
        self.asked.append(asked)
        assert self.answering is not None
        return await self.answering(asked, request)


@contextlib.asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    app = web.Application(client_max_size=2**28)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    limits = {"max_line_size": 2**16, "max_field_size": 2**16}
    async with serving(app, auto_decompress=False, handler_cancellation=True, **limits) as url:
        upstream.url = f"{url}/v1"
        yield upstream


def completion(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion as the vendor documents it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None, **message},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 0},
        },
        "system_fingerprint": "fp_1",
    }


def chunks(pieces: list[str], finish: str | None = "stop", usage: bool = False) -> list[bytes]:
    """The same, streamed."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-4o-mini"}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + orjson.dumps({**base, "choices": [choice]}) + b"\n\n"

    events = [chunk({"role": "assistant", "content": "", "refusal": None})]
    events += [chunk({"content": piece}) for piece in pieces]
    if finish is not None:
        events.append(chunk({}, finish))
        if usage:
            counted = completion("")["usage"]
            events.append(b"data: " + orjson.dumps({**base, "choices": [], "usage": counted}) + b"\n\n")
        events.append(b"data: [DONE]\n\n")
    return events


async def whole(document: Any, status: int = 200, **fields: str) -> web.Response:
    """A JSON answer."""
    headers = {"x-request-id": "req_1", **{name.replace("_", "-"): value for name, value in fields.items()}}
    return web.Response(status=status, body=orjson.dumps(document), headers=headers, content_type="application/json")


async def streamed(request: web.Request, events: list[bytes], cut: bool = False) -> web.StreamResponse:
    """Events, one write each."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    if cut:
        assert request.transport is not None
        request.transport.abort()
        return response
    await response.write_eof()
    return response
