"""`python -m deploy.grading_simulator`: OpenAI's API as far as grading needs it, without a model behind it.

It reads a homework sheet off the image (the same image is the same sheet, `sheet: NAME` in a text names one), answers
the plan's prompt in the full form, a prompt that asks for rows in rows, and anything else with an echo. It misbehaves
when told to: by the field `X-Simulate`, by `simulate: NAME` in a text, or by PUT /simulate.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from config.listen import ListenError, address_of, open_socket
from deploy.grading_model import Asked, Form, Way, cut_at, digest_of, most_tokens, text_of, tokens, usage_of
from deploy.options import amount, port
from deploy.serving import CANNOT_LISTEN, serve_until_stopped

MAX_CONTENT_BYTES = 256 * 1024 * 1024
KEPT = 10_000
CREATED = 1_700_000_000
FINGERPRINT = "fp_simulator"
CHUNK_CHARACTERS = 12
_SIMULATE = re.compile(r"\bsimulate: ([a-z0-9-]+)")


_ERRORS: Mapping[Way, tuple[int, str, str]] = {
    Way.TOO_MANY: (429, "rate_limit_exceeded", "Rate limit reached"),
    Way.QUOTA: (429, "insufficient_quota", "You exceeded your current quota"),
    Way.ERROR: (500, "server_error", "The server had an error while processing your request"),
    Way.UNAVAILABLE: (503, "overloaded", "The engine is currently overloaded"),
}


@dataclass(slots=True)
class State:
    """What it was told, and what it was asked."""

    latency: float = 0.0
    per_token: float = 0.0
    disagree: float = 0.0
    slow: float = 3.0
    retry_after: float = 1.0
    next: list[Way] = field(default_factory=list)
    always: Way = Way.OK
    only: Form | None = None
    paths: dict[str, int] = field(default_factory=dict)
    forms: dict[str, int] = field(default_factory=dict)
    now: int = 0
    most: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def reset(self) -> None:
        """Forget what was asked and told; files too."""
        for held in (self.next, self.paths, self.forms, self.asked, self.files):
            held.clear()
        self.always, self.only, self.most = Way.OK, None, self.now

    def document(self) -> dict[str, Any]:
        return {"paths": self.paths, "forms": self.forms, "now": self.now, "most": self.most, "asked": self.asked}

    def way(self, named: str | None, form: Form) -> Way:
        """How the next request is answered."""
        if self.only is not None and form is not self.only:
            return Way.OK
        if named is not None:
            return Way(named)
        return self.next.pop(0) if self.next else self.always


# -- answering


class Simulator:
    """The handlers."""

    def __init__(self, state: State) -> None:
        self.state = state

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_CONTENT_BYTES, middlewares=[self._counted])
        routes = app.router
        routes.add_get("/healthz", self._healthz)
        routes.add_get("/simulate", self._told)
        routes.add_put("/simulate", self._tell)
        routes.add_delete("/simulate", self._reset)
        routes.add_post("/v1/chat/completions", self._completion)
        routes.add_get("/v1/models", self._models)
        routes.add_post("/v1/embeddings", self._embeddings)
        routes.add_post("/v1/files", self._upload)
        routes.add_get("/v1/files/{id}", self._file)
        routes.add_get("/v1/files/{id}/content", self._content)
        routes.add_delete("/v1/files/{id}", self._delete)
        return app

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        state = self.state
        if not request.path.startswith("/v1/"):
            response: web.StreamResponse = await handler(request)
            return response
        state.paths[request.path] = state.paths.get(request.path, 0) + 1
        state.now += 1
        state.most = max(state.most, state.now)
        try:
            if "Authorization" not in request.headers:
                return self._error(401, "invalid_api_key", "You didn't provide an API key.", "invalid_request_error")
            response = await handler(request)
        except web.HTTPNotFound:
            return self._error(404, None, f"Invalid URL ({request.method} {request.path})", "invalid_request_error")
        except (KeyError, TypeError, ValueError) as fault:
            return self._error(400, None, f"Invalid request: {fault!r}", "invalid_request_error")
        finally:
            state.now -= 1
        return response

    def _fields(self) -> dict[str, str]:
        return {
            "x-request-id": f"req_{next(self.state.numbers)}",
            "openai-processing-ms": "1",
            "x-ratelimit-limit-requests": "10000",
            "x-ratelimit-remaining-requests": "9999",
            "x-ratelimit-reset-requests": "6ms",
            "x-ratelimit-limit-tokens": "10000000",
            "x-ratelimit-remaining-tokens": "9999000",
            "x-ratelimit-reset-tokens": "6ms",
        }

    def _error(
        self, status: int, code: str | None, message: str, kind: str, fields: Mapping[str, str] | None = None
    ) -> web.Response:
        error = {"message": message, "type": kind, "param": None, "code": code}
        return web.json_response({"error": error}, status=status, headers={**self._fields(), **(fields or {})})

    # -- told from outside

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _told(self, _: web.Request) -> web.Response:
        return web.json_response(self.state.document())

    async def _tell(self, request: web.Request) -> web.Response:
        told, state = await request.json(), self.state
        try:
            state.next = [Way(name) for name in told.get("next", [])]
            state.always = Way(told.get("always") or "ok")
            state.only = Form(told["only"]) if told.get("only") else None
            state.slow = float(told.get("slow_seconds", state.slow))
            state.retry_after = float(told.get("retry_after_seconds", state.retry_after))
            state.disagree = float(told.get("disagree_percent", state.disagree))
        except ValueError as fault:
            return web.json_response({"error": str(fault), "allowed": list(Way)}, status=400)
        return web.json_response(state.document())

    async def _reset(self, _: web.Request) -> web.Response:
        self.state.reset()
        return web.json_response(self.state.document())

    # -- chat completions

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        state = self.state
        content = await request.read()
        asked = Asked.of(json.loads(content))
        form = asked.form
        state.forms[form.value] = state.forms.get(form.value, 0) + 1
        key = digest_of(request.headers["Authorization"].encode())
        if len(state.asked) < KEPT:
            state.asked.append({"form": form.value, "content": digest_of(content), "key": key})
        named = request.headers.get("X-Simulate") or next(iter(_SIMULATE.findall(asked.texts)), None)
        way = state.way(named, form)
        if way in _ERRORS:
            status, code, message = _ERRORS[way]
            fields = {"retry-after": f"{state.retry_after:g}"} if status != 500 else {}
            return self._error(status, code, message, "requests" if status == 429 else "server_error", fields)
        if way is Way.RESET:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if way is Way.HANG:
            await asyncio.Event().wait()
        text, finish = cut_at(text_of(asked, way, state.disagree), most_tokens(asked.body))
        if way is Way.FILTER:
            finish = "content_filter"
        await asyncio.sleep(state.latency + (state.slow if way is Way.SLOW else 0.0))
        if asked.body.get("stream"):
            return await self._streamed(request, asked, text, finish, way)
        await asyncio.sleep(state.per_token * tokens(text))
        return await self._whole(request, asked, text, finish, way)

    async def _whole(self, request: web.Request, asked: Asked, text: str, finish: str, way: Way) -> web.StreamResponse:
        refusal = "I'm sorry, I can't help with that." if way is Way.REFUSAL else None
        said = None if refusal else text
        message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": refusal, "annotations": []}
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
            for index in range(asked.body.get("n") or 1)
        ]
        document = {**self._base(asked, "chat.completion"), "choices": choices, "usage": usage_of(asked, text)}
        if way is not Way.CUT:
            return web.json_response(document, headers=self._fields())
        content = json.dumps(document).encode()
        response = web.StreamResponse(headers={"Content-Length": str(len(content)), **self._fields()})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    async def _streamed(
        self, request: web.Request, asked: Asked, text: str, finish: str, way: Way
    ) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", **self._fields()}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        base = self._base(asked, "chat.completion.chunk")

        async def say(document: object) -> None:
            await response.write(f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode())

        def chunk(delta: object, finish: str | None = None) -> dict[str, Any]:
            return {**base, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

        await say(chunk({"role": "assistant", "content": "", "refusal": None}))
        if way is Way.REFUSAL:
            await say(chunk({"refusal": "I'm sorry, I can't help with that."}))
            text = ""
        for at in range(0, len(text), CHUNK_CHARACTERS):
            if way in {Way.CUT, Way.STREAM_ERROR} and at > len(text) // 2:
                if way is Way.STREAM_ERROR:
                    await say({"error": {"message": "overloaded", "type": "server_error", "code": None}})
                assert request.transport is not None
                request.transport.close()
                return response
            piece = text[at : at + CHUNK_CHARACTERS]
            await say(chunk({"content": piece}))
            if self.state.per_token:
                await asyncio.sleep(self.state.per_token * tokens(piece))
        await say(chunk({}, finish))
        if (asked.body.get("stream_options") or {}).get("include_usage"):
            await say({**base, "choices": [], "usage": usage_of(asked, text)})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _base(self, asked: Asked, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{next(self.state.numbers)}",
            "object": kind,
            "created": CREATED,
            "model": f"{asked.body['model']}-2024-07-18",
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
        }

    # -- the rest of the API

    async def _models(self, _: web.Request) -> web.Response:
        models = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"} for name in ("gpt-4o-mini",)
        ]
        return web.json_response({"object": "list", "data": models}, headers=self._fields())

    async def _embeddings(self, request: web.Request) -> web.Response:
        given = await request.json()
        inputs = [given["input"]] if isinstance(given["input"], str) else given["input"]
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": [octet / 255 for octet in hashlib.sha256(text.encode()).digest()],
            }
            for index, text in enumerate(inputs)
        ]
        count = sum(map(tokens, inputs))
        usage = {"prompt_tokens": count, "total_tokens": count}
        document = {"object": "list", "data": data, "model": given["model"], "usage": usage}
        return web.json_response(document, headers=self._fields())

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file, purpose = form["file"], str(form["purpose"])
        if not isinstance(file, web.FileField):
            raise ValueError("file")
        number = f"file-{next(self.state.numbers)}"
        self.state.files[number] = (file.filename, purpose, file.file.read())
        return web.json_response(self._file_document(number), headers=self._fields())

    def _file_document(self, number: str) -> dict[str, Any]:
        name, purpose, content = self.state.files[number]
        return {
            "id": number,
            "object": "file",
            "bytes": len(content),
            "created_at": CREATED,
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }

    def _known(self, request: web.Request) -> str:
        number = request.match_info["id"]
        if number not in self.state.files:
            raise web.HTTPNotFound
        return number

    async def _file(self, request: web.Request) -> web.Response:
        return web.json_response(self._file_document(self._known(request)), headers=self._fields())

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self.state.files[self._known(request)][2], headers=self._fields())

    async def _delete(self, request: web.Request) -> web.Response:
        number = self._known(request)
        del self.state.files[number]
        return web.json_response({"id": number, "object": "file", "deleted": True}, headers=self._fields())


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.grading_simulator",
        description="OpenAI's API as far as grading needs it, without a model.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=port, default=3100, help="port to listen on, 0 for any free one (default 3100)")
    parser.add_argument("--latency-ms", type=amount, default=200, help="before the first word (default 200)")
    parser.add_argument("--ms-per-token", type=amount, default=2, help="for each token of an answer (default 2)")
    parser.add_argument("--disagree-percent", type=amount, default=0, help="of questions graded otherwise in rows")
    return parser.parse_args(argv)


async def _serve(given: argparse.Namespace) -> None:
    state = State(given.latency_ms / 1000, given.ms_per_token / 1000, given.disagree_percent)
    with open_socket(given.host, given.port, "--port") as sock:
        said = f"grading simulator: http://{address_of(sock)}/v1"
        await serve_until_stopped(Simulator(state).app(), sock, said)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0 stopped as asked, 1 cannot listen, 2 a bad option."""
    try:
        asyncio.run(_serve(_options(argv)))
    except ListenError as fault:
        print(f"grading simulator: {fault.strerror}", file=sys.stderr)
        return CANNOT_LISTEN
    return 0


if __name__ == "__main__":
    sys.exit(main())
