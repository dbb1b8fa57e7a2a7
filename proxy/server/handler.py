"""The story of a request, in the order it happens. What each step decides is in `proxy.policy`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from proxy import errors
from proxy.observe.events import BriefKind, OriginObservation, Tier
from proxy.origin.client import IDEMPOTENT, OriginResponse
from proxy.origin.fetch import (
    ORIGIN_SAID_ERROR,
    SMALL_BYTES,
    SMALL_SECONDS,
    Alone,
    Failed,
    Fetch,
    Found,
    Ready,
    Streaming,
)
from proxy.policy import cache_key, encoding, forwarding, invalidation, preconditions, reuse, storability, validation
from proxy.policy import judgement as policy
from proxy.policy.decisions import Forward, Outcome, Reuse, Verdict
from proxy.policy.judgement import Judgement, Ruling
from proxy.policy.messages import Question, RequestHead, ResponseHead, StoredResponse
from proxy.server import answer
from proxy.server.exchange import ClientGone, Exchange
from proxy.server.forwarder import ask, ask_for_one, tunnel
from proxy.server.in_flight import InFlight
from proxy.server.sharing import ANSWERING, Sharing, Tenure
from proxy.server.visit import Shared, Visit, new_visit
from proxy.store.invalidations import Validity
from proxy.store.shared import Seen, SharedStore

log = logging.getLogger("siding.handler")

MAX_KEYED_BYTES = 1024 * 1024
"""Content larger than this is not read whole to be a cache key: the request passes."""
LOOKED_UP = frozenset({"GET", "HEAD"})

Local = Callable[[RequestHead], Awaitable[tuple[ResponseHead, bytes] | None]]
"""Answers requests that are Siding's own on the public listener (PUBLIC_METRICS); None for all others."""


class Lookup:
    """What the cache knows of a request.

    key, uri -- cache key and target URI. stored -- the selected response, if it may be used at all.
    soft -- it was purged softly: stale from now on. known -- something was stored under the key, even if
    it may not be used any more. candidates -- stored for other request fields, in case the origin says that one will
    do; other_variant -- there are such. part -- only a part is stored. lacking -- of that, just the rest is missing.
    seen -- what the tier of the replicas had, where that was asked. elsewhere -- `stored` came from there.
    """

    __slots__ = (
        "candidates",
        "elsewhere",
        "key",
        "known",
        "lacking",
        "other_variant",
        "part",
        "secondary_names",
        "seen",
        "soft",
        "stored",
        "uri",
    )

    def __init__(self, key: str, uri: str) -> None:
        self.key = key
        self.uri = uri
        self.stored: StoredResponse | None = None
        self.soft = False
        self.known = False
        self.other_variant = False
        self.candidates: tuple[StoredResponse, ...] = ()
        self.part: StoredResponse | None = None
        self.lacking = False
        self.secondary_names: tuple[str, ...] = ()
        self.seen: Seen | None = None
        self.elsewhere = False


class Handler:
    """Called once for each request of a client."""

    def __init__(self, shared: Shared, local: Local | None = None) -> None:
        self._shared = shared
        self._local = local
        self._sharing = Sharing(shared)
        self._background: set[Fetch] = set()
        self.requests = InFlight()

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
            observation.outcome = Outcome.CLIENT_GONE
            exchange.abort()
            if isinstance(left, asyncio.CancelledError):
                raise
        except errors.SidingError as fault:
            refused = isinstance(fault, errors.ClientError)
            observation.outcome = Outcome.REFUSED if refused else Outcome.ORIGIN_ERROR
            await self._refuse(visit, fault)
        except Exception:
            log.exception("a request failed inside Siding")
            observation.outcome, observation.error = Outcome.INTERNAL_ERROR, "internal-error"
            exchange.abort()
        finally:
            self.requests.leave()
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
            visit.observation.outcome = Outcome.CLIENT_GONE

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
            await self._write_through(visit)
            return
        if reuse.request_no_store(request) or not await self._may_be_keyed(visit):
            await self._pass(visit, Forward.REQUEST)
            return
        await self._from_cache(visit)

    @staticmethod
    def _check(request: RequestHead) -> None:
        if not request.target.startswith("/") and not (request.target == "*" and request.method == "OPTIONS"):
            raise errors.MalformedRequest(f"the request target must begin with '/': {request.target[:80]!r}")

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
        pieces = [piece async for piece in visit.pieces(self._shared.limits.max_request_bytes)]
        visit.content = b"".join(pieces)
        return True

    async def _upgrade(self, visit: Visit) -> None:
        visit.observation.forward = Forward.METHOD
        response = await tunnel(self._shared, visit)
        if response is not None:
            visit.observation.outcome = Outcome.PASS
            await self._relay(visit, response, self._received(response))

    async def _bypass(self, visit: Visit) -> None:
        """BYPASS: nothing is looked up, made, coded or stored. What is invalidated stays so when it ends."""
        visit.observation.outcome = Outcome.BYPASS
        visit.observation.forward = Forward.BYPASS
        response = await ask_for_one(self._shared, visit)
        self._invalidate(visit, response.head)
        await self._relay(visit, response, self._received(response))
        self._learn(visit, None)

    def _received(self, response: OriginResponse) -> ResponseHead:
        return policy.received_head(response.head, self._shared.wall())

    async def _write_through(self, visit: Visit) -> None:
        """Unsafe methods go to the origin, and invalidate on success (RFC 9111 4.4)."""
        visit.observation.outcome = Outcome.PASS
        visit.observation.forward = Forward.METHOD
        response = await ask_for_one(self._shared, visit)
        self._invalidate(visit, response.head)
        if storability.stands_for_get(visit.exchange.head, response.head) and self._shared.flags.query_cache:
            await self._keep_for_get(visit, response)
        else:
            await self._hand_on(visit, response, self._received(response))

    async def _keep_for_get(self, visit: Visit, response: OriginResponse) -> None:
        """Store the answer to a POST that says it is what a GET would bring, too (RFC 9110 9.3.3)."""
        shared, observation = self._shared, visit.observation
        request = storability.as_get(visit.exchange.head)
        key = cache_key.cache_key(request, None, None, shared.digest)
        if key is None or shared.routes.match("GET", request.path) is not None:
            await self._hand_on(visit, response, self._received(response))
            return

        async def given() -> OriginResponse:
            return response

        uri, epoch = cache_key.target_uri(request), shared.invalidations.epoch
        fetch = Fetch(
            Question(request, uri, key, None, None, epoch, shared.targets),
            ask=given,
            again=given,
            keep=self._keep,
            finish=self._finish,
            limit=shared.limits.max_object_bytes,
            copies=shared.copies,
            wall=shared.wall,
            worth_finishing=True,
        )
        self._background.add(fetch)
        fetch.task.add_done_callback(lambda _: self._background.discard(fetch))
        result = await fetch.wait(shared.limits.upstream_seconds * 2)
        assert not isinstance(result, Found), "nobody else was asked"
        if isinstance(result, Alone):
            taken = fetch.take()
            assert taken is not None
            observation.verdict = result.judgement.verdict
            await self._hand_on(visit, taken, result.judgement.head)
        else:
            await self._answer_shared(visit, fetch, result)

    async def _write_head_through(self, visit: Visit, found: Lookup) -> None:
        """Ask the origin, and let its answer freshen what is stored, or show that it changed (RFC 9111 4.3.5)."""
        shared, request = self._shared, visit.exchange.head
        visit.observation.outcome = Outcome.PASS
        began, stored = shared.wall(), found.stored
        tenure = self._sharing.tenure(visit, found.key, None, found.seen)
        try:
            response = await ask_for_one(shared, visit)
        except errors.OriginError as fault:
            if stored is None or not reuse.may_hide_error(stored, request, shared.wall()):
                raise
            await self._stand_in(visit, stored, fault.code)
            return
        head = self._received(response)
        failed = head.status in reuse.ERROR_STATUSES
        if failed and stored is not None and reuse.may_hide_error(stored, request, shared.wall()):
            response.close()
            await self._stand_in(visit, stored, ORIGIN_SAID_ERROR)
            return
        if stored is not None and response.head.status == 200:
            if validation.matches_head(stored, response.head.fields):
                epoch = shared.invalidations.epoch
                question = Question(request, found.uri, found.key, visit.rule, stored, epoch, shared.targets)
                self._keep(validation.freshen(stored, head, question, began, shared.wall()), tenure)
            else:
                shared.store.remove(stored)
                shared.tell_others((), [found.uri])
        await self._hand_on(visit, response, head)

    async def _stand_in(self, visit: Visit, stored: StoredResponse, code: str) -> None:
        """Answer a HEAD from a stale response because the origin failed (RFC 5861 4)."""
        observation = visit.observation
        observation.outcome, observation.detail = Outcome.STALE_IF_ERROR, Outcome.STALE_IF_ERROR.value
        observation.error = code
        await answer.from_store(self._shared, visit, stored, now=self._shared.wall())

    def _invalidate(self, visit: Visit, response: ResponseHead) -> None:
        """Before the client learns of its success, so that its next request already sees the change."""
        shared, request = self._shared, visit.exchange.head
        if response.status >= 400:
            return
        rules = shared.routes.invalidated_by(request.method, request.path)
        tags = [policy.route_tag(rule.name) for rule in rules]
        tags += invalidation.invalidated_groups(request, response)
        uris: tuple[str, ...] = ()
        if visit.rule is None and invalidation.invalidates(request, response.status):
            uris = invalidation.invalidated_uris(request, response)
        shared.invalidate(tags, uris)

    # -- steps 4 to 7: look up, decide

    def _look_up(self, visit: Visit) -> Lookup | None:
        shared, request = self._shared, visit.exchange.head
        key = cache_key.cache_key(request, visit.rule, visit.content, shared.digest)
        if key is None:
            return None
        found = Lookup(key, cache_key.target_uri(request))
        if not shared.flags.query_cache:
            return found
        self._select(found, request, shared.store.get(key))
        return found

    def _select(self, found: Lookup, request: RequestHead, variants: tuple[StoredResponse, ...]) -> None:
        """What of the responses stored under the key the request may be answered with."""
        if not variants:
            return
        found.known, found.other_variant, found.candidates = True, False, ()
        found.stored = found.part = None
        found.secondary_names = tuple(name for name, _ in variants[-1].secondary_key)
        stored = reuse.select(variants, request.fields)
        if stored is None:
            found.other_variant = True
            found.candidates = validation.candidates([one for one in variants if self._validity(one) is Validity.VALID])
            return
        validity = self._validity(stored)
        if validity is Validity.GONE:
            self._shared.store.remove(stored)
        elif stored.part is not None:
            found.part = stored if validity is Validity.VALID else None
        else:
            found.stored = stored
            found.soft = validity is Validity.STALE

    def _validity(self, stored: StoredResponse) -> Validity:
        return self._shared.invalidations.state(stored.uri, stored.tags, stored.epoch)

    async def _from_cache(self, visit: Visit) -> None:
        shared, request, observation = self._shared, visit.exchange.head, visit.observation
        found = self._look_up(visit)
        if found is None:
            await self._pass(visit, Forward.REQUEST)
            return
        if shared.show_keys:
            visit.shown_key = found.key
        now = shared.wall()
        decision = self._decide(visit, found, now)
        if shared.remote is not None and decision not in ANSWERING:
            await self._look_elsewhere(shared.remote, visit, found, decision)
            now = shared.wall()
            decision = self._decide(visit, found, now)
        stored = found.stored
        if stored is not None and decision is not None:
            observation.reuse = decision
            if decision in ANSWERING or decision is Reuse.STALE_WHILE_REVALIDATE:
                await self._reuse(visit, found, stored, decision, now)
                return
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
            await self._write_head_through(visit, found)
        else:
            await self._fetch(visit, found)

    @staticmethod
    def _decide(visit: Visit, found: Lookup, now: float) -> Reuse | None:
        stored = found.stored
        if stored is None:
            return None
        return reuse.decide(stored, visit.exchange.head, now, found.soft, visit.rule)

    # -- what other replicas have

    async def _look_elsewhere(self, remote: SharedStore, visit: Visit, found: Lookup, decision: Reuse | None) -> None:
        """See what the tier of the replicas has, where that may spare asking the origin; what is newer is kept here."""
        shared, request = self._shared, visit.exchange.head
        if not self._sharing.allows(visit) or decision is Reuse.VALIDATE_BY_REQUEST or reuse.wants_origin(request):
            return
        key = self._collapse_key(visit, found)
        validating = decision is Reuse.STALE_WHILE_REVALIDATE and shared.collapse.joinable(key) is not None
        if validating or not shared.collapse.worth_waiting(key, shared.clock()):
            return
        found.seen = await remote.find(found.key)
        if found.seen is not None and found.seen.responses:
            before = found.stored
            self._select(found, request, self._sharing.take_over(found.key, found.seen.responses))
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
            found.lacking = part.part.first == 0 and not self._on_its_own(visit, found)
            return False
        observation.outcome, observation.reuse = Outcome.HIT, Reuse.FRESH
        observation.origin_seconds_saved = part.origin_seconds
        await answer.from_part(visit, part, piece, now=now)
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
            self._validate_behind(visit, found)
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

    def _on_its_own(self, visit: Visit, found: Lookup) -> bool:
        """Whether the client's own condition or range goes to the origin, and not a request in the cache's name.

        With nothing stored, the origin's 304 or 206 spares more than a full answer kept here would.
        """
        fields = visit.exchange.head.fields
        if found.stored is not None:
            return False
        if "range" in fields:
            return True
        if visit.rule is not None or (found.known and found.part is None):
            return False
        return any(name in fields for name in validation.PRECONDITIONS)

    # -- steps 8 to 12: lead or join, ask, judge

    def _collapse_key(self, visit: Visit, found: Lookup) -> str:
        """The cache key, with the credential and the selecting fields as far as they are known."""
        fields = visit.exchange.head.fields
        parts = [found.key]
        authorization = fields.get("authorization")
        if authorization is not None and (visit.rule is None or not visit.rule.private):
            parts.append(self._shared.digest(authorization.encode("latin-1")))
        parts.extend(f"{name}={value}" for name, value in cache_key.secondary_key(found.secondary_names, fields))
        return "\n".join(parts)

    def _new_fetch(
        self, visit: Visit, found: Lookup, key: str | None, *, own: bool = False, behind: bool = False
    ) -> Fetch:
        """Begin a fetch that others may join by `key`.

        own -- the client's conditions and range go with it. behind -- no client waits for it.
        """
        shared, request = self._shared, visit.exchange.head
        stored = found.stored
        whole = validation.without_preconditions(request)
        question = Question(
            request, found.uri, found.key, visit.rule, stored, shared.invalidations.epoch, shared.targets
        )
        if own:
            asked = request
        elif stored is not None:
            asked = validation.conditional(request, stored)
        elif found.lacking and found.part is not None:
            question = replace(question, part=found.part)
            asked = validation.rest(request, found.part)
        else:
            question = replace(question, candidates=found.candidates)
            asked = validation.which(request, found.candidates)
        on_interim = None if behind else visit.exchange.interim
        tenure = self._sharing.tenure(visit, found.key, key, found.seen)
        fetch = Fetch(
            question,
            ask=lambda: ask(shared, visit, asked, visit.content, on_interim=on_interim),
            again=lambda: ask(shared, visit, whole, visit.content, on_interim=on_interim),
            keep=lambda stored: self._keep(stored, tenure),
            finish=self._finish,
            limit=shared.limits.max_object_bytes,
            copies=shared.copies,
            wall=shared.wall,
            worth_finishing=behind or visit.rule is not None or stored is not None,
            elsewhere=tenure.elsewhere if tenure is not None and key is not None else None,
        )
        if tenure is not None:
            tenure.follow(fetch)
        if key is not None:
            shared.collapse.lead(key, fetch)
        self._background.add(fetch)
        fetch.task.add_done_callback(lambda _: self._background.discard(fetch))
        return fetch

    def _keep(self, stored: StoredResponse, tenure: Tenure | None = None) -> Verdict:
        shared = self._shared
        if not shared.flags.query_cache or shared.flags.bypass:
            return Verdict.CACHE_OFF
        if self._validity(stored) is not Validity.VALID:
            return Verdict.INVALIDATED
        if stored.part is not None:
            for other in shared.store.get(stored.key):
                if other.secondary_key == stored.secondary_key and self._validity(other) is Validity.VALID:
                    if other.part is None:
                        return Verdict.PARTIAL
                    stored = policy.with_neighbour(stored, other)
        if tenure is not None:
            tenure.keep(stored)
        return Verdict.STORE if shared.store.put(stored) else Verdict.TOO_LARGE

    async def _finish(
        self, question: Question, judged: Judgement, content: bytes, times: tuple[float, float]
    ) -> StoredResponse:
        stored = policy.to_store(question, judged, content, times)
        if (
            self._shared.flags.etag
            and stored.part is None
            and answer.lacks_validator(question.request.method, stored.head)
        ):
            if len(content) > answer.ETAG_OFF_LOOP_BYTES:
                tag = await asyncio.to_thread(answer.make_etag, content)
            else:
                tag = answer.make_etag(content)
            head = stored.head
            stored.head = ResponseHead(head.status, head.reason, head.fields.adding(("ETag", tag)))
            stored.made_etag = True
        return stored

    def _validate_behind(self, visit: Visit, found: Lookup) -> None:
        """Validate in the background, once at a time for each key, whatever becomes of this client."""
        key = self._collapse_key(visit, found)
        if self._shared.collapse.joinable(key) is not None:
            return
        fetch = self._new_fetch(visit, found, key, behind=True)
        route = visit.observation.route

        def tell(_: object) -> None:
            if not isinstance(fetch.result, Found):
                self._shared.observe_origin(_seen_behind(fetch, route))

        fetch.task.add_done_callback(tell)

    def _joinable(self, visit: Visit, key: str) -> Fetch | None:
        """A fetch under way, unless what it will bring was invalidated after it had asked."""
        shared = self._shared
        fetch = shared.collapse.joinable(key)
        if fetch is None:
            return None
        question = fetch.question
        tags = (policy.route_tag(visit.rule.name), *visit.rule.tags) if visit.rule is not None else ()
        if shared.invalidations.state(question.uri, tags, question.epoch) is not Validity.VALID:
            return None
        return fetch

    async def _fetch(self, visit: Visit, found: Lookup) -> None:
        shared, observation = self._shared, visit.observation
        key = self._collapse_key(visit, found)
        by_request = observation.reuse is Reuse.VALIDATE_BY_REQUEST or reuse.wants_origin(visit.exchange.head)
        own = self._on_its_own(visit, found)
        collapsing = (
            not own and shared.flags.dedup and not by_request and shared.collapse.worth_waiting(key, shared.clock())
        )
        if collapsing and (fetch := self._joinable(visit, key)) is not None:
            if await self._follow(visit, fetch):
                return
            collapsing = False
        fetch = self._new_fetch(visit, found, key if collapsing else None, own=own)
        result = await fetch.wait(shared.limits.upstream_seconds * 2)
        if isinstance(result, Found):
            await self._answer_found(visit, result.stored)
            return
        observation.origin_seconds = fetch.origin_seconds
        if isinstance(result, Alone):
            response = fetch.take()
            assert response is not None
            if not own:
                shared.collapse.remember_unshareable(key, shared.clock())
            await self._answer_alone(visit, response, result.judgement)
            return
        if result is not None and not isinstance(result, Failed) and not own:
            if policy.shareable_in_flight(result.judgement):
                shared.collapse.forget_unshareable(key)
            else:
                shared.collapse.remember_unshareable(key, shared.clock())
        await self._answer_shared(visit, fetch, result)

    async def _follow(self, visit: Visit, fetch: Fetch) -> bool:
        """Wait for another request's fetch. False when this request must go on its own."""
        shared, observation = self._shared, visit.observation
        began = shared.clock()
        fetch.followers += 1
        if observation.trace is not None:
            observation.trace.link(fetch.trace)
        result = await fetch.wait(shared.limits.upstream_seconds * 2)
        observation.origin_seconds = shared.clock() - began
        if result is None or isinstance(result, Alone):
            return False
        if isinstance(result, Found):
            if not self._sharing.answers(visit, result.stored):
                return False
            await self._answer_found(visit, result.stored)
            return True
        if isinstance(result, Failed):
            if not isinstance(result.fault, errors.OriginError):
                return False
            observation.collapsed = True
            raise result.fault
        judged = result.judgement
        hidden = judged.ruling is Ruling.HIDDEN
        if not (hidden or policy.shareable_in_flight(judged)):
            return False
        if not policy.selected_by(fetch.question, judged, visit.exchange.head):
            return False
        observation.collapsed = True
        observation.origin_seconds_saved = fetch.origin_seconds
        await self._answer_shared(visit, fetch, result)
        return True

    async def _answer_shared(self, visit: Visit, fetch: Fetch, result: Ready | Streaming | Failed | None) -> None:
        shared, observation = self._shared, visit.observation
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
                await answer.whole(
                    shared, visit, answer.Whole(judged.head, result.stored.content, None, evaluate=False)
                )
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
            await answer.stream(shared, visit, head, result.length, reader.read)
            observation.origin_total = fetch.total_seconds
        finally:
            reader.close()

    # -- for one client alone

    async def _pass(self, visit: Visit, forward: Forward) -> None:
        observation = visit.observation
        observation.outcome = Outcome.PASS
        answer.note_forward(observation, forward)
        response = await ask_for_one(self._shared, visit)
        self._invalidate(visit, response.head)
        await self._hand_on(visit, response, self._received(response))

    async def _answer_alone(self, visit: Visit, response: OriginResponse, judged: Judgement) -> None:
        observation = visit.observation
        observation.outcome, observation.verdict = Outcome.PASS, judged.verdict
        observation.origin_status = response.head.status
        if visit.rule is not None:
            self._invalidate(visit, response.head)
        await self._hand_on(visit, response, judged.head)

    async def _hand_on(self, visit: Visit, response: OriginResponse, head: ResponseHead) -> None:
        """Answer one client: whole and with a validator when that costs no wait, otherwise as it arrives."""
        shared, request = self._shared, visit.exchange.head
        made = shared.flags.etag and request.method == "GET" and answer.lacks_validator("GET", head)
        coded = encoding.may_be_coded(request, head, response.length, shared.flags.compression)
        content = None
        if (made or coded) and request.method != "HEAD":
            known = response.length is not None
            content = await response.settle(SMALL_BYTES, SMALL_SECONDS if known else 0.0)
        if content is None:
            await self._relay(visit, response, head)
        else:
            response.close()
            self._note_total(visit)
            if made:
                head = ResponseHead(head.status, head.reason, head.fields.adding(("ETag", answer.make_etag(content))))
            await answer.whole(shared, visit, answer.Whole(head, content, None, evaluate=made))
        self._learn(visit, content)

    def _learn(self, visit: Visit, content: bytes | None) -> None:
        """Of a request that the express way had begun. content -- the origin's, where it was at hand."""
        if visit.exchange.passing is not None and visit.sent is not None:
            visit.exchange.passing.learn(visit.sent, content, visit.observation)

    async def _relay(self, visit: Visit, response: OriginResponse, head: ResponseHead) -> None:
        try:
            await answer.stream(self._shared, visit, head, response.length, response.read)
            self._note_total(visit)
        finally:
            response.close()

    def _note_total(self, visit: Visit) -> None:
        if visit.asked_at is not None:
            visit.observation.origin_total = self._shared.clock() - visit.asked_at

    # -- the end

    async def finish_background(self, seconds: float) -> None:
        """Let fetches that nobody waits for end within `seconds`, then end them."""
        tasks = [fetch.task for fetch in self._background]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _seen_behind(fetch: Fetch, route: str) -> OriginObservation:
    """What is told of a validation that no client waited for."""
    seen = OriginObservation(route=route, forward=Forward.STALE, seconds=fetch.origin_seconds)
    match fetch.result:
        case Ready(status=status, hidden=hidden):
            seen.status, seen.error = status, hidden
        case Streaming(judgement=judged) | Alone(judgement=judged):
            seen.status = judged.head.status
        case Failed(fault=errors.OriginError() as fault):
            seen.error = fault.code
    return seen
