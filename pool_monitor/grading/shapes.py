"""Pure: what a template says of its answers: the full form's fields in order, and where the compact form has them.

A field is computed (from others, never generated), a value under a short key, or rows: arrays whose columns are the
fields of a record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]
EXCEPTIONS = "x"
"""The compact answer's key for what is not as computed."""


class _Nothing:
    """No value can be computed."""


NOTHING = _Nothing()


def without_label(text: str, number: object) -> str:
    """A question's text without its own number in front of it: `1. `, `2) `, `(3) `, `Q4: `, `1a. `, `Question 5: `.

    Nothing else is a label: `24 : 8` and `3. 5` of the second question are mathematics.
    """
    if not (label := re.escape(str(number))):
        return text
    found = re.match(rf"\s*(?:\({label}\)|(?:question|q)\s*{label}[.):]|{label}[.)])\s+(?=\S)", text, re.IGNORECASE)
    return text[found.end() :] if found else text


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the full answer. types -- JSON types of a plain value. The rest as in the template's file."""

    name: str
    types: tuple[str, ...] = ()
    enum: tuple[str, ...] = ()
    short: str | None = None
    column: int | None = None
    percent: bool = False
    codes: Mapping[str, str] = field(default_factory=dict)
    same_as: str | None = None
    label: str | None = None
    by: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    constant: Any = NOTHING
    count: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    ratio: tuple[str, str] | None = None
    digits: int = 2
    flag: bool = False
    rows: str | None = None
    object: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The answer of a template: its fields in the caller's order, and its records."""

    fields: tuple[Field, ...]
    records: Mapping[str, tuple[Field, ...]]

    def record(self, name: str) -> tuple[Field, ...]:
        return self.records[name]

    def leaves(self) -> Iterator[tuple[tuple[str, ...], Field]]:
        """Every field outside of rows with its path, in the caller's order."""
        yield from self._leaves((), self.fields)

    def _leaves(self, path: tuple[str, ...], fields: tuple[Field, ...]) -> Iterator[tuple[tuple[str, ...], Field]]:
        for one in fields:
            if one.object is not None:
                yield from self._leaves((*path, one.name), self.records[one.object])
            else:
                yield (*path, one.name), one

    @property
    def rows(self) -> Field:
        """The field that holds the rows."""
        return next(one for one in self.fields if one.rows is not None)

    @property
    def shorts(self) -> Mapping[str, Field]:
        """Fields by their key in the compact answer."""
        return {one.short: one for _, one in self.leaves() if one.short is not None}


def same(one: object, other: object) -> bool:
    """Equal, and of equal types throughout: 1, 1.0 and true are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# -- what is computed


def of_row(one: Field, row: Mapping[str, Any]) -> Any:
    """The value of a field of a row that follows from the others; NOTHING where none does."""
    if one.by is not None:
        return one.values.get(str(row.get(one.by)), NOTHING)
    if one.same_as is not None:
        base = row.get(one.same_as)
        if not isinstance(base, str) or not _fits(row, one.where):
            return NOTHING
        return without_label(base, row.get(one.label)) if one.label is not None else base
    if one.flag:
        return False
    if one.rows is not None:
        return []
    return one.constant


def of_answer(one: Field, siblings: Mapping[str, Any], full: Mapping[str, Any]) -> Any:
    """The value of a field outside of rows that follows from the others; NOTHING where none does.

    siblings -- the values of the fields before it in the same object, and of the answer's own.
    """
    if one.count is not None:
        rows = full.get(one.count)
        return sum(_fits(row, one.where) for row in rows) if isinstance(rows, list) else NOTHING
    if one.ratio is not None:
        part, whole = (siblings.get(name, full.get(name)) for name in one.ratio)
        if not _is_number(part) or not _is_number(whole):
            return NOTHING
        return round(part / whole, one.digits) if whole else 0.0
    return one.constant


def _fits(row: object, where: Mapping[str, Any]) -> bool:
    return isinstance(row, dict) and all(row.get(name) == value for name, value in where.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# -- whether a full answer is one


def faults_of(shape: Shape, full: object) -> list[str]:
    """What is wrong with a full answer; nothing where it is valid."""
    return list(_faults(shape, shape.fields, full, "the answer"))


def _faults(shape: Shape, fields: tuple[Field, ...], value: object, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no object"
        return
    names = {one.name for one in fields}
    for extra in value.keys() - names:
        yield f"{where} has {extra!r}, which is no field of it"
    for one in fields:
        here = f"{where}.{one.name}"
        if one.name not in value:
            yield f"{here} is missing"
        elif one.object is not None:
            yield from _faults(shape, shape.record(one.object), value[one.name], here)
        elif one.rows is not None:
            rows = value[one.name]
            if not isinstance(rows, list):
                yield f"{here} is no array"
                continue
            for index, row in enumerate(rows):
                yield from _faults(shape, shape.record(one.rows), row, f"{here}[{index}]")
        elif not allows(one, value[one.name]):
            yield f"{here} is {value[one.name]!r:.60}"


def allows(one: Field, value: object) -> bool:
    """Whether a plain value is of the field's types, and of its enum where it has one."""
    fits = any(_is_of(value, name) for name in one.types)
    return fits and (not one.enum or value in one.enum)


def _is_of(value: object, name: str) -> bool:
    match name:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return _is_number(value) and (isinstance(value, int) or float(value).is_integer())  # type: ignore[arg-type]
        case _:
            return _is_number(value)
