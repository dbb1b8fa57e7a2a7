"""What a caller is sent: status, fields and content as they came, and nothing of the server's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from aiohttp import hdrs, web
from multidict import CIMultiDict

from pool_monitor.grading.calls import Answer, Fields, UpstreamFault
from pool_monitor.grading.collapse import Telling
from pool_monitor.grading.observed import Served

_GIVEN = web.ResponseKey("given", frozenset[str])
_MADE_BY_SERVER = (hdrs.SERVER, hdrs.DATE, hdrs.CONTENT_TYPE)


async def without_own_fields(_: web.Request, response: web.StreamResponse) -> None:
    """For `Application.on_response_prepare`: what is answered as it came has no fields of the server's own."""
    given = response.get(_GIVEN)
    if given is not None:
        for name in _MADE_BY_SERVER:
            if name not in given:
                response.headers.popall(name, None)


def as_it_came(status: int, reason: str | None, fields: Sequence[tuple[str, str]]) -> web.StreamResponse:
    """A response with these fields and no others, whose content follows."""
    headers = CIMultiDict(fields)
    response = web.StreamResponse(status=status, reason=reason, headers=headers)
    response[_GIVEN] = frozenset(name for name in _MADE_BY_SERVER if name in headers)
    return response


async def tell_answer(request: web.Request, answer: Answer, cache_status: str | None = None) -> web.StreamResponse:
    """An answer that is whole."""
    status = () if cache_status is None else (("Cache-Status", cache_status),)
    fields = (*answer.fields, *status, ("Content-Length", str(len(answer.content))))
    response = as_it_came(answer.status, None, fields)
    await response.prepare(request)
    await response.write_eof(b"" if request.method == hdrs.METH_HEAD else answer.content)
    return response


async def tell(request: web.Request, telling: Telling, served: Served, fields: Fields) -> web.StreamResponse:
    """An answer on its way, as it comes, with these fields."""
    if telling.ended and not telling.broken:
        return await tell_answer(request, Answer(telling.status, fields, telling.content))
    response = as_it_came(telling.status, None, fields)
    await response.prepare(request)
    try:
        async with aclosing(telling.pieces()) as pieces:
            async for piece in pieces:
                await response.write(piece)
    except UpstreamFault as fault:
        return broken_off(request, response, served, fault)
    await response.write_eof()
    return response


def broken_off(
    request: web.Request, response: web.StreamResponse, served: Served, fault: UpstreamFault
) -> web.StreamResponse:
    """The caller must see that it is not whole, and the connection cannot be used for anything else."""
    served.status = fault.status
    if request.transport is not None:
        request.transport.abort()
    return response
