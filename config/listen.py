"""Listening sockets: dual stack where the machine has IPv6, plain IPv4 where it has not."""

from __future__ import annotations

import atexit
import errno
import itertools
import random
import socket
from collections import deque
from urllib.parse import urlsplit

from config.access import is_loopback

BACKLOG = 2048
"""Who comes while the process is busy waits in the kernel's queue; who finds that full tries again after a second.

To be asked for again once a socket is served: asyncio and aiohttp make it 100 and 128. Told of it, asyncio would try to
accept as many clients at once, and where it has no descriptor for them as often, each time with a word.
"""
EVERYWHERE = ("::", "0.0.0.0")  # noqa: S104 - named, not bound
SPARE = range(20_000, 32_000)
"""Below the ports that connections going out are given (Linux: from 32,768 on, net.ipv4.ip_local_port_range; elsewhere
from 49,152 on, RFC 6335 section 6): a port of these is nobody's by accident before its owner listens on it."""
_spare = itertools.cycle(random.sample(SPARE, len(SPARE)))
CLAIMS = 64
_claims: deque[socket.socket] = deque()
"""UDP sockets on the spare ports chosen last, which keep other processes of ours from choosing them."""


class ListenError(OSError):
    """An address that cannot be listened on, with what to do about it."""


def open_socket(
    host: str, port: int, named: str = "PORT", *, share: bool = False, listen: bool = True
) -> socket.socket:
    """A TCP socket bound to `host` and `port` (0: any free one).

    `::` accepts IPv4 as well, and falls back to 0.0.0.0 where there is no IPv6.
    named -- what the port is set by, for the advice. share -- let other processes bind the same port (SO_REUSEPORT).
    listen -- False only reserves the port.
    Raises ListenError.
    """
    if host == "::" and not _has_ipv6():
        host = "0.0.0.0"  # noqa: S104 - the public listener is public
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family is socket.AF_INET and not host.replace(".", "").isdigit():
        family = _family_of(host)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
        if listen:
            sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as fault:
        sock.close()
        raise ListenError(fault.errno, _advice(fault, host, port, named)) from fault
    return sock


def open_spare(host: str) -> socket.socket:
    """As `open_socket`, on a free port for a process started later: none is chosen twice. Raises ListenError."""
    for port in itertools.islice(_spare, len(SPARE)):
        try:
            sock = open_socket(host, port)
        except ListenError as fault:
            if fault.errno != errno.EADDRINUSE:
                break
        else:
            if _claim(port):
                return sock
            sock.close()
    return open_socket(host, 0)


def _claim(port: int) -> bool:
    """Tell other processes that `port` is taken, before anybody listens on it; False where one of them was first."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as fault:
        sock.close()
        return fault.errno != errno.EADDRINUSE
    _claims.append(sock)
    _release(CLAIMS)
    return True


def _release(left: int) -> None:
    while len(_claims) > left:
        _claims.popleft().close()


atexit.register(_release, 0)


def spare_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, nor is given unless it asks for it by number."""
    with open_spare("127.0.0.1") as sock:
        return int(sock.getsockname()[1])


def _family_of(host: str) -> socket.AddressFamily:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except (socket.gaierror, UnicodeError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "it is no host name"
        raise ListenError(errno.EADDRNOTAVAIL, f"cannot listen on {host!r}: {reason}") from fault


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _advice(fault: OSError, host: str, port: int, named: str) -> str:
    what = f"cannot listen on {host} port {port}: {fault.strerror or fault}"
    if fault.errno == errno.EADDRINUSE:
        return f"{what}; another process has it (set {named} to a free one)"
    if fault.errno == errno.EACCES:
        return f"{what}; ports under 1024 need a privilege (set {named} to a higher one)"
    return what


def address_of(sock: socket.socket) -> str:
    """What a person would put behind `http://` to reach `sock` from this machine."""
    host, port = sock.getsockname()[:2]
    if host in EVERYWHERE:
        host = "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_at(url: str, host: str, port: int) -> bool:
    """Whether who connects to `url` comes to what listens on `host` and `port`, as far as can be seen without asking.

    Other names of this machine are not known here.
    """
    parts = urlsplit(url)
    name = parts.hostname or ""
    if (parts.port or {"http": 80, "https": 443}.get(parts.scheme)) != port:
        return False
    if name == host:
        return True
    # to connect to all addresses is to connect to this machine
    here = name == "localhost" or name in EVERYWHERE
    if host in EVERYWHERE:
        return here or (is_loopback(name) and (host == "::" or ":" not in name))
    return (here and is_loopback(host)) or (host == "localhost" and (here or is_loopback(name)))
