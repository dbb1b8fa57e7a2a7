"""Is this statement an existence check by COUNT, and how is it said with EXISTS? Pure; parsed by sqlglot.

What calls a function of which it is not known that it merely computes (as `pg_try_advisory_lock`) is none: counting
calls it for each row, EXISTS for the first, and to measure it is to call it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.errors import SqlglotError

logging.getLogger("sqlglot").setLevel(logging.ERROR)

MAX_SQL = 20_000


class Safety(StrEnum):
    """When the rewrite may be made."""

    ALWAYS = "always"
    """the statement itself compares the count with nothing or one"""
    IF_ZERO = "if-compared-with-zero"
    """the statement compares the count with a parameter: only if that is always 0 (pg_stat_statements hides it)"""
    IF_ONLY_TESTED = "if-only-tested"
    """the statement returns the count: only if the caller does no more than test it"""


@dataclass(frozen=True, slots=True)
class Finding:
    """An existence check by COUNT.

    columns -- (table, column) pairs that are compared for equality, for the proof. picks -- those of them by which each
    row is picked, for the index.
    """

    sql: str
    rewritten: str
    safety: Safety
    table: str
    columns: tuple[tuple[str, str], ...]
    picks: tuple[tuple[str, str], ...]


_SOME = {(exp.GT, 0), (exp.GTE, 1), (exp.NEQ, 0)}
_NONE = {(exp.EQ, 0), (exp.LT, 1), (exp.LTE, 0)}
_FLIPPED = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE, exp.EQ: exp.EQ, exp.NEQ: exp.NEQ}
_NAMES = {TokenType.IDENTIFIER}
_VALUES = {
    TokenType.NUMBER,
    TokenType.STRING,
    TokenType.HEREDOC_STRING,
    TokenType.BYTE_STRING,
    TokenType.BIT_STRING,
    TokenType.HEX_STRING,
    TokenType.UNICODE_STRING,
}


def detect(sql: str) -> Finding | None:
    """The finding in a statement; None where there is none, or where it is no single SELECT that can be parsed."""
    if len(sql) > MAX_SQL or "count" not in sql.lower():
        return None
    try:
        statements = sqlglot.parse(sql, read="postgres")
        if len(statements) != 1 or not isinstance(statements[0], exp.Select):
            return None
        statement = statements[0]
        if not _is_understood(sql, statement):
            return None
    except (SqlglotError, RecursionError):
        return None
    return _compared(sql, statement) or _returned(sql, statement)


def _is_understood(sql: str, statement: exp.Select) -> bool:
    """Whether it says the same when it is written anew, as far as can be seen, and does no more than look.

    sqlglot reads an interval up to its first unit, `@` as the beginning of a name, 0x2 as x'2', and what a program puts
    behind a table as the alias of that.
    """
    if statement.find(exp.Anonymous, exp.HexString) is not None:
        return False
    if any(not isinstance(one.this, exp.Literal) or _is_name(one) for one in statement.find_all(exp.Parameter)):
        return False
    return _given(sql) == _given(statement.sql(dialect="postgres", comments=False))


def _is_name(parameter: Any) -> bool:
    return parameter.arg_key == "alias" or isinstance(parameter.parent, exp.TableAlias | exp.Identifier)


def _given(sql: str) -> list[tuple[bool, str]]:
    """Values and quoted names in it. Raises SqlglotError."""
    tokens = sqlglot.tokenize(sql, read="postgres")
    given = ((token.token_type in _NAMES, token.text) for token in tokens if token.token_type in _NAMES | _VALUES)
    return sorted((is_name, text if is_name else text.lower()) for is_name, text in given)


def _compared(sql: str, statement: exp.Select) -> Finding | None:
    """`count(*) > 0`, in the select list of the counting SELECT or around a scalar subquery."""
    rewritten: Any = statement.copy()
    inner: exp.Select | None = None
    sure = Safety.ALWAYS
    for comparison in list(rewritten.find_all(exp.GT, exp.GTE, exp.LT, exp.LTE, exp.EQ, exp.NEQ)):
        sides = _count_side(comparison)
        if sides is None:
            continue
        counted, exists, safety = sides
        if isinstance(counted, exp.Subquery) and isinstance(counted.this, exp.Select):
            subject = counted.this
            if not _is_plain_count(subject):
                continue
            inner, sure = inner or subject, max(sure, safety, key=list(Safety).index)
            comparison.replace(_exists(subject, negated=not exists))
        elif comparison.parent_select is rewritten and len(rewritten.expressions) == 1 and _countable(rewritten):
            top = rewritten.expressions[0]
            value = top.this if isinstance(top, exp.Alias) else top
            if value is not comparison:
                continue
            inner = rewritten
            name = top.alias if isinstance(top, exp.Alias) else "exists"
            outer = exp.Select(expressions=[exp.alias_(_exists(rewritten, negated=not exists), name, quoted=True)])
            return _finding(sql, outer, inner, safety)
    return _finding(sql, rewritten, inner, sure) if inner is not None else None


def _count_side(comparison: Any) -> tuple[Any, bool, Safety] | None:
    """The counting side of a comparison with 0 or 1, whether it asks for some (True) or none, and how sure that is."""
    for counted, other, kind in (
        (comparison.this, comparison.expression, type(comparison)),
        (comparison.expression, comparison.this, _FLIPPED[type(comparison)]),
    ):
        is_count = _is_count(counted) or (isinstance(counted, exp.Subquery) and _is_plain_count(counted.this))
        if not is_count:
            continue
        if isinstance(other, exp.Parameter) and kind is exp.GT:
            return counted, True, Safety.IF_ZERO
        if not isinstance(other, exp.Literal) or other.is_string or not str(other.this).isdecimal():
            continue
        pair = (kind, int(other.this))
        if pair in _SOME | _NONE:
            return counted, pair in _SOME, Safety.ALWAYS
    return None


def _is_count(node: Any) -> bool:
    """count(*) or count(1): of rows, and not of values."""
    return (
        isinstance(node, exp.Count)
        and isinstance(node.this, (exp.Star, exp.Literal))
        and not node.args.get("expressions")
    )


def _countable(select: Any) -> bool:
    """A SELECT over some FROM that counts all its rows in one group."""
    stops = ("group", "having", "distinct", "limit", "offset", "windows", "with_", "with", "qualify", "into", "locks")
    return select.args.get("from_", select.args.get("from")) is not None and not any(
        select.args.get(key) for key in stops
    )


def _is_plain_count(select: Any) -> bool:
    if not isinstance(select, exp.Select) or len(select.expressions) != 1 or not _countable(select):
        return False
    value = select.expressions[0]
    return _is_count(value.this if isinstance(value, exp.Alias) else value)


def _returned(sql: str, statement: exp.Select) -> Finding | None:
    """`SELECT count(*) AS total FROM …`: the count goes to the caller."""
    if not _is_plain_count(statement):
        return None
    outer = exp.Select(expressions=[exp.alias_(_exists(statement, negated=False), "exists", quoted=True)])
    return _finding(sql, outer, statement, Safety.IF_ONLY_TESTED)


def _exists(select: Any, *, negated: bool) -> Any:
    inner = select.copy()
    inner.set("expressions", [exp.Literal.number(1)])
    inner.set("order", None)
    found = exp.Exists(this=inner)
    return exp.Not(this=found) if negated else found


def _finding(sql: str, rewritten: Any, inner: Any, safety: Safety) -> Finding | None:
    tables = {table.alias_or_name: table for table in inner.find_all(exp.Table)}
    first = next(iter(tables.values()), None)
    if first is None or not first.name or not isinstance(first.this, exp.Identifier):
        return None
    where = inner.args.get("where")

    def compared(conditions: Iterable[Any]) -> tuple[tuple[str, str], ...]:
        sides = [side for equal in conditions for side in (equal.this, equal.expression)]
        columns = [side for side in sides if isinstance(side, exp.Column)]
        # one without its table may be any of several tables'
        known = [one for one in columns if one.table in tables or (not one.table and len(tables) == 1)]
        return tuple(dict.fromkeys((_name(tables.get(one.table, first)), one.name) for one in known))

    return Finding(
        sql=sql.strip(),
        rewritten=rewritten.sql(dialect="postgres"),
        safety=safety,
        table=_name(first),
        columns=compared(where.find_all(exp.EQ)) if where is not None else (),
        picks=compared(one for one in _of_each_row(where) if isinstance(one, exp.EQ)) if where is not None else (),
    )


def _of_each_row(where: Any) -> Iterable[Any]:
    """The conditions that a row must meet, each of them."""
    condition = where.this.unnest()
    conditions: Iterable[Any] = condition.flatten() if isinstance(condition, exp.And) else (condition,)
    return conditions


def _name(table: Any) -> str:
    return f"{table.db}.{table.name}" if table.db else str(table.name)
