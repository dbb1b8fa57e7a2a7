"""What both services measure of the tier that replicas share."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from config.bulletin import Bulletin
from config.everywhere import Pins
from config.flags import FlagName
from config.metrics import filled
from config.tier import Result, SharedTier, State

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bucket bounds: from a round trip on one machine to the longest REDIS_TIMEOUT_MS."""


class TierMetrics:
    """The calls, on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        calls = Histogram(
            "siding_shared_tier_seconds",
            "Calls of the tier that replicas share, by result.",
            ["result"],
            registry=registry,
            buckets=SECONDS,
        )
        self._calls = {result: calls.labels(result.value) for result in Result}

    def called(self, result: Result, seconds: float) -> None:
        """A call has ended."""
        self._calls[result].observe(seconds)


def tier_levels(tier: SharedTier, bulletin: Bulletin, pins: Pins | None, *, repeats: bool = False) -> Iterable[Metric]:
    """How it stands now. pins -- None where another process minds the flags. repeats -- its workers hear the same."""
    gauge = GaugeMetricFamily("siding_shared_tier", "The shared tier; 1 is the present state.", labels=["state"])
    yield filled(gauge, {one.value: one is tier.state for one in State})
    yield CounterMetricFamily(
        "siding_shared_tier_evictions", "Keys that the tier's servers dropped for want of memory.", tier.evictions
    )
    yield GaugeMetricFamily("siding_replica_hears", "1 while news of the other replicas arrive.", int(bulletin.hears))
    yield GaugeMetricFamily("siding_replica_untold", "What is still to be told to other replicas.", bulletin.untold)
    messages = CounterMetricFamily(
        "siding_replica_messages", "Invalidations and flags told to and heard from replicas.", labels=["direction"]
    )
    yield filled(messages, {"told": bulletin.told} | ({} if repeats else {"heard": bulletin.heard}))
    if pins is None:
        return
    pinned = GaugeMetricFamily(
        "siding_flag_pinned", "Feature flags: 1 is set in all replicas, whatever their settings say.", labels=["flag"]
    )
    yield filled(pinned, {name.value: name.value in pins.pinned for name in FlagName})
