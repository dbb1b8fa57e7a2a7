"""What is asked over HTTP. Metrics and health never take a connection of the pool, so a starving pool can be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web
from pydantic import SecretStr

from config.access import Refusal
from config.answers import answer_json, application, change_asked, json_asked, refusal_to
from config.everywhere import Pins, behind, change_of, set_flags
from config.flags import Flags
from config.words import quoted
from pool_monitor.faults import FAULTS, describe
from pool_monitor.observe import Metrics
from pool_monitor.pool import PoolError
from pool_monitor.pool_stats import Numbers, Verdict, document, verdict
from pool_monitor.queries import ArgumentError, Query, read_json
from pool_monitor.query_cache import QueryCache
from pool_monitor.runner import QueryError, Runner

ADVICE_SECONDS = 30.0
NDJSON = "application/x-ndjson"
_UNADVISED: tuple[type[Exception], ...] = (PoolError, *FAULTS)


@dataclass(slots=True)
class Parts:
    """What the endpoints speak for. numbers, advise, runner -- None without DATABASE_URL;
    bouncer -- None without PGBOUNCER_ADMIN_URL; pins -- None without REDIS_URL."""

    flags: Flags
    metrics: Metrics
    cache: QueryCache
    numbers: Callable[[], Numbers] | None = None
    advise: Callable[[], Awaitable[dict[str, object]]] | None = None
    runner: Runner | None = None
    bouncer: Callable[[], list[dict[str, object]] | None] | None = None
    queries: Mapping[str, Query] = field(default_factory=dict)
    pins: Pins | None = None
    draining: bool = False


def monitor_app(
    parts: Parts, admin_token: SecretStr | None, queries_token: SecretStr | None, outermost: Sequence[Any]
) -> web.Application:
    """The application. The tokens are ADMIN_TOKEN and QUERIES_TOKEN; None where they are not set.

    outermost -- middlewares that see the answer as it goes.
    """
    app = application(outermost)
    endpoints = _Endpoints(parts, _secret(admin_token), _secret(queries_token))
    app.router.add_get("/healthz", endpoints.healthz)
    app.router.add_get("/readyz", endpoints.readyz)
    app.router.add_get("/metrics", endpoints.metrics)
    app.router.add_get("/api/metrics/database-pool", endpoints.database_pool)
    app.router.add_get("/api/metrics/query-cache", endpoints.query_cache)
    app.router.add_get("/api/flags", endpoints.flags)
    app.router.add_patch("/api/flags", endpoints.set_flags)
    app.router.add_get("/api/advice", endpoints.advice)
    app.router.add_get("/api/queries", endpoints.list_queries)
    app.router.add_get("/api/queries/{name}", endpoints.query)
    app.router.add_post("/api/queries/{name}", endpoints.query)
    return app


def _secret(token: SecretStr | None) -> str | None:
    return token.get_secret_value() if token is not None else None


class _Endpoints:
    def __init__(self, parts: Parts, admin_token: str | None, queries_token: str | None) -> None:
        self._parts = parts
        self._admin_token = admin_token
        self._queries_token = queries_token

    async def healthz(self, _: web.Request) -> web.StreamResponse:
        return answer_json(200, {"status": "ok"})

    async def readyz(self, _: web.Request) -> web.StreamResponse:
        ready, reason = self._ready()
        return answer_json(200 if ready else 503, {"ready": ready, "reason": reason})

    def _ready(self) -> tuple[bool, str]:
        if self._parts.draining:
            return False, "draining: no new connections are accepted"
        if self._parts.numbers is None:
            return True, "serving; the pool is off: DATABASE_URL is not set"
        word, sentence, _ = verdict(self._parts.numbers())
        return word is not Verdict.UNREACHABLE, sentence

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
        content, content_type = self._parts.metrics.render(accept)
        return web.Response(body=content, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})

    async def database_pool(self, _: web.Request) -> web.StreamResponse:
        bouncer = {} if self._parts.bouncer is None else {"pgbouncer": self._parts.bouncer()}
        if self._parts.numbers is None:
            off = {"state": Verdict.OFF.value, "verdict": "off: DATABASE_URL is not set", "advice": ""}
            return answer_json(200, {**document(Numbers(most=0, least=0)), **off, **bouncer})
        return answer_json(200, {**document(self._parts.numbers()), **bouncer})

    async def query_cache(self, _: web.Request) -> web.StreamResponse:
        flags = self._parts.flags
        return answer_json(200, self._parts.cache.report(flags.query_cache and not flags.bypass))

    async def flags(self, _: web.Request) -> web.StreamResponse:
        flags = self._parts.flags
        return answer_json(200, {**flags.as_dict(), **behind(flags, self._parts.pins)})

    async def set_flags(self, request: web.Request) -> web.StreamResponse:
        changes, everywhere = change_of(await change_asked(request, self._admin_token))
        parts = self._parts
        tell = parts.pins.tell if parts.pins is not None else None
        return answer_json(200, await set_flags(parts.flags, changes, everywhere=everywhere, tell=tell))

    async def advice(self, request: web.Request) -> web.StreamResponse:
        self._allow(request)
        if self._parts.advise is None:
            raise Refusal(503, "pool-off", "DATABASE_URL is not set")
        try:
            async with asyncio.timeout(ADVICE_SECONDS):
                return answer_json(200, await self._parts.advise())
        except TimeoutError:
            raise Refusal(504, "advice-timeout", f"the advice took longer than {ADVICE_SECONDS:.0f} s") from None
        except _UNADVISED as fault:
            raise Refusal(503, "database-unavailable", describe(fault), {"Retry-After": "1"}) from fault

    # -- named queries

    def _allow(self, request: web.Request) -> None:
        refusal = refusal_to(request, self._queries_token)
        if refusal is not None:
            message = refusal.message.replace("ADMIN_TOKEN", "QUERIES_TOKEN").replace("change anything", "ask")
            raise Refusal(refusal.status, refusal.code.replace("admin", "queries"), message, refusal.fields)

    async def list_queries(self, request: web.Request) -> web.StreamResponse:
        self._allow(request)
        return answer_json(200, [query.describe() for query in self._parts.queries.values()])

    async def query(self, request: web.Request) -> web.StreamResponse:
        self._allow(request)
        runner = self._parts.runner
        if runner is None:
            raise Refusal(503, "pool-off", "DATABASE_URL is not set")
        query = self._parts.queries.get(request.match_info["name"])
        if query is None:
            raise Refusal(
                404,
                "no-such-query",
                "QUERIES_FILE has no query of this name",
                more={"queries": sorted(self._parts.queries)},
            )
        if query.write and request.method != "POST":
            raise Refusal(405, "method-not-allowed", "a query that writes is asked with POST", {"Allow": "POST"})
        try:
            values = query.arguments(await _arguments(request), as_text=request.method != "POST")
        except ArgumentError as fault:
            raise Refusal(400, "bad-arguments", str(fault)) from fault
        try:
            if NDJSON in request.headers.get(hdrs.ACCEPT, "") and not query.exists:
                return await _stream(request, runner, query, values)
            content, found = await runner.answer(query, values)
        except QueryError as fault:
            more = dict(fault.more)
            fields = {"Retry-After": "1"} if more.pop("retry", False) else None
            raise Refusal(fault.status, fault.code, str(fault), fields, more) from fault
        headers = {hdrs.CACHE_CONTROL: "no-store", "X-Query-Cache": found.value}
        return web.Response(body=content, content_type="application/json", headers=headers)


async def _arguments(request: web.Request) -> Mapping[str, object]:
    """From the content of a POST (a JSON object), or from the URL's query."""
    if request.method != "POST":
        given_twice = sorted({name for name in request.query if len(request.query.getall(name)) > 1})
        if given_twice:
            names = ", ".join(map(quoted, given_twice))
            raise Refusal(400, "bad-arguments", f"{names}: given more than once; an array is one value, with commas")
        return dict(request.query)
    given = await json_asked(request, lambda content: read_json(content) if content.strip() else {})
    if not isinstance(given, dict):
        raise Refusal(400, "bad-json", "give a JSON object with the query's parameters")
    return given


async def _stream(request: web.Request, runner: Runner, query: Query, values: list[object]) -> web.StreamResponse:
    """Rows as lines, as they come; a fault after the first piece cuts the connection."""
    response: web.StreamResponse | None = None
    pieces = runner.lines(query, values)
    try:
        async for piece in pieces:
            if response is None:
                response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: NDJSON, hdrs.CACHE_CONTROL: "no-store"})
                await response.prepare(request)
            if request.method == hdrs.METH_HEAD:
                break
            await response.write(piece)
    except QueryError:
        if response is None:
            raise
        if request.transport is not None:
            request.transport.abort()
        return response
    finally:
        await pieces.aclose()
    assert response is not None
    await response.write_eof()
    return response
