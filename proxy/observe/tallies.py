"""Counters and histograms as plain numbers, read when the metrics are.

The client library's own take a lock for each number, as threads would need. These are for one thread, and a
histogram takes any number of observations in one go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


class Counts(Collector):
    """A counter: `values` by label values, to be added to. `start` has label values that begin at 0."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str] = (), start: Iterable[Labels] = ()) -> None:
        self._name, self._meaning, self._labels = name, meaning, tuple(labels)
        self.values: dict[Labels, float] = dict.fromkeys(start, 0.0) if labels else {(): 0.0}

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count `amount` more."""
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def taken(self) -> Counts:
        """One with the values of now, to be read by another thread."""
        taken = Counts(self._name, self._meaning, self._labels)
        taken.values = dict(self.values)
        return taken

    def describe(self) -> Iterable[Metric]:
        """The family, without samples."""
        return [CounterMetricFamily(self._name, self._meaning, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """The family, with its values now."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return [family]


class Spread:
    """Observations of one set of label values: how many within each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: Spread) -> None:
        """All that `other` has, which has the same bounds."""
        counts = self.counts
        for at, count in enumerate(other.counts):
            counts[at] += count
        self.total += other.total


def added_up(bounds: Sequence[float], spreads: Iterable[Spread]) -> list[float]:
    """How many observations of all `spreads` lie between the bounds, and beyond the last."""
    columns = list(zip(*(spread.counts for spread in spreads), strict=True))
    return [float(sum(column)) for column in columns] or [0.0] * (len(bounds) + 1)


class Spreads(Collector):
    """A histogram: a `Spread` for each set of label values, made when first asked for. bounds -- ascending."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._meaning, self._labels, self._bounds = name, meaning, tuple(labels), tuple(bounds)
        self._spreads: dict[Labels, Spread] = {}

    def of(self, *labels: str) -> Spread:
        """That of these label values."""
        found = self._spreads.get(labels)
        if found is None:
            found = self._spreads[labels] = Spread(self._bounds)
        return found

    def taken(self) -> Spreads:
        """One with the observations of now, to be read by another thread."""
        taken = Spreads(self._name, self._meaning, self._labels, self._bounds)
        for labels, spread in self._spreads.items():
            taken.of(*labels).add(spread)
        return taken

    def describe(self) -> Iterable[Metric]:
        """The family, without samples."""
        return [HistogramMetricFamily(self._name, self._meaning, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """The family, with its values now."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        names = [*(_text(bound) for bound in self._bounds), "+Inf"]
        for labels, spread in self._spreads.items():
            so_far, buckets = 0, []
            for name, count in zip(names, spread.counts, strict=True):
                so_far += count
                buckets.append((name, float(so_far)))
            family.add_metric(labels, buckets, spread.total)
        return [family]


def _text(bound: float) -> str:
    return str(float(bound))
