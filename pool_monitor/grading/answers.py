"""Pure: a template's full answer and its compact form, each from the other.

The compact form is a JSON object: values under short keys, and rows that are arrays. What the full answer says that
follows from the rest is not in it; what should follow but does not stands among the exceptions, so nothing is lost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pool_monitor.grading.calls import Expansion
from pool_monitor.grading.jsons import refuse
from pool_monitor.grading.shapes import (
    EXCEPTIONS,
    NOTHING,
    Document,
    Field,
    Shape,
    allows,
    of_answer,
    of_row,
    same,
)

SAME = 0
"""In a column that may be computed: it is."""
VISUAL = 1


class Doubt(StrEnum):
    """Why an answer cannot be expanded with certainty."""

    NO_OBJECT = "no-object"
    NOT_JSON = "not-json"
    NOT_COMPACT = "not-compact"
    MISSING = "missing"
    ARITY = "arity"
    VALUE = "value"
    CUT = "cut"
    LATE = "late"
    """something came too late in a stream to be told in its place"""


class NotCertain(ValueError):
    """What was said is not the compact form, and cannot be made it with certainty.

    detail -- is logged, and holds nothing of what was said.
    """

    def __init__(self, doubt: Doubt, detail: str) -> None:
        super().__init__(f"{doubt.value}: {detail}")
        self.doubt = doubt


class Note(StrEnum):
    """Something odd in an answer that could be expanded."""

    COUNT_DIFFERS = "count-differs"
    """the model's count is not that of its rows"""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A full answer as text."""

    content: str
    found: Expansion
    notes: tuple[Note, ...] = ()


# -- from full to compact


def compact(shape: Shape, full: Mapping[str, Any]) -> Document:
    """The compact form of a valid full answer."""
    said: Document = {}
    exceptions: Document = {}
    for path, one in shape.leaves():
        *parents, name = path
        siblings: Mapping[str, Any] = full
        for parent in parents:
            siblings = siblings[parent]
        value = siblings[name]
        if one.rows is not None:
            said[one.short or one.name] = [_row(shape, shape.record(one.rows), row) for row in value]
            continue
        derived = of_answer(one, siblings, full)
        told = _told(one, value) if one.short is not None and one.count is None else NOTHING
        if one.count is not None and one.short is not None:
            said[one.short] = derived
        if told is not NOTHING:
            said[one.short or one.name] = told
        elif not same(derived, value):
            exceptions[".".join(path)] = value
    return {EXCEPTIONS: exceptions, **said} if exceptions else said


def _row(shape: Shape, record: tuple[Field, ...], row: Mapping[str, Any]) -> list[Any]:
    columns: dict[int, Any] = {}
    extras: list[Any] = []
    exceptions: Document = {}
    for one in record:
        value = row[one.name]
        derived = of_row(one, row)
        if one.column is not None:
            told = SAME if one.same_as is not None and same(derived, value) else _told(one, value)
            if told is NOTHING:
                exceptions[one.name] = value
                told = SAME
            columns[one.column] = told
        elif one.rows is not None:
            if value:
                extras.append([_row(shape, shape.record(one.rows), inner) for inner in value])
        elif one.flag and value is True:
            extras.append(VISUAL)
        elif not same(derived, value):
            exceptions[one.name] = value
    return [*(columns[index] for index in sorted(columns)), *extras, *([exceptions] if exceptions else [])]


def _told(one: Field, value: Any) -> Any:
    """As the compact form has a value; NOTHING where it could not be read back as it is."""
    told = value
    if one.codes:
        told = next((code for code, name in one.codes.items() if name == value), NOTHING)
    elif one.percent and isinstance(value, float) and abs(value) < 1e6:
        percent = round(value * 100)
        told = percent if percent not in {0, 1} or value == 0.0 else value
        told = told if same(_read(one, told), value) else value
    return told if told is not NOTHING and same(_read(one, told), value) else NOTHING


def _read(one: Field, told: Any) -> Any:
    """The value of a column or under a short key; NOTHING where it is not one."""
    if one.codes:
        if not isinstance(told, str):
            return NOTHING
        names = {name.lower(): name for name in one.codes.values()}
        codes = {code.lower(): name for code, name in one.codes.items()}
        return codes.get(told.lower(), names.get(told.lower(), NOTHING))
    if one.percent:
        if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told <= 100:
            return NOTHING
        return float(told) if told <= 1 else told / 100
    if one.enum and isinstance(told, str):
        told = next((word for word in one.enum if word.lower() == told.lower()), told)
    return told if allows(one, told) else NOTHING


# -- from compact to full


def read_row(shape: Shape, record: tuple[Field, ...], told: object) -> Document:
    """A row of the full answer. Raises NotCertain."""
    columns = sorted((one for one in record if one.column is not None), key=lambda one: one.column or 0)
    if not isinstance(told, list) or len(told) < len(columns):
        raise NotCertain(Doubt.ARITY, f"a row has {len(told) if isinstance(told, list) else 'no'} columns")
    flag, inner, exceptions = _extras(told[len(columns) :])
    if not exceptions.keys() <= {one.name for one in record if one.rows is None}:
        raise NotCertain(Doubt.VALUE, "a row's exceptions are no fields of it")
    row = _columns(columns, told, exceptions)
    full: Document = {}
    for one in record:
        if one.name in row:
            full[one.name] = row[one.name]
        elif one.rows is not None:
            full[one.name] = [read_row(shape, shape.record(one.rows), each) for each in inner]
        else:
            full[one.name] = flag if one.flag else of_row(one, row)
    for one in record:
        if one.rows is None and not allows(one, full[one.name]):
            raise NotCertain(Doubt.VALUE, one.name)
    return full


def _columns(columns: list[Field], told: list[Any], exceptions: Document) -> Document:
    """The values in columns, and the exceptions. Raises NotCertain."""
    row: Document = dict(exceptions)
    computed: list[Field] = []
    for one, value in zip(columns, told, strict=False):
        if same(value, SAME) and (one.same_as is not None or one.name in exceptions):
            computed.append(one)
        elif one.name in exceptions:
            raise NotCertain(Doubt.VALUE, one.name)
        else:
            row[one.name] = _read(one, value)
    for one in computed:
        if one.name not in exceptions:
            row[one.name] = of_row(one, row)
    for name, value in row.items():
        if value is NOTHING:
            raise NotCertain(Doubt.VALUE, name)
    return row


def _extras(told: list[Any]) -> tuple[bool, list[Any], Document]:
    """What may end a row: whether it has visuals, rows of its own, exceptions. Raises NotCertain."""
    found: dict[type, Any] = {}
    for extra in told:
        kind: type = bool if extra in (0, 1) else type(extra)
        if kind not in {bool, list, dict} or kind in found:
            raise NotCertain(Doubt.ARITY, "a row has too many columns")
        found[kind] = extra
    return bool(found.get(bool, False)), found.get(list, []), found.get(dict, {})


def value_of(
    one: Field, path: tuple[str, ...], said: Mapping[str, Any], siblings: Mapping[str, Any], full: Mapping[str, Any]
) -> Any:
    """The value of a field outside of rows. Raises NotCertain."""
    exceptions = said.get(EXCEPTIONS, {})
    if ".".join(path) in exceptions:
        value = exceptions[".".join(path)]
    elif one.short is not None and one.count is None and one.short in said:
        value = _read(one, said[one.short])
    else:
        value = of_answer(one, siblings, full)
    if value is NOTHING and one.short not in said:
        raise NotCertain(Doubt.MISSING, ".".join(path))
    if value is NOTHING or not allows(one, value):
        raise NotCertain(Doubt.VALUE, ".".join(path))
    return value


def build(shape: Shape, said: Mapping[str, Any]) -> Document:
    """The full answer of a compact one. Raises NotCertain."""
    rows_field = shape.rows
    told = said.get(rows_field.short or "")
    if not isinstance(told, list):
        raise NotCertain(Doubt.MISSING, f"no rows under {rows_field.short!r}")
    record = shape.record(rows_field.rows or "")
    rows = [read_row(shape, record, row) for row in told]
    return built(shape, said, rows)


def built(shape: Shape, said: Mapping[str, Any], rows: list[Document]) -> Document:
    """The full answer of these rows. Raises NotCertain."""
    counted = {shape.rows.name: rows}

    def fill(fields: tuple[Field, ...], path: tuple[str, ...]) -> Document:
        made: Document = {}
        for one in fields:
            here = (*path, one.name)
            if one.object is not None:
                made[one.name] = fill(shape.record(one.object), here)
            elif one.rows is not None:
                made[one.name] = rows
            else:
                made[one.name] = value_of(one, here, said, made, {**top, **counted})
            if not path:
                top[one.name] = made[one.name]
        return made

    top: Document = {}
    return fill(shape.fields, ())


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError("a number is too large")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> Document:
    if len(document := dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return document


def decoded(text: str) -> Any:
    """JSON, strictly. Raises ValueError."""
    return json.loads(text, parse_constant=refuse, parse_float=_finite, object_pairs_hook=_each_once)
