"""Where to look first."""

from __future__ import annotations

from deploy.grafana.panels import FAILED, PROXY, Board, Panel, or_zero, percentiles, quantile, rate

OVERVIEW = Board(
    "siding-overview",
    "Siding: overview",
    "What clients get, what the cache is worth, and whether anything fails. Start here at 3 a.m.",
    {
        "At a glance": (
            Panel(
                "Requests a second",
                "number",
                "reqps",
                {"": rate("siding_requests_total", PROXY)},
                "All requests of clients. Nought while there is traffic: clients do not reach the proxy; see that it is "
                "ready (/readyz), then route around it: siding rollback --around.",
                6,
            ),
            Panel(
                "Hit rate",
                "number",
                "percentunit",
                {"": "siding:hit_ratio:rate5m"},
                "Answers that did not need the origin, of those that might not have. The plan: over 60 %. Fallen: see "
                "'Why the origin was asked' for the reason, and whether a flag was switched (marks on the graphs).",
                6,
            ),
            Panel(
                "Errors",
                "number",
                "percentunit",
                {"": "siding:error_ratio:rate5m"},
                "Answers from 500 on. Above 0.1 %: see 'Failures of the origin'. Is it nought there, it is Siding's own: "
                "siding rollback --all, then read the log.",
                6,
            ),
            Panel(
                "Origin seconds saved a second",
                "number",
                "s",
                {"": or_zero(rate("siding_origin_seconds_saved_total", PROXY))},
                "How many seconds of the origin's work each second spares. Fallen with the hit rate: see there. 1 is one "
                "of its workers' whole time.",
                6,
            ),
        ),
        "Requests": (
            Panel(
                "Requests by route",
                "lines",
                "reqps",
                {"{{route}}": rate("siding_requests_total", PROXY, "route")},
                "By route rule; 'other' has none. A route that leaps up: a client that retries or polls; see its "
                "outcome beside.",
            ),
            Panel(
                "Requests by outcome",
                "bars",
                "reqps",
                {"{{outcome}}": rate("siding_requests_total", PROXY, "outcome")},
                "hit, stale and collapsed spare the origin. Much 'pass': the responses may not be stored; see 'Verdicts on "
                "storing'. 'bypass': the master switch is on. 'internal-error' is never right: the log says why.",
            ),
            Panel(
                "Errors by route",
                "lines",
                "reqps",
                {"{{route}}": or_zero(rate("siding_requests_total", FAILED, "route"))},
                "Answers from 500 on, by route. Compare with 'Failures of the origin': what is there is the origin's.",
            ),
            Panel(
                "Duration",
                "lines",
                "s",
                percentiles("siding_request_duration_seconds", PROXY),
                "From a request's head to the end of its answer. Up while hits are quick: the origin is slow. Up for hits, "
                "too: see the event loop on the dashboard 'process'.",
            ),
            Panel(
                "p95 by outcome",
                "lines",
                "s",
                {"{{outcome}}": "siding:request_duration_seconds:p95_5m"},
                "A hit should take a millisecond or so. Is it slow, the process has too little CPU or the clients are slow.",
            ),
            Panel(
                "p95 by route",
                "lines",
                "s",
                {"{{route}}": quantile(0.95, "siding_request_duration_seconds", PROXY, "route")},
                "Which route is slow. Would it bear a longer ttl, or stale_while_revalidate?",
            ),
        ),
        "The cache": (
            Panel(
                "Hits by tier",
                "bars",
                "reqps",
                {"{{tier}}": rate("siding_hits_total", PROXY, "tier")},
                "memory is this replica's own, shared is Redis. Much shared: replicas see little traffic each, or memory is "
                "too small (CACHE_MAX_BYTES).",
            ),
            Panel(
                "Why the origin was asked",
                "bars",
                "reqps",
                {"{{forward}}": rate("siding_origin_requests_total", PROXY, "forward")},
                "uri-miss: never seen, or dropped. stale: its time was over. vary-miss: the origin varies by a field that "
                "differs from client to client. request: clients ask for fresh answers. bypass: the master switch.",
            ),
            Panel(
                "Verdicts on storing",
                "bars",
                "reqps",
                {"{{verdict}}": rate("siding_store_verdicts_total", PROXY, "verdict")},
                "Whether responses may be stored, and why not. Much of one reason: a route rule may allow more, or the "
                "origin's Cache-Control wants a change.",
            ),
            Panel(
                "Collapsed requests",
                "lines",
                "reqps",
                {"{{route}}": or_zero(rate("siding_collapsed_requests_total", PROXY, "route"))},
                "Clients that shared another's answer of the origin. Nought with many equal requests at once: is ENABLE_DEDUP on?",
            ),
            Panel(
                "Bytes saved",
                "lines",
                "Bps",
                {"{{how}}": rate("siding_bytes_saved_total", PROXY, "how")},
                "Content not sent: not_modified by 304s, coding by gzip, br and zstd. Nought: are ENABLE_ETAG and "
                "ENABLE_COMPRESSION on, and do clients ask for it?",
            ),
            Panel(
                "Memory of the cache",
                "lines",
                "bytes",
                {"used": f"sum(siding_stored_bytes{{{PROXY}}})", "limit": f"sum(siding_stored_bytes_limit{{{PROXY}}})"},
                "At its limit, with evictions: raise CACHE_MAX_BYTES while the service has memory to spare.",
            ),
            Panel(
                "Evictions",
                "lines",
                "cps",
                {"evictions": rate("siding_evictions_total", PROXY)},
                "Stored responses dropped for want of room. Steadily above nought: raise CACHE_MAX_BYTES.",
            ),
            Panel(
                "Origin seconds saved by route",
                "bars",
                "s",
                {"{{route}}": or_zero(rate("siding_origin_seconds_saved_total", PROXY, "route"))},
                "Which routes the cache is worth most for; nought for one with a rule: its rule does not work, see its outcome.",
            ),
        ),
        "The origin": (
            Panel(
                "Failures of the origin",
                "lines",
                "cps",
                {
                    "{{code}}": or_zero(rate("siding_origin_errors_total", PROXY, "code")),
                    "answered with 5xx": or_zero(rate("siding_origin_requests_total", FAILED)),
                },
                "Refused, timed out, broken off, or answered with 500 and above; also those that a stale answer hid. Look at the origin's own log and its "
                "deployments. Siding cannot mend it; stale_if_error hides it for a while.",
            ),
            Panel(
                "The origin's time",
                "lines",
                "s",
                percentiles("siding_origin_duration_seconds", PROXY),
                "From asking to the head of its response. Up: the origin or its database; see the dashboard 'pool'.",
            ),
            Panel(
                "Connections to the origin",
                "lines",
                "short",
                {"{{state}}": f"sum by (state) (siding_upstream_connections{{{PROXY}}})"},
                "waiting above nought: the origin is slower than what comes in.",
            ),
            Panel(
                "Flags",
                "list",
                "short",
                {"{{flag}}": f"min by (flag) (siding_flag{{{PROXY}}})"},
                "1 is on, of the replica that has it least. Is something off that should be on: siding rollback --set "
                "NAME=on; when that was is in the log.",
            ),
        ),
    },
)
