"""What an answer of the origin means for the cache: the steps between its head and its content.

One question is fixed when the origin is asked; one judgement is made when its head arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.policy import cache_key, freshness, invalidation, reuse, storability, validation
from proxy.policy.decisions import Verdict
from proxy.policy.fields import format_date, parse_content_range
from proxy.policy.forwarding import from_origin
from proxy.policy.messages import (
    NO_CODINGS,
    Fields,
    Freshness,
    Part,
    Question,
    RequestHead,
    ResponseHead,
    RouteRule,
    StoredResponse,
)
from proxy.policy.targeted import governing


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
    REPEAT = "repeat"
    """of no use: the origin has to be asked again, for the whole and without conditions"""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The ruling with its reason.

    head -- the response as it goes on: hop-by-hop fields and framing removed, Via and Date present.
    stored -- for FRESHENED the freshened, for HIDDEN the stale stored response. kept -- for FRESHENED what is to be
    stored; None leaves what is there.
    before -- octets that were stored already, of a response whose rest is arriving.
    withheld -- fields that only the client that asked is given (RFC 9111 5.2.2.4, 5.2.2.7).
    """

    ruling: Ruling
    verdict: Verdict
    head: ResponseHead
    freshness: Freshness
    stored: StoredResponse | None = None
    kept: StoredResponse | None = None
    before: bytes = b""
    withheld: frozenset[str] = frozenset()


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
    if response.status == 304 and (stored is not None or question.candidates):
        return _confirmation(question, head, (request_time, response_time))
    if question.part is not None and response.status in {206, 416}:
        length = response.fields.get("content-length")
        return _completion(question, question.part, head, length, (request_time, response_time))
    failed = response.status in reuse.ERROR_STATUSES
    if failed and stored is not None and reuse.may_hide_error(stored, question.request, response_time):
        return Judgement(Ruling.HIDDEN, Verdict.STATUS, head, stored.freshness, stored)
    return _judged(question, head, (request_time, response_time))


def _judged(question: Question, head: ResponseHead, times: tuple[float, float], before: bytes = b"") -> Judgement:
    """A response on its own merits."""
    rule = question.rule
    governed = replace(head, fields=governing(head.fields, question.targets))
    life = freshness.freshness_of(governed, *times, rule)
    verdict = storability.may_store(question.request, governed, life, rule)
    if verdict is Verdict.STORE and head.status == 206 and "range" not in question.request.fields:
        verdict = Verdict.PARTIAL
    directives = freshness.response_directives(governed.fields)
    withheld = freshness.withheld_fields(directives, private=rule is not None and rule.private)
    ruling = Ruling.SHARED if verdict is Verdict.STORE else Ruling.ALONE
    return Judgement(ruling, verdict, head, life, before=before, withheld=withheld)


def _confirmation(question: Question, head: ResponseHead, times: tuple[float, float]) -> Judgement:
    """A 304 to our own condition: what it confirms, or that it has to be asked again without one (RFC 9111 4.3.4)."""
    asked_about = (question.stored,) if question.stored is not None else question.candidates
    confirmed = validation.confirmed(asked_about, head.fields)
    if confirmed is None:
        return Judgement(Ruling.REPEAT, Verdict.STATUS, head, Freshness())
    if question.stored is None:
        # it will do for this request's selecting fields as well
        names = cache_key.vary_names(confirmed.head.fields) or ()
        confirmed = replace(confirmed, secondary_key=cache_key.secondary_key(names, question.request.fields))
    fresh = validation.freshen(confirmed, head, question, *times)
    life = fresh.stored.freshness
    return Judgement(
        Ruling.FRESHENED, fresh.verdict, head, life, fresh.stored, kept=fresh.kept, withheld=fresh.withheld
    )


def _completion(
    question: Question, part: StoredResponse, head: ResponseHead, length: str | None, times: tuple[float, float]
) -> Judgement:
    """The answer to a request for the rest: combined with what is stored, or not to be used (RFC 9111 3.4)."""
    span = parse_content_range(head.fields.get("content-range"))
    had, complete = len(part.content), part.part.complete if part.part is not None else 0
    fits = span == (had, complete - 1, complete) and length == str(complete - had)
    if head.status == 206 and fits and validation.same_representation(part, head.fields):
        fields = validation.combined(part.head.fields, head.fields)
        judged = _judged(question, ResponseHead(200, "OK", fields), times, before=part.content)
        if judged.ruling is Ruling.SHARED:
            return judged
    return Judgement(Ruling.REPEAT, Verdict.PARTIAL, head, Freshness())


def hide(stored: StoredResponse) -> Judgement:
    """The judgement when the origin gave no answer at all and `stored` stands in for it."""
    return Judgement(Ruling.HIDDEN, Verdict.STATUS, stored.head, stored.freshness, stored)


def shareable_in_flight(judgement: Judgement) -> bool:
    """May clients that waited be given this response? Only while it is fresh on arrival (RFC 9111 4)."""
    life = judgement.freshness
    if judgement.ruling is Ruling.ALONE or (
        judgement.ruling is Ruling.FRESHENED and judgement.verdict is not Verdict.STORE
    ):
        return False
    return not life.no_cache and life.lifetime > life.initial_age


def route_tag(name: str) -> str:
    """The tag that every response stored by a rule carries, apart from the operator's own tags."""
    return f"route\n{name}"


def tags_of(request: RequestHead, fields: Fields, rule: RouteRule | None) -> tuple[str, ...]:
    """The tags of the response with `fields`: the origin's own, and those of the rule."""
    tags = (*invalidation.response_tags(fields), *invalidation.groups(request, fields))
    return tags if rule is None else tuple(dict.fromkeys((route_tag(rule.name), *rule.tags, *tags)))


def for_others(judgement: Judgement) -> ResponseHead:
    """The head for clients other than the one that asked."""
    head = judgement.head
    return replace(head, fields=head.fields.without(judgement.withheld)) if judgement.withheld else head


def for_the_asker(judgement: Judgement, stored: StoredResponse) -> ResponseHead:
    """The head of `stored`, with what the origin said to the client that asked and to nobody else."""
    if not judgement.withheld:
        return stored.head
    own = [line for line in judgement.head.fields if line[0].lower() in judgement.withheld]
    return replace(stored.head, fields=stored.head.fields.adding(*own))


def to_store(question: Question, judgement: Judgement, content: bytes, times: tuple[float, float]) -> StoredResponse:
    """The stored response made of a shared judgement and its content.

    times -- (request time, response time).
    """
    head, part = for_others(judgement), None
    head = replace(head, fields=head.fields.without({"age"}))
    if head.status == 206:
        first, last, complete = parse_content_range(head.fields.get("content-range")) or (0, 0, 0)
        part = Part(first, complete, last == complete - 1)
        head = ResponseHead(200, "OK", head.fields.without({"content-range"}))
    names = cache_key.vary_names(head.fields) or ()
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
        tags=tags_of(question.request, head.fields, question.rule),
        origin_seconds=times[1] - times[0],
        part=part,
    )


def _counted_well(part: Part, content: bytes) -> bool:
    """Whether the octets are as many as Content-Range said, as far as can be told."""
    end = part.first + len(content)
    return end == part.complete if part.to_end else end < part.complete


def with_neighbour(new: StoredResponse, old: StoredResponse) -> StoredResponse:
    """A part together with one stored before it, where both are of one representation and touch (RFC 9111 3.4)."""
    a, b = new.part, old.part
    if a is None or b is None or a.complete != b.complete or old.secondary_key != new.secondary_key:
        return new
    if not (_counted_well(a, new.content) and _counted_well(b, old.content)):
        return new
    if not validation.same_representation(old, new.head.fields):
        return new
    lower, upper = ((a, new.content), (b, old.content)) if a.first <= b.first else ((b, old.content), (a, new.content))
    overlap = lower[0].first + len(lower[1]) - upper[0].first
    if overlap < 0:
        return new
    content = lower[1] + upper[1][overlap:]
    whole = lower[0].first == 0 and len(content) == a.complete
    part = None if whole else Part(lower[0].first, a.complete, lower[0].first + len(content) == a.complete)
    fields = validation.combined(old.head.fields, new.head.fields)
    return replace(new, head=replace(new.head, fields=fields), content=content, part=part, codings=NO_CODINGS)


def selected_by(question: Question, judgement: Judgement, other: RequestHead) -> bool:
    """Whether a response on its way to `question` would also be selected for `other` (RFC 9111 4.1)."""
    stored = judgement.stored
    if stored is not None:
        # what it was stored for; a 304 or an error need not repeat it
        language = stored.head.fields.get("content-language")
        return cache_key.selects(stored.secondary_key, other.fields, language)
    names = cache_key.vary_names(judgement.head.fields)
    if names is None:
        return False
    if not names:
        return True
    language = judgement.head.fields.get("content-language")
    return cache_key.selects(cache_key.secondary_key(names, question.request.fields), other.fields, language)
