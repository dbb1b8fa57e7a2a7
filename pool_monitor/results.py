"""Rows of every type that a backend uses as JSON, without losing a digit."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any
from uuid import UUID

import asyncpg
import orjson

_AS_TEXT = ("xml", "tsvector", "tsquery", "macaddr", "macaddr8", "money", "pg_lsn", "interval", "timetz", "oid", "xid8")
"""Types whose own text says it best."""
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS


async def prepare_once(connection: Any) -> None:
    """Set the codecs on a connection, the first time it is seen. jsonb and json come as the server wrote them."""
    record = connection.record
    if record.prepared:
        return
    record.prepared = True
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=_fragment, format="text")
    for name in _AS_TEXT:
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=str, format="text")


def _fragment(text: str) -> orjson.Fragment:
    return orjson.Fragment(text)


def encode(value: object) -> bytes:
    """A value, a row or a list of them as JSON. Raises TypeError for what has no JSON form."""
    return orjson.dumps(value, default=_default, option=_OPTIONS)


def row(record: Any) -> bytes:
    """A row as a JSON object; of columns with the same name the last one counts."""
    return encode(dict(record.items()))


def _default(value: object) -> object:
    match value:
        case asyncpg.Record():
            return dict(value.items())
        case Decimal():
            # JSON knows neither; PostgreSQL's own to_json makes strings of them, too
            return orjson.Fragment(str(value)) if value.is_finite() else str(value)
        case UUID() | IPv4Address() | IPv6Address() | IPv4Interface() | IPv6Interface() | IPv4Network() | IPv6Network():
            return str(value)
        case bytes():
            return "\\x" + value.hex()
        case asyncpg.Range():
            return _range(value)
        case asyncpg.BitString():
            return value.as_string().replace(" ", "")
        case asyncpg.Point():
            return [value.x, value.y]
        case str():
            return str.__str__(value)
        case Mapping():
            return dict(value)
        case tuple() | set() | frozenset():
            return list(value)
    raise TypeError(f"a value of the type {type(value).__name__} has no JSON form")


def _range(value: Any) -> str:
    """As PostgreSQL writes it: `[1,5)`, `empty`."""
    if value.isempty:
        return "empty"
    lower = "" if value.lower is None else _bound(value.lower)
    upper = "" if value.upper is None else _bound(value.upper)
    return f"{'[' if value.lower_inc else '('}{lower},{upper}{']' if value.upper_inc else ')'}"


def _bound(value: object) -> str:
    text = encode(value).decode()
    return text[1:-1] if text.startswith('"') else text
