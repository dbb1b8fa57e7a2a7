"""How an asking of the grading upstream ends, and who is told."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from pool_monitor.grading.calls import Lane, UpstreamFault
from pool_monitor.grading.care import BreakerState
from pool_monitor.grading.turns import ObserveWait


class Ended(StrEnum):
    """How an asking ended."""

    ANSWERED = "answered"
    ERROR = "error"
    """the upstream's own"""
    UNREACHABLE = "unreachable"
    CUT = "cut"
    TIMED_OUT = "timed-out"
    CIRCUIT_OPEN = "circuit-open"
    TOO_MANY_WAITING = "too-many-waiting"
    TRIED = "tried"
    """whether a key is taken was asked, and told, be it by an error"""
    LEFT = "left"
    """the caller did, or what it sent broke off"""


_BY_CODE = {
    "upstream_unreachable": Ended.UNREACHABLE,
    "upstream_cut": Ended.CUT,
    "upstream_timeout": Ended.TIMED_OUT,
    "upstream_circuit_open": Ended.CIRCUIT_OPEN,
    "too_many_waiting": Ended.TOO_MANY_WAITING,
}


def ended_by(fault: UpstreamFault) -> Ended:
    """How one has ended that had no answer but this fault."""
    return _BY_CODE.get(fault.code, Ended.LEFT)


def ended_with(status: int, *, trying: bool) -> Ended:
    """How one has ended that was answered so. trying -- a key: an error of the caller's is what is asked for."""
    if trying and status < 500:
        return Ended.TRIED
    return Ended.ANSWERED if status < 400 else Ended.ERROR


class Retried(StrEnum):
    """Why the upstream was asked again."""

    NEVER_SENT = "never-sent"
    RATE_LIMITED = "rate-limited"
    UNAVAILABLE = "unavailable"


class Observe(ObserveWait, Protocol):
    """Told of what happens; seconds in all."""

    def asked(self, lane: Lane, how: Ended, seconds: float) -> None: ...

    def forwarded(self, how: Ended, seconds: float) -> None: ...

    def retried(self, reason: Retried) -> None: ...

    def breaker(self, state: BreakerState) -> None: ...
