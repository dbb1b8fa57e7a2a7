"""Answers at temperature 0, kept for a while for whoever had them: in memory, and in the tier that replicas share.

Keys are HMACs, of the credential as well, so one caller never has another's answer. Where the secret is this
process's own, no other replica could find them, and nothing is shared.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from config.tier import SharedTier
from config.tracing import apart
from pool_monitor.grading import sse
from pool_monitor.grading.calls import Answer, Call, Fields, UpstreamFault, coding_of
from pool_monitor.grading.decoding import without_coding
from pool_monitor.grading.jsons import canonical, decoded
from pool_monitor.grading.observed import Found
from pool_monitor.grading.outcomes import said_by
from pool_monitor.kept import Kept

VERSION = 1
OVERHEAD_BYTES = 1000
MAX_ANSWER_SHARE = 8
"""An answer of more than this part of the budget is not kept."""

_NOT_KEPT = ("x-ratelimit-", "x-request-id", "openai-processing-ms", "retry-after", "set-cookie", "date", "cf-", "age")
"""Of one answer's transport, not of its content."""
_WITHOUT_EFFECT = frozenset({"user-agent", "x-request-id", "traceparent", "tracestate"})
_WITHOUT_EFFECT_PREFIXES = ("x-stainless-", "x-forwarded-", "forwarded", "sec-", "via")


def is_whole(answer: Answer, *, stream: bool) -> bool:
    """Whether an answer is a completion that has ended: worth to be told again."""
    try:
        content = without_coding(answer.content, coding_of(answer.fields))
        if not stream:
            completion = decoded(content)
            return said_by(completion) is not None and not (completion or {}).get("error")
        decoder = sse.Decoder()
        *events, last = decoder.feed(content)
    except (ValueError, UpstreamFault):
        return False
    ended = False
    # of an answer of many there is one document at a time
    for document in (event.document or {} for event in events):
        if document.get("error"):
            return False
        ended = ended or _ends(document)
    return last.is_last and decoder.rest() is None and ended


def _ends(chunk: Mapping[str, Any]) -> bool:
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and first.get("finish_reason") is not None


def key_of(call: Call, secret: bytes, form: str) -> bytes:
    """What equal requests have in common: content in its canonical form, credential, and other fields.

    form -- what is done to it on the way; answers of one form are not those of another.
    """
    fields = sorted((name.lower(), value) for name, value in call.fields if _has_effect(name.lower()))
    found = hmac.new(secret, digestmod=hashlib.sha256)
    for text in (form, call.credential, *(part for field in fields for part in field)):
        part = text.encode("utf-8", "surrogateescape")
        found.update(b"%d:" % len(part) + part)
    found.update(canonical(call.body, call.octets))
    return found.digest()


def _has_effect(name: str) -> bool:
    return name not in _WITHOUT_EFFECT and not name.startswith(_WITHOUT_EFFECT_PREFIXES)


def repeatable(call: Call) -> bool:
    """Whether the caller asks for the same answer each time: temperature 0, and nothing kept by the vendor."""
    temperature = call.body.get("temperature")
    return isinstance(temperature, int | float) and temperature == 0 and not call.body.get("store")


def shareable(call: Call, *, known: bool) -> bool:
    """Whether equal calls in flight may have one answer: of a known prompt, or where it would be the same anyway."""
    return (known or repeatable(call)) and not call.body.get("store")


@dataclass(slots=True)
class _Answer:
    answer: Answer
    until: float

    @property
    def weight(self) -> int:
        return len(self.answer.content) + OVERHEAD_BYTES


class Stored:
    """See the module. ttl -- seconds. clock -- monotonic seconds. tier -- None without one, or without its secret."""

    def __init__(
        self,
        ttl: float,
        max_bytes: int,
        clock: Callable[[], float],
        tier: SharedTier | None,
        shared: Callable[[], bool],
    ) -> None:
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._clock = clock
        self._tier = tier
        self._shared = shared
        self.held: Kept[bytes, _Answer] = Kept(max_bytes)
        self._writing: set[asyncio.Task[bool]] = set()

    def takes(self, answer: Answer) -> bool:
        """Whether there is room for an answer of that size."""
        return len(answer.content) <= self._max_bytes // MAX_ANSWER_SHARE

    async def find(self, key: bytes) -> tuple[Answer, Found, float] | None:
        """The answer, where it was found, and the seconds it has left."""
        here = self._here(key)
        if here is not None or self._tier is None or not self._shared():
            return here
        found = await self._tier.read(_place(key), ())
        answer = _unpacked(found[0], key) if found is not None and found[0] is not None else None
        if found is None or answer is None or found[1] <= 0:
            # it may have been kept meanwhile
            return self._here(key)
        left = min(self._ttl, found[1])
        self.held.keep(key, _Answer(answer, self._clock() + left))
        return answer, Found.SHARED, left

    def _here(self, key: bytes) -> tuple[Answer, Found, float] | None:
        kept = self.held.find(key)
        if kept is None:
            return None
        left = kept.until - self._clock()
        if left > 0:
            return kept.answer, Found.HIT, left
        self.held.drop(key)
        return None

    def keep(self, key: bytes, answer: Answer) -> None:
        """Keep a complete and successful answer, here and, in the background, in the tier."""
        fields = tuple((name, value) for name, value in answer.fields if not name.lower().startswith(_NOT_KEPT))
        answer = Answer(answer.status, fields, answer.content)
        if not self.takes(answer):
            return
        self.held.keep(key, _Answer(answer, self._clock() + self._ttl))
        if self._tier is not None and self._shared():
            task = apart(self._tier.write(_place(key), _packed(answer, key), self._ttl))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Wait for what is on its way to the tier, which is bounded in time."""
        await asyncio.gather(*self._writing, return_exceptions=True)


def _place(key: bytes) -> str:
    return f"siding:completion:{key.hex()}"


def _packed(answer: Answer, key: bytes) -> bytes:
    return orjson.dumps([VERSION, key.hex(), answer.status, answer.fields]) + b"\n" + answer.content


def _unpacked(value: bytes, key: bytes) -> Answer | None:
    """None for anything that is not of this version and for this key."""
    header, newline, content = value.partition(b"\n")
    try:
        version, kept_key, status, fields = orjson.loads(header)
        pairs: Fields = tuple((str(name), str(field)) for name, field in fields)
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return None
    if not newline or [version, kept_key] != [VERSION, key.hex()] or not isinstance(status, int):
        return None
    return Answer(status, pairs, content)
