"""Rows of every type that a backend uses as JSON, without losing a digit."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any
from uuid import UUID

import asyncpg
import orjson

_AS_TEXT = ("interval", "money", "timetz", "tsvector", "tsquery", "pg_lsn")
"""Types whose own text says it best, and may be given for a parameter."""
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS

_EPOCH = datetime(2000, 1, 1)
_DAY = 86_400_000_000
_CYCLE_DAYS = 146_097
"""After 400 years the calendar is the same again."""
_QUOTED_IN_RANGES = re.compile(r'[\s"\\()\[\],]')
_REAL, _DOUBLE = struct.Struct(">f"), struct.Struct(">d")
_ENDLESS = {2**31 - 1: "infinity", -(2**31): "-infinity", 2**63 - 1: "infinity", -(2**63): "-infinity"}


class Unreadable(Exception):
    """A value whose type cannot be read where it stands; the text says what to do."""

    def __init__(self) -> None:
        super().__init__("a row within a row has a type that cannot be read there; give it as to_jsonb(…) or as text")


async def prepare_once(connection: Any) -> None:
    """Set the codecs on a connection, the first time it is seen.

    They are binary where they can be: what is within a record is never text. json and jsonb come as the server has
    them.
    """
    record = connection.record
    if record.prepared:
        return
    for codecs, form in ((_BINARY, "binary"), (_TUPLES, "tuple")):
        for name, encoder, decoder in codecs:
            await connection.set_type_codec(name, schema="pg_catalog", encoder=encoder, decoder=decoder, format=form)
    for name in _AS_TEXT:
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=str, format="text")
    # not before: whoever asked may leave in between
    record.prepared = True


def _number_codec(name: str, octets: int) -> _Codec:
    return name, lambda value: int(value).to_bytes(octets), lambda value: str(int.from_bytes(value))


def _finite(number: float) -> float | str:
    """JSON has no word for the others, and null is another value: they are as PostgreSQL's own to_json has them."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _double_read(value: bytes) -> float | str:
    return _finite(_DOUBLE.unpack(value)[0])


def _real_read(value: bytes) -> float | str:
    """With as many digits as it has; as a double, 1.1 would have eight more."""
    number: float = _REAL.unpack(value)[0]
    if not math.isfinite(number):
        return _finite(number)
    shorter = (float(f"{number:.{digits}g}") for digits in range(6, 10))
    return next(one for one in shorter if _REAL.pack(one) == value)


def _octets(text: str) -> bytes:
    octets = bytes.fromhex(re.sub(r"[:.-]", "", text))
    if len(octets) not in {6, 8}:
        # the server would take it for a fault of the connection
        raise ValueError(f"{len(octets)} octets are no address")
    return octets


def _date_given(value: date) -> tuple[int]:
    return (value.toordinal() - _EPOCH.toordinal(),)


def _time_given(value: time) -> tuple[int]:
    return (_microseconds(datetime.combine(_EPOCH, value)),)


def _moment_given(value: date) -> tuple[int]:
    if not isinstance(value, datetime):
        # a day is its beginning, as asyncpg has it without these codecs
        value = datetime.combine(value, time())
    return (_microseconds(value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value),)


def _microseconds(value: datetime) -> int:
    return (value - _EPOCH) // timedelta(microseconds=1)


def _calendar(days: int) -> tuple[str, str]:
    """A day since 2000 and its era, as PostgreSQL's to_json writes them; Python has the years 1 to 9999 alone."""
    cycles, rest = divmod(days + _EPOCH.toordinal() - 1, _CYCLE_DAYS)
    day = date.fromordinal(rest + 1)
    year = day.year + 400 * cycles
    return f"{year if year > 0 else 1 - year:04}-{day.month:02}-{day.day:02}", "" if year > 0 else " BC"


def _clock(microseconds: int) -> str:
    """A time of day; 24:00 is one, too."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}" if fraction else text


def _date_read(value: tuple[int]) -> str:
    return _ENDLESS.get(value[0]) or "".join(_calendar(value[0]))


def _time_read(value: tuple[int]) -> str:
    return _clock(value[0])


def _moment_reader(zone: str) -> Callable[[tuple[int]], str]:
    def read(value: tuple[int]) -> str:
        days, rest = divmod(value[0], _DAY)
        day, era = _calendar(days)
        return f"{day}T{_clock(rest)}{zone}{era}"

    return lambda value: _ENDLESS.get(value[0]) or read(value)


_Codec = tuple[str, Callable[[Any], object], Callable[[Any], object]]
"""A type's name, and what goes to and comes from asyncpg."""
_BINARY: tuple[_Codec, ...] = (
    ("json", str.encode, orjson.Fragment),
    # before the text there is the version of the format
    ("jsonb", lambda text: b"\x01" + text.encode(), lambda value: orjson.Fragment(value[1:])),
    ("xml", str.encode, bytes.decode),
    ("float4", _REAL.pack, _real_read),
    ("float8", _DOUBLE.pack, _double_read),
    ("macaddr", _octets, lambda value: value.hex(":")),
    ("macaddr8", _octets, lambda value: value.hex(":")),
    _number_codec("oid", 4),
    _number_codec("xid8", 8),
)
_TUPLES: tuple[_Codec, ...] = (
    ("date", _date_given, _date_read),
    ("time", _time_given, _time_read),
    ("timestamp", _moment_given, _moment_reader("")),
    ("timestamptz", _moment_given, _moment_reader("+00:00")),
)


def encode(value: object) -> bytes:
    """A value, a row or a list of them as JSON. Raises TypeError for what has no JSON form."""
    return orjson.dumps(value, default=_default, option=_OPTIONS)


def row(record: Any) -> bytes:
    """A row as a JSON object on one line; of columns with the same name the last one counts. Raises Unreadable."""
    encoded = encode(dict(record.items()))
    if b"\\u0000" in encoded and any(map(_is_misread, record.values())):
        raise Unreadable
    # json comes as it was written, where they can be between words alone
    return encoded.replace(b"\n", b" ").replace(b"\r", b" ")


def _is_misread(value: object, within: bool = False) -> bool:
    """Whether a record without a type of its own has text that is none: what it has comes binary, whatever it is."""
    if isinstance(value, str):
        return within and "\0" in value
    if isinstance(value, asyncpg.Record):
        return any(_is_misread(one, within) for one in value.values())
    return isinstance(value, list | tuple) and any(_is_misread(one, within or type(value) is tuple) for one in value)


def _default(value: object) -> object:
    match value:
        case asyncpg.Record():
            return dict(value.items())
        case Decimal():
            return orjson.Fragment(str(value)) if value.is_finite() else str(value)
        case UUID() | IPv4Address() | IPv6Address() | IPv4Interface() | IPv6Interface() | IPv4Network() | IPv6Network():
            return str(value)
        case bytes():
            return "\\x" + value.hex()
        case asyncpg.Range():
            return _range(value)
        case asyncpg.BitString():
            return value.as_string().replace(" ", "")
        case asyncpg.Path():
            # a polygon is one as well
            return list(value.points)
        case str():
            return str.__str__(value)
        case Mapping():
            return dict(value)
        case tuple():
            # a point, a circle and the like are made of bare numbers
            return [_finite(one) if isinstance(one, float) else one for one in value]
        case set() | frozenset():
            return list(value)
    raise TypeError(f"a value of the type {type(value).__name__} has no JSON form")


def _range(value: Any) -> str:
    """As PostgreSQL writes it: `[1,5)`, `["a,b",)`, `empty`."""
    if value.isempty:
        return "empty"
    lower = "" if value.lower is None else _bound(value.lower)
    upper = "" if value.upper is None else _bound(value.upper)
    return f"{'[' if value.lower_inc else '('}{lower},{upper}{']' if value.upper_inc else ')'}"


def _bound(value: object) -> str:
    text = encode(value).decode()
    if text.startswith('"'):
        text = orjson.loads(text)
    if text and not _QUOTED_IN_RANGES.search(text):
        return text
    # unquoted, nothing would be no bound
    return '"' + re.sub(r'["\\]', r"\g<0>\g<0>", text) + '"'
