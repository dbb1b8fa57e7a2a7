"""Named queries: SQL that the operator declared, with typed parameters. No SQL comes from the network.

[[query]]
name       = "report-exists"
sql        = "SELECT 1 FROM parent_reports WHERE user_id = $1"
parameters = ["userId: text"]
exists     = true
ttl        = 300
tables     = ["parent_reports"]
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from config.kinds import TIB, read_size, show_size
from config.toml_file import TableReader, read_tables
from config.words import meant, quoted

DEFAULT_ROWS = 10_000
DEFAULT_TTL = 300.0
MOST_SECONDS = 86_400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COPY = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*COPY\b", re.IGNORECASE | re.DOTALL)
_TABLE = re.compile(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)?")
_KEYS = ("name", "sql", "parameters", "exists", "ttl", "rows", "bytes", "timeout_ms", "write", "tables", "tags")


class ArgumentError(ValueError):
    """Arguments that do not fit the parameters. Its text lists every fault."""


# -- parameters


_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?inf(?:inity)?|nan", re.IGNORECASE | re.ASCII
)
_NUMERIC_DIGITS = 131_072
"""What PostgreSQL's numeric has before the point; fewer after it."""


def _integer(value: object) -> int:
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, str):
        # int() takes 1_000, and digits of other scripts
        if not _INTEGER.fullmatch(value):
            raise TypeError
        return _within_64_bits(int(value))
    if not isinstance(value, int):
        raise TypeError
    return _within_64_bits(value)


def _within_64_bits(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError("it is beyond 64 bits")
    return value


def _as_number(value: object) -> int | float | Decimal:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise TypeError
    return value


def _double(value: object) -> float:
    number = _as_number(value)
    double = float(number)
    if math.isinf(double) and not Decimal(number).is_infinite():
        raise ValueError("it is beyond a double")
    return double


def _decimal(value: object) -> Decimal:
    number = Decimal(str(_as_number(value)))
    if number.is_finite() and max(abs(number.adjusted()), abs(int(number.as_tuple().exponent))) >= _NUMERIC_DIGITS:
        raise ValueError("it is beyond a numeric")
    return number


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in {"true", "false"}:
        return value == "true"
    raise TypeError


def _string(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_string(value))
    if moment.tzinfo is None:
        raise ValueError("a timestamptz needs a time zone, as in 2026-01-31T12:00:00Z")
    return moment


def _plain_moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_string(value))
    if moment.tzinfo is not None:
        raise ValueError("a timestamp has no time zone")
    return moment


def read_json(content: bytes | str) -> object:
    """JSON without losing a digit: numbers that are no integers are Decimals. Raises ValueError."""
    # which is stricter: no NaN, no halves of characters
    orjson.loads(content)
    try:
        return json.loads(content, parse_float=Decimal)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _json(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_json(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return json.dumps(value)


_TYPES: dict[str, Callable[[object], object]] = {
    "text": _string,
    "integer": _integer,
    "bigint": _integer,
    "double": _double,
    "numeric": _decimal,
    "boolean": _boolean,
    "uuid": lambda value: UUID(_string(value)),
    "date": lambda value: date.fromisoformat(_string(value)),
    "timestamptz": _moment,
    "timestamp": _plain_moment,
    "jsonb": _json,
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its name in JSON or in the URL's query, and its type; `[]` behind the type is an array."""

    name: str
    type: str

    def convert(self, value: object, as_text: bool = False) -> object:
        """The value for asyncpg. Raises ValueError, TypeError, ArithmeticError or RecursionError.

        as_text -- it comes from a URL, where there is no other type.
        """
        if value is None:
            return None
        if as_text and self.type in {"jsonb", "jsonb[]"}:
            value = read_json(_string(value))
        elif as_text and self.type.endswith("[]"):
            value = [part for part in _string(value).split(",") if part]
        if self.type.endswith("[]"):
            if not isinstance(value, list):
                raise TypeError
            return [None if one is None else _TYPES[self.type[:-2]](one) for one in value]
        return _TYPES[self.type](value)


# -- queries


@dataclass(frozen=True, slots=True)
class Query:
    """A named query.

    exists -- answered as `{"exists": true}` by the EXISTS form. ttl -- seconds that an answer is kept; 0: not at all.
    rows, octets -- more are an error; octets None: DB_QUERY_MAX_BYTES. timeout -- seconds. write -- not read-only, and
    never kept.
    tables -- read by it, if declared. tags -- purged at the proxy when one of the tables changes.
    """

    name: str
    sql: str
    parameters: tuple[Parameter, ...] = ()
    exists: bool = False
    ttl: float = DEFAULT_TTL
    rows: int = DEFAULT_ROWS
    octets: int | None = None
    timeout: float | None = None
    write: bool = False
    tables: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def arguments(self, given: Mapping[str, object], as_text: bool = False) -> list[object]:
        """Values in the order of the parameters. Raises ArgumentError. as_text -- see `Parameter.convert`."""
        names = [parameter.name for parameter in self.parameters]
        faults = [f"{quoted(name)} is no parameter{meant(name, names)}" for name in given if name not in names]
        values: list[object] = []
        for parameter in self.parameters:
            if parameter.name not in given:
                faults.append(f"{quoted(parameter.name)} is missing: give {parameter.type}")
                continue
            try:
                values.append(parameter.convert(given[parameter.name], as_text))
            except (ValueError, TypeError, ArithmeticError, RecursionError) as fault:
                reason = f": {fault}" if str(fault) and isinstance(fault, ValueError) else ""
                faults.append(f"{quoted(parameter.name)} is not of the type {parameter.type}{reason}")
        if faults:
            raise ArgumentError("; ".join(faults))
        return values

    def key(self, values: Sequence[object]) -> str:
        """What an answer is kept under: the same for the same question only, and a digest, which tells nobody of it.

        The question is the SQL, as well as its name: a replica may have another file of queries.
        """
        # a value's repr tells its type as well, and NaN from Infinity and from NULL, unlike JSON
        types = [parameter.type for parameter in self.parameters]
        asked = repr([self.name, self.sql, self.exists, self.rows, types, *values])
        return hashlib.blake2b(asked.encode(), digest_size=20).hexdigest()

    def statement(self) -> str:
        """The SQL as it is sent."""
        sql = self.sql.strip().rstrip(";")
        # a comment at the end is not to reach the parenthesis
        end = "\n" if "--" in sql.rpartition("\n")[2] else ""
        return f"SELECT EXISTS ({sql}{end})" if self.exists else sql

    def describe(self) -> dict[str, object]:
        """For `GET /api/queries`."""
        return {
            "name": self.name,
            "parameters": [f"{one.name}: {one.type}" for one in self.parameters],
            "exists": self.exists,
            "ttl": self.ttl,
            "write": self.write,
            "tables": list(self.tables),
        }


def load_queries(path: str | os.PathLike[str]) -> dict[str, Query]:
    """The queries in a TOML file, by name. Raises FileError."""
    queries = read_tables("QUERIES_FILE", path, kind="query", what="query", called="name", read=_read)
    return {query.name: query for query in queries}


class _Reader(TableReader):
    def text(self, key: str, pattern: re.Pattern[str] | None, words: str) -> str:
        value = self.table.get(key)
        if not isinstance(value, str) or not value.strip() or (pattern is not None and not pattern.fullmatch(value)):
            self.fault(key, f"{'it is missing' if value is None else quoted(value) + ' cannot be used'}; {words}")
            return ""
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self.table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fault(key, f"{quoted(value)} is not a number from {low:g} to {high:g}")
            return default
        return float(value)

    def size(self, key: str) -> int | None:
        value = self.table.get(key)
        if value is None:
            return None
        try:
            size = read_size(value)
        except ValueError:
            size = 0
        if not 1 <= size <= TIB:
            self.fault(key, f"{quoted(value)} is not a size like 64MiB, from 1 byte to {show_size(TIB)}")
        return size

    def texts(self, key: str, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        value = self.table.get(key, [])
        if not isinstance(value, list) or not all(
            isinstance(one, str) and (pattern is None or pattern.fullmatch(one)) for one in value
        ):
            self.fault(key, f"{quoted(value)} is not a list of names")
            return ()
        return tuple(value)


def _read(table: Mapping[str, Any], earlier: Sequence[Query]) -> tuple[Query, list[str]]:
    """The query in a table, and what is wrong with it."""
    reader = _Reader(table)
    reader.unknown_keys(_KEYS)
    parameters = []
    for text in reader.texts("parameters"):
        name, _, kind = (part.strip() for part in text.partition(":"))
        if not name or kind.removesuffix("[]") not in _TYPES:
            known = ", ".join(_TYPES)
            reader.fault("parameters", f'{quoted(text)} is not "name: type" with a type of {known}, or one with []')
        else:
            parameters.append(Parameter(name, kind))
    milliseconds = reader.number("timeout_ms", 0, 0, MOST_SECONDS * 1000)
    query = Query(
        name=reader.text("name", _NAME, "use letters, digits, dots, dashes and underscores"),
        sql=reader.text("sql", None, "give one statement with $1, $2 … for the parameters"),
        parameters=tuple(parameters),
        exists=reader.switch("exists"),
        ttl=reader.number("ttl", DEFAULT_TTL, 0, MOST_SECONDS),
        rows=int(reader.number("rows", DEFAULT_ROWS, 1, 10_000_000)),
        octets=reader.size("bytes"),
        timeout=milliseconds / 1000 if milliseconds else None,
        write=reader.switch("write"),
        tables=reader.texts("tables", _TABLE),
        tags=reader.texts("tags"),
    )
    if _COPY.match(query.sql):
        reader.fault("sql", "COPY brings no rows, and is asked for in a way of its own; SELECT them")
    if query.exists and query.write:
        reader.fault("exists", "a query that writes cannot be an existence check")
    if query.name in (one.name for one in earlier):
        reader.fault("name", "another query is called so")
    return query, reader.faults
