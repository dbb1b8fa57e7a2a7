"""Passing on what the origin answered, to the one client that asked."""

from __future__ import annotations

from proxy.origin.client import OriginResponse
from proxy.origin.fetch import SMALL_BYTES, SMALL_SECONDS
from proxy.policy import encoding
from proxy.policy import judgement as policy
from proxy.policy.messages import ResponseHead
from proxy.server import answer
from proxy.server.visit import Shared, Visit


def received(shared: Shared, response: OriginResponse) -> ResponseHead:
    """The head of a response, as this hop passes it on."""
    return policy.received_head(response.head, shared.wall())


async def hand_on(shared: Shared, visit: Visit, response: OriginResponse, head: ResponseHead) -> None:
    """Answer one client: whole and with a validator when that costs no wait, otherwise as it arrives."""
    request = visit.exchange.head
    made = shared.flags.etag and request.method == "GET" and answer.lacks_validator("GET", head)
    coded = encoding.may_be_coded(request, head, response.length, shared.flags.compression)
    content = None
    if (made or coded) and request.method != "HEAD":
        known = response.length is not None
        content = await response.settle(SMALL_BYTES, SMALL_SECONDS if known else 0.0)
    if content is None:
        await relay(shared, visit, response, head)
        return
    response.close()
    _note_total(shared, visit)
    if made:
        head = ResponseHead(head.status, head.reason, head.fields.adding(("ETag", answer.make_etag(content))))
    await answer.whole(shared, visit, answer.Whole(head, content, None, evaluate=made))
    _learn(visit, content)


async def relay(shared: Shared, visit: Visit, response: OriginResponse, head: ResponseHead) -> None:
    """Answer one client as the content arrives."""
    try:
        await answer.stream(shared, visit, head, response.length, response.read)
        _note_total(shared, visit)
    finally:
        response.close()
    _learn(visit, None)


def _learn(visit: Visit, content: bytes | None) -> None:
    """Of a request that the express way had begun. content -- the origin's, where it was at hand."""
    if visit.exchange.passing is not None and visit.sent is not None:
        visit.exchange.passing.learn(visit.sent, content, visit.observation)


def _note_total(shared: Shared, visit: Visit) -> None:
    if visit.asked_at is not None:
        visit.observation.origin_total = shared.clock() - visit.asked_at
