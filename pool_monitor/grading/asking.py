"""How an asking of the grading upstream ends, and who is told."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from pool_monitor.grading.calls import Lane, UpstreamFault
from pool_monitor.grading.care import BreakerState
from pool_monitor.grading.turns import ObserveWait


class Outcome(StrEnum):
    """How an asking ended."""

    ANSWERED = "answered"
    ERROR = "error"
    """the upstream's own"""
    UNREACHABLE = "unreachable"
    CUT = "cut"
    TIMED_OUT = "timed-out"
    CIRCUIT_OPEN = "circuit-open"
    TOO_MANY_WAITING = "too-many-waiting"
    LEFT = "left"
    """the caller did, or what it sent broke off"""


_OUTCOMES = {
    "upstream_unreachable": Outcome.UNREACHABLE,
    "upstream_cut": Outcome.CUT,
    "upstream_timeout": Outcome.TIMED_OUT,
    "upstream_circuit_open": Outcome.CIRCUIT_OPEN,
    "too_many_waiting": Outcome.TOO_MANY_WAITING,
}


def outcome_of(fault: UpstreamFault) -> Outcome:
    """The outcome that a fault stands for."""
    return _OUTCOMES.get(fault.code, Outcome.LEFT)


class Retried(StrEnum):
    """Why the upstream was asked again."""

    NEVER_SENT = "never-sent"
    RATE_LIMITED = "rate-limited"
    UNAVAILABLE = "unavailable"


class Observe(ObserveWait, Protocol):
    """Told of what happens; seconds in all."""

    def asked(self, lane: Lane, outcome: Outcome, seconds: float) -> None: ...

    def forwarded(self, outcome: Outcome, seconds: float) -> None: ...

    def retried(self, reason: Retried) -> None: ...

    def breaker(self, state: BreakerState) -> None: ...
