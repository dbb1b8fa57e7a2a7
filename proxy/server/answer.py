"""Answering the client: from a stored response, from a whole one, from a stream, or with an error."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from proxy import errors
from proxy.observe.events import Observation
from proxy.policy import encoding, freshness, preconditions
from proxy.policy.cache_status import cache_status
from proxy.policy.decisions import Forward, Outcome
from proxy.policy.fields import parse_content_range
from proxy.policy.messages import Fields, RequestHead, ResponseHead, StoredResponse
from proxy.server import coding as coders
from proxy.server.exchange import Octets
from proxy.server.refusal import refusal_head
from proxy.server.visit import Shared, Visit

Read = Callable[[], Awaitable[bytes]]
HITS = frozenset({Outcome.HIT, Outcome.STALE})
KEPT = HITS | {Outcome.STALE_IF_ERROR}
"""Outcomes for which the origin sent nothing that is passed on: what answers was stored before."""
ETAG_OFF_LOOP_BYTES = 1024 * 1024
NO_FIELDS = Fields()


@dataclass(frozen=True, slots=True)
class Whole:
    """A complete response about to be answered with.

    stored -- the stored response it comes from; None for an answer made for one client.
    evaluate -- whether the client's preconditions are ours to evaluate (the origin has not).
    kept -- it was stored before the request came.
    """

    head: ResponseHead
    content: bytes
    stored: StoredResponse | None
    evaluate: bool
    kept: bool = False


def make_etag(content: bytes) -> str:
    """A strong validator for `content` (RFC 9110 8.8.3): equal octets, equal tag."""
    digest = hashlib.blake2b(content, digest_size=15).digest()
    return f'"{base64.urlsafe_b64encode(digest).decode()}"'


def lacks_validator(method: str, head: ResponseHead) -> bool:
    """Whether a validator may be made here: a 200 whose origin gave none and did not forbid keeping it."""
    fields = head.fields
    if head.status != 200 or method not in {"GET", "POST"} or "etag" in fields or "last-modified" in fields:
        return False
    return "no-store" not in (fields.get("cache-control") or "").lower()


def _status_value(visit: Visit, ttl: float | None) -> str:
    observation = visit.observation
    hit = observation.outcome in HITS
    return cache_status(
        hit=hit,
        fwd=None if hit else observation.forward,
        fwd_status=None if hit else observation.origin_status,
        stored=observation.stored,
        collapsed=observation.collapsed,
        ttl=ttl if hit else None,
        detail=observation.detail,
        key=visit.shown_key,
    )


def labelled(visit: Visit, head: ResponseHead, ttl: float | None = None) -> ResponseHead:
    """`head` with Cache-Status (RFC 9211) after those of caches nearer the origin."""
    fields = head.fields
    ours = _status_value(visit, ttl)
    theirs = fields.get("cache-status")
    return ResponseHead(
        head.status,
        head.reason,
        fields.replacing("Cache-Status", f"{theirs}, {ours}") if theirs else fields.adding(("Cache-Status", ours)),
    )


async def from_store(
    shared: Shared,
    visit: Visit,
    stored: StoredResponse,
    *,
    now: float,
    anew: bool = False,
    head: ResponseHead | None = None,
) -> None:
    """Answer with a stored response: Age, preconditions, ranges, coding (RFC 9111 4).

    anew -- the origin made or validated it for this request, which is what no Age means (RFC 9111 5.1).
    head -- instead of the stored one.
    """
    age = freshness.current_age(stored.freshness, stored.response_time, now)
    head = head or stored.head
    if not anew:
        head = ResponseHead(head.status, head.reason, head.fields.adding(("Age", str(int(age)))))
    ttl = stored.freshness.lifetime - age
    kept = visit.observation.outcome in KEPT
    await whole(shared, visit, Whole(head, stored.content, stored, evaluate=True, kept=kept), ttl=ttl)


async def whole(shared: Shared, visit: Visit, response: Whole, *, ttl: float | None = None) -> None:
    """Answer with complete content: preconditions first, then ranges, then a content coding."""
    request, observation = visit.exchange.head, visit.observation
    head, content = response.head, response.content
    answer: preconditions.Answer = preconditions.Answer.FULL
    pieces: tuple[preconditions.Piece, ...] = ()
    if response.evaluate:
        answer, pieces = preconditions.evaluate(request, head, len(content), kept=response.kept)
    if answer is preconditions.Answer.RANGE:
        head = encoding.as_part(request, head, len(content), shared.flags.compression)
        if len(pieces) == 1:
            await _send_piece(visit, head, content, pieces[0], len(content), ttl)
        else:
            head, parts = preconditions.multipart(head, pieces, content)
            await _send_parts(visit, labelled(visit, head, ttl), *parts)
        return
    if answer is preconditions.Answer.UNSATISFIABLE:
        await _send(visit, labelled(visit, preconditions.unsatisfiable(head, len(content)), ttl), b"")
        return
    plan = encoding.plan(request, head, len(content), shared.flags.compression)
    if plan in encoding.CODINGS:
        head = encoding.coded(head, plan)
        if answer is preconditions.Answer.NOT_MODIFIED:
            observation.bytes_saved_304 = len(content)
        else:
            coded = await _coded_content(shared, response, plan)
            observation.coding = plan
            if request.method != "HEAD":
                observation.bytes_saved_coding = max(0, len(content) - len(coded))
            content = coded
    elif encoding.varies(plan):
        head = encoding.uncoded(head)
    elif head.status == 206:
        head = _origins_part(request, head, shared.flags.compression)
    if answer is preconditions.Answer.NOT_MODIFIED:
        observation.bytes_saved_304 = len(response.content)
        await _send(visit, labelled(visit, preconditions.not_modified(head), ttl), b"")
        return
    await _send(visit, labelled(visit, head, ttl), content)


def _origins_part(request: RequestHead, head: ResponseHead, on: bool) -> ResponseHead:
    span = parse_content_range(head.fields.get("content-range"))
    return encoding.as_part(request, head, span[2] if span is not None else None, on)


async def from_part(
    shared: Shared, visit: Visit, stored: StoredResponse, piece: preconditions.Piece, *, now: float
) -> None:
    """Answer a range request with a piece of a stored part."""
    age = freshness.current_age(stored.freshness, stored.response_time, now)
    head = replace(stored.head, fields=stored.head.fields.adding(("Age", str(int(age)))))
    complete = stored.part.complete if stored.part is not None else len(stored.content)
    head = encoding.as_part(visit.exchange.head, head, complete, shared.flags.compression)
    await _send_piece(visit, head, stored.content, piece, complete, stored.freshness.lifetime - age)


async def _send_piece(
    visit: Visit,
    head: ResponseHead,
    content: bytes,
    piece: preconditions.Piece,
    complete: int,
    ttl: float | None,
) -> None:
    head = preconditions.partial(head, piece, complete)
    await _send_parts(visit, labelled(visit, head, ttl), memoryview(content)[piece.begin : piece.end])


async def _coded_content(shared: Shared, response: Whole, plan: str) -> bytes:
    stored = response.stored
    if stored is None:
        return await coders.encode_whole(response.content, plan)
    coded = stored.codings.get(plan)
    if coded is None:
        coded = await coders.encode_whole(stored.content, plan)
        shared.store.add_coding(stored, plan, coded)
    return coded


async def _send(visit: Visit, head: ResponseHead, content: bytes) -> None:
    visit.sent = head, content
    await _send_parts(visit, head, content)


async def _send_parts(visit: Visit, head: ResponseHead, *parts: Octets) -> None:
    visit.observation.status = head.status
    await visit.exchange.respond(head, *parts)


async def stream(shared: Shared, visit: Visit, head: ResponseHead, length: int | None, read: Read) -> None:
    """Answer with content as it arrives from `read`, coded piece by piece where that is worth it."""
    exchange, observation = visit.exchange, visit.observation
    observation.status = head.status
    plan = encoding.plan(exchange.head, head, length, shared.flags.compression and not shared.flags.bypass)
    coder = None
    if plan in encoding.CODINGS:
        head, length = encoding.coded(head, plan), None
        if exchange.head.method != "HEAD":
            observation.coding = plan
            coder = coders.stream_coder(plan)
    elif encoding.varies(plan):
        head = encoding.uncoded(head)
    elif head.status == 206:
        head = _origins_part(exchange.head, head, shared.flags.compression and not shared.flags.bypass)
    head = labelled(visit, head)
    visit.sent = (head, None) if coder is None else None
    exchange.start(head, length)
    try:
        while piece := await read():
            coded = coder.feed(piece) if coder is not None else piece
            observation.bytes_saved_coding += len(piece) - len(coded)
            await exchange.write(coded)
        if coder is not None:
            await exchange.write(coder.finish())
            observation.bytes_saved_coding = max(0, observation.bytes_saved_coding)
    except BaseException:
        # the head has promised more than the client has: cut it, never end it properly
        exchange.abort()
        raise
    await exchange.finish()


async def refuse(visit: Visit, fault: errors.SidingError) -> None:
    """Answer with the error's own status and JSON, or cut what had begun."""
    visit.observation.error = fault.code
    if visit.exchange.started:
        visit.exchange.abort()
        return
    head = refusal_head(fault)
    if isinstance(fault, errors.ClientError):
        visit.exchange.keep_alive = False
    await _send(visit, labelled(visit, head), fault.content())


def note_forward(observation: Observation, forward: Forward) -> None:
    """Why the request went to the origin; the first reason stands."""
    if observation.forward is None:
        observation.forward = forward
