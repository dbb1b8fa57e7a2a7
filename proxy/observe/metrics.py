"""Observations as Prometheus metrics, and as the report of the cache's worth.

Label values come from closed sets only: patterns of route rules, enums, registered methods, status classes,
codes of our own errors. What falls outside is `other` (a raw path as a label has filled disks).
Each `Metrics` has a registry of its own, so several live side by side in one process.
"""

from __future__ import annotations

import secrets
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.flags import Flags
from config.metrics import filled, measure_process
from config.tier_metrics import TierMetrics, tier_levels
from proxy import errors
from proxy.observe import live
from proxy.observe.events import OTHER, Brief, BriefKind, Observation, OriginObservation, PurgeKind, Tier
from proxy.observe.tallies import Counts, Spread, Spreads, added_up
from proxy.policy.decisions import Forward, Outcome
from proxy.store.memory import MemoryStore
from proxy.store.replicas import Replicas

SECONDS: tuple[float, ...] = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2, 4, 8, 15, 30, 60, 120),
)
"""Bucket bounds: from a hit in memory to the default UPSTREAM_TIMEOUT_MS, with the 0.5 s and 2 s that reports
are promised within."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
NONE = "none"
"""The label of what did not come to be: a status, a reason to forward."""
STATUS_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}
MAX_ROUTES = 1000
"""Routes told apart. Rules are far fewer; this guards the registry against a label that is not one."""

HITS = frozenset({Outcome.HIT, Outcome.STALE, Outcome.STALE_IF_ERROR, Outcome.VALIDATED, Outcome.COLLAPSED})
"""Answers whose content came from the cache, or from an origin response that another request had asked for.
VALIDATED is one: the origin confirmed the stored content instead of making it again."""
MISSES = frozenset({Outcome.MISS})
"""Answers the cache could have given and had to get from the origin. What was never the cache's to answer (PASS,
BYPASS, TUNNEL, LOCAL) and what failed is neither a hit nor a miss."""
HIDDEN_OR_TOLD = frozenset({Outcome.ORIGIN_ERROR, Outcome.STALE_IF_ERROR})
NOT_THE_ORIGINS = errors.OutOfDescriptors.code
"""A stale response may hide that as well."""


class Connections(Protocol):
    """Counts of the origin client's connections and of the requests waiting for one."""

    @property
    def in_use(self) -> int: ...
    @property
    def idle(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class _Exchanges(NamedTuple):
    """Where requests alike in route, outcome, method and status class are counted."""

    route: str
    requests: tuple[str, ...]
    duration: Spread
    first_byte: Spread


class _Alike:
    """Adds up briefs of one kind. origin -- the time that was spared, for hits without its distribution."""

    __slots__ = ("bytes_saved", "count", "durations", "hit", "kind", "origin")

    def __init__(self, kind: BriefKind) -> None:
        self.kind = kind
        self.hit = kind.outcome is Outcome.HIT
        self.count = 0
        self.durations = Spread(SECONDS)
        self.origin = Spread(SECONDS)
        self.bytes_saved = 0

    def add(self, brief: Brief) -> None:
        """One more."""
        self.count += 1
        self.durations.observe(brief.duration)
        if not self.hit:
            self.origin.observe(brief.origin_seconds)
            if self.kind.coding is not None and brief.whole > brief.sent:
                self.bytes_saved += brief.whole - brief.sent
            return
        self.origin.total += brief.origin_seconds
        if self.kind.status == 304:
            self.bytes_saved += brief.whole
        elif brief.whole > brief.sent > 0:
            self.bytes_saved += brief.whole - brief.sent


class Metrics:
    """Everything that is measured in one worker. For the event loop's thread.

    flags, store, origin -- read when the metrics are. in_flight -- requests being answered.
    log_dropped -- lines the access log had to drop. replicas -- None without REDIS_URL.
    """

    def __init__(
        self,
        flags: Flags,
        *,
        store: MemoryStore,
        origin: Connections,
        in_flight: Callable[[], int],
        log_dropped: Callable[[], int],
        replicas: Replicas | None = None,
    ) -> None:
        self._flags = flags
        self._store = store
        self._origin = origin
        self._in_flight = in_flight
        self._log_dropped = log_dropped
        self._instance = secrets.token_hex(4)
        self._registry = registry = CollectorRegistry()
        self._exchanges: dict[tuple[str, str, str, int], _Exchanges] = {}
        self._outcomes: Tally[Outcome] = Tally()
        self._routes: set[str] = set()
        self._tallies: list[Counts | Spreads] = []
        self._define()
        registry.register(_Levels(self))
        if replicas is not None:
            replicas.tier.observe = TierMetrics(registry).called
            registry.register(_Shared(replicas))
        self.lag = measure_process(registry, flags)

    def _define(self) -> None:
        def counter(name: str, meaning: str, *labels: str, start: Iterable[tuple[str, ...]] = ()) -> Counts:
            counts = Counts(f"siding_{name}", meaning, labels, start)
            self._tallies.append(counts)
            return counts

        def histogram(name: str, meaning: str, *labels: str) -> Spreads:
            spreads = Spreads(f"siding_{name}", meaning, labels, SECONDS)
            self._tallies.append(spreads)
            return spreads

        self._requests = counter("requests", "Requests of clients.", "route", "outcome", "method", "status")
        self._duration = histogram(
            "request_duration_seconds", "From a request's head to the end of its answer.", "route", "outcome"
        )
        self._first_byte = histogram(
            "first_byte_seconds", "From a request's head to the first byte of its answer.", "outcome"
        )
        self._request_bytes = counter("request_bytes", "Content received from clients.")
        self._response_bytes = counter("response_bytes", "Content sent to clients.")
        self._origin_duration = histogram(
            "origin_duration_seconds", "From asking the origin to the head of its response.", "route"
        )
        self._origin_requests = counter(
            "origin_requests", "Requests to the origin, by why they went there.", "route", "forward", "status"
        )
        self._origin_errors = counter("origin_errors", "Failures of the origin, told or hidden.", "code")
        self._collapsed = counter(
            "collapsed_requests", "Requests answered by what another had asked the origin for.", "route"
        )
        self._seconds_saved = counter("origin_seconds_saved", "Waiting for the origin that was spared.", "route")
        self._bytes_saved = counter(
            "bytes_saved", "Content not sent to clients.", "how", start=[("not_modified",), ("coding",)]
        )
        self._verdicts = counter(
            "store_verdicts", "Whether responses of the origin may be stored, and why not.", "verdict"
        )
        self._hits = counter(
            "hits",
            "Answers from stored responses, by where these were.",
            "tier",
            start=[(tier.value,) for tier in Tier],
        )
        self._shared_hits = 0
        self._purges = counter("purges", "Purges by an operator.", "kind", start=[(kind.value,) for kind in PurgeKind])

    # -- reading observations

    def observe(self, seen: Observation) -> None:
        """Count one request."""
        key = (seen.route, seen.outcome, seen.method, seen.status // 100)
        exchanges = self._exchanges.get(key) or self._find_exchanges(*key)
        self._outcomes[seen.outcome] += 1
        self._requests.add(exchanges.requests)
        exchanges.duration.observe(seen.duration)
        if seen.tier is not None:
            self._hits.add((seen.tier.value,))
            self._shared_hits += seen.tier is Tier.SHARED
        if seen.first_byte is not None:
            exchanges.first_byte.observe(seen.first_byte)
        if seen.request_bytes:
            self._request_bytes.add((), seen.request_bytes)
        if seen.response_bytes:
            self._response_bytes.add((), seen.response_bytes)
        if seen.bytes_saved_304 > 0:
            self._bytes_saved.add(("not_modified",), seen.bytes_saved_304)
        if seen.bytes_saved_coding > 0:
            self._bytes_saved.add(("coding",), seen.bytes_saved_coding)
        if seen.origin_seconds_saved > 0:
            self._seconds_saved.add((exchanges.route,), seen.origin_seconds_saved)
        self._observe_origin(seen, exchanges.route)

    def observe_briefs(self, briefs: list[Brief]) -> None:
        """Count requests that were answered the short way."""
        found = sent = received = 0
        groups: dict[int, _Alike] = {}
        alike: _Alike | None = None
        for brief in briefs:
            kind = brief.kind
            if alike is None or alike.kind is not kind:
                alike = groups.get(id(kind)) or groups.setdefault(id(kind), _Alike(kind))
            alike.add(brief)
            sent += brief.sent
            received += brief.received
        for alike in groups.values():
            kind = alike.kind
            key = (kind.route, kind.outcome, kind.method, kind.status // 100)
            exchanges = self._exchanges.get(key) or self._find_exchanges(*key)
            self._outcomes[kind.outcome] += alike.count
            self._requests.add(exchanges.requests, alike.count)
            exchanges.duration.add(alike.durations)
            exchanges.first_byte.add(alike.durations)
            if kind.outcome is Outcome.HIT:
                found += alike.count
                self._spared(exchanges.route, alike)
            else:
                self._passed(exchanges.route, alike)
        self._hits.add((Tier.MEMORY.value,), found)
        self._response_bytes.add((), sent)
        self._request_bytes.add((), received)

    def _spared(self, route: str, alike: _Alike) -> None:
        if alike.kind.status == 304:
            self._bytes_saved.add(("not_modified",), alike.bytes_saved)
        elif alike.kind.coding is not None:
            self._bytes_saved.add(("coding",), alike.bytes_saved)
        self._seconds_saved.add((route,), alike.origin.total)

    def _passed(self, route: str, alike: _Alike) -> None:
        kind = alike.kind
        if alike.bytes_saved:
            self._bytes_saved.add(("coding",), alike.bytes_saved)
        if kind.verdict is not None:
            self._verdicts.add((kind.verdict.value,), alike.count)
        reason = NONE if kind.forward is None else kind.forward.value
        self._origin_requests.add((route, reason, STATUS_CLASSES.get(kind.status // 100, OTHER)), alike.count)
        self._origin_duration.of(route).add(alike.origin)

    def _observe_origin(self, seen: Observation, route: str) -> None:
        if seen.collapsed:
            # the one that asked has counted the origin's side of it
            self._collapsed.add((route,))
        else:
            if seen.verdict is not None:
                self._verdicts.add((seen.verdict.value,))
            if seen.origin_seconds is not None:
                self._asked(route, seen.forward, seen.origin_status, seen.origin_seconds)
        if seen.outcome in HIDDEN_OR_TOLD:
            self._count_error(seen.error)

    def observe_origin(self, seen: OriginObservation) -> None:
        """Count a request to the origin that no client waited for."""
        self._asked(self._closed_route(seen.route), seen.forward, seen.status, seen.seconds)
        self._count_error(seen.error)

    def _count_error(self, code: str | None) -> None:
        if code is not None and code != NOT_THE_ORIGINS:
            self._origin_errors.add((code,))

    def _asked(self, route: str, forward: Forward | None, status: int | None, seconds: float) -> None:
        reason = NONE if forward is None else forward.value
        if status is None:
            self._origin_requests.add((route, reason, NONE))
            return
        self._origin_requests.add((route, reason, STATUS_CLASSES.get(status // 100, OTHER)))
        self._origin_duration.of(route).observe(seconds)

    def purged(self, kind: str) -> None:
        """Count an operator's purge. Raises ValueError for a `kind` that is none of `PurgeKind`."""
        self._purges.add((PurgeKind(kind).value,))

    def _find_exchanges(self, route: str, outcome: str, method: str, status: int) -> _Exchanges:
        """The counters for these values, each brought into its closed set; made when first needed."""
        method = method if method in METHODS else OTHER
        key = (self._closed_route(route), outcome, method, status if status in STATUS_CLASSES else 0)
        found = self._exchanges.get(key)
        if found is None:
            status_class = STATUS_CLASSES.get(status, NONE)
            found = self._exchanges[key] = _Exchanges(
                route=key[0],
                requests=(*key[:3], status_class),
                duration=self._duration.of(*key[:2]),
                first_byte=self._first_byte.of(outcome),
            )
        return found

    def _closed_route(self, route: str) -> str:
        if route in self._routes:
            return route
        if len(self._routes) >= MAX_ROUTES:
            return OTHER
        self._routes.add(route)
        return route

    # -- answering

    def taken(self) -> CollectorRegistry:
        """Every metric as it is now, for another thread to write out: with many rules that takes a while."""
        taken = CollectorRegistry()
        for tally in self._tallies:
            taken.register(tally.taken())
        taken.register(_Read(list(self._registry.collect())))
        return taken

    def report_cache(self) -> dict[str, object]:
        """The `/api/metrics/report-cache` answer, for this worker since its start.

        What counts is written at `HITS` and `MISSES`. All but the rate and `enabled` may be added up over workers.
        """
        tally = self._outcomes
        hits, misses = sum(tally[one] for one in HITS), sum(tally[one] for one in MISSES)
        return {
            "cacheHits": hits,
            "cacheMisses": misses,
            "cacheHitRate": hit_rate(hits, misses),
            "enabled": self._flags.query_cache and not self._flags.bypass,
            "collapsed": tally[Outcome.COLLAPSED],
            "stale": tally[Outcome.STALE] + tally[Outcome.STALE_IF_ERROR],
            "validated": tally[Outcome.VALIDATED],
            "sharedHits": self._shared_hits,
            "storedResponses": self._store.responses,
            "storedBytes": self._store.bytes,
        }

    def live(self, slow: list[live.SlowRequest]) -> live.Numbers:
        """What the live page shows of this worker, since its start. Reads what is counted anyway.

        slow -- the slowest requests of late. Durations are without those of tunnels, which say nothing.
        """
        store, origin, tally = self._store, self._origin, self._outcomes
        statuses: Tally[str] = Tally()
        durations: dict[tuple[str, str], Spread] = {}
        for (route, outcome, _, _), exchanges in self._exchanges.items():
            statuses[exchanges.requests[-1]] += int(self._requests.values.get(exchanges.requests, 0))
            if outcome != Outcome.TUNNEL:
                durations[route, outcome] = exchanges.duration
        return live.Numbers(
            instances=[self._instance],
            outcomes={outcome.value: count for outcome, count in tally.items()},
            statuses=dict(statuses),
            buckets=added_up(SECONDS, durations.values()),
            counts={
                "hits": sum(tally[one] for one in HITS),
                "misses": sum(tally[one] for one in MISSES),
                "sharedHits": self._shared_hits,
                "originErrors": sum(self._origin_errors.values.values()),
                "originSecondsSaved": sum(self._seconds_saved.values.values()),
                "bytesSavedNotModified": self._bytes_saved.values[("not_modified",)],
                "bytesSavedCoding": self._bytes_saved.values[("coding",)],
            },
            levels={
                "inFlight": self._in_flight(),
                "storedResponses": store.responses,
                "storedBytes": store.bytes,
                "storedBytesLimit": store.max_bytes,
                "originInUse": origin.in_use,
                "originIdle": origin.idle,
                "originWaiting": origin.waiting,
            },
            slow=slow,
        )


class _Read(Collector):
    """What has been read off."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The families, with their values then."""
        return self._families


def hit_rate(hits: int, misses: int) -> str:
    """Hits among hits and misses, in percent with two decimals; 0.00% while there are neither."""
    looked_up = hits + misses
    return f"{100 * hits / looked_up if looked_up else 0:.2f}%"


class _Levels(Collector):
    """What is read off when asked, instead of counted as it happens."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The families, with their values now."""
        metrics = self._metrics
        store, origin = metrics._store, metrics._origin
        yield GaugeMetricFamily("siding_stored_bytes", "Memory that stored responses take up.", store.bytes)
        yield GaugeMetricFamily("siding_stored_bytes_limit", "The most they may take up.", store.max_bytes)
        yield GaugeMetricFamily("siding_stored_responses", "Stored responses.", store.responses)
        yield CounterMetricFamily("siding_evictions", "Stored responses dropped for want of room.", store.evictions)
        yield GaugeMetricFamily("siding_in_flight_requests", "Requests being answered.", metrics._in_flight())
        connections = GaugeMetricFamily(
            "siding_upstream_connections", "Connections to the origin, and requests waiting for one.", labels=["state"]
        )
        yield filled(connections, {"in_use": origin.in_use, "idle": origin.idle, "waiting": origin.waiting})
        yield CounterMetricFamily(
            "siding_access_log_dropped",
            "Access log lines dropped because standard output was slow.",
            metrics._log_dropped(),
        )


class _Shared(Collector):
    """What is shared with other replicas."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    def collect(self) -> Iterable[Metric]:
        """The families, with their values now."""
        replicas = self._replicas
        yield from tier_levels(replicas.tier, replicas.notices.bulletin, replicas.notices.pins)
        leases = CounterMetricFamily(
            "siding_leases", "Asking which replica asks the origin, by outcome.", labels=["outcome"]
        )
        yield filled(leases, {outcome.value: count for outcome, count in replicas.store.leases.items()})
        moved = CounterMetricFamily("siding_shared_tier_bytes", "Octets of stored responses.", labels=["direction"])
        yield filled(moved, {"read": replicas.store.moved.read, "written": replicas.store.moved.written})
