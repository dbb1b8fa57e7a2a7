"""Asking the origin: for one client alone, or through a tunnel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from proxy import errors
from proxy.errors import ContentTooLarge
from proxy.origin.client import OriginResponse, OriginTunnel
from proxy.policy import forwarding, invalidation
from proxy.policy.decisions import Outcome
from proxy.policy.judgement import route_tag
from proxy.policy.messages import Fields, RequestHead, ResponseHead
from proxy.server.exchange import ClientGone, ClientTunnel
from proxy.server.visit import Shared, Visit

OnInterim = Callable[[ResponseHead], None]


async def ask(
    shared: Shared,
    visit: Visit,
    request: RequestHead,
    content: bytes | AsyncIterator[bytes] | None,
    length: int | None = None,
    *,
    upgrade: bool = False,
    on_interim: OnInterim | None = None,
) -> OriginResponse:
    """Send `request` to the origin as this hop must (RFC 9110 7.6), if that is not done already. Raises NoAnswer."""
    exchange = visit.exchange
    if exchange.passing is not None and exchange.passing.stands_for(request, exchange.head):
        exchange.content_received = len(exchange.passing.content)
        visit.note_sent()
        response = await exchange.passing.response()
        if response is not None:
            return response
        # it is sent again, and counted again
        exchange.content_received = 0
    fields = forwarding.to_origin(
        request,
        peer=visit.exchange.peer,
        scheme=request.scheme,
        request_id=visit.request_id,
        traceparent=visit.traceparent,
        upgrade=upgrade,
        mark=shared.mark,
    )
    if not isinstance(content, AsyncIterator):
        # nothing is held back, so there is nothing to wait for
        fields = fields.without({"expect"})

    async def send(fields: Fields) -> OriginResponse:
        return await shared.origin.request(
            request.method,
            request.target,
            fields,
            content,
            length,
            on_interim=on_interim,
            upgrade=upgrade,
            on_sent=visit.note_sent,
        )

    trace = visit.observation.trace
    if shared.traces is None or trace is None:
        return await send(fields)
    return await shared.traces.follow(trace, request, fields, send)


async def ask_for_one(shared: Shared, visit: Visit, *, upgrade: bool = False) -> OriginResponse:
    """Pass the client's own request on, its content as it arrives."""
    exchange, limit = visit.exchange, shared.limits.max_request_bytes
    content: bytes | AsyncIterator[bytes] | None = visit.content
    length = exchange.length
    if length is not None and length > limit:
        raise ContentTooLarge(f"the content has {length} bytes; {limit} are allowed")
    if content is None:
        if exchange.has_content:
            content = visit.pieces(limit)
        elif length == 0:
            content = b""
    exchange.to_the_origin()
    clock, observation = shared.clock, visit.observation
    visit.asked_at = asked = clock()
    try:
        response = visit.take(
            await ask(shared, visit, exchange.head, content, length, upgrade=upgrade, on_interim=exchange.interim)
        )
    finally:
        observation.origin_seconds = clock() - asked
    observation.origin_status = response.head.status
    return response


async def minding(shared: Shared, visit: Visit, asking: Awaitable[OriginResponse]) -> OriginResponse:
    """What `asking` brings. Where no answer comes the origin may have done all the same what it was asked to."""
    try:
        return await asking
    except (ClientGone, asyncio.CancelledError):
        if visit.was_sent:
            # there is nobody to wait with his answer
            _make_invalid(shared, visit, invalidation.UNANSWERED)
        raise
    except Exception:
        if visit.was_sent:
            await invalidate(shared, visit, invalidation.UNANSWERED)
        raise


async def invalidate(shared: Shared, visit: Visit, response: ResponseHead) -> None:
    """Before the client learns of its success, so that its next request already sees the change."""
    known = _make_invalid(shared, visit, response)
    if known is not None:
        # others wait for it as well
        await asyncio.wait((known,))


def _make_invalid(shared: Shared, visit: Visit, response: ResponseHead) -> asyncio.Future[None] | None:
    """See `Shared.invalidate`. What is asked under a rule makes nothing invalid that this rule has stored."""
    request = visit.exchange.head
    if response.status >= 400:
        return None
    rules = shared.routes.invalidated_by(request.method, request.path)
    tags = [route_tag(rule.name) for rule in rules if rule is not visit.rule]
    tags += invalidation.invalidated_groups(request, response)
    uris: tuple[str, ...] = ()
    if visit.rule is None and invalidation.invalidates(request, response.status):
        uris = invalidation.invalidated_uris(request, response)
    return shared.invalidate(tags, uris)


async def tunnel(shared: Shared, visit: Visit) -> OriginResponse | None:
    """Offer the client's upgrade to the origin; relay both ways once it agreed (RFC 9110 7.8).

    Returns the origin's response when it did not agree.
    """
    response = await ask_for_one(shared, visit, upgrade=True)
    if response.head.status != 101:
        return response
    visit.observation.outcome = Outcome.TUNNEL
    visit.observation.status = 101
    origin = response.tunnel()
    try:
        client = visit.exchange.tunnel(response.head)
        await _relay(client, origin, visit)
    finally:
        origin.close()
    return None


async def _relay(client: ClientTunnel, origin: OriginTunnel, visit: Visit) -> None:
    async def up() -> None:
        while data := await client.read():
            visit.exchange.content_received += len(data)
            await origin.write(data)

    async def down() -> None:
        while data := await origin.read():
            visit.exchange.content_sent += len(data)
            await client.write(data)

    both = {asyncio.create_task(up()), asyncio.create_task(down())}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        for ended in await asyncio.gather(*both, return_exceptions=True):
            if isinstance(ended, Exception) and not isinstance(ended, (ClientGone, errors.OriginError)):
                raise ended
