"""Numbers of the pool -> the JSON that is served, a verdict in words, and the advice that follows. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

LEAK_SECONDS = 60.0
"""Nobody who gives connections back holds one for this long: queries are ended long before."""
BUSY_SHARE = 0.75
"""Of the most connections: the plan's target is under 15 of 20."""
REACHING = (
    "see that the database runs and has connections left, and that DATABASE_URL is right; connecting is tried again by "
    "itself"
)


class Verdict(StrEnum):
    """The state of the pool in one word, the worst that applies."""

    OFF = "off"
    UNREACHABLE = "unreachable"
    LEAKING = "leaking"
    SATURATED = "saturated"
    BUSY = "busy"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a connection, and for how many seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Numbers:
    """The pool at one moment. Durations in seconds.

    total -- connections, those being made included. idle, waiting, most -- as node-postgres has them.
    connecting -- connections being made. oldest_wait -- of those who wait. waits -- the latest waits, in any order.
    failure -- why the last attempt to connect failed; None once one succeeded since.
    """

    most: int
    least: int
    total: int = 0
    idle: int = 0
    waiting: int = 0
    connecting: int = 0
    oldest_wait: float = 0.0
    waits: Sequence[float] = ()
    holders: Sequence[Holder] = ()
    acquired: int = 0
    timeouts: int = 0
    cancelled: int = 0
    connects: int = 0
    connect_failures: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    uptime: float = 0.0
    failure: str | None = None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def verdict(numbers: Numbers) -> tuple[Verdict, str, str]:
    """The state in a word, in a sentence, and what to do about it."""
    oldest = max(numbers.holders, key=lambda holder: holder.seconds, default=None)
    active, aim = numbers.total - numbers.idle, BUSY_SHARE * numbers.most
    if numbers.failure is not None and numbers.total - numbers.connecting == 0:
        return (
            Verdict.UNREACHABLE,
            f"unreachable: {numbers.failure}",
            REACHING,
        )
    if oldest is not None and oldest.seconds > LEAK_SECONDS:
        return (
            Verdict.LEAKING,
            f"leaking: {oldest.name!r} has held a connection for {oldest.seconds:.0f} s",
            f"find where {oldest.name!r} takes a connection and does not give it back",
        )
    if numbers.failure is not None and not numbers.idle:
        held = numbers.total - numbers.connecting
        told = f"saturated: no connection can be made beyond the {held} that are held: {numbers.failure}"
        return Verdict.SATURATED, told, REACHING
    if numbers.waiting:
        longest = f", the longest by {oldest.name!r} for {oldest.seconds:.1f} s" if oldest is not None else ""
        return (
            Verdict.SATURATED,
            f"saturated: {numbers.waiting} wait, the first for {numbers.oldest_wait:.1f} s; "
            f"{active} of {numbers.most} connections are held{longest}",
            "make the longest queries shorter first; raise DB_POOL_MAX only if the server's max_connections allows it",
        )
    if active >= aim:
        return (
            Verdict.BUSY,
            f"busy: {active} of {numbers.most} connections are in use; the aim is under {aim:.0f}",
            "watch for waiting; look at what holds connections longest",
        )
    return Verdict.HEALTHY, "healthy", ""


def document(numbers: Numbers) -> dict[str, object]:
    """The `/api/metrics/database-pool` answer. Times in milliseconds, as the plan's own numbers are."""
    word, sentence, advice = verdict(numbers)
    active = numbers.total - numbers.idle
    holders = sorted(numbers.holders, key=lambda holder: -holder.seconds)
    return {
        "totalCount": numbers.total,
        "idleCount": numbers.idle,
        "waitingCount": numbers.waiting,
        "maxConnections": numbers.most,
        "activeConnections": active,
        "minConnections": numbers.least,
        "connectingCount": numbers.connecting,
        "oldestWaitMs": _ms(numbers.oldest_wait),
        "waitMs": {name: _ms(percentile(numbers.waits, share)) for name, share in _SHARES.items()},
        "holders": [{"name": holder.name, "heldMs": _ms(holder.seconds)} for holder in holders],
        "acquiredTotal": numbers.acquired,
        "timeoutsTotal": numbers.timeouts,
        "cancelledTotal": numbers.cancelled,
        "connectsTotal": numbers.connects,
        "connectFailuresTotal": numbers.connect_failures,
        "errorsTotal": dict(numbers.errors),
        "uptimeSeconds": round(numbers.uptime, 3),
        "state": word.value,
        "verdict": sentence,
        "advice": advice,
        "targets": {
            "waitingAlwaysZero": numbers.waiting == 0 and numbers.timeouts == 0,
            "activeUnder15": active < 15,
        },
    }


_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
