"""An item of a batch is asked: not while the upstream's limits say wait, and again where that is of use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from pool_monitor.grading.accounting import tokens_in
from pool_monitor.grading.batch_items import Refused
from pool_monitor.grading.calls import Answer, Ask, Call, OwnFault, UpstreamFault, value_of
from pool_monitor.grading.care import LONGEST_BELIEVED, RateLimits, error_code, is_hopeless, told_to_wait
from pool_monitor.grading.jsons import loaded, member_of, on_one_line
from pool_monitor.grading.receiving import done_to

log = logging.getLogger("siding.grading")

MOST_ATTEMPTS = 6
"""How often an item is asked in all, each by way of the upstream's own retries. Whether a longer wait than is believed
has ended is asked until its batch has no more time."""
ITEM_SECONDS = 600.0


# -- what became of an item


@dataclass(frozen=True, slots=True)
class Tokens:
    """As reported by the upstream."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
        )


NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to an item. body -- JSON on one line; that of an error has `error`.

    answered -- False: the upstream gave no answer, and the body is ours. calls -- how often it was asked.
    """

    status: int
    body: bytes
    answered: bool = True
    request_id: str = ""
    tokens: Tokens = NO_TOKENS
    calls: int = 0

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def may_change(self) -> bool:
        """Whether asking again later is of use."""
        return self.status == 429 or self.status >= 500

    @property
    def error(self) -> bytes:
        """What went wrong, as OpenAI's errors tell it."""
        document = loaded(self.body)
        told = isinstance(document, dict) and document.get("error")
        return member_of(self.body, "error") if told else self.body


MOST_REFUSED = 8
"""So many refusals in a row are no accident: upstreams refuse a good key now and then."""


class Refusals:
    """What the upstream refuses a caller, by its answers: the key (401), and so all that come with it, or what is asked
    of a model (403). The key is None."""

    def __init__(self) -> None:
        self._in_a_row: dict[str | None, int] = {}
        self._last: dict[str | None, Reply] = {}

    def heed(self, reply: Reply, model: str) -> None:
        """Learn from an answer to what was asked of this model."""
        if not reply.answered or reply.status >= 500:
            return
        if reply.status not in {401, 403}:
            self._in_a_row.pop(None, None)
            self._in_a_row.pop(model, None)
            return
        what = None if reply.status == 401 else model
        self._in_a_row[what] = self._in_a_row.get(what, 0) + 1
        self._last[what] = reply

    @property
    def key(self) -> bool:
        """Whether the key was refused last, be it by accident."""
        return None in self._in_a_row

    def last(self, what: str | None) -> Reply | None:
        """The last of so many refusals of the key, or of a model, that there is nothing more to be asked."""
        return self._last[what] if self._in_a_row.get(what, 0) >= MOST_REFUSED else None


def refusal(refused: Refused) -> Reply:
    """Of an item that cannot be asked."""
    return Reply(400, orjson.dumps(refused.document))


def unanswered(fault: UpstreamFault, calls: int = 0) -> Reply:
    """Of an item without an answer."""
    return Reply(fault.status, orjson.dumps(fault.document), answered=False, calls=calls)


def reply_of(answer: Answer, calls: int) -> Reply:
    """Of an item that was answered."""
    request_id = value_of(answer.fields, "x-request-id") or ""
    try:
        document, body = on_one_line(answer.content)
    except (ValueError, RecursionError):
        status = 502 if answer.ok else answer.status
        fault = UpstreamFault(status, "upstream_no_json", f"the upstream answered {answer.status} without JSON")
        return Reply(status, orjson.dumps(fault.document), request_id=request_id, calls=calls)
    tokens = _tokens_of(document) if answer.ok else NO_TOKENS
    return Reply(answer.status, body, request_id=request_id, tokens=tokens, calls=calls)


def _tokens_of(document: object) -> Tokens:
    usage = _part(document, "usage")
    return Tokens(
        tokens_in(usage, "prompt_tokens") or 0,
        tokens_in(usage, "completion_tokens") or 0,
        tokens_in(_part(usage, "prompt_tokens_details"), "cached_tokens") or 0,
        tokens_in(_part(usage, "completion_tokens_details"), "reasoning_tokens") or 0,
    )


def _part(document: object, name: str) -> Mapping[str, Any]:
    part = document.get(name) if isinstance(document, Mapping) else None
    return part if isinstance(part, Mapping) else {}


# -- asking


class Asking:
    """Asks for items: not while the upstream's limits say wait, and again after a 429. All times in seconds.

    limits -- shared by all runs, and told of every 429. secret -- of the keys in it. clock -- monotonic;
    wall -- since 1970. item_seconds -- the longest for one attempt.
    """

    def __init__(
        self,
        ask: Ask,
        limits: RateLimits,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        secret: bytes,
        item_seconds: float = ITEM_SECONDS,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ask = ask
        self._limits = limits
        self._secret = secret
        self._wall = wall
        self._item_seconds = item_seconds
        self._sleep = sleep
        self.clock = clock

    async def reply(self, call: Call, until: float) -> Reply:
        """What becomes of a completion that is asked, at the latest at `until`. Raises nothing."""
        key = call.keyed(self._secret, call.model)
        last: Reply | None = None
        calls, attempts = 0, 0
        while True:
            if not await self._may_ask(key, until):
                return last or unanswered(_no_time("the rate limit of the upstream leaves no time for this"))
            calls, attempts = calls + 1, attempts + 1
            try:
                answer = await self._asked(call, until)
            except UpstreamFault as fault:
                last = unanswered(fault, calls)
                # with a time to come again it was not asked
                if fault.retry_after is None or self.clock() + fault.retry_after >= until or attempts == MOST_ATTEMPTS:
                    return last
                await self._sleep(fault.retry_after)
                continue
            last = await done_to(len(answer.content), reply_of, answer, calls)
            if answer.status != 429 or is_hopeless(answer.fields, error_code(answer.content)):
                return last
            now, wall = self.clock(), self._wall()
            self._limits.observe(key, answer.fields, answer.status, now, wall)
            told = told_to_wait(answer.fields, wall) or 0.0
            attempts -= told > LONGEST_BELIEVED
            if now + told >= until or attempts == MOST_ATTEMPTS:
                return last

    async def _may_ask(self, key: str, until: float) -> bool:
        while True:
            pause = self._limits.wait(key, self.clock())
            if self.clock() + pause >= until:
                return False
            if pause <= 0:
                return True
            await self._sleep(pause)

    async def _asked(self, call: Call, until: float) -> Answer:
        now = self.clock()
        deadline = min(until, now + self._item_seconds)
        try:
            async with asyncio.timeout(deadline - now):
                return await self._ask(replace(call, deadline=deadline))
        except UpstreamFault:
            raise
        except TimeoutError:
            raise _no_time("the upstream did not answer in time") from None
        except Exception:
            log.exception("asking for an item of a batch failed")
            raise OwnFault() from None


def _no_time(message: str) -> UpstreamFault:
    return UpstreamFault(504, "upstream_timeout", message, "timeout")
