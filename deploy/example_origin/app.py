"""The example origin put together: its routes in one table, which the page at `/` and the counts are made from."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import WSCloseCode, web

from deploy.example_origin import homework, logo, public, transfers
from deploy.example_origin.answers import STATE, Refused, State, json_answer, refusal

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_JSON_BYTES = 8 * 1024 * 1024
REPORT_SECONDS = 2.0


async def index(_: web.Request) -> web.StreamResponse:
    """This page."""
    rows = "".join(
        f"<tr><td>{method}<td><code>{html.escape(path)}</code><td>{html.escape(_summary(handler))}"
        for method, path, handler in ROUTES
    )
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Example origin</title>"
        "<h1>Example origin</h1><p>A small stand-in for the service behind Siding. Users are whoever the bearer "
        "token names: <code>Authorization: Bearer alice</code>.</p>"
        f"<table><tr><th>Method<th>Path<th>What it does{rows}</table></html>"
    )
    return web.Response(text=page, content_type="text/html")


async def stats(request: web.Request) -> web.StreamResponse:
    """How often each route was asked, how many reports were made, and how much is under way."""
    state = request.app[STATE]
    counts = {
        "requests": dict(sorted(state.requests.items())),
        "reportsGenerated": state.school.reports_generated,
        "notModified": state.not_modified,
        "inProgress": state.in_progress,
    }
    return json_answer(counts, fields={"Cache-Control": "no-store"})


async def reset_stats(request: web.Request) -> web.StreamResponse:
    """Counts from nought again; homework and announcements stay."""
    state = request.app[STATE]
    state.requests.clear()
    state.school.reports_generated = 0
    state.not_modified = 0
    return web.Response(status=204)


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", index),
    ("POST", "/api/parent-reports/generate", homework.generate_report),
    ("POST", "/api/homework/archive", homework.archive_homework),
    ("POST", "/api/homework/grade", homework.grade_homework),
    ("GET", "/api/homework", homework.list_homework),
    ("GET", "/api/homework/{id}", homework.show_homework),
    ("PUT", "/api/homework/{id}", homework.change_homework),
    ("DELETE", "/api/homework/{id}", homework.remove_homework),
    ("GET", "/api/subjects", public.subjects),
    ("GET", "/api/announcements", public.announcements),
    ("POST", "/api/announcements", public.announce),
    ("GET", "/api/leaderboard", public.leaderboard),
    ("GET", "/api/time", public.time_of_day),
    ("GET", "/api/slow", public.slow),
    ("GET", "/api/me", public.me),
    ("*", r"/status/{code:\d{3}}", public.status),
    ("GET", "/redirect", public.redirect),
    ("GET", "/set-cookie", public.set_cookie),
    ("GET", "/images/logo.png", logo.logo),
    ("GET", "/events", transfers.events),
    ("GET", "/stream", transfers.stream),
    ("GET", "/download", transfers.download),
    ("POST", "/upload", transfers.upload),
    ("POST", "/echo", transfers.echo),
    ("*", "/echo/{tail:.*}", transfers.target),
    ("GET", "/headers", transfers.headers),
    ("GET", "/early-hints", transfers.early_hints),
    ("GET", "/ws", transfers.websocket),
    ("GET", "/healthz", public.healthz),
    ("GET", "/stats", stats),
    ("POST", "/stats/reset", reset_stats),
)
UNCOUNTED = frozenset({public.healthz, stats, reset_stats})


def _summary(handler: Handler) -> str:
    return (handler.__doc__ or "").partition("\n")[0]


def make_app(report_seconds: float) -> web.Application:
    """An example origin with a memory of its own. report_seconds -- how long making a report takes."""
    app = web.Application(client_max_size=MAX_JSON_BYTES, middlewares=[_count, _refuse_as_json])
    app[STATE] = State(report_seconds)
    for method, path, handler in ROUTES:
        if method == "GET":
            app.router.add_get(path, handler)
        else:
            app.router.add_route(method, path, handler)
    app.cleanup_ctx.append(logo.with_logo)
    app.on_shutdown.append(_hang_up)
    return app


async def _hang_up(app: web.Application) -> None:
    """End what would otherwise go on: waits, endless streams, WebSockets."""
    state = app[STATE]
    state.stopping.set()
    for websocket in list(state.websockets):
        await websocket.close(code=WSCloseCode.GOING_AWAY, message=b"the origin is stopping")


@web.middleware
async def _count(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count by route, never by path: what a client can make up must not grow the table."""
    state = request.app[STATE]
    resource = request.match_info.route.resource
    if request.match_info.handler in UNCOUNTED:
        return await handler(request)
    method = request.method if request.method in _METHODS else "other"
    state.requests[f"{method} {resource.canonical}" if resource is not None else "other"] += 1
    state.in_progress += 1
    try:
        answer = await handler(request)
    finally:
        state.in_progress -= 1
    state.not_modified += answer.status == HTTPStatus.NOT_MODIFIED
    return answer


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


@web.middleware
async def _refuse_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as fault:
        return refusal(fault)
    except web.HTTPNotFound:
        return refusal(Refused(404, f"Route {request.method}:{request.raw_path} not found"))
    except web.HTTPMethodNotAllowed as fault:
        return refusal(Refused(405, "no such method here", {"Allow": ", ".join(sorted(fault.allowed_methods))}))
    except web.HTTPRequestEntityTooLarge:
        return refusal(Refused(413, f"JSON is read up to {MAX_JSON_BYTES} bytes"))
