"""The service behind the proxies: every answer says what it is of, and it fails when told to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from config.listen import open_socket, spare_port
from tests.soak.truth import Truth, content_of

RULES = """
[[route]]
match = "/reports"
methods = ["POST"]
ttl = 60
key = ["body", "authorization"]
tags = ["reports"]
invalidated_by = ["PUT /marks"]
"""


class Mishaps(NamedTuple):
    """Shares of requests that are answered late, with an error, in part, and not at all."""

    late: float = 0.0
    error: float = 0.0
    broken: float = 0.0
    cut: float = 0.0


class Service:
    """mishaps -- as they are now."""

    def __init__(self, truth: Truth, seed: int) -> None:
        self.truth = truth
        self.mishaps = Mishaps()
        self.port = spare_port()
        self.asked = 0
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=2**24)
        for method, path, handler in (
            ("GET", "/items/{name}", self._item),
            ("PUT", "/items/{name}", self._change_item),
            ("GET", "/me", self._me),
            ("GET", "/now/{name}", self._now),
            ("POST", "/reports", self._report),
            ("PUT", "/marks", self._change_marks),
            ("POST", "/echo", self._echo),
        ):
            app.router.add_route(method, path, self._with_mishaps(handler))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, open_socket("127.0.0.1", self.port)).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _with_mishaps(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.asked += 1
            mishaps, dice = self.mishaps, self._dice
            content = await request.read()
            assert content is not None
            if dice.random() < mishaps.late:
                await asyncio.sleep(dice.uniform(0.01, 0.5))
            if dice.random() < mishaps.cut:
                raise ConnectionResetError
            if dice.random() < mishaps.error:
                return web.Response(status=dice.choice((500, 503)), body=b"the service failed")
            response = await handler(request)
            return await self._in_pieces(request, response, broken=dice.random() < mishaps.broken)

        async def cut_where_it_breaks(request: web.Request) -> web.StreamResponse:
            try:
                return await handle(request)
            except ConnectionError:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()

        return cut_where_it_breaks

    async def _in_pieces(self, request: web.Request, response: web.Response, *, broken: bool) -> web.StreamResponse:
        """Whole with its length, or in chunks, or only in part."""
        content = response.body
        if not isinstance(content, bytes) or (not broken and self._dice.random() < 0.7):
            return response
        stream = web.StreamResponse(status=response.status, headers=response.headers)
        stream.enable_chunked_encoding()
        await stream.prepare(request)
        half = len(content) // 2
        await stream.write(content[:half])
        if broken:
            raise ConnectionResetError
        if self._dice.random() < 0.5:
            await asyncio.sleep(0.001)
        await stream.write(content[half:])
        await stream.write_eof()
        return stream

    # -- what there is

    async def _item(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        version = self.truth.versions[f"item {name}"]
        tag = f'"{name}.{version}"'
        fields = {"Cache-Control": "max-age=60", "ETag": tag, "Content-Type": "application/json"}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=fields)
        return web.Response(body=content_of("item", name, version), headers=fields)

    async def _me(self, request: web.Request) -> web.Response:
        user = request.headers.get("Authorization", "")
        fields = {"Cache-Control": "private, max-age=60", "Content-Type": "application/json"}
        return web.Response(body=content_of("me", user, 0, user), headers=fields)

    async def _now(self, request: web.Request) -> web.Response:
        name, user = request.match_info["name"], request.headers.get("Authorization", "")
        body = content_of("now", f"{name} {request.query.get('nonce', '')}", 0, user)
        return web.Response(body=body, headers={"Cache-Control": "no-store", "Content-Type": "application/json"})

    async def _report(self, request: web.Request) -> web.Response:
        user, name = request.headers.get("Authorization", ""), (await request.json())["student"]
        body = content_of("report", name, self.truth.versions["marks"], user)
        return web.Response(body=body, headers={"Content-Type": "application/json"})

    async def _echo(self, request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), headers={"Content-Type": "application/octet-stream"})

    # -- changes

    async def _change_item(self, request: web.Request) -> web.Response:
        return web.Response(body=str(self.truth.change(f"item {request.match_info['name']}")).encode())

    async def _change_marks(self, _: web.Request) -> web.Response:
        return web.Response(body=str(self.truth.change("marks")).encode())
