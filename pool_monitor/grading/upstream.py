"""Every connection to the grading upstream, with its limits, retries and breaker.

Chat completions whose content is known here go by the vendor's SDK; everything else is forwarded octet for octet.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import aiohttp
import httpx2
from yarl import URL

from config.told import Told
from pool_monitor.grading import care
from pool_monitor.grading.asking import Ended, Observe, Retried, ended_by, ended_with
from pool_monitor.grading.calls import Answer, Call, Fields, Lane, UpstreamFault, value_of
from pool_monitor.grading.care import Breaker, BreakerState, RateLimits
from pool_monitor.grading.forwarding import Content, Forwarded, Forwarding
from pool_monitor.grading.limits import Limits
from pool_monitor.grading.traces import AskingSpan, asking_of, forwarding_of
from pool_monitor.grading.turns import Turns
from pool_monitor.grading.vendor import FAULTS, Vendor
from pool_monitor.grading.wire import MAX_ANSWER_FIELD_BYTES, Failure, as_text, end_to_end, failure_of, reason_of

log = logging.getLogger("siding.grading")

KEEP_ALIVE_SECONDS = 15.0
CALLER_PATIENCE = 8.0
"""Seconds for which who waits in person is kept waiting before another attempt; its own SDK decides beyond that."""
FAIR_SHARE = 0.5
"""Of the longest for an answer: who had less of it learns nothing of an upstream that did not answer."""

_AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_DECODED = frozenset({"content-encoding", "content-length"})


class Streamed:
    """An answer while it arrives. fields -- as those of an Answer. asking -- its span, where traces are on.

    left -- seconds. ended -- told how it ended: with None, or a fault.
    """

    def __init__(
        self,
        response: httpx2.Response,
        left: Callable[[], float],
        ended: Callable[[BaseException | None], None],
        asking: AskingSpan | None,
    ) -> None:
        self.status = response.status_code
        self.fields = _fields_of(response)
        self._response = response
        self._left = left
        self._ended = ended
        self._asking = asking

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Octets as they come, decoded. Raises UpstreamFault where they break off, or the deadline passes."""
        if self._response.is_stream_consumed:
            yield self._response.content
            return
        arriving = self._response.aiter_bytes()
        while True:
            try:
                async with asyncio.timeout(self._left()):
                    piece = await anext(arriving)
            except StopAsyncIteration:
                self._ended(None)
                return
            except FAULTS as fault:
                self._ended(fault)
                raise failure_of(fault).fault from None
            if self._asking is not None:
                self._asking.hears(piece)
            yield piece


class Upstream:
    """See the module. All times in seconds.

    url -- the API's base, as `https://api.openai.com/v1`. api_key -- for callers without an Authorization field.
    clock -- monotonic; wall -- since 1970. own_port -- where callers come to.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        limits: Limits,
        *,
        clock: Callable[[], float],
        observe: Observe,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        ssl_context: ssl.SSLContext | None = None,
        own_port: int | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._api_key = api_key
        self._bounds = limits
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._jitter = jitter
        self._observe = observe
        self._ssl = ssl_context
        self._secret = secrets.token_bytes(32)
        self._turns = Turns(limits.capacity, clock, observe, limits.waiting)
        self._breaker = Breaker()
        self._told_state = BreakerState.CLOSED
        self._host = URL(self.url).host_port_subcomponent
        self._told_faults, self._told_refusals, self._told_breaks = Told(), Told(), Told()
        self._mark, self._told_loops = f"siding-monitor-{secrets.token_hex(8)}", Told()
        # by whatever name of this machine; to all others nothing is said that the caller has not
        self._may_loop = URL(self.url).port == own_port
        self._limits = RateLimits()
        self._vendor: Vendor | None = None
        self._forwarding: Forwarding

    async def start(self) -> None:
        """Make ready; nothing is connected before it is needed."""
        context = self._ssl or _context(self.url)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC,
            max_field_size=MAX_ANSWER_FIELD_BYTES,
        )
        self._vendor = Vendor(session, self.url, context, connect_seconds=self._bounds.connect_seconds)
        self._forwarding = Forwarding(
            session,
            self.url,
            connect_seconds=self._bounds.connect_seconds,
            silence=self._bounds.seconds,
            clock=self._clock,
            observe=self._observe,
            heard=self._heard,
            ended=self._ended,
            pause=lambda attempt, left: self._retry_after(None, (), attempt, left),
            sleep=self._sleep,
        )

    async def close(self) -> None:
        """Close every connection, if it was ever started."""
        if self._vendor is not None:
            await self._vendor.close()

    @property
    def waiting(self) -> dict[Lane, int]:
        """How many wait for a turn."""
        return self._turns.waiting

    @property
    def in_use(self) -> int:
        """How many turns are taken."""
        return self._turns.held

    @property
    def breaker_state(self) -> BreakerState:
        """Whether the upstream is asked at the moment."""
        return self._breaker.state(self._clock())

    # -- chat completions

    async def complete(self, call: Call) -> Answer:
        """The whole answer, be it an error of the upstream's own. Raises UpstreamFault where there is none."""
        async with self._asked(call, stream=False) as (response, asking):
            if asking is not None:
                asking.hears(response.content)
            return Answer(response.status_code, _fields_of(response), response.content)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Streamed]:
        """The answer while it arrives; the connection ends with the context. Raises UpstreamFault."""
        async with self._asked(call, stream=True) as (response, asking):
            yield Streamed(response, lambda: call.deadline - self._clock(), self._ended, asking)

    @asynccontextmanager
    async def _asked(self, call: Call, *, stream: bool) -> AsyncIterator[tuple[httpx2.Response, AskingSpan | None]]:
        began = self._clock()
        outcome = Ended.LEFT
        asking = asking_of(self.url, call.model, call.template)
        if asking is not None:
            call = replace(call, fields=asking.carried(call.fields))
        try:
            response = await self._answered(call, stream)
            if asking is not None:
                asking.begins(response.status_code, _fields_of(response))
            try:
                yield response, asking
            finally:
                try:
                    await response.aclose()
                finally:
                    self._turns.leave()
            outcome = Ended.ANSWERED if response.is_success else Ended.ERROR
        except UpstreamFault as fault:
            outcome = ended_by(fault)
            raise
        finally:
            self._observe.asked(call.lane, outcome, self._clock() - began)
            if asking is not None:
                asking.end(_failed(outcome))

    async def _answered(self, call: Call, stream: bool) -> httpx2.Response:
        """An answer, and the turn that goes with it: the first attempt's, or that of a later one."""
        model, caller = call.keyed(self._secret, call.model), call.keyed(self._secret)
        began = self._clock()
        for attempt in count():
            await self._admitted(call, caller, model)
            try:
                answered = await self._attempt(call, model, stream)
                pause = self._pause(call, answered, attempt, began)
                if pause is None:
                    if isinstance(answered, Failure):
                        raise answered.fault
                    return answered
                if not isinstance(answered, Failure):
                    await answered.aclose()
            except BaseException:
                self._turns.leave()
                raise
            self._turns.leave()
            self._observe.retried(_reason_of(answered))
            await self._sleep(pause)
        raise AssertionError

    async def _admitted(self, call: Call, caller: str, model: str) -> None:
        """Wait for a turn, and for the rate limit where nobody waits in person. Raises UpstreamFault."""
        waits = call.lane is not Lane.CALLER
        tokens = _tokens_of(call.body) if waits else 0
        while True:
            while waits and (pause := self._limits.wait(model, self._clock(), tokens)) > 0:
                if self._clock() + pause >= call.deadline:
                    raise UpstreamFault(
                        504, "upstream_timeout", "the upstream's rate limit leaves no time for this", "timeout", pause
                    )
                await self._sleep(pause)
            self._refuse_while_open()
            if self._clock() >= call.deadline:
                raise Failure.SILENT.fault
            await self._turns.enter(call.lane, caller, call.deadline)
            # much may have changed while others had their turns
            now = self._clock()
            if (not waits or self._limits.wait(model, now, tokens) <= 0) and self._breaker.admit(now):
                break
            self._turns.leave()
        self._tell_breaker()
        self._limits.take(model, now, tokens)

    def _refuse_while_open(self) -> None:
        rests = self._breaker.rests(self._clock())
        if rests > 0:
            raise UpstreamFault(
                503, "upstream_circuit_open", "the upstream did not answer several times in a row", retry_after=rests
            )

    async def _attempt(self, call: Call, model: str, stream: bool) -> httpx2.Response | Failure:
        assert self._vendor is not None
        left = call.deadline - self._clock()
        try:
            async with asyncio.timeout(left):
                response = await self._vendor.post(self._with_own(call.fields), call.octets, stream=stream)
        except FAULTS as fault:
            failure = failure_of(fault)
            # most of what is asked at the end of a batch's time, or of long waiting, has no answer by then
            if failure is not Failure.SILENT or left >= FAIR_SHARE * self._bounds.seconds:
                self._heard(fault)
            return failure
        self._heard(None)
        if self._lacks_key(call.fields):
            self._key_was_sent(response.status_code)
        self._limits.observe(model, as_text(response.headers.raw), response.status_code, self._clock(), self._wall())
        return response

    def _pause(self, call: Call, answered: httpx2.Response | Failure, attempt: int, began: float) -> float | None:
        """Seconds after which to ask again; None where this is what the caller gets."""
        now = self._clock()
        left = call.deadline - now
        if call.lane is Lane.CALLER:
            left = min(left, CALLER_PATIENCE - (now - began))
        if isinstance(answered, Failure):
            return self._retry_after(None, (), attempt, left) if answered.never_sent else None
        status = answered.status_code
        if status not in care.NOT_PROCESSED:
            return None
        return self._retry_after(status, _fields_of(answered), attempt, left, care.error_code(answered.content))

    def _retry_after(
        self, status: int | None, fields: Fields, attempt: int, left: float, code: str = ""
    ) -> float | None:
        return care.retry_after(
            status, fields, attempt=attempt, left=left, jitter=self._jitter(), wall=self._wall(), code=code
        )

    # -- octet for octet

    def forward(
        self, method: str, path: str, fields: Iterable[tuple[str, str]], content: Content, *, trying: bool = False
    ) -> AbstractAsyncContextManager[Forwarded]:
        """The upstream's answer as it is; the connection is given up with the context where it is not read whole.

        path -- below the base, with its query, as the caller wrote it. fields -- as the caller sent them;
        Content-Length tells the length of content that comes in pieces. trying -- whether a key is taken, which is no
        request of a caller's. Waits neither for a turn nor for the breaker: with Siding taken away it would not either.
        Raises UpstreamFault, and what `content` raises.
        """
        asking = forwarding_of(self.url, method, path, content)
        if asking is not None:
            return self._traced(asking, method, path, fields, content, trying)
        return self._forwarded(method, path, tuple(fields), content, trying)

    @asynccontextmanager
    async def _traced(
        self,
        asking: AskingSpan,
        method: str,
        path: str,
        fields: Iterable[tuple[str, str]],
        content: Content,
        trying: bool,
    ) -> AsyncIterator[Forwarded]:
        outcome = Ended.LEFT
        try:
            async with self._forwarded(method, path, asking.carried(tuple(fields)), content, trying) as answer:
                asking.begins(answer.status, answer.fields)
                answer.heard = asking.hears
                yield answer
            outcome = ended_with(answer.status, trying=trying)
        except UpstreamFault as fault:
            outcome = ended_by(fault)
            raise
        finally:
            asking.end(_failed(outcome))

    def _forwarded(
        self, method: str, path: str, fields: Fields, content: Content, trying: bool
    ) -> AbstractAsyncContextManager[Forwarded]:
        forwarding = self._forwarding.forward(method, path, self._with_own(fields), content, trying=trying)
        return self._by_our_key(forwarding) if self._lacks_key(fields) else forwarding

    @asynccontextmanager
    async def _by_our_key(self, forwarding: AbstractAsyncContextManager[Forwarded]) -> AsyncIterator[Forwarded]:
        async with forwarding as answer:
            self._key_was_sent(answer.status)
            yield answer

    # -- both

    def is_own(self, loops: Sequence[str]) -> bool:
        """Whether a request comes from here itself. loops -- what its fields CDN-Loop say, others' among them."""
        return any(self._mark in loop for loop in loops)

    def refuse_own(self, loops: Sequence[str]) -> None:
        """Refuse what comes from here itself. Raises UpstreamFault."""
        if not self.is_own(loops):
            return
        if self._told_loops.news("loop"):
            log.error("GRADING_UPSTREAM_URL %s leads back to this monitor: what comes back is refused", self.url)
        raise UpstreamFault(502, "loop", "what was asked of the grading upstream came back here")

    def has_key(self, call: Call) -> bool:
        """Whether a key goes with what is asked for, the caller's (be it a wrong one) or ours."""
        return call.has_key or self._lacks_key(call.fields)

    def _lacks_key(self, fields: Fields) -> bool:
        """Whether our key goes with these fields."""
        return self._api_key is not None and value_of(fields, "authorization") is None

    def _with_own(self, fields: Fields) -> Fields:
        """With our key, where there is no other, and with what shows that it has been here (RFC 8586)."""
        if self._lacks_key(fields):
            fields = (*fields, ("Authorization", f"Bearer {self._api_key}"))
        return (*fields, ("CDN-Loop", self._mark)) if self._may_loop else fields

    def _key_was_sent(self, status: int) -> None:
        """Say once that our key is refused. status -- of the answer."""
        if status == 401 and self._told_refusals.news("401"):
            log.warning(
                "the grading upstream %s refuses GRADING_API_KEY (401): whoever sends no key of his own is told so",
                self._host,
            )
        elif status < 400:
            self._told_refusals.works()

    def _heard(self, fault: BaseException | None) -> None:
        """Tell the breaker of an answer, or of one that did not come, and the log why."""
        if fault is None:
            self._breaker.succeeded()
            self._told_faults.works()
        else:
            if failure_of(fault) is not Failure.CUT:
                self._breaker.failed(self._clock())
            if self._told_faults.news(reason := self._reason_of(fault)):
                log.warning("the grading upstream %s gives no answer: %s", self._host, reason)
        self._tell_breaker()

    def _ended(self, fault: BaseException | None) -> None:
        """Say why an answer broke off midway: once, until one comes whole."""
        if fault is None:
            self._told_breaks.works()
        elif self._told_breaks.news(reason := self._reason_of(fault)):
            log.warning("an answer of the grading upstream %s broke off midway: %s", self._host, reason)

    def _reason_of(self, fault: BaseException) -> str:
        return reason_of(fault, self._bounds.connect_seconds, self._bounds.seconds)

    def _tell_breaker(self) -> None:
        state, before = self.breaker_state, self._told_state
        if state is before:
            return
        self._told_state = state
        self._observe.breaker(state)
        if before is BreakerState.CLOSED:
            log.warning(
                "the grading upstream %s did not answer several times in a row: known prompts get a 503 until it does",
                self._host,
            )
        elif state is BreakerState.CLOSED:
            log.info("the grading upstream %s answers again", self._host)


def _failed(outcome: Ended) -> str | None:
    """For spans: how an asking failed, if it did; a caller that left, or a key that is not taken, is no failure."""
    return None if outcome in {Ended.ANSWERED, Ended.TRIED, Ended.LEFT} else outcome.value


def _fields_of(response: httpx2.Response) -> Fields:
    return end_to_end(as_text(response.headers.raw), _DECODED)


def _reason_of(answered: httpx2.Response | Failure) -> Retried:
    if isinstance(answered, Failure):
        return Retried.NEVER_SENT
    return Retried.RATE_LIMITED if answered.status_code == 429 else Retried.UNAVAILABLE


def _tokens_of(body: Mapping[str, Any]) -> int:
    """Tokens as the vendor counts them against the limit: from the characters, or max_tokens when that is more.

    https://platform.openai.com/docs/guides/rate-limits
    """
    characters = 0
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        characters += sum(len(text) for text in texts if isinstance(text, str))
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return max(characters // 4, most if isinstance(most, int) else 0)


def _context(url: str) -> ssl.SSLContext:
    """To load whom this machine trusts takes some 50 ms: for `http` it trusts nobody."""
    return ssl.create_default_context() if URL(url).scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
