"""What the metrics of both services have in common: those of the process, and how all of them are written out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from config.flags import Flags
from config.lag import LoopLag
from config.version import VERSION

Family = TypeVar("Family", CounterMetricFamily, GaugeMetricFamily)

# one more time series for every counter, of no use to a dashboard
disable_created_metrics()  # type: ignore[no-untyped-call]


def measure_process(registry: CollectorRegistry, flags: Flags) -> LoopLag:
    """What runs and how; the lag of its event loop from when that is started."""
    registry.register(_Standing(flags))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return LoopLag(registry)


def filled(family: Family, samples: Mapping[str, float]) -> Family:
    """A family of one label with a sample for each of its values."""
    for label, number in samples.items():
        family.add_metric([label], number)
    return family


def write_out(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The exposition with its content type: OpenMetrics where `accept` (an Accept field) asks for it."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Standing(Collector):
    def __init__(self, flags: Flags) -> None:
        self._flags = flags

    def collect(self) -> Iterable[Metric]:
        flags = GaugeMetricFamily("siding_flag", "Feature flags: 1 is on.", labels=["flag"])
        yield filled(flags, self._flags.as_dict())
        yield InfoMetricFamily("siding_build", "What is running.", {"version": VERSION})
