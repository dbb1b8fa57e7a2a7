"""The grading wrapper's metrics: readers of what it tells, and levels that are read off when asked.

In OpenTelemetry's words: siding_grading_duration_seconds is gen_ai.client.operation.duration,
siding_grading_tokens_total{figure="reported"} is gen_ai.client.token.usage, siding_grading_first_question_seconds is
the nearest to gen_ai.server.time_to_first_token that says something of grading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pool_monitor.grading.accounting import Tally
from pool_monitor.grading.asking import Ended, Retried
from pool_monitor.grading.calls import Lane
from pool_monitor.grading.care import BreakerState
from pool_monitor.grading.health import Health, State
from pool_monitor.grading.observed import Served
from pool_monitor.grading.outcomes import Outcome

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)


class GradingMetrics:
    """Counts on `registry` what is told of requests, askings and the upstream (`asking.Observe` among others)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, meaning: str, *labels: str) -> Histogram:
            return Histogram(f"siding_grading_{name}", meaning, labels, registry=registry, buckets=SECONDS)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"siding_grading_{name}", meaning, labels, registry=registry)

        self._requests = counter("requests", "Requests under /v1, by what was done.", "what", "found", "status")
        self._duration = histogram("duration_seconds", "Chat completions, by what was done.", "what")
        self._again = counter("asked_again", "Answers asked for again with the original prompt.", "template")
        self._mismatch = counter("notes", "Answers that were expanded, but said something odd.", "note")
        self._first = histogram("first_question_seconds", "Until the first question of a streamed answer was told.")
        self._upstream = histogram("upstream_seconds", "Completions asked of the upstream.", "lane", "outcome")
        self._forwarded = histogram("forwarded_seconds", "Requests forwarded octet for octet.", "outcome")
        self._retried = counter("retries", "Requests asked of the upstream again.", "reason")
        self._waits = histogram("turn_wait_seconds", "Waiting for a turn at the upstream.", "lane")
        self._tokens = counter(
            "tokens",
            "Tokens: estimated before and after, reported by the upstream, spared by shared and kept answers.",
            *("template", "model", "figure", "direction"),
        )
        self._opened = counter("breaker_changes", "Changes of the breaker.", "state")

    # -- requests

    def served(self, served: Served) -> None:
        """A request under /v1 was answered."""
        status = f"{served.status // 100}xx" if served.status else "none"
        self._requests.labels(served.what, served.found.value, status).inc()
        if served.chat:
            self._duration.labels(served.what).observe(served.seconds)

    def expanded(self, outcome: Outcome) -> None:
        """An asking in the compact form has ended."""
        if outcome.reason:
            self._again.labels(outcome.template.name).inc()
        if outcome.first_question is not None:
            self._first.observe(outcome.first_question)
        for note in outcome.notes:
            self._mismatch.labels(note).inc()

    def counted(self, template: str, model: str, tally: Tally) -> None:
        """An answer's tokens were counted. model -- of a closed set."""
        figures = {
            ("before", "input"): tally.prompt_before + tally.text + tally.image,
            ("before", "output"): tally.output_before,
            ("after", "input"): tally.prompt_after + tally.text_after + tally.image_after,
            ("after", "output"): tally.output_after,
            ("reported", "input"): tally.reported_input,
            ("reported", "output"): tally.reported_output,
            ("spared", "input"): tally.spared_input,
            ("spared", "output"): tally.spared_output,
        }
        for (figure, direction), count in figures.items():
            if count:
                self._tokens.labels(template, model, figure, direction).inc(count)

    # -- asking.Observe

    def asked(self, lane: Lane, how: Ended, seconds: float) -> None:
        """A completion was asked of the upstream."""
        self._upstream.labels(lane.value, how.value).observe(seconds)

    def forwarded(self, how: Ended, seconds: float) -> None:
        """A request was forwarded."""
        self._forwarded.labels(how.value).observe(seconds)

    def retried(self, reason: Retried) -> None:
        """A request is asked again."""
        self._retried.labels(reason.value).inc()

    def breaker(self, state: BreakerState) -> None:
        """The breaker has changed."""
        self._opened.labels(state.value).inc()

    def waited(self, lane: Lane, seconds: float) -> None:
        """A turn was waited for."""
        self._waits.labels(lane.value).observe(seconds)


def levels(
    waiting: Mapping[Lane, int], in_use: int, breaker: BreakerState, healths: Mapping[str, Health], stored: int
) -> Iterable[Metric]:
    """What stands now, as gauges."""
    gauge = GaugeMetricFamily("siding_grading_waiting", "Completions that wait for a turn.", labels=["lane"])
    for lane, count in waiting.items():
        gauge.add_metric([lane.value], count)
    yield gauge
    yield GaugeMetricFamily("siding_grading_in_use", "Completions that have a turn at the upstream.", in_use)
    state = GaugeMetricFamily("siding_grading_breaker", "The breaker; 1 is the present state.", labels=["state"])
    for one in BreakerState:
        state.add_metric([one.value], one is breaker)
    yield state
    template = GaugeMetricFamily(
        "siding_grading_template", "How templates stand; 1 is the present state.", labels=["template", "state"]
    )
    for name, health in healths.items():
        for one_state in State:
            template.add_metric([name, one_state.value], one_state is health.state)
    yield template
    yield GaugeMetricFamily("siding_grading_stored_bytes", "Kept completions in memory.", stored)
