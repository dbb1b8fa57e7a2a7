"""One request on its way through the proxy, and what the whole process shares."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.flags import Flags
from config.rules import RouteTable, Rule
from config.tracing import enter
from proxy import errors
from proxy.observe.events import Observation, OriginObservation
from proxy.origin.client import OriginClient, OriginResponse
from proxy.origin.collapse import Collapse
from proxy.origin.fetch import Copies
from proxy.policy.messages import ResponseHead, StoredResponse
from proxy.server.exchange import Exchange
from proxy.server.fast_path import Index
from proxy.store.invalidations import Invalidations, Validity
from proxy.store.memory import MemoryStore
from proxy.store.shared import SharedStore

if TYPE_CHECKING:
    from proxy.observe.traces import Traces


@dataclass(frozen=True, slots=True)
class Limits:
    """Octets and seconds that bound a request."""

    max_request_bytes: int
    max_object_bytes: int
    upstream_seconds: float


@dataclass(slots=True)
class Shared:
    """What every request of the process works with. Built once, by `app`.

    targets -- fields that go before Cache-Control (RFC 9213). show_keys -- tell cache keys in Cache-Status.
    digest -- keyed hash that stands for a credential in a cache key. wall -- wall clock, seconds.
    clock -- monotonic seconds. observe, observe_origin -- take what is told.
    announce -- lets other processes know what is invalid; None where there are none. What it gives is done when those
    know that have to before a client does.
    contents -- bounds what is read of requests to be keyed.
    mark -- shows that a request has been at this proxy, whichever of its workers.
    remote -- what replicas share; None without REDIS_URL. fast -- prepared answers.
    traces -- spans of requests; None where nobody asked for them, and then nothing of it costs anything.
    """

    flags: Flags
    routes: RouteTable
    store: MemoryStore
    invalidations: Invalidations
    collapse: Collapse
    copies: Copies
    contents: Copies
    origin: OriginClient
    limits: Limits
    targets: tuple[str, ...]
    show_keys: bool
    digest: Callable[[bytes], str]
    wall: Callable[[], float]
    clock: Callable[[], float]
    observe: Callable[[Observation], None]
    observe_origin: Callable[[OriginObservation], None]
    announce: Callable[[list[str]], asyncio.Future[None] | None] | None
    fast: Index
    mark: str
    remote: SharedStore | None = None
    traces: Traces | None = None

    def validity(self, stored: StoredResponse) -> Validity:
        """Whether a stored response may still be used, as far as it was invalidated or not."""
        return self.invalidations.state(stored.uri, stored.tags, stored.epoch)

    def invalidate(self, tags: Sequence[str], uris: Sequence[str]) -> asyncio.Future[None] | None:
        """What carries one of the tags or is of one of the URIs is never used again, here or elsewhere.

        Where something is given, the answer that says so is to wait for it.
        """
        for tag in tags:
            self.invalidations.purge_tag(tag, soft=False)
        for uri in uris:
            self.invalidations.purge_uri(uri, soft=False)
        return self.tell_others(tags, uris)

    def tell_others(self, tags: Sequence[str], uris: Sequence[str]) -> asyncio.Future[None] | None:
        """That such responses are invalid."""
        if self.announce is None or not (tags or uris):
            return None
        return self.announce([*(f"tag {tag}" for tag in tags), *(f"uri {uri}" for uri in uris)])


class Claim:
    """Octets of `copies`, given back once all who hold them have let go: a request, and the fetch that it has begun."""

    __slots__ = ("_copies", "_holders", "_octets")

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._holders = 1
        self._octets = 0

    def take(self, octets: int) -> bool:
        """So many more; False where that would be too much."""
        taken = self._copies.take(octets)
        if taken:
            self._octets += octets
        return taken

    def hold(self) -> None:
        """By one more."""
        self._holders += 1

    def let_go(self, _: object = None) -> None:
        """To be called once by each."""
        self._holders -= 1
        if not self._holders:
            self._copies.give(self._octets)


@dataclass(slots=True)
class Visit:
    """A client's request with what has been found out about it so far.

    content -- the request's content when it had to be read whole (to be keyed); None while unread. claim -- on the
    room for it. rest -- the content, where some of it has been read, and there was no room for more.
    asked_at -- when the origin was asked for this client alone, on the monotonic clock.
    was_sent -- the origin may have the request, or a part of it.
    shown_key -- the cache key, where CACHE_STATUS_KEY lets it be told.
    response -- of the origin, for this client alone; it is closed at the latest when the request is over.
    sent -- head and content of the answer, unless it was coded here as it went, or is of ranges;
    None in place of content that was passed on as it came.
    """

    exchange: Exchange
    observation: Observation
    request_id: str
    traceparent: str
    rule: Rule | None = None
    content: bytes | None = None
    claim: Claim | None = None
    rest: AsyncIterator[bytes] | None = None
    asked_at: float | None = None
    was_sent: bool = False
    shown_key: str | None = None
    sent: tuple[ResponseHead, bytes | None] | None = None
    response: OriginResponse | None = None

    def take(self, response: OriginResponse) -> OriginResponse:
        """It is this client's from now on; an earlier one is given up."""
        if self.response is not response:
            self.close()
        self.response = response
        return response

    def note_sent(self) -> None:
        """The request is on its way to the origin."""
        self.was_sent = True

    def leave(self) -> None:
        """What the origin says is for others as well from now on."""
        self.response = None

    def close(self) -> None:
        """Give up what the origin still has to say. Idempotent."""
        if self.response is not None:
            self.response.close()

    def pieces(self, limit: int) -> AsyncIterator[bytes]:
        """The request's content as it arrives. Raises ContentTooLarge beyond `limit` octets."""
        return _pieces(self.exchange, limit) if self.rest is None else self.rest


async def after(early: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What was read early, and the rest."""
    while early:
        yield early.pop(0)
    async for piece in rest:
        yield piece


async def _pieces(exchange: Exchange, limit: int) -> AsyncIterator[bytes]:
    while piece := await exchange.read():
        if exchange.content_received > limit:
            raise errors.ContentTooLarge(f"the content is larger than {limit} bytes")
        yield piece


def new_visit(exchange: Exchange, wall: float, traces: Traces | None = None) -> Visit:
    """Start following a request; identifiers the client did not bring are made."""
    fields = exchange.head.fields
    observation = Observation(method=exchange.head.method, path=exchange.head.path, client=exchange.peer, started=wall)
    if exchange.passing is not None:
        # the origin has been told, and it was drawn that there is no span
        observation.request_id, observation.traceparent = exchange.passing.identifiers
        observation.spanless = True
        enter(None)
        return Visit(exchange, observation, observation.request_id, observation.traceparent)
    observation.request_id = fields.get("x-request-id") or f"{random.getrandbits(128):032x}"
    if traces is not None:
        observation.trace = traces.begin(exchange.head, exchange.plain.drawn if exchange.plain is not None else 0)
    if observation.trace is not None:
        observation.traceparent = observation.trace.traceparent
    else:
        observation.traceparent = (
            fields.get("traceparent") or f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-00"
        )
    return Visit(exchange, observation, observation.request_id, observation.traceparent)
