"""The settings: one definition each, from which help, README and validation are made.

A setting's name here is its variable's in lower case. Beside the kind of value stand default, bounds and meaning.
A setting whose default is None is optional: empty text means none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from config.kinds import (
    MIB,
    TIB,
    ApiUrl,
    Detail,
    Dollars,
    FieldNames,
    Host,
    HttpUrl,
    LogFormat,
    LogLevel,
    Milliseconds,
    OptionalDatabaseUrl,
    OptionalFile,
    OptionalFolder,
    OptionalHttpUrl,
    OptionalRedisUrl,
    OptionalSecret,
    Seconds,
    Share,
    Size,
    Switch,
    Tristate,
    Whole,
    show_size,
)
from config.listen import is_at

DAY_MS = 86_400_000
YEAR_SECONDS = 31_536_000
OBJECT_BYTES = 8 * MIB


class Settings(BaseModel):
    """What every service's settings have in common: they do not change while it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class FlagSettings(Settings):
    """How the feature flags stand at the start. `flags.Flags` holds them afterwards."""

    enable_query_cache: Switch = Field(
        default=True,
        description="off: nothing is served from or written to the response cache (proxy) or the query cache (monitor)",
    )
    enable_etag: Switch = Field(default=True, description="off: no validators are made; the origin's own still work")
    enable_dedup: Switch = Field(default=True, description="off: every request goes to the origin on its own")
    enable_compression: Switch = Field(default=True, description="off: no content coding is applied here")
    enable_redis_cache: Switch = Field(default=True, description="off: the shared tier is not used")
    use_optimized_prompts: Switch = Field(
        default=True, description="off: grading prompts and replies pass through byte for byte"
    )
    enable_completion_cache: Switch = Field(default=False, description="off: grading answers are not cached")
    bypass: Switch = Field(
        default=False, description="on: the master switch: pure pass-through, whatever the other flags say"
    )


def _redis_timeout() -> Any:
    return Field(
        default=50, ge=1, le=10_000, description="longest time for a call of Redis; then it is done without it"
    )


def _object_bytes(given: Mapping[str, Any]) -> int:
    return min(OBJECT_BYTES, int(given.get("cache_max_bytes", OBJECT_BYTES)))


class ProxySettings(FlagSettings):
    """The settings of the proxy."""

    upstream_url: HttpUrl = Field(description="the origin; the certificate of an https one is verified")
    host: Host = Field(
        default="::", description="address of the public listener; :: is dual stack, and 0.0.0.0 where there is no IPv6"
    )
    port: Whole = Field(
        default=8080,
        ge=0,
        le=65_535,
        validate_default=True,
        description="port of the public listener; 0 takes a free one",
    )
    admin_host: Host = Field(default="127.0.0.1", description="address of the admin and metrics listener")
    admin_port: Whole = Field(
        default=9090,
        ge=0,
        le=65_535,
        validate_default=True,
        description="port of the admin and metrics listener; 0 takes a free one",
    )
    admin_token: OptionalSecret = Field(
        default=None,
        description="bearer token for every admin call that changes something; "
        "without it those are refused unless the peer is this machine",
    )
    public_metrics: Switch = Field(
        default=False, description="also answer the `/api/metrics/*` JSON on the public port"
    )
    pool_monitor_url: OptionalHttpUrl = Field(
        default=None,
        description="the pool monitor, whose numbers the live page shows; when PUBLIC_METRICS is on, also where "
        "`/api/metrics/database-pool` is fetched from",
    )
    rules_file: OptionalFile = Field(default=None, description="route rules (TOML)")
    redis_url: OptionalRedisUrl = Field(default=None, repr=False, description="shared tier; none means in-memory only")
    redis_timeout_ms: Milliseconds = _redis_timeout()
    redis_max_object_bytes: Size = Field(
        default=MIB, ge=0, le=64 * MIB, description="larger responses are not shared through Redis"
    )
    cache_secret: OptionalSecret = Field(
        default=None,
        description="the same on all replicas, for keys that hold credentials or content; "
        "without it only what is keyed by its URL is shared through Redis",
    )
    cache_max_bytes: Size = Field(
        default=256 * MIB, ge=0, le=16 * TIB, description="budget of the in-memory tier, all of its overhead counted"
    )
    cache_max_object_bytes: Size = Field(
        default_factory=_object_bytes,
        ge=0,
        le=16 * TIB,
        description="larger responses stream through unstored; at most CACHE_MAX_BYTES",
    )
    cache_ttl_seconds: Seconds = Field(
        default=300.0, ge=0, le=YEAR_SECONDS, description="freshness a route rule gets when it names none"
    )
    targeted_fields: FieldNames = Field(
        default=("siding-cache-control", "cdn-cache-control"),
        description="fields of the origin that go before its Cache-Control and Expires, the first first (RFC 9213)",
    )
    cache_status_key: Switch = Field(
        default=False, description="also tell the cache key in Cache-Status, to find out why something is not a hit"
    )
    upstream_connect_timeout_ms: Milliseconds = Field(
        default=2000, ge=1, le=DAY_MS, description="longest wait for a connection to the origin"
    )
    upstream_timeout_ms: Milliseconds = Field(
        default=120_000,
        ge=1,
        le=DAY_MS,
        description="longest silence of the origin: before its response, and between bytes",
    )
    max_request_bytes: Size = Field(default=64 * MIB, ge=1, le=TIB, description="larger request content gets 413")
    drain_seconds: Seconds = Field(
        default=25.0,
        ge=0,
        le=86_400,
        description="on SIGTERM: no new connections, readiness turns 503, and requests on their way have this long",
    )
    workers: Whole = Field(
        default=1, ge=1, le=256, description="processes that share the port, and CACHE_MAX_BYTES evenly"
    )
    log_level: LogLevel = Field(default="info", description="least level that is logged")
    log_format: LogFormat = Field(default="json", description="form of log lines")

    @field_validator("port")
    @classmethod
    def _not_the_origins(cls, port: int, others: ValidationInfo) -> int:
        origin, host = others.data.get("upstream_url"), others.data.get("host")
        if port and origin is not None and host is not None and is_at(origin, host, port):
            raise ValueError(f"UPSTREAM_URL, which is {origin}, leads there: each request would come back for ever")
        return port

    @field_validator("admin_port")
    @classmethod
    def _not_the_public_port(cls, port: int, others: ValidationInfo) -> int:
        if port and port == others.data.get("port"):
            raise ValueError("it is PORT's as well, but the admin listener is never on the public port")
        origin, host = others.data.get("upstream_url"), others.data.get("admin_host")
        if port and origin is not None and host is not None and is_at(origin, host, port):
            raise ValueError(f"UPSTREAM_URL, which is {origin}, leads there, and not to the service")
        return port

    @field_validator("cache_max_object_bytes")
    @classmethod
    def _within_the_budget(cls, size: int, others: ValidationInfo) -> int:
        budget = others.data.get("cache_max_bytes")
        if budget is not None and size > budget:
            raise ValueError(f"it is more than CACHE_MAX_BYTES, which is {show_size(budget)}")
        return size


class MonitorSettings(FlagSettings):
    """The settings of the pool monitor."""

    database_url: OptionalDatabaseUrl = Field(
        default=None, repr=False, description="the database; without it the pool part is off"
    )
    host: Host = Field(
        default="::", description="address to listen on; :: is dual stack, 0.0.0.0 where there is no IPv6"
    )
    port: Whole = Field(default=8081, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    admin_token: OptionalSecret = Field(
        default=None,
        description="bearer token for every call that changes something; "
        "without it those are refused unless the peer is this machine",
    )
    queries_token: OptionalSecret = Field(
        default=None,
        description="bearer token for named queries; without it those are refused unless the peer is this machine",
    )
    db_pool_max: Whole = Field(default=20, ge=1, le=10_000, description="most connections to the database")
    db_pool_min: Whole = Field(
        default=2, ge=0, le=10_000, validate_default=True, description="connections kept open and warm"
    )
    db_pool_idle_timeout_ms: Milliseconds = Field(
        default=30_000, ge=1, le=DAY_MS, description="a connection above DB_POOL_MIN is closed when idle for this long"
    )
    db_pool_connection_timeout_ms: Milliseconds = Field(
        default=2000, ge=1, le=DAY_MS, description="longest wait for a connection, connecting included; then an error"
    )
    db_pool_max_age_ms: Milliseconds = Field(
        default=1_800_000, ge=1000, le=DAY_MS, description="a connection of this age, give or take a tenth, is replaced"
    )
    db_statement_timeout_ms: Milliseconds = Field(
        default=10_000, ge=1, le=DAY_MS, description="after this long the server ends a statement"
    )
    db_query_timeout_ms: Milliseconds = Field(
        default=10_000, ge=1, le=DAY_MS, description="after this long the client gives a query up"
    )
    db_query_max_bytes: Size = Field(
        default=16 * MIB,
        ge=1,
        le=TIB,
        description="most bytes of a named query's answer, as the server sends it and as JSON; of one that is streamed "
        "as lines, of the rows that are fetched at once",
    )
    db_pgbouncer: Tristate = Field(
        default="auto", description="whether DATABASE_URL is a PgBouncer in transaction mode; auto finds out"
    )
    queries_file: OptionalFile = Field(default=None, description="named queries (TOML)")
    pgbouncer_admin_url: OptionalDatabaseUrl = Field(
        default=None, repr=False, description="a PgBouncer's console, whose pools are then told as well"
    )
    grading_upstream_url: ApiUrl = Field(
        default="https://api.openai.com/v1", description="where `/v1/*` goes: the API of OpenAI, or one like it"
    )
    grading_api_key: OptionalSecret = Field(
        default=None, description="used only when the caller sends no `Authorization` of its own"
    )
    grading_timeout_ms: Milliseconds = Field(
        default=600_000,
        ge=1,
        le=DAY_MS,
        description="longest time for one answer of the grading upstream, retries too; of what is forwarded as it "
        "came, the longest silence: before the answer, and between bytes",
    )
    grading_connect_timeout_ms: Milliseconds = Field(
        default=5000, ge=1, le=DAY_MS, description="longest wait for a connection to the grading upstream"
    )
    grading_concurrency: Whole = Field(
        default=64, ge=1, le=10_000, description="most completions that are asked of the upstream at the same time"
    )
    grading_max_request_bytes: Size = Field(
        default=64 * MIB, ge=1, le=TIB, description="a larger request is forwarded without looking into it"
    )
    grading_templates: OptionalFolder = Field(
        default=None, description="a folder with prompt templates (TOML) beside those that come with Siding"
    )
    grading_models_file: OptionalFile = Field(
        default=None, description="prices and token rules of models (TOML) instead of those that come with Siding"
    )
    grading_batches: Switch = Field(
        default=True,
        description="answer the batches API here, in minutes; off: batches go to the upstream, which may take a day "
        "and charges half",
    )
    grading_image_detail: Detail = Field(
        default="as-asked",
        description="detail of the images beside a recognised prompt; change it only after `siding-monitor evaluate "
        "--price-detail` has compared the grades",
    )
    grading_data_dir: OptionalFolder = Field(
        default=None, description="a folder where the accounts of tokens and money outlast a restart"
    )
    completion_cache_ttl_seconds: Seconds = Field(
        default=3600.0, ge=0, le=YEAR_SECONDS, description="how long an answer at temperature 0 is kept"
    )
    completion_cache_max_bytes: Size = Field(
        default=64 * MIB, ge=0, le=TIB, description="budget of kept completions in memory"
    )
    cache_secret: OptionalSecret = Field(
        default=None,
        description="the same on all replicas, for keys that hold credentials; "
        "without it kept completions are not shared through Redis",
    )
    shadow_sample_rate: Share = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of graded homeworks that are asked again in the background with the other prompt, "
        "at the caller's expense, to compare the grades",
    )
    shadow_calls_a_day: Whole = Field(default=200, ge=0, le=1_000_000, description="most such calls a day (UTC)")
    shadow_dollars_a_day: Dollars = Field(
        default=1.0, ge=0, le=100_000, description="most money for such calls a day (UTC), as estimated"
    )
    redis_url: OptionalRedisUrl = Field(
        default=None,
        repr=False,
        description="shared tier of the query and completion caches; none means in-memory only",
    )
    redis_timeout_ms: Milliseconds = _redis_timeout()
    proxy_admin_url: OptionalHttpUrl = Field(
        default=None, description="the proxy's admin listener, where tags are purged when a table changes"
    )
    proxy_admin_token: OptionalSecret = Field(default=None, description="ADMIN_TOKEN of that proxy")
    drain_seconds: Seconds = Field(
        default=25.0, ge=0, le=86_400, description="on SIGTERM, requests on their way have this long"
    )
    log_level: LogLevel = Field(default="info", description="least level that is logged")
    log_format: LogFormat = Field(default="json", description="form of log lines")

    @field_validator("grading_upstream_url")
    @classmethod
    def _not_its_own(cls, upstream: str, others: ValidationInfo) -> str:
        host, port = others.data.get("host"), others.data.get("port")
        if port and host is not None and is_at(upstream, host, port):
            raise ValueError("it leads to the monitor itself: each request would come back for ever")
        return upstream

    @field_validator("db_pool_min")
    @classmethod
    def _within_the_pool(cls, least: int, others: ValidationInfo) -> int:
        most = others.data.get("db_pool_max")
        if most is not None and least > most:
            raise ValueError(f"it is more than DB_POOL_MAX, which is {most}")
        return least
