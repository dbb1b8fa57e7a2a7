"""Pure: where a Redis is, from its URL.

    redis://[[user]:password@]host[:port][/number]            one server; rediss:// with TLS
    unix://[[user]:password@]/path                            one server, by its socket
    redis+sentinel://[…@]host[:port][,host[:port]…]/service[/number][?…]   the master that Sentinels name
    redis+cluster://[…@]host[:port][,host[:port]…]             a cluster, by some of its nodes

With Sentinels, user and password are those of the servers that they watch; the Sentinels' own are the parameters
`sentinel_username` and `sentinel_password`, as others have them, for there is no standard. `rediss+…` is with TLS
throughout. What a URL must escape is percent-encoded; a plus sign is one, also in the query.
Source: https://docs.prefect.io/integrations/prefect-redis/api-ref/prefect_redis-connection
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote

PORT = 6379
SENTINEL_PORT = 26_379


class Mode(StrEnum):
    """How a Redis is kept available."""

    SINGLE = "single"
    SOCKET = "socket"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_MODES = {
    "redis": (Mode.SINGLE, False),
    "rediss": (Mode.SINGLE, True),
    "unix": (Mode.SOCKET, False),
    "redis+sentinel": (Mode.SENTINEL, False),
    "rediss+sentinel": (Mode.SENTINEL, True),
    "redis+cluster": (Mode.CLUSTER, False),
    "rediss+cluster": (Mode.CLUSTER, True),
}
SCHEMES = tuple(_MODES)
_QUERY = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Place:
    """See the module. service -- what the Sentinels call it. path -- of the socket. sentinel_… -- for them alone."""

    mode: Mode
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    number: int = 0
    path: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)


def read_place(url: str) -> Place:
    """Raises ValueError, whose text says what is wrong without repeating what may be secret."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _MODES:
        raise ValueError(f"it does not begin with {', '.join(f'{one}://' for one in SCHEMES)}")
    mode, tls = _MODES[scheme.lower()]
    rest, question, query = rest.partition("?")
    if "#" in rest + query or (question and mode is not Mode.SENTINEL):
        raise ValueError("it has a query or a fragment")
    watcher, word = _of_sentinels(query) if question else (None, None)
    authority, _, path = rest.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    username, colon, password = credentials.partition(":")
    user, secret = unquote(username) or None, unquote(password) if colon else None
    if mode is Mode.SOCKET:
        if hosts or not path:
            raise ValueError("it names no socket, as unix:///path does")
        return Place(mode, path=f"/{unquote(path)}", username=user, password=secret)
    found = tuple(_host(one, SENTINEL_PORT if mode is Mode.SENTINEL else PORT) for one in hosts.split(","))
    if mode is Mode.SINGLE and len(found) > 1:
        raise ValueError("it names several hosts; redis+sentinel:// and redis+cluster:// do")
    service, number = _parts(mode, path)
    return Place(
        *(mode, tls, found, service, number),
        username=user,
        password=secret,
        sentinel_username=watcher,
        sentinel_password=word,
    )


def _of_sentinels(query: str) -> tuple[str | None, str | None]:
    """User and password for the Sentinels themselves."""
    given: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name not in _QUERY or name in given:
            raise ValueError(f"its query has something else than {' and '.join(_QUERY)}, or one of them twice")
        given[name] = unquote(value)
    user, secret = (given.get(name) or None for name in _QUERY)
    if user is not None and secret is None:
        raise ValueError("it has a sentinel_username without a sentinel_password")
    return user, secret


def _parts(mode: Mode, path: str) -> tuple[str, int]:
    """The service and the number of the database."""
    parts = path.rstrip("/").split("/") if path.strip("/") else []
    service = ""
    if mode is Mode.SENTINEL:
        if not parts:
            raise ValueError("it names no service, as redis+sentinel://host:26379/mymaster does")
        service = unquote(parts.pop(0))
    if len(parts) > 1 or (parts and not (parts[0].isascii() and parts[0].isdecimal())):
        raise ValueError("its path is not the number of a database")
    number = int(parts[0]) if parts else 0
    if mode is Mode.CLUSTER and number:
        raise ValueError("a cluster has only database 0")
    return service, number


def _host(text: str, default: int) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("its host is malformed")
        port = rest[1:] if rest else str(default)
    else:
        host, colon, port = text.partition(":")
        port = port if colon else str(default)
    if not host:
        raise ValueError("it names no host")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise ValueError("its port is malformed")
    return host, int(port)
