"""Applications whose answers are JSON, and what is asked of a call that changes something; for both services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError, HttpVersion11
from aiohttp.log import server_logger

from config.access import Refusal, refusal_of
from config.flags import FlagError

log = logging.getLogger("siding.admin")

MAX_CONTENT_BYTES = 64 * 1024
READ_SECONDS = 10.0
"""How long a caller may take to send its content."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def change_asked(request: web.Request, token: str | None) -> object:
    """The decoded content of a call that changes something. Raises Refusal unless it is allowed."""
    refusal = refusal_to(request, token)
    if refusal is not None:
        raise refusal
    return await json_asked(request, orjson.loads)


def refusal_to(request: web.Request, token: str | None) -> Refusal | None:
    """Why a call is refused that only who has `token` may make; None when it may go on."""
    fields = {name.lower(): request.headers.getall(name) for name in request.headers}
    return refusal_of(peer_of(request), fields, token)


async def json_asked(request: web.Request, decode: Callable[[bytes], object]) -> object:
    """The decoded content. decode -- raises ValueError for what is not JSON. Raises Refusal."""
    if request.content_type != "application/json":
        # a page of another site cannot send this type without asking first, which nobody here allows
        raise Refusal(415, "not-json", "Content-Type must be application/json", {"Accept": "application/json"})
    try:
        async with asyncio.timeout(READ_SECONDS):
            content = await request.read()
    except TimeoutError:
        raise Refusal(408, "too-slow", f"the content did not arrive within {READ_SECONDS:.0f} s") from None
    try:
        return decode(content)
    except ValueError as fault:
        raise Refusal(400, "bad-json", f"the content is not JSON: {fault}") from fault


def peer_of(request: web.Request) -> str | None:
    """The address of the other end of the connection."""
    peername = request.get_extra_info("peername")
    return str(peername[0]) if isinstance(peername, tuple) and peername else None


def answer_json(status: int, document: object, fields: Mapping[str, str] | None = None) -> web.Response:
    """An answer with a JSON document, not to be stored."""
    headers = {hdrs.CACHE_CONTROL: "no-store", **(fields or {})}
    return web.Response(status=status, body=orjson.dumps(document), headers=headers, content_type="application/json")


def _refused(refusal: Refusal) -> web.Response:
    error = {"code": refusal.code, "message": refusal.message}
    return answer_json(refusal.status, {"error": error, **refusal.more}, refusal.fields)


def application(outermost: Sequence[Any] = ()) -> web.Application:
    """An application without routes, whose errors are JSON. outermost -- middlewares that see the answer as it goes."""
    app = web.Application(client_max_size=MAX_CONTENT_BYTES, middlewares=[*outermost, errors_as_json])
    app.on_response_prepare.extend((_nothing_behind_trailers, _ended_by_the_connection))
    server_logger.addFilter(_is_no_callers_fault)
    return app


def _is_no_callers_fault(record: logging.LogRecord) -> bool:
    """What is no HTTP is answered 400. aiohttp (3.14) also logs it, with the line that may hold a credential."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


async def _nothing_behind_trailers(request: web.Request, response: web.StreamResponse) -> None:
    """aiohttp (3.14) takes the last trailer field behind chunks for a field of the connection's next request."""
    if hdrs.TRANSFER_ENCODING in request.headers:
        response.force_close()
        # the fields have been made already; who is not told would lose a request
        response.headers[hdrs.CONNECTION] = "close"


async def _ended_by_the_connection(request: web.Request, response: web.StreamResponse) -> None:
    """Content without a length, where there are no chunks (RFC 9112 6.3). aiohttp (3.14) says so, and keeps it open."""
    if request.version < HttpVersion11 and hdrs.CONNECTION not in response.headers:
        response.force_close()


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal and every fault as `{"error": {"code": …, "message": …}}`."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _refused(refusal)
    except web.HTTPMethodNotAllowed as fault:
        allowed = ", ".join(sorted(fault.allowed_methods))
        return _refused(Refusal(405, "method-not-allowed", f"allowed here: {allowed}", {"Allow": allowed}))
    except FlagError as fault:
        return _refused(Refusal(400, "bad-flags", str(fault), more={"faults": fault.faults}))
    except web.HTTPNotFound:
        paths = sorted({resource.canonical for resource in request.app.router.resources()})
        return _refused(Refusal(404, "not-found", "no such path; see `paths`", more={"paths": paths}))
    except web.HTTPRequestEntityTooLarge:
        return _refused(Refusal(413, "too-large", f"the content is larger than {MAX_CONTENT_BYTES} bytes"))
    except Exception as fault:
        if not (isinstance(fault, ConnectionError) and _has_left(request)):
            log.exception("%s %s failed", request.method, request.path)
        if request.writer.output_size > 0 and request.transport is not None:
            # another answer would stand within the one that has begun, which must not look whole
            request.transport.abort()
        return _refused(Refusal(500, "internal-error", "a fault of Siding's own; its log has the details"))


def _has_left(request: web.Request) -> bool:
    """Whether the caller is gone."""
    return request.transport is None or request.transport.is_closing()
