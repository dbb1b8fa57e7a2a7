"""Written through: what the origin answers goes to the one who asked, and changes what is stored.

That is for unsafe methods, and for HEAD where nothing that is stored will do.
"""

from __future__ import annotations

from proxy import errors
from proxy.origin.client import OriginResponse
from proxy.origin.fetch import ORIGIN_SAID_ERROR, Alone, Fetch, Found
from proxy.policy import cache_key, reuse, storability, validation
from proxy.policy import judgement as policy
from proxy.policy.decisions import Forward, Outcome
from proxy.policy.messages import Question, StoredResponse
from proxy.server import answer
from proxy.server.fetching import Fetches
from proxy.server.forwarder import ask_for_one, invalidate, minding
from proxy.server.handing_on import hand_on, hand_on_shared, received
from proxy.server.lookup import Lookup, drop_what_is_older
from proxy.server.sharing import Sharing
from proxy.server.visit import Shared, Visit
from proxy.store.invalidations import Validity


async def write_through(shared: Shared, fetches: Fetches, visit: Visit) -> None:
    """Unsafe methods go to the origin, and invalidate on success (RFC 9111 4.4)."""
    visit.observation.outcome = Outcome.PASS
    visit.observation.forward = Forward.METHOD
    passing, invalidations = visit.exchange.passing, shared.invalidations
    epoch = invalidations.epoch if passing is None else passing.epoch
    response = await minding(shared, visit, ask_for_one(shared, visit))
    keeping = storability.stands_for_get(visit.exchange.head, response.head) and shared.flags.query_cache
    if keeping:
        # by others; what it invalidates itself it is newer than
        uri = cache_key.target_uri(visit.exchange.head)
        tags = policy.tags_of(visit.exchange.head, response.head.fields, None)
        keeping = invalidations.state(uri, tags, epoch) is Validity.VALID
    await invalidate(shared, visit, response.head)
    if keeping:
        await _keep_for_get(shared, fetches, visit, response)
    else:
        await hand_on(shared, visit, response, received(shared, response))


async def _keep_for_get(shared: Shared, fetches: Fetches, visit: Visit, response: OriginResponse) -> None:
    """Store the answer to a POST that says it is what a GET would bring, too (RFC 9110 9.3.3)."""
    observation = visit.observation
    request = storability.as_get(visit.exchange.head)
    key = cache_key.cache_key(request, None, None, shared.digest)
    if key is None or shared.routes.match("GET", request.path) is not None:
        await hand_on(shared, visit, response, received(shared, response))
        return

    async def given() -> OriginResponse:
        return response

    uri, epoch = cache_key.target_uri(request), shared.invalidations.epoch
    fetch = Fetch(
        Question(request, uri, key, None, None, epoch, shared.targets),
        ask=given,
        again=given,
        keep=fetches.keep,
        finish=fetches.finish,
        limit=shared.limits.max_object_bytes,
        copies=shared.copies,
        wall=shared.wall,
        worth_finishing=True,
    )
    fetches.watch(fetch)
    visit.leave()
    result = await fetch.wait(shared.limits.upstream_seconds * 2)
    assert not isinstance(result, Found), "nobody else was asked"
    if isinstance(result, Alone):
        taken = fetch.take()
        assert taken is not None
        visit.take(taken)
        observation.verdict = result.judgement.verdict
        await hand_on(shared, visit, taken, result.judgement.head)
    else:
        await hand_on_shared(shared, visit, fetch, result)


async def write_head_through(shared: Shared, fetches: Fetches, sharing: Sharing, visit: Visit, found: Lookup) -> None:
    """Ask the origin, and let its answer freshen what is stored, or show that it changed (RFC 9111 4.3.5)."""
    request = visit.exchange.head
    visit.observation.outcome = Outcome.PASS
    began, stored, epoch = shared.wall(), found.stored, shared.invalidations.epoch
    tenure = sharing.tenure(visit, found.key, None, found.seen)
    try:
        response = await ask_for_one(shared, visit)
    except errors.NoAnswer as fault:
        if stored is None or not reuse.may_hide_error(stored, request, shared.wall()):
            raise
        await _stand_in(shared, visit, stored, fault.code)
        return
    head = received(shared, response)
    failed = head.status in reuse.ERROR_STATUSES
    if failed and stored is not None and reuse.may_hide_error(stored, request, shared.wall()):
        response.close()
        await _stand_in(shared, visit, stored, ORIGIN_SAID_ERROR)
        return
    if stored is not None and response.head.status == 200:
        if validation.matches_head(stored, response.head.fields):
            question = Question(request, found.uri, found.key, visit.rule, stored, epoch, shared.targets)
            fresh = validation.freshen(stored, head, question, began, shared.wall())
            if fresh.kept is not None:
                fetches.keep(fresh.kept, tenure)
        elif validation.is_for(request, stored, visit.rule, shared.targets):
            shared.store.remove(stored)
            shared.tell_others((), [found.uri])
        else:
            drop_what_is_older(shared, found, head)
    elif found.aside is not None:
        drop_what_is_older(shared, found, head)
    await hand_on(shared, visit, response, head)


async def _stand_in(shared: Shared, visit: Visit, stored: StoredResponse, code: str) -> None:
    """Answer a HEAD from a stale response because the origin failed (RFC 5861 4)."""
    observation = visit.observation
    observation.outcome, observation.detail = Outcome.STALE_IF_ERROR, Outcome.STALE_IF_ERROR.value
    observation.error = code
    await answer.from_store(shared, visit, stored, now=shared.wall())
