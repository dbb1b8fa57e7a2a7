"""What an answer of the origin means for the cache: the steps between its head and its content.

One question is fixed when the origin is asked; one judgement is made when its head arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.policy import cache_key, freshness, invalidation, reuse, storability, validation
from proxy.policy.decisions import Verdict
from proxy.policy.fields import format_date
from proxy.policy.forwarding import from_origin
from proxy.policy.messages import (
    Freshness,
    RequestHead,
    ResponseHead,
    RouteRule,
    StoredResponse,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What the origin is asked, and on whose behalf.

    request -- the client's request, before any validator was added to it.
    uri, key -- target URI and cache key. rule -- the route rule that applies, if any.
    stored -- the stored response to be validated, or to fall back on.
    epoch -- the invalidation counter when the origin was asked.
    """

    request: RequestHead
    uri: str
    key: str
    rule: RouteRule | None
    stored: StoredResponse | None
    epoch: int


class Ruling(StrEnum):
    """What is to be done with the answer."""

    FRESHENED = "freshened"
    """a 304 confirmed the stored response"""
    HIDDEN = "hidden"
    """a server error that the stored response may stand in for (RFC 5861 4)"""
    SHARED = "shared"
    """storable, and therefore good for everyone waiting"""
    ALONE = "alone"
    """for the one client that asked, and nobody else"""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The ruling with its reason.

    head -- the response as it goes on: hop-by-hop fields and framing removed, Via and Date present.
    stored -- for FRESHENED the freshened, for HIDDEN the stale stored response.
    """

    ruling: Ruling
    verdict: Verdict
    head: ResponseHead
    freshness: Freshness
    stored: StoredResponse | None = None


def received_head(response: ResponseHead, response_time: float) -> ResponseHead:
    """The origin's head as this hop passes it on; a missing Date is added (RFC 9110 6.6.1)."""
    fields = from_origin(response.fields)
    if "date" not in fields:
        fields = fields.adding(("Date", format_date(response_time)))
    return ResponseHead(response.status, response.reason, fields)


def judge(question: Question, response: ResponseHead, request_time: float, response_time: float) -> Judgement:
    """Decide what `response` is good for. Times are wall clock, seconds since the epoch."""
    head = received_head(response, response_time)
    stored = question.stored
    if response.status == 304 and stored is not None:
        fresh = validation.freshen(stored, head, question.rule, request_time, response_time, question.epoch)
        return Judgement(Ruling.FRESHENED, Verdict.STORE, head, fresh.freshness, fresh)
    failed = response.status in reuse.ERROR_STATUSES
    if failed and stored is not None and reuse.may_hide_error(stored, question.request, response_time):
        return Judgement(Ruling.HIDDEN, Verdict.STATUS, head, stored.freshness, stored)
    life = freshness.freshness_of(head, request_time, response_time, question.rule)
    verdict = storability.may_store(question.request, head, life, question.rule)
    ruling = Ruling.SHARED if verdict is Verdict.STORE else Ruling.ALONE
    return Judgement(ruling, verdict, head, life)


def hide(stored: StoredResponse) -> Judgement:
    """The judgement when the origin gave no answer at all and `stored` stands in for it."""
    return Judgement(Ruling.HIDDEN, Verdict.STATUS, stored.head, stored.freshness, stored)


def shareable_in_flight(judgement: Judgement) -> bool:
    """May clients that waited be given this response? Only while it is fresh on arrival (RFC 9111 4)."""
    life = judgement.freshness
    return judgement.ruling is not Ruling.ALONE and not life.no_cache and life.lifetime > life.initial_age


def route_tag(name: str) -> str:
    """The tag that every response stored by a rule carries, apart from the operator's own tags."""
    return f"route\n{name}"


def to_store(question: Question, judgement: Judgement, content: bytes, times: tuple[float, float]) -> StoredResponse:
    """The stored response made of a shared judgement and its complete content.

    times -- (request time, response time).
    """
    head = ResponseHead(judgement.head.status, judgement.head.reason, judgement.head.fields.without({"age"}))
    names = cache_key.vary_names(head.fields) or ()
    rule = question.rule
    tags = invalidation.response_tags(head.fields)
    if rule is not None:
        tags = tuple(dict.fromkeys((route_tag(rule.name), *rule.tags, *tags)))
    return StoredResponse(
        key=question.key,
        uri=question.uri,
        secondary_key=cache_key.secondary_key(names, question.request.fields),
        head=head,
        content=content,
        freshness=judgement.freshness,
        request_time=times[0],
        response_time=times[1],
        epoch=question.epoch,
        tags=tags,
        origin_seconds=times[1] - times[0],
    )


def selected_by(question: Question, judgement: Judgement, other: RequestHead) -> bool:
    """Whether a response on its way to `question` would also be selected for `other` (RFC 9111 4.1)."""
    names = cache_key.vary_names(judgement.head.fields)
    if names is None:
        return False
    if not names:
        return True
    return cache_key.selects(cache_key.secondary_key(names, question.request.fields), other.fields)
