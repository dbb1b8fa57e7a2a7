"""What replicas share."""

from __future__ import annotations

from deploy.grafana.panels import PROXY, Board, Panel, quantile, rate

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
                {"evictions": "max(rate(siding_shared_tier_evictions_total[$__rate_interval]))"},
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
                "Still to be told",
                "lines",
                "short",
                {"{{job}} {{instance}}": "sum by (job, instance) (siding_replica_untold)"},
                "0 but for moments. More that stays: purges made here do not reach the others; look at the breaker, and the log.",
            ),
            Panel(
                "Flags set in all replicas",
                "list",
                "short",
                {"{{job}} {{flag}}": "max by (job, flag) (siding_flag_pinned)"},
                "1 is set, on or off, whatever settings say, so that no deployment changes it: siding rollback --set "
                "NAME=setting hands it back. How each stands is on the overview.",
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
