"""Where the parts of the local stack listen: as the settings say, or wherever is free."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass

from config.listen import ListenError, address_of, open_socket, open_spare
from deploy.local_settings import LocalSettings, MonitorOptions

ORIGIN_PORT = 3000
"""Where the example origin listens if nothing else does, and PORT is not left open."""


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


def free_addresses(settings: LocalSettings, held: Held) -> Addresses:
    """See that the addresses in the settings can be listened on, and choose those left open. Raises PortTaken."""
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
