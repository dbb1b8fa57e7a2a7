"""Every type that a backend uses comes out as JSON that says the same."""

from __future__ import annotations

import json

import asyncpg
import pytest

from pool_monitor import results
from pool_monitor.pool import Record, Tracked


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("NULL::int", "null"),
        ("true", "true"),
        ("42::smallint", "42"),
        ("9223372036854775807::bigint", "9223372036854775807"),
        ("1.5::float8", "1.5"),
        ("'NaN'::float8", "null"),
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
        ("ARRAY[1, 2, NULL]", "[1,2,null]"),
        ("ARRAY[ARRAY['a'], ARRAY['b']]", '[["a"],["b"]]'),
        ("""ARRAY['{"a": 1}'::jsonb]""", '[{"a": 1}]'),
        ("'\\x0aff'::bytea", '"\\\\x0aff"'),
        ("int4range(1, 5)", '"[1,5)"'),
        ("int4range(1, 1)", '"empty"'),
        ("numrange(NULL, 2.5)", '"(,2.5)"'),
        ("daterange('2026-01-01', '2026-02-01')", '"[2026-01-01,2026-02-01)"'),
        ("'10.0.0.1'::inet", '"10.0.0.1"'),
        ("'10.0.0.0/8'::cidr", '"10.0.0.0/8"'),
        ("B'0101'", '"0101"'),
        ("point(1, 2)", "[1.0,2.0]"),
        ("ROW(1, 'a')", '[1,"a"]'),
        ("ROW(1, 'a')::pair", '{"x":1,"y":"a"}'),
        ("'happy'::mood", '"happy"'),
        ("ARRAY['happy']::mood[]", '["happy"]'),
    ],
)
async def test_types(database: str, sql: str, expected: str) -> None:
    connection = await asyncpg.connect(database, connection_class=Tracked)
    try:
        connection.record = Record(0, 0, 0)
        await connection.execute("CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE TYPE pair AS (x int, y text)")
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
