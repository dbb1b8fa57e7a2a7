"""What a database, and the way to it, may raise: what it means, and how it is told to a person. Pure."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import parse_qs, urlsplit

import asyncpg

READ_ONLY = "25006"
"""read_only_sql_transaction: after a fail-over the old primary refuses to write."""
FAULTS: tuple[type[Exception], ...] = (
    TimeoutError,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a connection that is asked something may raise."""
ENDED = "cannot switch to state"
"""How asyncpg's InternalClientError begins for a connection that the server has told to be over, while it was idle."""
_GONE = ("08", "57P01", "57P02", "57P03")
"""SQLSTATEs after which no other connection is likely to work either."""


def sqlstate(fault: BaseException) -> str:
    """The SQLSTATE of a fault; `08000` for those of the connection that the server could not tell."""
    return str(getattr(fault, "sqlstate", None) or "08000")


def is_gone(fault: BaseException) -> bool:
    """Whether the server, or the connection to it, has gone, rather than refused something."""
    return sqlstate(fault).startswith(_GONE)


def reason_of(fault: Exception) -> Exception:
    """What ended a connection: what the server said last, which asyncpg tells as that of a lost connection, and
    complains afterwards that a transaction cannot be ended on it."""
    reason: BaseException | None = fault
    while isinstance(reason, asyncpg.InterfaceError):
        reason = reason.__context__
    if isinstance(reason, asyncpg.ConnectionDoesNotExistError) and isinstance(reason.__cause__, asyncpg.PostgresError):
        reason = reason.__cause__
    if isinstance(reason, asyncpg.InternalClientError) and str(reason).startswith(ENDED):
        reason = asyncpg.ConnectionDoesNotExistError("the server had ended the connection while it was idle")
    return reason if isinstance(reason, asyncpg.PostgresError | OSError) else fault


def kind_of(fault: Exception) -> str:
    """For spans: the SQLSTATE, or what kind of fault it is."""
    return str(getattr(fault, "sqlstate", None) or type(fault).__name__)


def describe(fault: BaseException, url: str = "") -> str:
    """One line for a person, without what was sent to the server. url -- the database's, of which the host is told."""
    if isinstance(fault, socket.gaierror):
        parts = urlsplit(url)
        host = parts.hostname or ",".join(parse_qs(parts.query).get("host", ()))
        return f"the host {host or 'of the database'} cannot be found: {fault.strerror}"
    if isinstance(fault, ssl.SSLError) and not isinstance(fault, ssl.SSLCertVerificationError):
        return f"TLS with the database failed; look at sslrootcert, sslcert and sslkey: {fault}"
    if isinstance(fault, FileNotFoundError | PermissionError | IsADirectoryError) and fault.filename is None:
        # the system does not say which
        return f"{fault.strerror}: the socket where the host is a path, or the file of sslrootcert, sslcert or sslkey"
    silent = "no answer in time" if isinstance(fault, TimeoutError) else type(fault).__name__
    text = str(fault).splitlines()[0] if str(fault) else silent
    return f"{text} ({fault.sqlstate})" if isinstance(fault, asyncpg.PostgresError) and fault.sqlstate else text
