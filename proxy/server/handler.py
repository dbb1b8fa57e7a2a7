"""The story of a request, in the order it happens. What each step decides is in `proxy.policy`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from config.told import Episode, Told
from proxy import errors
from proxy.observe.events import BriefKind, Tier
from proxy.origin.client import IDEMPOTENT, OriginResponse
from proxy.origin.fetch import (
    Alone,
    Failed,
    Fetch,
    Found,
    Streaming,
)
from proxy.policy import cache_key, forwarding, preconditions, reuse
from proxy.policy import judgement as policy
from proxy.policy.decisions import Forward, Outcome, Reuse, Verdict
from proxy.policy.judgement import Judgement, Ruling
from proxy.policy.messages import RequestHead, ResponseHead, StoredResponse
from proxy.policy.validation import is_for, may_confirm
from proxy.server import answer
from proxy.server.exchange import ClientGone, Exchange
from proxy.server.fetching import Fetches
from proxy.server.forwarder import ask_for_one, invalidate, minding, tunnel
from proxy.server.handing_on import hand_on, hand_on_shared, received, relay
from proxy.server.in_flight import InFlight
from proxy.server.lookup import Lookup, collapse_key, decide, drop_what_is_older, look_up, on_its_own, select
from proxy.server.sharing import ANSWERING, Sharing
from proxy.server.visit import Claim, Shared, Visit, after, new_visit
from proxy.server.write_through import write_head_through, write_through
from proxy.store.shared import SharedStore

log = logging.getLogger("siding.handler")

MAX_KEYED_BYTES = 1024 * 1024
"""Content larger than this is not read whole to be a cache key: the request passes."""
LOOKED_UP = frozenset({"GET", "HEAD"})

Local = Callable[[RequestHead], Awaitable[tuple[ResponseHead, bytes] | None]]
"""Answers requests that are Siding's own on the public listener (PUBLIC_METRICS); None for all others."""


MOST_FOLLOWED = 3
"""Fetches that a request waits for, one after the other, because what they bring changes meanwhile."""


class Followed(Enum):
    """What came of waiting for another request's fetch."""

    NOBODY = auto()
    """there is none"""
    ANSWERED = auto()
    ALONE = auto()
    """what it brings is not for this request"""
    OUTDATED = auto()
    """what it brings was invalidated after it had asked"""


class Handler:
    """Called once for each request of a client."""

    def __init__(self, shared: Shared, local: Local | None = None) -> None:
        self._shared = shared
        self._local = local
        self._sharing = Sharing(shared)
        self.fetches = Fetches(shared, self._sharing)
        self.requests = InFlight()
        self._told = Told()
        self._crowded = Episode()

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request; every way it can end is recorded in one observation."""
        shared = self._shared
        visit = new_visit(exchange, shared.wall(), shared.traces)
        observation = visit.observation
        began = shared.clock()
        self.requests.enter()
        try:
            await self._answer_openly(visit)
        except (ClientGone, asyncio.CancelledError) as left:
            observation.outcome = self.requests.unfinished
            exchange.abort()
            if isinstance(left, asyncio.CancelledError):
                raise
        except errors.SidingError as fault:
            observation.outcome = _outcome_of(fault)
            await self._refuse(visit, fault)
            # whoever keeps it, a connection or a fetch, shall not keep by it all that it came through
            fault.__traceback__ = None
        except Exception:
            log.exception("a request failed inside Siding")
            observation.outcome, observation.error = Outcome.INTERNAL_ERROR, "internal-error"
            exchange.abort()
        finally:
            self.requests.leave()
            visit.close()
            if visit.claim is not None:
                visit.claim.let_go()
            if exchange.passing is not None:
                exchange.passing.give_up()
            observation.duration = shared.clock() - began
            if exchange.started_at is not None:
                observation.first_byte = exchange.started_at - began
            observation.request_bytes = exchange.content_received
            observation.response_bytes = exchange.content_sent
            shared.observe(observation)

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return self.requests.count

    async def _refuse(self, visit: Visit, fault: errors.SidingError) -> None:
        try:
            await answer.refuse(visit, fault)
        except ClientGone:
            visit.observation.outcome = self.requests.unfinished

    async def _answer_openly(self, visit: Visit) -> None:
        """Law 6: a fault of the cache's own means a plain forward, as if Siding were not there."""
        try:
            await self._answer(visit)
        except (ClientGone, errors.SidingError):
            raise
        except Exception:
            exchange = visit.exchange
            unread = not exchange.content_received or visit.content is not None
            repeatable = visit.asked_at is None or exchange.head.method in IDEMPOTENT
            if exchange.started or not (unread and repeatable):
                raise
            log.exception("the cache failed; the request is forwarded without it")
            visit.observation.detail = "failed-open"
            await self._pass(visit, Forward.BYPASS)

    # -- steps 1 to 3: what is ours to cache

    async def _answer(self, visit: Visit) -> None:
        shared, exchange, observation = self._shared, visit.exchange, visit.observation
        request, flags = exchange.head, shared.flags
        self._check(request)
        if self._local is not None and (own := await self._local(request)) is not None:
            observation.outcome = Outcome.LOCAL
            await answer.whole(shared, visit, answer.Whole(own[0], own[1], None, evaluate=False))
            return
        observation.route = shared.routes.route_of(request.path)
        if forwarding.wants_websocket(request):
            await self._upgrade(visit)
            return
        rule = shared.routes.match("GET" if request.method == "HEAD" else request.method, request.path)
        visit.rule = rule if rule is not None and cache_key.rule_applies(rule, request) else None
        if flags.bypass:
            await self._bypass(visit)
            return
        if request.method not in LOOKED_UP and visit.rule is None:
            await write_through(self._shared, self.fetches, visit)
            return
        if reuse.request_no_store(request) or not await self._may_be_keyed(visit):
            await self._pass(visit, Forward.REQUEST)
            return
        await self._from_cache(visit)

    def _check(self, request: RequestHead) -> None:
        if not request.target.startswith("/") and not (request.target == "*" and request.method == "OPTIONS"):
            raise errors.MalformedRequest(f"the request target must begin with '/': {request.target[:80]!r}")
        if forwarding.loops(request.fields, self._shared.mark):
            if self._told.news("loop"):
                log.error("UPSTREAM_URL leads back to this proxy: what comes back is refused")
            raise errors.OriginLoops("the request came back here: it goes round between this proxy and its origin")

    async def _may_be_keyed(self, visit: Visit) -> bool:
        """Read the content where it is part of the key. False when it is not the cache's business."""
        exchange = visit.exchange
        if exchange.head.method != "POST":
            return not exchange.has_content
        length = exchange.length
        if exchange.has_content and (length is None or length > MAX_KEYED_BYTES):
            # a client that does not say how much it sends is passed on as it sends it
            return False
        if exchange.has_content and "expect" in exchange.head.fields:
            exchange.interim(ResponseHead(100, "Continue", answer.NO_FIELDS))
        return await self._read_whole(visit)

    async def _read_whole(self, visit: Visit) -> bool:
        """False where others fill the room for contents: then this one goes on as it comes."""
        contents = self._shared.contents
        claim = visit.claim = Claim(contents)
        reading = visit.pieces(self._shared.limits.max_request_bytes)
        pieces: list[bytes] = []
        async for piece in reading:
            pieces.append(piece)
            if not claim.take(len(piece)):
                if self._crowded.begins(self._shared.clock()):
                    log.warning("requests with %d bytes of content are on their way: others pass", contents.limit)
                visit.rest = after(pieces, reading)
                return False
        visit.content = b"".join(pieces)
        return True

    async def _upgrade(self, visit: Visit) -> None:
        visit.observation.forward = Forward.METHOD
        response = await tunnel(self._shared, visit)
        if response is not None:
            visit.observation.outcome = Outcome.PASS
            await relay(self._shared, visit, response, received(self._shared, response))

    async def _bypass(self, visit: Visit) -> None:
        """BYPASS: nothing is looked up, made, coded or stored. What is invalidated stays so when it ends."""
        visit.observation.outcome = Outcome.BYPASS
        visit.observation.forward = Forward.BYPASS
        response = await minding(self._shared, visit, ask_for_one(self._shared, visit))
        await invalidate(self._shared, visit, response.head)
        await relay(self._shared, visit, response, received(self._shared, response))

    # -- steps 4 to 7: look up, decide

    async def _from_cache(self, visit: Visit) -> None:
        shared, request, observation = self._shared, visit.exchange.head, visit.observation
        found = look_up(self._shared, visit)
        if found is None:
            await self._pass(visit, Forward.REQUEST)
            return
        if shared.show_keys:
            visit.shown_key = found.key
        now = shared.wall()
        decision = decide(shared, visit, found, now)
        if shared.remote is not None and decision not in ANSWERING:
            await self._look_elsewhere(shared.remote, visit, found, decision)
            now = shared.wall()
            decision = decide(shared, visit, found, now)
        stored = found.stored
        if stored is not None and decision is not None:
            observation.reuse = decision
            if decision in ANSWERING or decision is Reuse.STALE_WHILE_REVALIDATE:
                await self._reuse(visit, found, stored, decision, now)
                return
            if not may_confirm(request, stored, visit.rule, shared.targets):
                found.set_aside()
            by_request = decision is Reuse.VALIDATE_BY_REQUEST
            observation.forward = Forward.REQUEST if by_request else Forward.STALE
        elif found.part is not None:
            if await self._from_part(visit, found, found.part, now):
                return
            observation.forward = Forward.PARTIAL
        else:
            observation.forward = Forward.VARY_MISS if found.other_variant else Forward.URI_MISS
        if reuse.only_if_cached(request):
            observation.outcome = Outcome.LOCAL
            raise errors.NotCached("nothing stored may be used, and the request says only-if-cached")
        if request.method == "HEAD":
            await write_head_through(self._shared, self.fetches, self._sharing, visit, found)
        else:
            await self._fetch(visit, found)

    # -- what other replicas have

    async def _look_elsewhere(self, remote: SharedStore, visit: Visit, found: Lookup, decision: Reuse | None) -> None:
        """See what the tier of the replicas has, where that may spare asking the origin; what is newer is kept here."""
        shared, request = self._shared, visit.exchange.head
        if not self._sharing.allows(visit) or decision is Reuse.VALIDATE_BY_REQUEST or reuse.wants_origin(request):
            return
        key = collapse_key(shared, visit, found)
        validating = decision is Reuse.STALE_WHILE_REVALIDATE and shared.collapse.joinable(key) is not None
        if validating or not shared.collapse.worth_waiting(key, shared.clock()):
            return
        found.seen = await remote.find(found.key)
        if found.seen is not None and found.seen.responses:
            before = found.stored
            select(shared, found, request, self._sharing.take_over(found.key, found.seen.responses))
            found.elsewhere = found.stored is not None and found.stored is not before

    async def _answer_found(self, visit: Visit, stored: StoredResponse) -> None:
        """Answer with what another replica has asked the origin for."""
        observation = visit.observation
        observation.outcome, observation.collapsed, observation.tier = Outcome.COLLAPSED, True, Tier.SHARED
        observation.origin_seconds_saved = stored.origin_seconds
        await answer.from_store(self._shared, visit, stored, now=self._shared.wall())

    async def _from_part(self, visit: Visit, found: Lookup, part: StoredResponse, now: float) -> bool:
        """Answer a range request from a stored part that is fresh and holds it; False when it cannot be."""
        request, observation = visit.exchange.head, visit.observation
        if part.part is None or reuse.decide(part, request, now, rule=visit.rule) is not Reuse.FRESH:
            return False
        piece = preconditions.from_part(request, part.head, part.part, len(part.content))
        if piece is None:
            may_complete = is_for(request, part, visit.rule, self._shared.targets)
            found.lacking = part.part.first == 0 and may_complete and not on_its_own(visit, found)
            return False
        observation.outcome, observation.reuse = Outcome.HIT, Reuse.FRESH
        observation.origin_seconds_saved = part.origin_seconds
        await answer.from_part(self._shared, visit, part, piece, now=now)
        return True

    async def _reuse(self, visit: Visit, found: Lookup, stored: StoredResponse, decision: Reuse, now: float) -> None:
        observation = visit.observation
        observation.origin_seconds_saved = stored.origin_seconds
        observation.tier = Tier.SHARED if found.elsewhere else Tier.MEMORY
        if decision is Reuse.FRESH:
            observation.outcome = Outcome.HIT
            observation.detail = Tier.SHARED.value if found.elsewhere else None
        else:
            observation.outcome = Outcome.STALE
            observation.detail = decision.value
        if decision is Reuse.STALE_WHILE_REVALIDATE:
            self.fetches.validate_behind(visit, found)
        generation = self._shared.fast.generation
        await answer.from_store(self._shared, visit, stored, now=now)
        if decision is Reuse.FRESH and not found.elsewhere:
            self._prepare(visit, stored, generation)

    def _prepare(self, visit: Visit, stored: StoredResponse, generation: int) -> None:
        """Have the answer that was just given, under the flags of `generation`, at hand for the fast path."""
        plain, sent, observation = visit.exchange.plain, visit.sent, visit.observation
        if plain is None or sent is None or sent[1] is None:
            return
        kind = BriefKind(observation.route, observation.method, observation.status, observation.coding)
        try:
            self._shared.fast.prepare(plain, visit.content or b"", stored, sent[0], sent[1], kind, generation)
        except Exception:
            # law 6: it has been answered
            log.exception("an answer could not be prepared for the next time")

    # -- steps 8 to 12: lead or join, ask, judge

    async def _fetch(self, visit: Visit, found: Lookup) -> None:
        shared, observation = self._shared, visit.observation
        visit.exchange.to_the_origin()
        key = collapse_key(shared, visit, found)
        by_request = observation.reuse is Reuse.VALIDATE_BY_REQUEST or reuse.wants_origin(visit.exchange.head)
        own = on_its_own(visit, found)
        collapsing = (
            not own and shared.flags.dedup and not by_request and shared.collapse.worth_waiting(key, shared.clock())
        )
        if collapsing:
            followed = await self._join(visit, key)
            if followed is Followed.ANSWERED:
                return
            collapsing = followed is Followed.NOBODY
        fetch = self.fetches.begin(visit, found, key if collapsing else None, own=own)
        result = await fetch.wait(shared.limits.upstream_seconds * 2)
        if isinstance(result, Found):
            await self._answer_found(visit, result.stored)
            return
        observation.origin_seconds = fetch.origin_seconds
        if isinstance(result, Alone):
            response = fetch.take()
            assert response is not None
            visit.take(response)
            if not own:
                shared.collapse.remember_unshareable(key, shared.clock())
            if result.judgement.verdict is Verdict.CREDENTIAL:
                drop_what_is_older(shared, found, result.response.head)
            await self._answer_alone(visit, response, result.judgement)
            return
        if result is not None and not isinstance(result, Failed) and not own:
            if policy.shareable_in_flight(result.judgement):
                shared.collapse.forget_unshareable(key)
            else:
                shared.collapse.remember_unshareable(key, shared.clock())
        await hand_on_shared(shared, visit, fetch, result)

    async def _join(self, visit: Visit, key: str) -> Followed:
        """Wait for another request's fetch; where what it brings has changed meanwhile, for one that began later."""
        for _ in range(MOST_FOLLOWED):
            fetch = self.fetches.joinable(key)
            if fetch is None:
                return Followed.NOBODY
            followed = await self._follow(visit, fetch)
            if followed is not Followed.OUTDATED:
                return followed
        return Followed.ALONE

    async def _follow(self, visit: Visit, fetch: Fetch) -> Followed:
        """Wait for another request's fetch."""
        shared, observation, request = self._shared, visit.observation, visit.exchange.head
        began = shared.clock()
        fetch.followers += 1
        if observation.trace is not None:
            observation.trace.link(fetch.trace)
        late = fetch.result is not None
        result = await fetch.wait(shared.limits.upstream_seconds * 2)
        observation.origin_seconds = shared.clock() - began
        if result is None or isinstance(result, Alone):
            return Followed.ALONE
        if isinstance(result, Found):
            if not self._sharing.answers(visit, result.stored):
                return Followed.ALONE
            await self._answer_found(visit, result.stored)
            return Followed.ANSWERED
        if isinstance(result, Failed):
            if not isinstance(result.fault, errors.NoAnswer):
                return Followed.ALONE
            observation.collapsed = True
            raise result.fault
        if self.fetches.is_outdated(fetch):
            return Followed.OUTDATED
        judged = result.judgement
        hidden = judged.ruling is Ruling.HIDDEN
        if not (hidden or policy.shareable_in_flight(judged)):
            return Followed.ALONE
        if not policy.selected_by(fetch.question, judged, request):
            return Followed.ALONE
        age = None
        if late and isinstance(result, Streaming):
            age = reuse.age_to_join(judged.freshness, result.response_time, request, shared.wall())
            if age is None:
                return Followed.ALONE
        observation.collapsed = True
        observation.origin_seconds_saved = fetch.origin_seconds
        await hand_on_shared(shared, visit, fetch, result, age)
        return Followed.ANSWERED

    # -- for one client alone

    async def _pass(self, visit: Visit, forward: Forward) -> None:
        observation = visit.observation
        observation.outcome = Outcome.PASS
        answer.note_forward(observation, forward)
        response = await minding(self._shared, visit, ask_for_one(self._shared, visit))
        await invalidate(self._shared, visit, response.head)
        await hand_on(self._shared, visit, response, received(self._shared, response))

    async def _answer_alone(self, visit: Visit, response: OriginResponse, judged: Judgement) -> None:
        observation = visit.observation
        observation.outcome, observation.verdict = Outcome.PASS, judged.verdict
        observation.origin_status = response.head.status
        await hand_on(self._shared, visit, response, judged.head)


def _outcome_of(fault: errors.SidingError) -> Outcome:
    """Whose fault it is."""
    match fault:
        case errors.ClientError():
            return Outcome.REFUSED
        case errors.OriginError():
            return Outcome.ORIGIN_ERROR
    return Outcome.INTERNAL_ERROR
