"""`siding up`, which is `make run`: everything on this machine, until Ctrl-C.

What is not named (UPSTREAM_URL, DATABASE_URL, REDIS_URL, GRADING_UPSTREAM_URL) is started here: an example origin,
PostgreSQL, Redis and a grading simulator. Settings are the proxy's own, from the same places, and command-line
options are passed on to it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from config.words import masked
from deploy.addresses import Addresses, Held, MonitorAddresses, PortTaken, free_addresses, free_monitor_addresses
from deploy.local_settings import LocalSettings, read_settings
from deploy.options import this_tool
from deploy.parts import monitor_plan, plan, redis_address, redis_plan, seen_by_proxy
from deploy.stack import FAILED, Part, Stack, listens

PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379}
"""Where a service listens whose URL does not say so."""


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
    settings, options = read_settings(given, environ, prog, named or {})
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
