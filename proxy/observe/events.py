"""What is told about requests: plain values, filled in by those who do the work and read by metrics and logs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from proxy.policy.decisions import Forward, Outcome, Reuse, Verdict

if TYPE_CHECKING:
    from config.otel import Trace

OTHER = "other"
"""The label of whatever is outside a closed set: routes without a rule, unregistered methods."""


class Tier(StrEnum):
    """Where a stored response was."""

    MEMORY = "memory"
    SHARED = "shared"
    """in the tier that replicas share"""


class PurgeKind(StrEnum):
    """What an operator's purge names."""

    URL = "url"
    PREFIX = "prefix"
    TAG = "tag"
    ALL = "all"


@dataclass(slots=True)
class Observation:
    """One request of a client, from its first byte to the end of its answer. Seconds and bytes throughout.

    path -- without the query, which may hold secrets. route -- the rule's pattern, or `OTHER`.
    outcome -- stays INTERNAL_ERROR until a step knows better.
    forward -- why the origin was asked. reuse -- what the selected stored response allowed.
    verdict -- whether the origin's response may be stored. stored -- whether it was.
    tier -- where the stored response was that answered. coding -- the content coding applied here.
    started -- wall clock. duration, first_byte -- from there to the end, and to the first byte of the answer.
    origin_seconds -- the wait for the head of the origin's response, for a collapsed request that of
        another's; None when the origin was not asked. origin_total -- until its content was complete.
    origin_seconds_saved -- the wait that a stored or shared response spared.
    request_bytes, response_bytes -- content received and sent.
    bytes_saved_304, bytes_saved_coding -- content not sent, for want of a change and by coding.
    error -- code of the fault that the client was told of, or that a stale response hid.
    trace -- its span, where traces are on. spanless -- it was drawn that it gets none, should they be on.
    """

    method: str = ""
    path: str = ""
    route: str = OTHER
    status: int = 0
    outcome: Outcome = Outcome.INTERNAL_ERROR
    forward: Forward | None = None
    verdict: Verdict | None = None
    reuse: Reuse | None = None
    collapsed: bool = False
    stored: bool = False
    tier: Tier | None = None
    coding: str | None = None
    started: float = 0.0
    duration: float = 0.0
    first_byte: float | None = None
    origin_seconds: float | None = None
    origin_total: float | None = None
    origin_status: int | None = None
    origin_seconds_saved: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0
    bytes_saved_304: int = 0
    bytes_saved_coding: int = 0
    request_id: str = ""
    traceparent: str = ""
    client: str = ""
    error: str | None = None
    detail: str | None = None
    trace: Trace | None = None
    spanless: bool = False


@dataclass(frozen=True, slots=True)
class BriefKind:
    """What many requests that were answered the short way have in common. See `Observation`."""

    route: str
    method: str
    status: int
    coding: str | None = None
    outcome: Outcome = Outcome.HIT
    forward: Forward | None = None
    verdict: Verdict | None = None


class Brief:
    """A request that was answered the short way: what `Observation` says, in the few words that it takes.

    path, request_id, traceparent -- as the client sent them, "" where it did not; path is without the query.
    received, sent, whole -- octets of content: of the request, of the answer, and as stored. started, duration --
    seconds. origin_seconds -- those that a hit spared, or a pass took.
    """

    __slots__ = (
        "client",
        "duration",
        "kind",
        "origin_seconds",
        "path",
        "received",
        "request_id",
        "sent",
        "started",
        "traceparent",
        "whole",
    )

    def __init__(
        self,
        kind: BriefKind,
        path: str,
        client: str,
        request_id: str,
        traceparent: str,
        received: int,
        sent: int,
        whole: int,
        origin_seconds: float,
        started: float,
        duration: float,
    ) -> None:
        self.kind = kind
        self.path = path
        self.client = client
        self.request_id = request_id
        self.traceparent = traceparent
        self.received = received
        self.sent = sent
        self.whole = whole
        self.origin_seconds = origin_seconds
        self.started = started
        self.duration = duration

    def observation(self) -> Observation:
        """The same in full."""
        kind, hit = self.kind, self.kind.outcome is Outcome.HIT
        return Observation(
            method=kind.method,
            path=self.path,
            route=kind.route,
            status=kind.status,
            outcome=kind.outcome,
            forward=kind.forward,
            verdict=kind.verdict,
            reuse=Reuse.FRESH if hit else None,
            tier=Tier.MEMORY if hit else None,
            coding=kind.coding,
            started=self.started,
            duration=self.duration,
            first_byte=self.duration,
            origin_seconds=None if hit else self.origin_seconds,
            origin_total=None if hit else self.origin_seconds,
            origin_status=None if hit else kind.status,
            origin_seconds_saved=self.origin_seconds if hit else 0.0,
            request_bytes=self.received,
            response_bytes=self.sent,
            request_id=self.request_id,
            traceparent=self.traceparent,
            client=self.client,
        )


@dataclass(slots=True)
class OriginObservation:
    """One request to the origin that no client waited for: validation behind a stale answer.

    status -- of the origin's response; None when there was none, and `error` says why.
    seconds -- the wait for its head, or for the failure.
    """

    route: str = OTHER
    forward: Forward | None = None
    status: int | None = None
    seconds: float = 0.0
    error: str | None = None
