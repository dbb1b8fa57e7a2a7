"""The monitor's metrics: one observer of what happens, and levels that are read off when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from config.flags import Flags
from config.metrics import filled, measure_process, write_out
from pool_monitor.admission import Granted
from pool_monitor.pool_stats import Numbers, verdict

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
MAX_QUERIES = 200
"""Names of queries as labels; further ones count as `other`."""
OTHER = "other"

Levels = Callable[[], Iterable[Metric]]


class Metrics:
    """Counts what the pool and the queries tell (`pool.Observer` among others), for the event loop's thread.

    In OpenTelemetry's words: siding_pool_connections is db.client.connection.count, siding_pool_wait_seconds is
    db.client.connection.wait_time, siding_pool_connect_seconds is .create_time, siding_pool_use_seconds is .use_time,
    siding_pool_timeouts_total is .timeouts, siding_pool_waiting is .pending_requests.
    """

    def __init__(self, flags: Flags, levels: Levels) -> None:
        self.registry = registry = CollectorRegistry()
        self._names: set[str] = set()

        def histogram(name: str, meaning: str, *labels: str) -> Histogram:
            return Histogram(f"siding_{name}", meaning, labels, registry=registry, buckets=SECONDS)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"siding_{name}", meaning, labels, registry=registry)

        waits = histogram("pool_wait_seconds", "Waiting for a connection, by how it ended.", "outcome")
        self._waits = {how: waits.labels(how.value) for how in Granted}
        connects = histogram("pool_connect_seconds", "Making a connection.", "outcome")
        self._connects = {True: connects.labels("ok"), False: connects.labels("failed")}
        self._use = histogram("pool_use_seconds", "How long connections are lent.")
        self._timeouts = counter("pool_timeouts", "Requests for a connection that waited too long.")
        self._errors = counter("pool_errors", "Errors by the class of their SQLSTATE.", "class")
        self._queries = histogram("query_duration_seconds", "Named queries.", "query", "outcome")
        registry.register(_Levels(levels))
        self.lag = measure_process(registry, flags)

    # -- pool.Observer

    def waited(self, how: Granted, seconds: float) -> None:
        """A wait for a connection has ended."""
        self._waits[how].observe(seconds)
        if how is Granted.TIMED_OUT:
            self._timeouts.inc()

    def connected(self, seconds: float, ok: bool) -> None:
        """An attempt to connect has ended."""
        self._connects[ok].observe(seconds)

    def used(self, seconds: float) -> None:
        """A connection was given back."""
        self._use.observe(seconds)

    def failed(self, sqlstate_class: str) -> None:
        """An error of the database."""
        self._errors.labels(sqlstate_class).inc()

    # -- queries

    def answered(self, name: str, outcome: str, seconds: float) -> None:
        """A named query was answered; outcome -- of Found, or the runner's `error` and `client-gone`."""
        if name not in self._names:
            if len(self._names) >= MAX_QUERIES:
                name = OTHER
            self._names.add(name)
        self._queries.labels(name, outcome).observe(seconds)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Every metric with its content type: OpenMetrics where `accept` (an Accept field) asks for it."""
        return write_out(self.registry, accept)


class _Levels(Collector):
    def __init__(self, levels: Levels) -> None:
        self._levels = levels

    def collect(self) -> Iterable[Metric]:
        return self._levels()


def pool_levels(numbers: Numbers) -> Iterable[Metric]:
    """The pool as gauges and counters."""
    connections = GaugeMetricFamily("siding_pool_connections", "Connections by state.", labels=["state"])
    used = numbers.total - numbers.idle - numbers.connecting
    yield filled(connections, {"idle": numbers.idle, "connecting": numbers.connecting, "used": used})
    yield GaugeMetricFamily("siding_pool_connections_max", "The most there may be.", numbers.most)
    yield GaugeMetricFamily("siding_pool_connections_min", "Those kept warm.", numbers.least)
    yield GaugeMetricFamily("siding_pool_waiting", "Requests that wait for a connection.", numbers.waiting)
    yield GaugeMetricFamily(
        "siding_pool_oldest_wait_seconds", "How long the first of them has waited.", numbers.oldest_wait
    )
    held = max((holder.seconds for holder in numbers.holders), default=0.0)
    yield GaugeMetricFamily("siding_pool_longest_held_seconds", "How long a connection is lent by now.", held)
    yield CounterMetricFamily("siding_pool_acquired", "Connections lent.", numbers.acquired)
    state = GaugeMetricFamily("siding_pool_state", "The verdict on the pool; 1 is the present one.", labels=["state"])
    yield filled(state, {verdict(numbers)[0].value: 1})
