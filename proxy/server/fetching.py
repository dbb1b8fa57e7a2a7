"""Requests to the origin that may serve many clients: begun, joined, kept, and ended with the process."""

from __future__ import annotations

import asyncio

from proxy import errors
from proxy.observe.events import OriginObservation
from proxy.origin.client import OriginResponse
from proxy.origin.fetch import Alone, Failed, Fetch, Found, Ready, Streaming
from proxy.policy import invalidation, reuse, validation
from proxy.policy import judgement as policy
from proxy.policy.decisions import Forward, Verdict
from proxy.policy.judgement import Judgement
from proxy.policy.messages import Question, RequestHead, ResponseHead, StoredResponse
from proxy.server import answer
from proxy.server.forwarder import OnInterim, ask, invalidate, minding
from proxy.server.lookup import Lookup, collapse_key
from proxy.server.sharing import Sharing, Tenure
from proxy.server.visit import Shared, Visit
from proxy.store.invalidations import Validity


class Fetches:
    """Those of this process. running -- until they end, each with its standing among the other replicas."""

    def __init__(self, shared: Shared, sharing: Sharing) -> None:
        self._shared = shared
        self._sharing = sharing
        self.running: dict[Fetch, Tenure | None] = {}

    def begin(self, visit: Visit, found: Lookup, key: str | None, *, own: bool = False, behind: bool = False) -> Fetch:
        """Begin a fetch that others may join by `key`.

        own -- the client's conditions and range go with it. behind -- no client waits for it.
        """
        shared, request = self._shared, visit.exchange.head
        stored = found.stored
        whole = validation.without_preconditions(request)
        epoch, began = shared.invalidations.epoch, None
        passing = visit.exchange.passing
        part: StoredResponse | None = None
        candidates: tuple[StoredResponse, ...] = ()
        if own:
            asked = request
        elif stored is not None:
            asked = validation.conditional(request, stored)
        elif found.lacking and found.part is not None:
            part = found.part
            asked = validation.rest(request, part)
        else:
            candidates = found.candidates
            asked = validation.which(request, candidates)
        if passing is not None and passing.stands_for(asked, request):
            # it was asked then
            epoch, began = passing.epoch, passing.began
        question = Question(request, found.uri, found.key, visit.rule, stored, epoch, shared.targets, candidates, part)
        on_interim = None if behind else visit.exchange.interim
        tenure = self._sharing.tenure(visit, found.key, key, found.seen)
        fetch = Fetch(
            question,
            ask=lambda: self._ask(visit, asked, on_interim),
            again=lambda: ask(shared, visit, whole, visit.content, on_interim=on_interim),
            keep=lambda stored: self.keep(stored, tenure),
            finish=self.finish,
            limit=shared.limits.max_object_bytes,
            copies=shared.copies,
            wall=shared.wall,
            began=began,
            worth_finishing=behind or visit.rule is not None or stored is not None,
            elsewhere=tenure.elsewhere if tenure is not None and key is not None else None,
        )
        if visit.claim is not None:
            visit.claim.hold()
            fetch.on_end(visit.claim.let_go)
        if tenure is not None:
            tenure.follow(fetch)
        if key is not None:
            shared.collapse.lead(key, fetch)
        self.watch(fetch, tenure)
        return fetch

    async def _ask(self, visit: Visit, asked: RequestHead, on_interim: OnInterim | None) -> OriginResponse:
        """What a POST under a rule changes elsewhere is invalid whether its answer is stored or not."""
        asking = ask(self._shared, visit, asked, visit.content, on_interim=on_interim)
        if invalidation.is_safe(asked.method):
            return await asking
        response = await minding(self._shared, visit, asking)
        try:
            await invalidate(self._shared, visit, response.head)
        except BaseException:
            response.close()
            raise
        return response

    def watch(self, fetch: Fetch, tenure: Tenure | None = None) -> None:
        """Know of it until it ends."""
        self.running[fetch] = tenure
        fetch.on_end(lambda _: self._forget(fetch))

    def _forget(self, fetch: Fetch) -> None:
        del self.running[fetch]

    def keep(self, stored: StoredResponse, tenure: Tenure | None = None) -> Verdict:
        """Put it into the store, and say whether it is there. tenure -- of the fetch, where other replicas wait."""
        shared = self._shared
        if not shared.flags.query_cache or shared.flags.bypass:
            return Verdict.CACHE_OFF
        if shared.validity(stored) is not Validity.VALID:
            return Verdict.INVALIDATED
        slot = shared.store.find(stored.key)
        for other in slot.variants if slot is not None else ():
            if other.secondary_key == stored.secondary_key and shared.validity(other) is Validity.VALID:
                if other.part is None and reuse.overtakes(other, stored):
                    return Verdict.OVERTAKEN
                if stored.part is not None:
                    if other.part is None:
                        return Verdict.PARTIAL
                    stored = policy.with_neighbour(stored, other)
        if tenure is not None:
            tenure.keep(stored)
        return Verdict.STORE if shared.store.put(stored) else Verdict.TOO_LARGE

    async def finish(
        self, question: Question, judged: Judgement, content: bytes, times: tuple[float, float]
    ) -> StoredResponse:
        """The stored response that complete content makes, with a validator where none came."""
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

    def validate_behind(self, visit: Visit, found: Lookup) -> None:
        """Validate in the background, once at a time for each key, whatever becomes of this client."""
        key = collapse_key(self._shared, visit, found)
        if self._shared.collapse.joinable(key) is not None:
            return
        fetch = self.begin(visit, found, key, behind=True)
        route = visit.observation.route

        def tell(_: object) -> None:
            if not isinstance(fetch.result, Found):
                self._shared.observe_origin(_seen_behind(fetch, route))

        fetch.on_end(tell)

    def joinable(self, key: str) -> Fetch | None:
        """A fetch under way, unless what it will bring was invalidated after it had asked."""
        fetch = self._shared.collapse.joinable(key)
        if fetch is None or self.is_outdated(fetch):
            return None
        return fetch

    def is_outdated(self, fetch: Fetch) -> bool:
        """Whether what it brings, as far as that is known, was invalidated after it had asked."""
        question, rule = fetch.question, fetch.question.rule
        match fetch.result:
            case Ready(stored=stored):
                tags = stored.tags
            case Streaming(judgement=judged):
                tags = policy.tags_of(question.request, judged.head.fields, rule)
            case _:
                tags = (policy.route_tag(rule.name), *rule.tags) if rule is not None else ()
        return self._shared.invalidations.state(question.uri, tags, question.epoch) is not Validity.VALID

    async def end(self, seconds: float) -> None:
        """With nobody left here who waits: those that other replicas wait for have `seconds`, the others end now."""
        tasks: list[asyncio.Task[None]] = []
        awaited: list[asyncio.Task[None]] = []
        for fetch, tenure in self.running.items():
            if fetch.task is not None:
                (awaited if tenure is not None and tenure.leads else tasks).append(fetch.task)
        for task in tasks:
            task.cancel()
        if awaited:
            _, late = await asyncio.wait(awaited, timeout=seconds)
            for task in late:
                task.cancel()
        await asyncio.gather(*tasks, *awaited, return_exceptions=True)


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
