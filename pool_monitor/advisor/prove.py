"""EXPLAIN (ANALYZE, BUFFERS) of a check before and after its rewrite, on the real data, and the index it may lack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from pool_monitor.advisor.detect import Finding

TIMEOUT_MS = 5000


@dataclass(frozen=True, slots=True)
class Measured:
    """One EXPLAIN. milliseconds, and buffers found or read, of 8 KiB each."""

    milliseconds: float
    buffers: int
    scans: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """Before and after, with the values that stood for the parameters. index -- the one to make first, if any."""

    values: tuple[str, ...]
    before: Measured
    after: Measured
    index: str | None

    def gain(self) -> float:
        """How many times fewer buffers."""
        return self.before.buffers / max(1, self.after.buffers)


_COMMON = """
SELECT s.most_common_vals::text FROM pg_stats s
JOIN pg_class c ON c.relname = s.tablename JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname
WHERE c.oid = to_regclass($1) AND s.attname = $2
"""
_INDEXED = """
SELECT EXISTS (
    SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass($1) AND a.attname = $2 AND i.indisvalid)
"""


async def _value_for(connection: Any, table: str, column: str) -> str | None:
    """A value that many rows have: the worst case for counting. Quoted, for SQL; None where there is none."""
    common = await connection.fetchval(_COMMON, table, column)
    if common:
        first = re.match(r'\{(?:"((?:[^"\\]|\\.)*)"|([^,}]*))', common)
        if first is not None:
            text = first[1].replace('\\"', '"').replace("\\\\", "\\") if first[1] is not None else first[2]
            return await _literal(connection, text)
    where = await connection.fetchval("SELECT to_regclass($1)::text", table)
    if where is None:
        return None
    name = await connection.fetchval("SELECT quote_ident($1)", column)
    any_value = f"SELECT {name}::text FROM {where} WHERE {name} IS NOT NULL LIMIT 1"  # noqa: S608 - quoted by the server
    value = await connection.fetchval(any_value)
    return None if value is None else await _literal(connection, value)


async def _literal(connection: Any, text: str) -> str:
    quoted: str = await connection.fetchval("SELECT quote_literal($1::text)", text)
    return quoted


def parameters_of(finding: Finding) -> dict[str, tuple[str, str] | None]:
    """The parameters in the SQL, each with the column it is compared with, if that is plain."""
    found: dict[str, tuple[str, str] | None] = {}
    for number in re.findall(r"\$\d+", finding.sql):
        found.setdefault(number, None)
    by_name = {column: (table, column) for table, column in finding.columns}
    for column, number in re.findall(r"\"?(\w+)\"?\s*=\s*(\$\d+)", finding.sql):
        found[number] = by_name.get(column, found.get(number))
    return found


async def _measure(connection: Any, sql: str) -> Measured:
    plan = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")
    top = orjson.loads(plan.contents if isinstance(plan, orjson.Fragment) else plan)[0]
    node = top["Plan"]
    buffers = node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0)
    return Measured(round(top["Execution Time"], 3), buffers, tuple(_scans(node)))


def _scans(node: dict[str, Any]) -> list[str]:
    own = [f"{node['Node Type']} on {node['Relation Name']}"] if "Relation Name" in node else []
    return own + [scan for child in node.get("Plans", []) for scan in _scans(child)]


async def _missing_index(connection: Any, finding: Finding, before: Measured) -> str | None:
    """The index to make first: the table is read from end to end although rows are picked by a column."""
    read = {scan.removeprefix("Seq Scan on ") for scan in before.scans}
    for table, column in finding.picks:
        if table.rpartition(".")[2] not in read:
            continue
        there = await connection.fetchval("SELECT to_regclass($1)::text", table)
        if there is not None and not await connection.fetchval(_INDEXED, table, column):
            name = await connection.fetchval("SELECT quote_ident($1)", column)
            return f"CREATE INDEX CONCURRENTLY ON {there} ({name})"
    return None


async def prove(connection: Any, finding: Finding) -> Proof | None:
    """Measure both in a read-only transaction with a time-out; None where values for the parameters are not found.

    Each is run twice and the second counts, so that neither pays for reading the disk first. Raises asyncpg's errors.
    """
    before, after, values = finding.sql.rstrip().rstrip(";"), finding.rewritten, []
    async with connection.transaction(readonly=True):
        await connection.execute(f"SET LOCAL statement_timeout = {TIMEOUT_MS}")
        for number, column in parameters_of(finding).items():
            value = "0" if column is None and _is_compared_count(finding.sql, number) else None
            if column is not None:
                value = await _value_for(connection, *column)
            if value is None:
                return None
            values.append(f"{number} = {value}")
            before, after = _with(before, number, value), _with(after, number, value)
        measured = [[await _measure(connection, sql) for _ in range(2)][-1] for sql in (before, after)]
        index = await _missing_index(connection, finding, measured[0])
    return Proof(tuple(values), measured[0], measured[1], index)


def _with(sql: str, number: str, value: str) -> str:
    return re.sub(re.escape(number) + r"(?!\d)", lambda _: value, sql)


def _is_compared_count(sql: str, number: str) -> bool:
    return re.search(r"\)\s*>\s*" + re.escape(number) + r"(?!\d)", sql) is not None


STATEMENTS = """
SELECT query, sum(calls)::bigint AS calls, sum(total_exec_time) AS total_ms,
       sum(total_exec_time) / greatest(sum(calls), 1)::float8 AS mean_ms
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query ILIKE '%count(%'
GROUP BY query ORDER BY sum(total_exec_time) DESC LIMIT $1
"""


async def statements(connection: Any, most: int) -> Sequence[Any] | None:
    """The counting statements that took most time; None where pg_stat_statements is not there."""
    try:
        rows: Sequence[Any] = await connection.fetch(STATEMENTS, most)
    except (asyncpg.UndefinedTableError, asyncpg.ObjectNotInPrerequisiteStateError):
        return None
    return rows
