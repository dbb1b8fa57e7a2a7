"""Observations in, Prometheus metrics and the report out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from config.flags import Flags
from config.metrics import write_out
from config.settings import FlagSettings
from config.version import VERSION
from proxy.observe import metrics
from proxy.observe.events import Observation, OriginObservation, PurgeKind
from proxy.observe.metrics import HITS, MISSES, SECONDS, hit_rate
from proxy.policy.decisions import Forward, Outcome
from proxy.policy.messages import Fields, Freshness, ResponseHead, StoredResponse
from tests.observe.bench import Bench, Labels, hit, miss


def test_a_request_is_counted_by_route_outcome_method_and_status_class() -> None:
    bench = Bench()
    for seen in (hit(), hit(), miss()):
        bench.metrics.observe(seen)
    requests = "siding_requests_total"
    assert bench.value(requests, route="/reports", outcome="hit", method="GET", status="2xx") == 2
    assert bench.value(requests, route="/reports", outcome="miss", method="POST", status="2xx") == 1
    assert len(bench.labels(requests)) == 2


def test_durations_go_into_buckets() -> None:
    bench = Bench()
    bench.metrics.observe(hit())
    bench.metrics.observe(miss())
    duration = "siding_request_duration_seconds"
    assert bench.value(f"{duration}_bucket", route="/reports", outcome="hit", le="0.0005") == 1
    assert bench.value(f"{duration}_bucket", route="/reports", outcome="miss", le="1.0") == 0
    assert bench.value(f"{duration}_bucket", route="/reports", outcome="miss", le="2.0") == 1
    assert bench.value(f"{duration}_sum", route="/reports", outcome="miss") == 1.7
    assert bench.value("siding_first_byte_seconds_count", outcome="hit") == 1
    assert bench.value("siding_first_byte_seconds_count", outcome="miss") == 0


def test_buckets_reach_from_a_hit_to_the_origins_time_limit() -> None:
    assert SECONDS[0] == 0.0005
    assert SECONDS[-1] == 120
    assert list(SECONDS) == sorted(set(SECONDS))


def test_bytes_and_seconds_add_up() -> None:
    bench = Bench()
    not_modified = hit()
    not_modified.response_bytes = not_modified.bytes_saved_coding = 0
    not_modified.bytes_saved_304 = 4000
    for seen in (hit(), not_modified, miss()):
        bench.metrics.observe(seen)
    assert bench.value("siding_response_bytes_total") == 5000
    assert bench.value("siding_request_bytes_total") == 70
    assert bench.value("siding_bytes_saved_total", how="coding") == 500
    assert bench.value("siding_bytes_saved_total", how="not_modified") == 4000
    assert bench.value("siding_origin_seconds_saved_total", route="/reports") == 3.0


def test_a_coding_that_made_content_larger_saves_nothing() -> None:
    bench = Bench()
    seen = hit()
    seen.bytes_saved_coding = -12
    bench.metrics.observe(seen)
    assert bench.value("siding_bytes_saved_total", how="coding") == 0


def test_a_request_to_the_origin_is_counted_with_its_reason() -> None:
    bench = Bench()
    bench.metrics.observe(hit())
    bench.metrics.observe(miss())
    assert bench.labels("siding_origin_requests_total") == [
        {"route": "/reports", "forward": "uri-miss", "status": "2xx"}
    ]
    assert bench.value("siding_origin_duration_seconds_count", route="/reports") == 1
    assert bench.value("siding_origin_duration_seconds_sum", route="/reports") == 1.6
    assert bench.value("siding_store_verdicts_total", verdict="store") == 1


def test_a_collapsed_request_leaves_the_origin_to_the_one_that_asked() -> None:
    bench = Bench()
    seen = miss()
    seen.outcome, seen.collapsed = Outcome.COLLAPSED, True
    bench.metrics.observe(seen)
    assert bench.value("siding_collapsed_requests_total", route="/reports") == 1
    assert bench.labels("siding_origin_requests_total") == []
    assert bench.labels("siding_store_verdicts_total") == []


@pytest.mark.parametrize("outcome", [Outcome.ORIGIN_ERROR, Outcome.STALE_IF_ERROR])
def test_a_failure_of_the_origin_is_counted_by_its_code(outcome: Outcome) -> None:
    bench = Bench()
    bench.metrics.observe(
        Observation("GET", route="/reports", status=504, outcome=outcome, error="origin-timeout", origin_seconds=2.0)
    )
    assert bench.value("siding_origin_errors_total", code="origin-timeout") == 1
    assert bench.value("siding_origin_requests_total", route="/reports", forward="none", status="none") == 1
    assert bench.value("siding_origin_duration_seconds_count", route="/reports") is None


def test_the_clients_own_fault_is_not_the_origins() -> None:
    bench = Bench()
    bench.metrics.observe(Observation("GET", status=400, outcome=Outcome.REFUSED, error="malformed-request"))
    assert bench.labels("siding_origin_errors_total") == []


def test_validation_behind_a_stale_answer_is_counted() -> None:
    bench = Bench()
    bench.metrics.observe_origin(OriginObservation("/reports", Forward.STALE, 304, 0.3))
    bench.metrics.observe_origin(OriginObservation("/reports", Forward.STALE, None, 2.0, "origin-refused"))
    requests = "siding_origin_requests_total"
    assert bench.value(requests, route="/reports", forward="stale", status="3xx") == 1
    assert bench.value(requests, route="/reports", forward="stale", status="none") == 1
    assert bench.value("siding_origin_errors_total", code="origin-refused") == 1
    assert bench.labels("siding_requests_total") == []


@pytest.mark.parametrize(
    ("method", "status", "labels"),
    [
        ("BREW", 200, {"method": "other", "status": "2xx"}),
        ("get", 302, {"method": "other", "status": "3xx"}),
        ("", 0, {"method": "other", "status": "none"}),
        ("HEAD", 404, {"method": "HEAD", "status": "4xx"}),
        ("GET", 999, {"method": "GET", "status": "none"}),
        ("GET", 101, {"method": "GET", "status": "1xx"}),
        ("GET", 502, {"method": "GET", "status": "5xx"}),
    ],
)
def test_label_values_come_from_closed_sets(method: str, status: int, labels: Labels) -> None:
    bench = Bench()
    bench.metrics.observe(Observation(method, status=status, outcome=Outcome.PASS))
    bench.metrics.observe(Observation(method, status=status, outcome=Outcome.PASS))
    assert bench.value("siding_requests_total", route="other", outcome="pass", **labels) == 2


def test_an_origins_nonsense_status_is_other() -> None:
    bench = Bench()
    bench.metrics.observe(Observation("GET", status=200, outcome=Outcome.PASS, origin_status=799, origin_seconds=0.1))
    assert bench.value("siding_origin_requests_total", route="other", forward="none", status="other") == 1


def test_paths_mistaken_for_routes_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_ROUTES", 20)
    bench = Bench()
    for number in range(70):
        bench.metrics.observe(Observation("GET", route=f"/users/{number}", status=200, outcome=Outcome.PASS))
        bench.metrics.observe_origin(OriginObservation(f"/users/{number}", status=200))
    for name in ("siding_requests_total", "siding_origin_requests_total"):
        assert len({labels["route"] for labels in bench.labels(name)}) == 21
    assert bench.value("siding_requests_total", route="other", outcome="pass", method="GET", status="2xx") == 50


@given(st.lists(st.text(max_size=8), min_size=1, max_size=30))
def test_any_method_gives_one_of_few_labels(methods: list[str]) -> None:
    bench = Bench()
    for method in methods:
        bench.metrics.observe(Observation(method, status=200, outcome=Outcome.PASS))
    assert len(bench.labels("siding_requests_total")) <= 10
    total = sum(bench.value("siding_requests_total", **labels) or 0 for labels in bench.labels("siding_requests_total"))
    assert total == len(methods)


def test_levels_are_read_when_asked() -> None:
    bench = Bench()
    bench.origin.in_use, bench.origin.idle, bench.origin.waiting = 3, 2, 1
    bench.in_flight, bench.dropped, bench.flags.bypass = 4, 5, True
    head = ResponseHead(200, "OK", Fields())
    bench.store.put(StoredResponse("k", "http://example.org/", (), head, b"x" * 100, Freshness(), 0.0, 0.0, 0))
    bench.store.put(
        StoredResponse("j", "http://example.org/", (), head, b"x" * 999_000 + b"y" * 60, Freshness(), 0.0, 0.0, 0)
    )
    assert bench.value("siding_stored_bytes") == bench.store.bytes > 100
    assert bench.value("siding_stored_bytes_limit") == 1_000_000
    assert bench.value("siding_stored_responses") == bench.store.responses
    assert bench.value("siding_evictions_total") == bench.store.evictions
    assert bench.value("siding_in_flight_requests") == 4
    assert bench.value("siding_upstream_connections", state="in_use") == 3
    assert bench.value("siding_upstream_connections", state="idle") == 2
    assert bench.value("siding_upstream_connections", state="waiting") == 1
    assert bench.value("siding_flag", flag="BYPASS") == 1
    assert bench.value("siding_flag", flag="ENABLE_QUERY_CACHE") == 1
    assert bench.value("siding_access_log_dropped_total") == 5
    assert bench.value("siding_build_info", version=VERSION) == 1


def test_the_process_is_shown() -> None:
    names = {family.name for family in parse_text(write_out(Bench().metrics.taken(), "")[0].decode())}
    assert {"process_cpu_seconds", "python_info", "python_gc_collections"} <= names


def test_every_name_is_ours_and_in_base_units() -> None:
    bench = Bench()
    for seen in (hit(), miss()):
        bench.metrics.observe(seen)
    families = list(parse_text(write_out(bench.metrics.taken(), "")[0].decode()))
    ours = [family for family in families if not family.name.startswith(("process_", "python_"))]
    assert all(family.name.startswith("siding_") for family in ours)
    assert all(family.name.endswith("_seconds") for family in ours if family.type == "histogram")
    assert all(family.documentation for family in ours)
    assert not [sample for family in ours for sample in family.samples if sample.name.endswith("_created")]


def test_purges_are_counted_by_kind() -> None:
    bench = Bench()
    bench.metrics.purged(PurgeKind.TAG)
    bench.metrics.purged("tag")
    assert bench.value("siding_purges_total", kind="tag") == 2
    assert bench.value("siding_purges_total", kind="all") == 0
    with pytest.raises(ValueError, match="everything"):
        bench.metrics.purged("everything")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0; q=0.9, text/plain; q=0.5", "application/openmetrics-text"),
    ],
)
def test_the_accept_field_chooses_the_format(accept: str, content_type: str) -> None:
    bench = Bench()
    bench.metrics.observe(hit())
    content, given_type = write_out(bench.metrics.taken(), accept)
    assert given_type.startswith(content_type)
    if "openmetrics" in content_type:
        names = {family.name for family in parse_openmetrics(content.decode())}  # type: ignore[no-untyped-call]
        assert "siding_requests" in names
        assert content.endswith(b"# EOF\n")


def test_what_was_taken_stays_as_it_was() -> None:
    """Another thread writes it out, while more is counted."""
    bench = Bench()
    bench.metrics.observe(hit())
    taken, before = bench.metrics.taken(), write_out(bench.metrics.taken(), "")
    bench.metrics.observe(hit())
    bench.metrics.observe(miss())
    ours = [line for line in before[0].splitlines() if line.startswith(b"siding_")]
    assert [line for line in write_out(taken, "")[0].splitlines() if line.startswith(b"siding_")] == ours


def test_several_live_side_by_side() -> None:
    one, other = Bench(), Bench()
    one.metrics.observe(hit())
    assert len(one.labels("siding_requests_total")) == 1
    assert other.labels("siding_requests_total") == []


# -- the report


def test_the_report_of_the_plan() -> None:
    bench = Bench()
    for _ in range(45):
        bench.metrics.observe(hit())
    for _ in range(20):
        bench.metrics.observe(miss())
    report = bench.metrics.report_cache()
    assert list(report)[:4] == ["cacheHits", "cacheMisses", "cacheHitRate", "enabled"]
    assert (report["cacheHits"], report["cacheMisses"], report["cacheHitRate"]) == (45, 20, "69.23%")
    assert report["enabled"] is True


def test_the_report_of_a_newborn() -> None:
    assert Bench().metrics.report_cache() == {
        "cacheHits": 0,
        "cacheMisses": 0,
        "cacheHitRate": "0.00%",
        "enabled": True,
        "collapsed": 0,
        "stale": 0,
        "validated": 0,
        "sharedHits": 0,
        "storedResponses": 0,
        "storedBytes": 0,
    }


@pytest.mark.parametrize("outcome", list(Outcome))
def test_what_is_a_hit_and_what_is_a_miss(outcome: Outcome) -> None:
    bench = Bench()
    bench.metrics.observe(Observation("GET", status=200, outcome=outcome))
    report = bench.metrics.report_cache()
    assert report["cacheHits"] == (outcome in HITS)
    assert report["cacheMisses"] == (outcome in MISSES)


def test_hits_and_misses_are_decided_like_this() -> None:
    assert {"hit", "stale", "stale-if-error", "validated", "collapsed"} == HITS
    assert {"miss"} == MISSES


def test_the_additions_tell_hits_apart() -> None:
    bench = Bench()
    for outcome in (Outcome.COLLAPSED, Outcome.STALE, Outcome.STALE_IF_ERROR, Outcome.VALIDATED):
        bench.metrics.observe(Observation("GET", status=200, outcome=outcome))
    report = bench.metrics.report_cache()
    assert (report["collapsed"], report["stale"], report["validated"]) == (1, 2, 1)


@pytest.mark.parametrize(
    ("query_cache", "bypass", "enabled"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_enabled_is_whether_anything_can_be_served_from_the_cache(
    query_cache: bool, bypass: bool, enabled: bool
) -> None:
    flags = Flags(FlagSettings(enable_query_cache=query_cache, bypass=bypass))
    assert Bench(flags).metrics.report_cache()["enabled"] is enabled


@pytest.mark.parametrize(
    ("hits", "misses", "rate"),
    [(0, 0, "0.00%"), (0, 7, "0.00%"), (7, 0, "100.00%"), (45, 20, "69.23%"), (2, 1, "66.67%")],
)
def test_the_hit_rate_in_percent(hits: int, misses: int, rate: str) -> None:
    assert hit_rate(hits, misses) == rate
