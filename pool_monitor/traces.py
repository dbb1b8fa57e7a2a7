"""Spans of the pool, where traces are on: waiting for a connection, and using it. No parameter of a query is told."""

from __future__ import annotations

from urllib.parse import urlsplit

from config.tracing import here

Place = dict[str, str | int | None]


def pool_waited(name: str, seconds: float, error: str | None = None) -> None:
    """A connection was waited for. name -- whoever wanted it. error -- why none was had."""
    trace = here()
    if trace is not None:
        trace.past("pool acquire", seconds, {"siding.holder": name}, error=error, client=False)


def queried(name: str, seconds: float, place: Place, error: str | None) -> None:
    """A connection was used. name -- the query's, or of what else was asked. place -- see `database_place`."""
    trace = here()
    if trace is not None:
        about = {"db.system.name": "postgresql", "db.operation.name": name, "db.query.summary": name, **place}
        trace.past(name, seconds, {**about, "db.response.status_code": error}, error=error)


def database_place(url: str) -> Place:
    """Where a database is, without who asks it."""
    try:
        parts = urlsplit(url)
        return {
            "server.address": parts.hostname,
            "server.port": parts.port or 5432,
            "db.namespace": parts.path.lstrip("/") or None,
        }
    except ValueError:
        # several hosts; asyncpg takes them
        return {}
