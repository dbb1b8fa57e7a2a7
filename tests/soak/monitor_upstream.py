"""The monitors' upstream: the grading simulator in this process, which can tell by whose key it was asked."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

from config.listen import open_socket, spare_port
from deploy.grading_model import Way
from deploy.grading_simulator import Simulator, State


class Upstream:
    """A prompt `whose: …` is answered with itself and the key; what else there is, as the simulator does it.

    state -- the simulator's.
    """

    def __init__(self) -> None:
        self.port = spare_port()
        self.state = State(latency=0.02)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        app = Simulator(self.state).app()
        app.middlewares.append(self._tell_whose)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.SockSite(self._runner, open_socket("127.0.0.1", self.port)).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _tell_whose(self, request: web.Request, handler: Any) -> web.StreamResponse:
        spoilt = self.state.always is not Way.OK and self.state.only is None
        if request.path != "/v1/chat/completions" or spoilt:
            response: web.StreamResponse = await handler(request)
            return response
        body = orjson.loads(await request.read())
        said = body["messages"][-1]["content"]
        if not isinstance(said, str) or not said.startswith("whose: "):
            response = await handler(request)
            return response
        await asyncio.sleep(self.state.latency)
        text = f"{said} {request.headers['Authorization']}"
        base = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-mini"}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return web.json_response({**base, "object": "chat.completion", "choices": [choice]})
        streamed = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await streamed.prepare(request)
        for piece in (*text, None):
            delta = {} if piece is None else {"content": piece}
            choice = {"index": 0, "delta": delta, "finish_reason": None if piece is not None else "stop"}
            document = {**base, "object": "chat.completion.chunk", "choices": [choice]}
            await streamed.write(b"data: " + orjson.dumps(document) + b"\n\n")
        await streamed.write(b"data: [DONE]\n\n")
        return streamed
