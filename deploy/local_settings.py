"""What `siding up` is told: the proxy's settings, from the same places, and what is said of the monitor."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from pydantic import Field

from config.kinds import Host, OptionalApiUrl, OptionalDatabaseUrl, OptionalHttpUrl, Seconds, Whole
from config.load import BAD_SETTINGS, SettingsError, misspelt, read
from config.settings import MonitorSettings, ProxySettings, Settings


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


def read_settings(
    given: Sequence[str], environ: Mapping[str, str], prog: str, named: Mapping[str, str]
) -> tuple[LocalSettings, MonitorOptions]:
    """Both; exits with status 2, and every fault of both in one message.

    named -- the options by which settings of `environ` were given.
    """
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
