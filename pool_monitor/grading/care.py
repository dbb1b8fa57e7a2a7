"""Pure: when to ask the grading upstream again, when to leave it alone, and how fast it may be asked."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

import orjson

from pool_monitor.grading.calls import Fields, value_of

MOST_RETRIES = 2
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
"""Seconds, as the vendor's SDKs wait."""
NOT_PROCESSED = frozenset({429, 503})
"""Statuses that tell that nothing was done (RFC 6585 4, RFC 9110 15.6.4). Any other may have cost money already."""
NO_MONEY = "insufficient_quota"
"""The error code of a 429 that waiting does not help against."""

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[dhms]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_UNIT_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


# -- asking again


def error_code(content: bytes) -> str:
    """What an error's content says that it is; `NO_MONEY` where its type is that; "" where it does not say."""
    try:
        error = orjson.loads(content)["error"]
        return NO_MONEY if NO_MONEY in (error.get("code"), error.get("type")) else str(error.get("code"))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return ""


def is_hopeless(fields: Fields, code: str) -> bool:
    """Whether asking again is of no use. code -- of the error."""
    return code == NO_MONEY or value_of(fields, "x-should-retry") == "false"


def told_to_wait(fields: Fields, wall: float) -> float | None:
    """Seconds that an answer asks to wait (RFC 9110 10.2.3), its milliseconds first; None where it does not.

    wall -- now, in seconds since 1970.
    """
    milliseconds = _number(value_of(fields, "retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    given = value_of(fields, "retry-after")
    seconds = _number(given)
    if seconds is not None or given is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - wall)
    except (ValueError, OverflowError):
        return None


def retry_after(
    status: int | None, fields: Fields, *, attempt: int, left: float, jitter: float, wall: float, code: str = ""
) -> float | None:
    """Seconds after which to ask again; None where the answer, or that there is none, is to be told as it is.

    status -- None: the request was never sent. code -- of the error. attempt -- how often it was asked again before.
    left -- seconds in which the next attempt must begin. jitter -- 0 to 1. wall -- seconds since 1970.
    """
    if attempt >= MOST_RETRIES or (status is not None and status not in NOT_PROCESSED):
        return None
    if is_hopeless(fields, code):
        return None
    backoff: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
    told = told_to_wait(fields, wall) if status is not None else None
    # never earlier than told, and not all at the same moment
    pause = backoff * (0.5 + 0.5 * jitter) if told is None else told + FIRST_PAUSE * jitter
    return pause if pause < left else None


# -- leaving it alone


class BreakerState(StrEnum):
    """Whether the upstream is asked."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


FAILURES = 5
REST = 1.0
LONGEST_REST = 30.0


class Breaker:
    """Open after `FAILURES` connections or answers in a row that did not come; then one probe after a rest, which
    doubles while the probes fail, up to `LONGEST_REST`. All times in seconds.

    A probe that is not heard of holds its place for as long as the rest was: an answer may take minutes.
    """

    def __init__(self) -> None:
        self._failed = 0
        self._rest = REST
        self._until: float | None = None
        self._probing = False

    def state(self, now: float) -> BreakerState:
        """See BreakerState."""
        if self._until is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probing or now >= self._until else BreakerState.OPEN

    def rests(self, now: float) -> float:
        """Seconds in which nothing may be asked; 0 when something may."""
        return max(0.0, self._until - now) if self._until is not None else 0.0

    def admit(self, now: float) -> bool:
        """Whether one may ask now. A probe must be told of by `succeeded` or `failed`."""
        if self._until is None:
            return True
        if now < self._until:
            return False
        self._probing = True
        self._until = now + self._rest
        return True

    def succeeded(self) -> None:
        """The upstream has answered, be it with an error."""
        self._failed = 0
        self._rest = REST
        self._until = None
        self._probing = False

    def failed(self, now: float) -> None:
        """No connection, or no answer in time."""
        self._failed += 1
        if self._until is None:
            if self._failed >= FAILURES:
                self._until = now + self._rest
        elif self._probing:
            self._probing = False
            self._rest = min(LONGEST_REST, self._rest * 2)
            self._until = now + self._rest


# -- how fast


def seconds_of(duration: str | None) -> float | None:
    """Seconds of "120ms", "6m0s" or "1h2m3.5s", as the rate-limit fields tell them; None where it is nothing of it."""
    text = (duration or "").strip()
    if not _DURATION.fullmatch(text):
        return _number(duration)
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


@dataclass(slots=True)
class _Bucket:
    """What may still be asked: `level` at the time `at`, filling up to `limit` by `rate` a second."""

    limit: float
    level: float
    rate: float
    at: float

    def now(self, now: float) -> float:
        return min(self.limit, self.level + self.rate * max(0.0, now - self.at))

    def wait(self, needed: float, now: float) -> float:
        missing = min(needed, self.limit) - self.now(now)
        # what is missing by rounding alone would be waited for again and again
        wait = missing / self.rate if missing > 1e-6 * self.limit else 0.0
        return min(wait, self.at + LONGEST_BELIEVED - now)

    def take(self, count: float, now: float) -> None:
        # who does not wait takes what is not there; the upstream knows of no debt
        self.level, self.at = max(0.0, self.now(now) - count), now


@dataclass(slots=True)
class _Known:
    requests: _Bucket | None = None
    tokens: _Bucket | None = None
    closed_until: float = 0.0


UNTOLD_PAUSE = 1.0
"""Seconds without requests after a 429 that does not tell how long."""
MINUTE = 60.0
LONGEST_BELIEVED = 120.0
"""Seconds after which one asks again, whatever was told: a clock or a unit that is wrong closes nothing for days. As
the vendor's SDK (`MAX_RETRY_AFTER_DELAY` of openai 3.57), which does not wait for more."""


class RateLimits:
    """What the upstream's answers tell of its limits, by credential and model, the last `most` of them.

    https://platform.openai.com/docs/guides/rate-limits -- `limit` is the bucket, `remaining` its level, `reset`
    the time until it is full. A key is any string that does not give the credential away. No wait is longer than
    LONGEST_BELIEVED after what it was learned from.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def observe(self, key: str, fields: Fields, status: int, now: float, wall: float) -> None:
        """Learn from an answer. now -- monotonic; wall -- since 1970; both seconds."""
        known = self._known.get(key)
        if known is None:
            if status != 429 and value_of(fields, "x-ratelimit-limit-requests") is None:
                return
            known = self._known[key] = _Known()
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        known.requests = _learned(known.requests, fields, "requests", now)
        known.tokens = _learned(known.tokens, fields, "tokens", now)
        if status == 429:
            told = told_to_wait(fields, wall)
            pause = UNTOLD_PAUSE if told is None else min(told, LONGEST_BELIEVED)
            known.closed_until = max(known.closed_until, now + pause)

    def wait(self, key: str, now: float, tokens: int = 0) -> float:
        """Seconds before the next request of about so many tokens may go."""
        known = self._known.get(key)
        if known is None:
            return 0.0
        buckets = ((known.requests, 1), (known.tokens, max(1, tokens)))
        return max(
            0.0,
            known.closed_until - now,
            *(bucket.wait(needed, now) for bucket, needed in buckets if bucket is not None),
        )

    def take(self, key: str, now: float, tokens: int = 0) -> None:
        """A request of about so many tokens goes."""
        known = self._known.get(key)
        if known is None:
            return
        for bucket, count in ((known.requests, 1), (known.tokens, tokens)):
            if bucket is not None:
                bucket.take(count, now)


def _learned(bucket: _Bucket | None, fields: Fields, what: str, now: float) -> _Bucket | None:
    limit = _number(value_of(fields, f"x-ratelimit-limit-{what}"))
    remaining = _number(value_of(fields, f"x-ratelimit-remaining-{what}"))
    if limit is None or remaining is None or limit < 1:
        return bucket
    reset = seconds_of(value_of(fields, f"x-ratelimit-reset-{what}"))
    rate = (limit - remaining) / reset if reset and remaining < limit else limit / MINUTE
    if bucket is not None and bucket.limit == limit:
        # answers overtake each other, and what was asked since is not in them: the lower one is nearer to the truth
        remaining = min(remaining, bucket.now(now))
    return _Bucket(limit, remaining, rate, now)
