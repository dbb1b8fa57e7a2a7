"""Every type that a backend uses comes out as JSON that says the same."""

from __future__ import annotations

import asyncio
import json
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

import asyncpg
import pytest

from pool_monitor import results
from pool_monitor.incoming import Incoming
from pool_monitor.pool import Record, Tracked

TYPES = (
    "CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE TYPE pair AS (x int, y text); "
    "CREATE TYPE noted AS (j jsonb, d date); CREATE DOMAIN document AS jsonb; "
    'CREATE TYPE words AS RANGE (subtype = text, collation = "C")'
)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("NULL::int", "null"),
        ("true", "true"),
        ("42::smallint", "42"),
        ("9223372036854775807::bigint", "9223372036854775807"),
        ("1.5::float8", "1.5"),
        ("'NaN'::float8", '"NaN"'),
        ("ARRAY['Infinity', '-Infinity', NULL]::float8[]", '["Infinity","-Infinity",null]'),
        ("'-0.0'::float8", "-0.0"),
        ("5e-324::float8", "5e-324"),
        ("1.1::real", "1.1"),
        ("'NaN'::real", '"NaN"'),
        ("3.4028235e38::real", "3.4028235e+38"),
        ("1e-45::real", "1.4013e-45"),
        ("ROW(0.1::real, 16777215::real)", "[0.1,16777215.0]"),
        ("12345678901234567890.123456789::numeric", "12345678901234567890.123456789"),
        ("'NaN'::numeric", '"NaN"'),
        ("1.0::numeric", "1.0"),
        ("'a\"b'::text", '"a\\"b"'),
        ("'é'::varchar", '"é"'),
        ("'2026-01-31T12:00:00+02'::timestamptz", '"2026-01-31T10:00:00+00:00"'),
        ("'2026-01-31T12:00:00'::timestamp", '"2026-01-31T12:00:00"'),
        ("'2026-01-31'::date", '"2026-01-31"'),
        ("'12:30'::time", '"12:30:00"'),
        ("'1 day 02:03:04'::interval", '"1 day 02:03:04"'),
        ("'6f1d0ec0-0000-4000-8000-000000000001'::uuid", '"6f1d0ec0-0000-4000-8000-000000000001"'),
        ("""'{"b": 1, "a": [1.10]}'::jsonb""", '{"a": [1.10], "b": 1}'),
        ("""'{"b": 1}'::json""", '{"b": 1}'),
        ("""E'{\\r\\n"b": "\\\\n"}'::json""", '{  "b": "\\n"}'),
        ("ARRAY[1, 2, NULL]", "[1,2,null]"),
        ("ARRAY[ARRAY['a'], ARRAY['b']]", '[["a"],["b"]]'),
        ("""ARRAY['{"a": 1}'::jsonb]""", '[{"a": 1}]'),
        ("'\\x0aff'::bytea", '"\\\\x0aff"'),
        ("int4range(1, 5)", '"[1,5)"'),
        ("int4range(1, 1)", '"empty"'),
        ("""'["",b)'::words""", '"[\\"\\",b)"'),
        ("""'["a,b","c""d")'::words""", '"[\\"a,b\\",\\"c\\"\\"d\\")"'),
        ("numrange(1.10, 'infinity')", '"[1.10,Infinity)"'),
        ("daterange('0044-03-15 BC', NULL)", '"[\\"0044-03-15 BC\\",)"'),
        ("numrange(NULL, 2.5)", '"(,2.5)"'),
        ("daterange('2026-01-01', '2026-02-01')", '"[2026-01-01,2026-02-01)"'),
        ("'10.0.0.1'::inet", '"10.0.0.1"'),
        ("'10.0.0.0/8'::cidr", '"10.0.0.0/8"'),
        ("B'0101'", '"0101"'),
        ("point(1, 2)", "[1.0,2.0]"),
        ("point('NaN', '-Infinity')", '["NaN","-Infinity"]'),
        ("circle '<(1,2),Infinity>'", '[[1.0,2.0],"Infinity"]'),
        ("path '((0,NaN),(1,1))'", '[[0.0,"NaN"],[1.0,1.0]]'),
        ("ROW(1, 'a')", '[1,"a"]'),
        ("ROW(1, 'a')::pair", '{"x":1,"y":"a"}'),
        ("'2026-01-31T12:00:00.25'::timestamp", '"2026-01-31T12:00:00.250000"'),
        ("'0044-03-15T01:02:03 BC'::timestamp", '"0044-03-15T01:02:03 BC"'),
        ("'0001-02-29 BC'::date", '"0001-02-29 BC"'),
        ("'12026-01-01'::date", '"12026-01-01"'),
        ("'12026-01-01T00:00:00Z'::timestamptz", '"12026-01-01T00:00:00+00:00"'),
        ("'4713-01-01 BC'::date", '"4713-01-01 BC"'),
        ("ARRAY['infinity', '-infinity']::date[]", '["infinity","-infinity"]'),
        ("'infinity'::timestamptz", '"infinity"'),
        ("'-infinity'::timestamp", '"-infinity"'),
        ("tsrange('2026-01-01', 'infinity')", '"[2026-01-01T00:00:00,infinity)"'),
        ("'24:00'::time", '"24:00:00"'),
        ("'12:30:00.5'::time", '"12:30:00.500000"'),
        ("'12:30+02'::timetz", '"12:30:00+02"'),
        ("path '((0,0),(1,1))'", "[[0.0,0.0],[1.0,1.0]]"),
        ("polygon '((0,0),(1,1),(1,0))'", "[[0.0,0.0],[1.0,1.0],[1.0,0.0]]"),
        ("'08:00:2b:01:02:03'::macaddr", '"08:00:2b:01:02:03"'),
        ("1::oid", '"1"'),
        ("'18446744073709551615'::xid8", '"18446744073709551615"'),
        ("5::money", '"$5.00"'),
        ("'16/B374D848'::pg_lsn", '"16/B374D848"'),
        ("'a:1 b'::tsvector", "\"'a':1 'b'\""),
        # within records and composites nothing comes as text
        ("ROW(1, '{\"a\": 1}'::jsonb, '[1]'::json)", '[1,{"a": 1},[1]]'),
        ("ROW('2026-01-31T12:00:00Z'::timestamptz, 2.50::numeric, NULL)", '["2026-01-31T12:00:00+00:00",2.50,null]'),
        ("ROW('08:00:2b:01:02:03'::macaddr, 7::oid)", '["08:00:2b:01:02:03","7"]'),
        ("ROW('{}', '2026-01-31')::noted", '{"j":{},"d":"2026-01-31"}'),
        ("ARRAY[ROW('{}', NULL)::noted]", '[{"j":{},"d":null}]'),
        ("'{}'::document", "{}"),
        ("ROW('a\\u0000'::text, '\"\\u0000\"'::json)", '["a\\\\u0000","\\u0000"]'),
        ("'happy'::mood", '"happy"'),
        ("ARRAY['happy']::mood[]", '["happy"]'),
    ],
)
async def test_types(database: str, sql: str, expected: str) -> None:
    connection: Any = await asyncpg.connect(database, connection_class=Tracked)
    try:
        connection.record = Record(0, 0, 0, Incoming(connection._transport))
        await connection.execute(TYPES)
        await results.prepare_once(connection)
        record = await connection.fetchrow(f"SELECT {sql} AS v")
        encoded = results.row(record).decode()
    finally:
        await connection.close()
    assert encoded == f'{{"v":{expected}}}'
    json.loads(encoded)


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        results.encode({"a": object()})


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("date", date(1999, 12, 31)),
        ("time", time(12, 30, 0, 5)),
        ("timestamp", datetime(1970, 1, 1, 0, 0, 0, 1)),
        ("timestamptz", datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))),
        ("timestamp", date(2026, 1, 31)),
        ("timestamptz", date(2026, 1, 31)),
        ("jsonb", '{"a":[1]}'),
        ("json", '{"a":[1]}'),
        ("interval", "1 day"),
        ("oid", 5),
        ("real", 1.1),
        ("float8", 1e300),
        ("macaddr", "08:00:2b:01:02:03"),
    ],
)
async def test_what_is_given_arrives(database: str, kind: str, given: object) -> None:
    connection: Any = await asyncpg.connect(database, connection_class=Tracked, server_settings={"timezone": "UTC"})
    try:
        connection.record = Record(0, 0, 0, Incoming(connection._transport))
        await results.prepare_once(connection)
        assert await connection.fetchval(f"SELECT $1::{kind}::text = '{given}'::{kind}::text", given)
    finally:
        await connection.close()


async def test_a_connection_whose_preparation_was_broken_off_is_prepared_again(database: str) -> None:
    connection: Any = await asyncpg.connect(database, connection_class=Tracked)
    try:
        connection.record = Record(0, 0, 0, Incoming(connection._transport))
        task = asyncio.create_task(results.prepare_once(connection))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await results.prepare_once(connection)
        assert results.row(await connection.fetchrow("SELECT '{}'::jsonb AS v")) == b'{"v":{}}'
    finally:
        await connection.close()
