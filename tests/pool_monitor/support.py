"""A monitor in this process, on a free port, and a client for it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
from aiohttp import web

from config.listen import open_socket
from config.load import load
from config.settings import MonitorSettings
from pool_monitor.admission import Granted
from pool_monitor.app import Monitor
from pool_monitor.grading.models import load_models
from pool_monitor.grading.template_files import load_templates
from pool_monitor.queries import load_queries
from tests.support import PATIENCE, holds, serving

if TYPE_CHECKING:
    from config.otel import Tracing


# those that come with Siding
_templates, _models = functools.cache(load_templates), functools.cache(load_models)


@dataclass
class Served:
    """The answer to a request."""

    status: int
    fields: Mapping[str, str]
    content: bytes
    document: Any


class Client:
    """Asks a monitor."""

    def __init__(self, session: aiohttp.ClientSession, monitor: Monitor, port: int) -> None:
        self.session = session
        self.monitor = monitor
        self.port = port

    async def ask(self, method: str, path: str, json: object = None, **fields: str) -> Served:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        async with self.session.request(method, path, json=json, headers=headers) as answer:
            content = await answer.read()
            document = await answer.json() if answer.content_type == "application/json" else None
            return Served(answer.status, answer.headers, content, document)

    async def get(self, path: str, **fields: str) -> Served:
        return await self.ask("GET", path, **fields)

    async def query(self, name: str, **parameters: object) -> Served:
        return await self.ask("POST", f"/api/queries/{name}", json=parameters)


@contextlib.asynccontextmanager
async def running_monitor(
    database: str | None,
    queries: str = "",
    directory: Path | None = None,
    tracing: Tracing | None = None,
    **settings: object,
) -> AsyncIterator[Client]:
    """A monitor for `database`; `queries` is the text of a queries file."""
    environ = {"HOST": "127.0.0.1", "PORT": "0"} | {name.upper(): str(value) for name, value in settings.items()}
    if database is not None:
        environ["DATABASE_URL"] = database
    loaded = {}
    if queries:
        assert directory is not None
        path = directory / "queries.toml"
        path.write_text(queries)
        loaded = load_queries(path)
    given = load(MonitorSettings, [], environ, prog="siding-monitor")
    monitor = Monitor(given, loaded, _templates(), _models(), tracing)
    sock = open_socket("127.0.0.1", 0)
    await monitor.start(sock)
    try:
        port = sock.getsockname()[1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield Client(session, monitor, port)
    finally:
        await monitor.close()


@dataclass
class Proxy:
    """The admin listener of a proxy, as far as purges go.

    asked -- content and credential of each. answers -- status of the answers. go -- they wait for it. flags -- its own.
    looked -- one for each look at them.
    """

    url: str = ""
    asked: asyncio.Queue[tuple[object, str | None]] = field(default_factory=asyncio.Queue)
    looked: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    answers: int = 200
    go: asyncio.Event = field(default_factory=asyncio.Event)
    flags: object = field(default_factory=lambda: {"BYPASS": False})

    async def told(self, _: web.Request) -> web.Response:
        self.looked.put_nowait(None)
        return web.json_response(self.flags)

    async def purge(self, request: web.Request) -> web.Response:
        self.asked.put_nowait((await request.json(), request.headers.get("Authorization")))
        await self.go.wait()
        return web.json_response({}, status=self.answers)


@contextlib.asynccontextmanager
async def purged_proxy(port: int = 0) -> AsyncIterator[Proxy]:
    """One that listens."""
    proxy = Proxy()
    proxy.go.set()
    app = web.Application()
    app.router.add_get("/api/flags", proxy.told)
    app.router.add_post("/api/purge", proxy.purge)
    async with serving(app, port) as proxy.url:
        yield proxy


class Seen:
    """An observer of a pool that remembers."""

    def __init__(self) -> None:
        self.waits: list[Granted] = []
        self.connects: list[bool] = []
        self.uses = 0
        self.failures: list[str] = []

    def waited(self, how: Granted, seconds: float) -> None:
        assert seconds >= 0
        self.waits.append(how)

    def connected(self, seconds: float, ok: bool) -> None:
        self.connects.append(ok)

    def used(self, seconds: float) -> None:
        self.uses += 1

    def failed(self, sqlstate_class: str) -> None:
        self.failures.append(sqlstate_class)


async def listening(client: Client) -> None:
    """Until the monitor hears of changes."""
    await holds(lambda: client.monitor.cache.trusted)


async def tables_known(client: Client, query: str = "reports") -> None:
    """Until the monitor knows what tables the query reads."""
    runner = client.monitor.parts.runner
    assert runner is not None
    await holds(lambda: query in runner.tables)


async def all_found(client: Client) -> None:
    """Until the monitor has looked at every query's tables."""
    assert client.monitor.finder is not None
    await asyncio.wait_for(client.monitor.finder.told.wait(), PATIENCE)


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


def found(answer: Served) -> str:
    """What the query cache had of it."""
    return answer.fields["X-Query-Cache"]
