"""Passing on what the origin answered: to the one client that asked, or to each of many."""

from __future__ import annotations

from proxy import errors
from proxy.origin.client import OriginResponse
from proxy.origin.fetch import SMALL_BYTES, SMALL_SECONDS, Failed, Fetch, Ready, Streaming
from proxy.policy import encoding
from proxy.policy import judgement as policy
from proxy.policy.decisions import Outcome
from proxy.policy.judgement import Ruling
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


async def hand_on_shared(
    shared: Shared, visit: Visit, fetch: Fetch, result: Ready | Streaming | Failed | None, age: float | None = None
) -> None:
    """Answer one client with what a fetch brings, which may be for others as well.

    age -- of what is on its way, for who did not ask before it came. Raises SidingError where it brings nothing.
    """
    observation = visit.observation
    if result is None:
        raise errors.OriginTimeout("the origin did not answer in time")
    if isinstance(result, Failed):
        raise result.fault
    if isinstance(result, Ready):
        observation.outcome = result.outcome
        observation.verdict, observation.stored = result.verdict, result.kept
        observation.origin_status, observation.error = result.status, result.hidden
        if result.outcome is Outcome.STALE_IF_ERROR:
            observation.detail = result.outcome.value
        if observation.collapsed and result.outcome is Outcome.MISS:
            observation.outcome = Outcome.COLLAPSED
        observation.origin_total = fetch.total_seconds
        judged = result.judgement
        if judged.head.status == 206:
            await answer.whole(shared, visit, answer.Whole(judged.head, result.stored.content, None, evaluate=False))
            return
        anew = judged.ruling is not Ruling.HIDDEN and "age" not in judged.head.fields
        head = None if observation.collapsed else policy.for_the_asker(judged, result.stored)
        await answer.from_store(shared, visit, result.stored, now=shared.wall(), anew=anew, head=head)
        return
    observation.outcome = Outcome.COLLAPSED if observation.collapsed else Outcome.MISS
    observation.origin_status = result.judgement.head.status
    observation.verdict, observation.stored = result.judgement.verdict, shared.flags.query_cache
    reader = fetch.reader()
    try:
        head = policy.for_others(result.judgement) if observation.collapsed else result.judgement.head
        if age is not None:
            head = ResponseHead(head.status, head.reason, head.fields.replacing("Age", str(int(age))))
        await answer.stream(shared, visit, head, result.length, reader.read)
        observation.origin_total = fetch.total_seconds
    finally:
        reader.close()


def _learn(visit: Visit, content: bytes | None) -> None:
    """Of a request that the express way had begun. content -- the origin's, where it was at hand."""
    if visit.exchange.passing is not None and visit.sent is not None:
        visit.exchange.passing.learn(visit.sent, content, visit.observation)


def _note_total(shared: Shared, visit: Visit) -> None:
    if visit.asked_at is not None:
        visit.observation.origin_total = shared.clock() - visit.asked_at
