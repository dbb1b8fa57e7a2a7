"""What the dashboards show, and what to do when it looks bad. No Grafana in here: `build` knows that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PROXY, MONITOR = 'job="siding-proxy"', 'job="siding-monitor"'
FAILED = f'{PROXY}, status="5xx"'
BEFORE, AFTER, SPARED = (f'{MONITOR}, figure="{figure}"' for figure in ("before", "after", "spared"))
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    """kind -- lines, bars (stacked lines), number, heat or list. unit -- Grafana's name of it.

    queries -- PromQL by legend. help -- what it means and what to do when it looks bad.
    """

    title: str
    kind: str
    unit: str
    queries: Mapping[str, str]
    help: str
    width: int = 12


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard. rows -- panels by the title of their row."""

    uid: str
    title: str
    about: str
    rows: Mapping[str, tuple[Panel, ...]]
    texts: Mapping[str, tuple[str, str]] | None = None
    """Text boxes: label and default by name."""


def rate(metric: str, selector: str, by: str = "") -> str:
    """Per second, summed."""
    inner = f"rate({metric}{{{selector}}}{RATE})"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def or_zero(query: str) -> str:
    """For what has no series before it happens the first time."""
    return f"({query}) or on() vector(0)"


def quantile(share: float, metric: str, selector: str, by: str = "") -> str:
    """Of a histogram, in seconds."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}{RATE})))"


def percentiles(metric: str, selector: str) -> dict[str, str]:
    """Three quantiles by their names."""
    return {f"p{share * 100:.0f}": quantile(share, metric, selector) for share in (0.5, 0.95, 0.99)}


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
                "storing'. 'bypass': the master switch is on. 'internal-error' is never right: take the log to us.",
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
                {"{{code}}": or_zero(rate("siding_origin_errors_total", PROXY, "code"))},
                "Refused, timed out, broken off; also those that a stale answer hid. Look at the origin's own log and its "
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

POOL = Board(
    "siding-pool",
    "Siding: database pool",
    "The tuned pool: are there connections, who waits, who holds them, and how the server is.",
    {
        "The pool": (
            Panel(
                "Connections",
                "bars",
                "short",
                {
                    "{{state}}": f"sum by (state) (siding_pool_connections{{{MONITOR}}})",
                    "limit": f"sum(siding_pool_connections_max{{{MONITOR}}})",
                },
                "used should stay under 15 of 20. Near the limit: see who holds them, and only then raise DB_POOL_MAX; the "
                "server allows so many in all.",
            ),
            Panel(
                "Waiting",
                "lines",
                "short",
                {
                    "requests": f"sum(siding_pool_waiting{{{MONITOR}}})",
                    "oldest, seconds": f"max(siding_pool_oldest_wait_seconds{{{MONITOR}}})",
                },
                "Must be nought. Above: connections are held too long, or there are too few. /api/metrics/database-pool "
                "names the holders.",
            ),
            Panel(
                "Waits for a connection",
                "heat",
                "s",
                {"{{le}}": f"sum by (le) (increase(siding_pool_wait_seconds_bucket{{{MONITOR}}}{RATE}))"},
                "Most should be in the lowest row. A band that climbs: the pool runs dry, see 'Connections'.",
            ),
            Panel(
                "Waits by how they ended",
                "bars",
                "cps",
                {"{{outcome}}": rate("siding_pool_wait_seconds_count", MONITOR, "outcome")},
                "timed-out: somebody got a 503 after DB_POOL_CONNECTION_TIMEOUT_MS.",
            ),
            Panel(
                "Top holders",
                "list",
                "s",
                {"{{query}}": f"topk(10, {rate('siding_query_duration_seconds_sum', MONITOR, 'query')})"},
                "Seconds of connections each named query takes a second. The first is the one to make faster or to cache.",
            ),
            Panel(
                "How long connections are lent",
                "lines",
                "s",
                {
                    **percentiles("siding_pool_use_seconds", MONITOR),
                    "longest now": f"max(siding_pool_longest_held_seconds{{{MONITOR}}})",
                },
                "A connection that is never given back shows in 'longest now': a transaction that hangs.",
            ),
            Panel(
                "Time to connect",
                "lines",
                "s",
                {"p95": quantile(0.95, "siding_pool_connect_seconds", MONITOR).replace(RATE, "[15m]")},
                "Of the last quarter of an hour, for connections are seldom made. The plan: 5 to 20 ms where one is at hand; "
                "a new one takes longer. Up: the server or the network.",
            ),
            Panel(
                "Errors of the database",
                "lines",
                "cps",
                {"{{class}}": or_zero(rate("siding_pool_errors_total", MONITOR, "class"))},
                "By the class of SQLSTATE: 08 connection, 40 serialisation, 53 out of resources, 57 operator's doing.",
            ),
        ),
        "Queries": (
            Panel(
                "Named queries",
                "bars",
                "reqps",
                {"{{query}} {{outcome}}": rate("siding_query_duration_seconds_count", MONITOR, "query, outcome")},
                "hit and collapsed spare the database. All miss: ENABLE_QUERY_CACHE is off, or its table changes all the time.",
            ),
            Panel(
                "p95 of queries",
                "lines",
                "s",
                {"{{query}}": quantile(0.95, "siding_query_duration_seconds", MONITOR, "query")},
                "Slow: ask /api/advice, which looks for COUNT(*) that only asks whether there is any.",
            ),
        ),
        "The server": (
            Panel(
                "Clients' connections",
                "bars",
                "short",
                {
                    "{{state}}": f"sum by (state) (siding_server_connections{{{MONITOR}}})",
                    "max_connections": f"max(siding_server_connections_max{{{MONITOR}}})",
                },
                "Of all clients. 'idle in transaction' holds locks: find who forgets to commit.",
            ),
            Panel(
                "Locks waited for, deadlocks",
                "lines",
                "short",
                {
                    "waiting": f"max(siding_server_locks_waiting{{{MONITOR}}})",
                    "deadlocks": f"sum(increase(siding_server_deadlocks_total{{{MONITOR}}}{RATE}))",
                },
                "Above nought for long: a long transaction in the way; see the longest.",
            ),
            Panel(
                "Longest transaction",
                "lines",
                "s",
                {"seconds": f"max(siding_server_longest_transaction_seconds{{{MONITOR}}})"},
                "Minutes: it keeps vacuum from its work and others from their rows.",
            ),
            Panel(
                "Found in shared buffers",
                "lines",
                "percentunit",
                {"ratio": f"min(siding_server_cache_hit_ratio{{{MONITOR}}})"},
                "Under 99 %: the data that is asked for does not fit, or whole tables are read.",
            ),
            Panel(
                "Statements that take most",
                "list",
                "s",
                {
                    "{{fingerprint}}": f"topk(10, {rate('siding_server_statement_seconds_total', MONITOR, 'fingerprint')})"
                },
                "Seconds of the server each takes a second; /api/advice shows the text of a fingerprint.",
            ),
            Panel(
                "Transactions",
                "lines",
                "cps",
                {"{{end}}": rate("siding_server_transactions_total", MONITOR, "end")},
                "rollback beside commit: the application's own errors.",
            ),
        ),
    },
)

TOKENS = "siding_grading_tokens_total"


def saved(way: str) -> str:
    """Dollars a second by the dashboard's own price. way -- input or output."""
    before, after = (rate(TOKENS, f'{figure}, direction="{way}"') for figure in (BEFORE, AFTER))
    return f"({before} - {after}) * ${way}_price / 1e6"


GRADING = Board(
    "siding-grading",
    "Siding: grading",
    "What grading costs before and after, and whether the grades are the same.",
    {
        "Tokens and money": (
            Panel(
                "Tokens a second",
                "lines",
                "short",
                {"{{figure}} {{direction}}": rate("siding_grading_tokens_total", MONITOR, "figure, direction")},
                "before is what callers sent, after is what the upstream was sent. Equal: USE_OPTIMIZED_PROMPTS is off, or "
                "the prompt has changed and is not recognised; see 'Templates'.",
            ),
            Panel(
                "Tokens spared",
                "lines",
                "percentunit",
                {"{{direction}}": f"1 - {rate(TOKENS, AFTER, 'direction')} / {rate(TOKENS, BEFORE, 'direction')}"},
                "Of all tokens, images included; of the prompt alone it is 60 %, see /api/metrics/grading. Fallen: as beside.",
            ),
            Panel(
                "Dollars saved an hour",
                "number",
                "currencyUSD",
                {"": f"3600 * ({saved('input')} + {saved('output')})"},
                "By the prices above, per million tokens, at today's rate. /api/metrics/grading has the exact sums by model and day.",
            ),
            Panel(
                "Spared by shared and kept answers",
                "lines",
                "short",
                {"tokens": or_zero(rate("siding_grading_tokens_total", SPARED))},
                "Tokens of answers that were given twice and asked once. Nought: no two equal requests, or ENABLE_DEDUP is off.",
            ),
        ),
        "Service": (
            Panel(
                "Requests",
                "bars",
                "reqps",
                {"{{what}} {{status}}": rate("siding_grading_requests_total", MONITOR, "what, status")},
                "expanded is in the compact form, forwarded untouched. Much 'again' or 5xx: set USE_OPTIMIZED_PROMPTS off and compare.",
            ),
            Panel(
                "Duration",
                "lines",
                "s",
                {"{{what}} p95": quantile(0.95, "siding_grading_duration_seconds", MONITOR, "what")},
                "Compact answers should be quicker: fewer tokens are written. Slower: the upstream; see beside.",
            ),
            Panel(
                "The upstream",
                "bars",
                "reqps",
                {"{{lane}} {{outcome}}": rate("siding_grading_upstream_seconds_count", MONITOR, "lane, outcome")},
                "Anything but 'answered': see the vendor's status page, and the log for the reason.",
            ),
            Panel(
                "Asked again",
                "lines",
                "cps",
                {"{{template}}": or_zero(rate("siding_grading_asked_again_total", MONITOR, "template"))},
                "Compact answers that could not be expanded with certainty, and were asked for in full. Often: the template "
                "is switched off by itself; see 'Templates'.",
            ),
            Panel(
                "Retries",
                "lines",
                "cps",
                {"{{reason}}": or_zero(rate("siding_grading_retries_total", MONITOR, "reason"))},
                "Rate limits or faults of the upstream. Steady rate limits: fewer at once, or a higher limit of the account.",
            ),
            Panel(
                "Waiting for a turn",
                "lines",
                "short",
                {"{{lane}}": f"sum by (lane) (siding_grading_waiting{{{MONITOR}}})"},
                "Grows without end: more is asked than the upstream takes.",
            ),
            Panel(
                "Templates and breaker",
                "list",
                "short",
                {
                    "{{template}} {{state}}": f"max by (template, state) (siding_grading_template{{{MONITOR}}}) == 1",
                    "breaker {{state}}": f"max by (state) (siding_grading_breaker{{{MONITOR}}}) == 1",
                },
                "on is right. off or trying: compact answers failed of late, requests go through untouched. Breaker open: "
                "the upstream fails, callers are told at once.",
            ),
        ),
        "Quality": (
            Panel(
                "Shadow agreement",
                "lines",
                "percentunit",
                {
                    "{{template}} {{of}} {{bound}}": f"max by (template, of, bound) (siding_grading_quality_agreement_ratio{{{MONITOR}}})"
                },
                "Share of questions on which compact and original prompt give the same grade, with its bounds. Nothing: "
                "SHADOW_SAMPLE_RATE is 0. Under 98 % with narrow bounds: switch USE_OPTIMIZED_PROMPTS off.",
            ),
            Panel(
                "Questions compared",
                "lines",
                "short",
                {
                    "compared": f"sum(siding_grading_quality_questions{{{MONITOR}}})",
                    "needed": f"max(siding_grading_quality_needed_questions{{{MONITOR}}})",
                },
                "Under 'needed' nothing can be claimed: wait, or raise SHADOW_SAMPLE_RATE within its budget.",
            ),
            Panel(
                "Shadow offers",
                "bars",
                "cps",
                {"{{outcome}}": rate("siding_grading_quality_offers_total", MONITOR, "outcome")},
                "Why homeworks were compared or not. over-budget: SHADOW_DOLLARS_A_DAY is spent.",
            ),
        ),
    },
    {
        "input_price": ("dollars per million input tokens", "0.15"),
        "output_price": ("per million output tokens", "0.60"),
    },
)

TIER = Board(
    "siding-redis",
    "Siding: Redis tier",
    "What replicas share. Without it everything goes on, from memory and the origin.",
    {
        "The tier": (
            Panel(
                "Breaker",
                "list",
                "short",
                {"{{job}} {{instance}} {{state}}": "max by (job, instance, state) (siding_shared_tier) == 1"},
                "closed is right. open: Redis does not answer within REDIS_TIMEOUT_MS; clients do not notice, but the hit "
                "rate falls. See Redis's own log and memory.",
            ),
            Panel(
                "Calls",
                "bars",
                "cps",
                {
                    "{{job}} {{result}}": "sum by (job, result) (rate(siding_shared_tier_seconds_count[$__rate_interval]))"
                },
                "failed and timed-out should be nought. A few in a failover are right.",
            ),
            Panel(
                "Round trip",
                "heat",
                "s",
                {"{{le}}": "sum by (le) (increase(siding_shared_tier_seconds_bucket[$__rate_interval]))"},
                "Half a millisecond or so on a private network. Near the timeout: Redis is far away or busy (SLOWLOG GET).",
            ),
            Panel(
                "Round trip by quantile",
                "lines",
                "s",
                {
                    f"p{share * 100:.0f}": quantile(share, "siding_shared_tier_seconds", 'result="ok"')
                    for share in (0.5, 0.99)
                },
                "p99 above ten milliseconds: Redis shares its machine, or runs a slow command (SLOWLOG GET).",
            ),
            Panel(
                "Shared hits",
                "lines",
                "reqps",
                {
                    "shared": rate("siding_hits_total", PROXY + ', tier="shared"'),
                    "memory": rate("siding_hits_total", PROXY + ', tier="memory"'),
                },
                "shared is what the other replicas are worth. Nought with several replicas: CACHE_SECRET is missing, or they "
                "have different ones.",
            ),
            Panel(
                "Leases",
                "bars",
                "cps",
                {"{{outcome}}": rate("siding_leases_total", PROXY, "outcome")},
                "led: this replica asked the origin for all. filled: another had. alone: nobody could share. away: no Redis.",
            ),
            Panel(
                "Octets",
                "lines",
                "Bps",
                {"{{direction}}": rate("siding_shared_tier_bytes_total", PROXY, "direction")},
                "Read and written. Near the network's limit: lower REDIS_MAX_OBJECT_BYTES.",
            ),
            Panel(
                "Evictions in Redis",
                "lines",
                "cps",
                {"evictions": "sum(rate(siding_shared_tier_evictions_total[$__rate_interval]))"},
                "Redis drops keys for want of memory: raise maxmemory; it should not evict under normal load.",
            ),
        ),
        "Replicas": (
            Panel(
                "Hear of each other",
                "lines",
                "short",
                {"{{job}} {{instance}}": "min by (job, instance) (siding_replica_hears)"},
                "1 is right. 0: purges and flags of others arrive late; what is stored is validated once it hears again.",
            ),
            Panel(
                "Messages",
                "lines",
                "cps",
                {
                    "{{job}} {{direction}}": "sum by (job, direction) (rate(siding_replica_messages_total[$__rate_interval]))"
                },
                "Purges, tags and flags. A storm: something purges in a loop.",
            ),
        ),
    },
)

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

BOARDS = (OVERVIEW, POOL, GRADING, TIER, PROCESS)
