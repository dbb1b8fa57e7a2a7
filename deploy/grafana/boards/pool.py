"""The database's pool."""

from __future__ import annotations

from deploy.grafana.panels import MONITOR, RATE, Board, Panel, or_zero, percentiles, quantile, rate

POOL = Board(
    "siding-pool",
    "Siding: database pool",
    "The tuned pool: are there connections, who waits, who holds them, and how the server is.",
    {
        "The pool": (
            Panel(
                "Connections",
                "lines",
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
                "State",
                "bars",
                "short",
                {"{{state}}": f"max by (state) (siding_pool_state{{{MONITOR}}}) > 0"},
                "The verdict of now. unreachable: no connection can be made, and the monitor's log says why. leaking, saturated: "
                "see 'Top holders'.",
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
                "hit and collapsed spare the database. All miss: ENABLE_QUERY_CACHE is off, or its table changes all the time. "
                "client-gone: who asked did not wait for the answer.",
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
                "lines",
                "short",
                {
                    "all": f"sum(siding_server_connections{{{MONITOR}}})",
                    "{{state}}": f"sum by (state) (siding_server_connections{{{MONITOR}}})",
                    "max_connections": f"max(siding_server_connections_max{{{MONITOR}}})",
                },
                "Near max_connections: see whose they are in pg_stat_activity. 'idle in transaction' holds locks: find who forgets to commit.",
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
        "PgBouncer, where PGBOUNCER_ADMIN_URL names one": (
            Panel(
                "PgBouncer's connections to the server",
                "bars",
                "short",
                {
                    "{{database}} {{user}} {{state}}": "sum by (database, user, state) "
                    f"(siding_pgbouncer_connections{{{MONITOR}}})"
                },
                "Gone while siding_pgbouncer_up is 0: its console cannot be read, and the monitor's log says why. All active, "
                "and somebody waits: raise default_pool_size, or find who keeps transactions open.",
            ),
            Panel(
                "Clients that wait in PgBouncer",
                "lines",
                "short",
                {
                    "{{database}} {{user}}": f"sum by (database, user) (siding_pgbouncer_waiting{{{MONITOR}}})",
                    "oldest, seconds": f"max(siding_pgbouncer_oldest_wait_seconds{{{MONITOR}}})",
                },
                "Must be nought. Above: DB_POOL_MAX, the backend's pool, or both together are wider than default_pool_size. "
                "The panel 'Waiting' does not see who waits here.",
            ),
            Panel(
                "Queries through PgBouncer",
                "lines",
                "cps",
                {"{{database}}": rate("siding_pgbouncer_queries_total", MONITOR, "database")},
                "Whoever goes through it, the backend too. Nought where there should be some: somebody goes past it.",
            ),
            Panel(
                "Seconds waited in PgBouncer, a second",
                "lines",
                "short",
                {"{{database}}": rate("siding_pgbouncer_wait_seconds_total", MONITOR, "database")},
                "By all clients together. 1 is one client that waits all the time; see 'Clients that wait in PgBouncer'.",
            ),
        ),
    },
)
