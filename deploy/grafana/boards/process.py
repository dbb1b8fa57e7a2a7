"""The services as processes."""

from __future__ import annotations

from deploy.grafana.panels import PROXY, RATE, Board, Panel, quantile, rate

BOTH = 'job=~"siding-.*"'
PROCESS = Board(
    "siding-process",
    "Siding: processes",
    "The two services as processes: have they CPU, memory and connections enough.",
    {
        "Processes": (
            Panel(
                "Up",
                "list",
                "short",
                {"{{job}} {{instance}}": f"up{{{BOTH}}}"},
                "0: it cannot be scraped. See its deployment, then its log.",
            ),
            Panel(
                "Event loop lag, p99",
                "lines",
                "s",
                {"{{job}} {{instance}}": quantile(0.99, "siding_event_loop_lag_seconds", BOTH, "job, instance")},
                "How late the process gets to anything. Above 100 ms: too little CPU (give more, or WORKERS), or content that is "
                "too large to encode (ENABLE_COMPRESSION off shows it).",
            ),
            Panel(
                "CPU",
                "lines",
                "percentunit",
                {"{{job}} {{instance}} {{worker}}": f"rate(process_cpu_seconds_total{{{BOTH}}}{RATE})"},
                "1 is a whole core, which is all that one worker can use. Near it: WORKERS=2, or another replica.",
            ),
            Panel(
                "Memory",
                "lines",
                "bytes",
                {"{{job}} {{instance}} {{worker}}": f"process_resident_memory_bytes{{{BOTH}}}"},
                "About CACHE_MAX_BYTES and 100 MB more. Above it and growing: lower CACHE_MAX_BYTES, and tell us.",
            ),
            Panel(
                "File descriptors",
                "lines",
                "short",
                {
                    "{{job}} {{instance}} {{worker}}": f"process_open_fds{{{BOTH}}}",
                    "limit {{job}}": f"min by (job) (process_max_fds{{{BOTH}}})",
                },
                "Two for each request on its way. Near the limit: raise it (LimitNOFILE).",
            ),
            Panel(
                "Requests on their way",
                "lines",
                "short",
                {"{{instance}}": f"sum by (instance) (siding_in_flight_requests{{{PROXY}}})"},
                "Grows without end: the origin hangs; see 'The origin's time'.",
            ),
            Panel(
                "Garbage collections",
                "lines",
                "cps",
                {
                    "{{job}} generation {{generation}}": "sum by (job, generation) (rate(python_gc_collections_total[$__rate_interval]))"
                },
                "Generation 2 several times a second: very many stored responses; it costs CPU.",
            ),
            Panel(
                "Log lines dropped",
                "lines",
                "cps",
                {"dropped": rate("siding_access_log_dropped_total", PROXY)},
                "The log is written slower than requests come. Requests do not wait for it; LOG_LEVEL=warning writes less.",
            ),
            Panel(
                "Versions",
                "list",
                "short",
                {"{{job}} {{version}}": f"count by (job, version) (siding_build_info{{{BOTH}}})"},
                "Two versions for longer than a deployment: one replica was left behind.",
            ),
            Panel(
                "Since",
                "list",
                "dateTimeAsIso",
                {"{{job}} {{instance}} {{worker}}": f"1000 * process_start_time_seconds{{{BOTH}}}"},
                "Young without a deployment: it was restarted; the platform's log says why (memory, health check).",
            ),
        ),
    },
)
