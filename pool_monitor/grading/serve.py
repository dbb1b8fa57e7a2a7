"""What `/v1/*` answers: everything as the upstream does, and known prompts made smaller on the way.

Whatever is not understood is forwarded octet for octet, and so is everything under BYPASS.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import orjson
from aiohttp import hdrs, web

from config.flags import Flags
from config.tracing import apart
from pool_monitor.grading.bookkeeping import MOST_SEEN_BYTES, Bookkeeping
from pool_monitor.grading.calls import (
    CHAT,
    JSON,
    Answer,
    Call,
    Expansion,
    Lane,
    Left,
    UpstreamFault,
    coding_of,
)
from pool_monitor.grading.collapse import Collapse, Produce, Telling
from pool_monitor.grading.completions import Completions
from pool_monitor.grading.decoding import Seen
from pool_monitor.grading.jsons import holds, is_crowded
from pool_monitor.grading.limits import Limits
from pool_monitor.grading.observed import Found, Served
from pool_monitor.grading.outcomes import Outcome
from pool_monitor.grading.receiving import LARGE_BYTES, TIMES_SLOWER, TOGETHER, Room, Share, all_of, content_of, done_to
from pool_monitor.grading.stored import Stored, is_whole, key_of, repeatable, shareable
from pool_monitor.grading.templates import Recognised, Template, may_hold, recognise, with_detail
from pool_monitor.grading.to_caller import as_it_came, broken_off, tell, tell_answer
from pool_monitor.grading.upstream import Upstream
from pool_monitor.grading.wire import OF_OCTETS, end_to_end
from pool_monitor.request_traces import SERVED

T = TypeVar("T")
Looking = asyncio.Task[None]

log = logging.getLogger("siding.grading")

PREFIX = "/v1"
TRIED_SECONDS = 10.0
"""How long is waited for whether the upstream takes a key."""
SHORT_BYTES = 16 * 1024
"""Of an answer that is looked into at once, before its end is told."""
MOST_LOOKED_INTO = 64
"""Answers that may wait to be looked into; what comes then is neither kept nor compared."""
LOOKING_SECONDS = 2.0
"""How long is waited for those at the end, and for one by who asks the same meanwhile."""
REFUSED = frozenset({401, 403})
_TEMPERATURE = b'"temperature"'
_NOT_SENT_ON = OF_OCTETS | {"host", "content-length", "content-type", "content-encoding", "accept-encoding", "expect"}
_OF_ITS_LENGTH = frozenset({"content-length"})
_STORABLE = frozenset({Expansion.EXPANDED, Expansion.REPAIRED, Expansion.ALREADY_FULL, Expansion.ASKED_AGAIN})
COLLAPSED = ("Cache-Status", "siding; fwd=miss; collapsed")


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with a chat completion. recognised -- where it is asked in its compact form.

    call -- None where its content was not even decoded. known -- whether its prompt is a template's.
    could_be -- what it could be asked as, where that is switched off.
    """

    left: Left | None
    recognised: Recognised | None = None
    call: Call | None = None
    known: bool = False
    could_be: Recognised | None = None

    @property
    def template(self) -> str | None:
        """The name of the template whose prompt it has, where that is the only thing against the compact form."""
        found = self.recognised or self.could_be
        return found.template.name if found is not None else None

    @property
    def form(self) -> str:
        """What is done to it on the way."""
        return f"compact {self.recognised.template.digest}" if self.recognised is not None else "decoded"


Offer = Callable[[Call, Recognised, Answer], None]
"""Told of answers to the original prompt that could have been asked for in the compact form."""


class Grading:
    """The handler of `/v1/*`.

    offer -- None: nothing is compared. clock -- monotonic seconds. secret -- of keys.
    """

    def __init__(
        self,
        *,
        flags: Flags,
        upstream: Upstream,
        completions: Completions,
        stored: Stored,
        templates: Sequence[Template],
        observe: Callable[[Served], None],
        books: Bookkeeping,
        offer: Offer | None,
        clock: Callable[[], float],
        secret: bytes,
        limits: Limits,
        detail: str,
    ) -> None:
        self._flags = flags
        self._upstream = upstream
        self._completions = completions
        self._stored = stored
        self._templates = templates
        self._observe = observe
        self._books = books
        self._offer = offer
        self._clock = clock
        self._secret = secret
        self._limits = limits
        self._room = Room(limits.content_bytes * TOGETHER)
        self._detail = detail
        self.collapse = Collapse()
        self._looking: set[Looking] = set()

    async def close(self) -> None:
        """End what is still asked for."""
        await self.collapse.close()
        if self._looking:
            await asyncio.wait(self._looking, timeout=LOOKING_SECONDS)
        await self._stored.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request under `/v1`."""
        served = request[SERVED] = Served(chat=request.method == "POST" and request.raw_path == CHAT)
        with self._observed(served):
            try:
                self._upstream.refuse_own(request.headers.getall("CDN-Loop", ()))
                if served.chat and not self._flags.bypass:
                    return await self._chat(request, served)
                served.left = Left.OFF if served.chat else None
                return await self._forward(request, served, all_of(request))
            except UpstreamFault as fault:
                served.status = fault.status
                return await tell_answer(request, fault.answer)

    @contextmanager
    def _observed(self, served: Served, deadline: float = math.inf) -> Iterator[None]:
        """It is told of once it is over, however it ends. deadline -- when it is given up."""
        began = self._clock()
        try:
            yield
        except UpstreamFault as fault:
            served.status = fault.status
            raise
        except asyncio.CancelledError:
            if self._clock() >= deadline:
                served.status = 504
            raise
        except ConnectionError:
            # the caller's
            raise
        except Exception:
            served.status = 500
            raise
        finally:
            served.seconds = self._clock() - began
            self._observe(served)

    # -- octet for octet

    async def forward(self, request: web.Request, content: AsyncIterator[bytes] | bytes | None) -> web.StreamResponse:
        """A request that is no completion, with this content."""
        served = Served(chat=False)
        with self._observed(served):
            return await self._forward(request, served, content)

    async def fetch(self, request: web.Request, target: str) -> Answer:
        """The upstream's own answer to a GET of this target with the fields of a request. Raises UpstreamFault."""
        # without this field any coding would do (RFC 9110 12.5.3)
        fields = (*end_to_end(request.headers.items(), _NOT_SENT_ON), ("Accept-Encoding", "identity"))
        async with self._upstream.forward("GET", target, fields, None) as answer, aclosing(answer.pieces()) as pieces:
            content = b"".join([piece async for piece in pieces])
            return Answer(answer.status, end_to_end(answer.fields, _OF_ITS_LENGTH), content)

    async def refuses(self, asker: Call) -> bool:
        """Whether the upstream refuses the key that goes with what this one asks; False also where it does not tell.

        It is asked for a completion of nothing, which costs nothing: a key that is only for completions may not list
        models or files, and one that is taken is told what is missing (400).
        """
        fields = (*asker.fields, ("Content-Type", JSON), ("Accept-Encoding", "identity"))
        try:
            async with (
                asyncio.timeout(TRIED_SECONDS),
                self._upstream.forward("POST", CHAT.removeprefix(PREFIX), fields, b"{}", trying=True) as answer,
            ):
                return answer.status in REFUSED
        except (UpstreamFault, TimeoutError):
            return False

    async def _forward(
        self, request: web.Request, served: Served, content: bytes | AsyncIterator[bytes] | None
    ) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        fields = tuple(request.headers.items())
        try:
            async with self._upstream.forward(request.method, _target_of(request), fields, content) as answer:
                served.status = answer.status
                response = as_it_came(answer.status, answer.reason, answer.fields)
                booked = served.chat and answer.status == 200
                seen = Seen(MOST_SEEN_BYTES if booked else 0, answer.fields)
                try:
                    await response.prepare(request)
                    async with aclosing(answer.pieces()) as pieces:
                        async for piece in pieces:
                            seen.add(piece)
                            await response.write(piece)
                finally:
                    # also where it breaks off or its caller leaves: it is billed all the same
                    if booked:
                        self._books.passed(seen.content, seen.coding)
        except UpstreamFault as fault:
            if response is None:
                raise
            return broken_off(request, response, served, fault)
        await response.write_eof()
        return response

    # -- chat completions

    async def _chat(self, request: web.Request, served: Served) -> web.StreamResponse:
        flags = self._flags
        if not (flags.optimized_prompts or flags.dedup or flags.completion_cache or self._offer):
            served.left = Left.OFF
            return await self._forward(request, served, all_of(request))
        if request.headers.get(hdrs.CONTENT_TYPE) is not None and request.content_type != JSON:
            # what is made of it would be told of as JSON, which the upstream would not have taken it for
            served.left = Left.NOT_JSON
            return await self._forward(request, served, all_of(request))
        share = Share(self._room)
        try:
            content, more = await content_of(request, self._limits.content_bytes, share)
            if not more:
                return await self._looked_into(request, served, content)
            served.left = Left.TOO_LARGE
            rest = all_of(request, content, share.give)
            # the caller may take for ever to send what is behind it
            del content
            return await self._forward(request, served, rest)
        finally:
            share.give()

    async def _looked_into(self, request: web.Request, served: Served, content: bytes) -> web.StreamResponse:
        body = await done_to(len(content) * TIMES_SLOWER, _body_in, content, self._templates)
        if isinstance(body, Left):
            decision = Decision(body)
        else:
            decision = self._decided(self.call_of(request, body).asking(body, content))
        served.left, served.template = decision.left, decision.template
        call = decision.call
        if call is None or not shareable(call, known=decision.known):
            return await self._forward(request, served, content)
        form = decision.form if decision.recognised is not None else _form_of(request)
        key = await self._key(call, form, len(content))

        async def produce(telling: Telling) -> Looking | None:
            if decision.recognised is not None:
                return await self._expanded(call, decision.recognised, telling, served, key)
            looking = await self._as_told(request, content, call, telling, key)
            if self._offer is not None and decision.could_be is not None and telling.status == 200:
                self._offer(call, decision.could_be, Answer(200, telling.fields, telling.content))
            return looking

        return await self._shared(request, served, call, decision, key, produce)

    def call_of(self, request: web.Request, body: Mapping[str, Any], lane: Lane = Lane.CALLER) -> Call:
        """A call with what a request's fields say."""
        fields = end_to_end(request.headers.items(), _NOT_SENT_ON)
        return Call(body, fields, self._clock() + self._limits.seconds, lane)

    def _decided(self, call: Call) -> Decision:
        found = recognise(call.body, self._templates)
        if isinstance(found, Left):
            return Decision(found, call=call, known=found is not Left.UNRECOGNISED)
        if not all(value.isascii() for _, value in call.fields):
            return Decision(Left.FIELDS, call=call, known=True)
        if not self._flags.optimized_prompts:
            return Decision(Left.OFF, call=call, known=True, could_be=found)
        if not self._completions.admits(found.template):
            return Decision(Left.TEMPLATE_OFF, call=call, known=True)
        return Decision(None, replace(found, body=with_detail(found.body, self._detail)), call, known=True)

    async def _key(self, call: Call, form: str, size: int) -> bytes:
        """See key_of. Answers of another upstream, or to another detail, are others."""
        form = f"{self._upstream.url} {self._detail} {form}"
        return await done_to(size * TIMES_SLOWER, key_of, call, self._secret, form)

    def _keeps(self, call: Call) -> bool:
        return self._flags.completion_cache and not self._flags.bypass and repeatable(call)

    async def _shared(
        self,
        request: web.Request,
        served: Served,
        call: Call,
        decision: Decision,
        key: bytes,
        produce: Produce,
    ) -> web.StreamResponse:
        """From what is kept, or from an equal request that is being asked, or asked now."""
        key_in_flight = _in_lane(key, call) if self._flags.dedup else None
        if (kept := await self._kept(call, decision, key, key_in_flight, served)) is not None:
            answer, left = kept
            return await tell_answer(request, answer, f"siding; hit; ttl={left:.0f}")
        while True:
            async with self.collapse.join(key_in_flight, produce) as (telling, collapsed):
                served.found = Found.COLLAPSED if collapsed else Found.ASKED
                try:
                    served.status, fields = await telling.head()
                except UpstreamFault as fault:
                    if collapsed and self._has_time(call, fault):
                        continue
                    raise
                if not collapsed:
                    return await tell(request, telling, served, fields)
                fields = tuple(pair for pair in fields if pair[0].lower() != "set-cookie")
                response = await tell(request, telling, served, (*fields, COLLAPSED))
                self._spare(decision, Answer(served.status, fields, telling.content))
                return response

    async def _kept(
        self, call: Call, decision: Decision, key: bytes, key_in_flight: bytes | None, served: Served
    ) -> tuple[Answer, float] | None:
        """An answer that is there, or is once it was looked into, and the seconds it has left."""
        found = await self._stored.find(key) if self._keeps(call) else None
        behind = self.collapse.behind(key_in_flight)
        if found is None and behind is not None and self._keeps(call):
            await asyncio.wait([behind], timeout=min(LOOKING_SECONDS, call.deadline - self._clock()))
            found = await self._stored.find(key) if self._keeps(call) else None
        if found is None:
            return None
        answer, served.found, left = found
        served.status = answer.status
        self._spare(decision, answer)
        return answer, left

    def _has_time(self, call: Call, fault: UpstreamFault) -> bool:
        """Whether one who came late may ask when the time of the first was over."""
        return fault.status == 504 and self._clock() < call.deadline

    def _spare(self, decision: Decision, answer: Answer) -> None:
        template = decision.recognised.template if decision.recognised is not None else None
        if answer.ok:
            self._books.spared(template, answer.content, coding_of(answer.fields))

    async def _expanded(
        self, call: Call, recognised: Recognised, telling: Telling, served: Served, key: bytes
    ) -> Looking | None:
        outcome: Outcome = await self._completions.produce(call, recognised, telling)
        served.expansion = outcome.expansion
        if outcome.expansion not in _STORABLE:
            return None
        return self._keep(call, key, Answer(telling.status, telling.fields, telling.content))

    async def _as_told(
        self, request: web.Request, content: bytes, call: Call, telling: Telling, key: bytes
    ) -> Looking | None:
        fields = tuple(request.headers.items())
        async with self._upstream.forward("POST", _target_of(request), fields, content) as answer:
            telling.begin(answer.status, tuple(pair for pair in answer.fields if pair[0].lower() != "content-length"))
            try:
                async with aclosing(answer.pieces()) as pieces:
                    async for piece in pieces:
                        telling.write(piece)
            finally:
                # as where it is not shared
                told = Answer(telling.status, telling.fields, telling.content)
                if told.status == 200:
                    self._books.passed(told.content, coding_of(told.fields))
        return self._keep(call, key, told)

    def _keep(self, call: Call, key: bytes, answer: Answer) -> Looking | None:
        def keep(whole: bool) -> None:
            if whole and self._keeps(call):
                self._stored.keep(key, answer)

        if answer.status == 200 and self._keeps(call) and self._stored.takes(answer):
            stream = call.body.get("stream") is True
            return self.look_into(answer, partial(is_whole, answer, stream=stream), keep)
        return None

    def look_into(
        self, answer: Answer, look: Callable[[], T], then: Callable[[T], None], left: Callable[[], None] | None = None
    ) -> Looking | None:
        """Into one that has been told. Nobody waits for a long one, or one that may become long: it is in a thread.

        left -- called where too many are looked into already.
        """

        async def beside() -> None:
            try:
                then(await asyncio.to_thread(look))
            except Exception:
                log.exception("an answer that was told could not be looked into")

        if len(answer.content) <= SHORT_BYTES and not coding_of(answer.fields):
            then(look())
        elif len(self._looking) < MOST_LOOKED_INTO:
            task = apart(beside())
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
            return task
        elif left is not None:
            left()
        return None

    # -- for batches and the like

    def shares(self, body: Mapping[str, Any]) -> bool:
        """Whether equal requests of a caller, with this content, may have one answer."""
        if not self._flags.dedup or self._flags.bypass:
            return False
        known = recognise(body, self._templates) is not Left.UNRECOGNISED
        return shareable(Call(body, (), self._clock()), known=known)

    async def ask(self, call: Call) -> Answer:
        """A whole answer to a call whose content is decoded; shared and kept as a request's would be."""
        decision = Decision(Left.OFF, call=call) if self._flags.bypass else self._decided(call)
        served = Served(chat=True, left=decision.left)

        async def produce(telling: Telling) -> Looking | None:
            if decision.recognised is not None:
                return await self._expanded(call, decision.recognised, telling, served, key)
            telling.whole(await self._upstream.complete(call))
            if telling.status == 200:
                self._books.passed(telling.content, "")
            return self._keep(call, key, Answer(telling.status, telling.fields, telling.content))

        shares = self._flags.dedup and not self._flags.bypass and shareable(call, known=decision.known)
        with self._observed(served, call.deadline):
            key = await self._key(call, decision.form, LARGE_BYTES + 1)
            key_in_flight = _in_lane(key, call) if shares else None
            if (kept := await self._kept(call, decision, key, key_in_flight, served)) is not None:
                return kept[0]
            while True:
                async with self.collapse.join(key_in_flight, produce) as (telling, collapsed):
                    served.found = Found.COLLAPSED if collapsed else Found.ASKED
                    try:
                        answer = await telling.answer()
                    except UpstreamFault as fault:
                        if collapsed and self._has_time(call, fault):
                            continue
                        raise
                    served.status = answer.status
                    if collapsed:
                        self._spare(decision, answer)
                    return answer


def _body_in(content: bytes, templates: Sequence[Template]) -> dict[str, Any] | Left:
    """What a chat completion of this content asks, or why that is not looked into."""
    if not may_hold(content, templates) and not holds(content, _TEMPERATURE):
        return Left.UNRECOGNISED
    if is_crowded(content):
        return Left.TOO_LARGE
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return Left.NOT_JSON
    return body if isinstance(body, dict) else Left.NOT_JSON


def _in_lane(key: bytes, call: Call) -> bytes:
    """Who waits in person does not join what waits behind others."""
    return key + call.lane.value.encode()


def _target_of(request: web.Request) -> str:
    """What stands behind the prefix, as the caller wrote it. A target may have scheme and host (RFC 9112 3.2.2)."""
    target = request.raw_path
    if not target.startswith("/"):
        path = target.partition("://")[2].partition("/")
        target = path[1] + path[2]
    return target.removeprefix(PREFIX)


def _form_of(request: web.Request) -> str:
    """What is answered as it came is so in the content coding that was asked for."""
    return f"as-it-came {request.raw_path} {','.join(request.headers.getall(hdrs.ACCEPT_ENCODING, ()))}"
