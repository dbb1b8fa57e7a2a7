"""Metrics with everything they read, and observations for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families as parse_text

from config.flags import Flags
from config.metrics import write_out
from proxy.observe.events import Observation
from proxy.observe.metrics import Metrics
from proxy.policy.decisions import Forward, Outcome, Verdict
from proxy.store.memory import MemoryStore

Labels = dict[str, str]


@dataclass
class Origin:
    in_use: int = 0
    idle: int = 0
    waiting: int = 0


@dataclass
class Bench:
    """Metrics with everything they read."""

    flags: Flags = field(default_factory=Flags)
    store: MemoryStore = field(default_factory=lambda: MemoryStore(1_000_000))
    origin: Origin = field(default_factory=Origin)
    in_flight: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        self.metrics = Metrics(
            self.flags,
            store=self.store,
            origin=self.origin,
            in_flight=lambda: self.in_flight,
            log_dropped=lambda: self.dropped,
        )

    def value(self, name: str, **labels: str) -> float | None:
        """The sample of this name and exactly these labels."""
        for family in parse_text(write_out(self.metrics.taken(), "")[0].decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return None

    def labels(self, name: str) -> list[Labels]:
        """The labels of every sample of this name."""
        families = parse_text(write_out(self.metrics.taken(), "")[0].decode())
        return [sample.labels for family in families for sample in family.samples if sample.name == name]


def hit(route: str = "/reports", method: str = "GET") -> Observation:
    return Observation(
        method=method,
        route=route,
        status=200,
        outcome=Outcome.HIT,
        duration=0.0004,
        first_byte=0.0003,
        origin_seconds_saved=1.5,
        response_bytes=2000,
        bytes_saved_coding=500,
    )


def miss() -> Observation:
    return Observation(
        method="POST",
        route="/reports",
        status=201,
        outcome=Outcome.MISS,
        forward=Forward.URI_MISS,
        verdict=Verdict.STORE,
        duration=1.7,
        origin_seconds=1.6,
        origin_status=201,
        request_bytes=70,
        response_bytes=3000,
    )
