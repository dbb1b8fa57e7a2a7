"""Pure: a compact answer expanded while it streams: each part is told as soon as it can be, in the caller's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from config.words import counted
from pool_monitor.grading.answers import (
    Doubt,
    Expanded,
    NotCertain,
    Note,
    built,
    compact,
    decoded,
    read_row,
    value_of,
)
from pool_monitor.grading.calls import Expansion
from pool_monitor.grading.jsons import printed
from pool_monitor.grading.scanning import Member, Part, Row, Scanner
from pool_monitor.grading.shapes import EXCEPTIONS, Document, Field, Shape, faults_of, of_answer

INDENT = 2


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing to be told: where an object opens or closes, a field's value, or the rows."""

    path: tuple[str, ...]
    field: Field | None
    opens: bool = False
    first: bool = False


def _steps(shape: Shape, fields: tuple[Field, ...], path: tuple[str, ...] = ()) -> Iterator[_Step]:
    for index, one in enumerate(fields):
        here = (*path, one.name)
        if one.object is not None:
            yield _Step(here, None, opens=True, first=index == 0)
            yield from _steps(shape, shape.record(one.object), here)
            yield _Step(here, None)
        else:
            yield _Step(here, one, first=index == 0)


class Expander:
    """Takes the model's text in pieces and gives the caller's.

    emitted_rows -- how many questions the caller has by now. plain -- the answer is in the full form already and is
    passed on as it is. tells -- False: nothing is told, only `whole` is asked for in the end.
    """

    def __init__(self, shape: Shape, *, tells: bool = True) -> None:
        self._shape = shape
        self._tells = tells
        self._shorts = shape.shorts
        self._scanner = Scanner(shape.rows.short or "")
        self._steps = list(_steps(shape, shape.fields))
        self._next = 0
        self._said: Document = {}
        self._rows: list[Document] = []
        self._rows_ended = False
        self._full: Document = {}
        self._raw: list[str] = []
        self.plain = False
        self.emitted_rows = 0
        self._begun = False

    def feed(self, text: str) -> str:
        """What can be told by now. Raises NotCertain."""
        if self.plain:
            return text
        self._raw.append(text)
        parts = self._scanner.feed(text)
        first = self._scanner.first_key
        if first is not None and first not in self._shorts and first != EXCEPTIONS:
            if first != self._shape.fields[0].name:
                raise NotCertain(Doubt.NOT_COMPACT, "its first key is of neither form")
            self.plain = True
            return "".join(self._raw)
        self._take(parts)
        # nothing before the first question: until then another answer can take the place of this one
        return self._tell(ended=False) if self._rows and self._tells else ""

    def _take(self, parts: list[Part]) -> None:
        record = self._shape.record(self._shape.rows.rows or "")
        for part in parts:
            if isinstance(part, Member):
                self._take_member(part)
            elif self._rows_ended:
                raise NotCertain(Doubt.NOT_COMPACT, "there are rows twice")
            elif isinstance(part, Row):
                self._rows.append(read_row(self._shape, record, part.value))
            else:
                self._rows_ended = True

    def _take_member(self, member: Member) -> None:
        if member.key in self._said or member.key == self._shape.rows.short:
            raise NotCertain(Doubt.NOT_COMPACT, "a key is there twice")
        if member.key == EXCEPTIONS:
            if self._begun:
                raise NotCertain(Doubt.LATE, "exceptions stand behind what they change")
            plain = {".".join(path) for path, one in self._shape.leaves() if one.rows is None}
            if not isinstance(member.value, dict) or not member.value.keys() <= plain:
                raise NotCertain(Doubt.VALUE, "the exceptions are no fields of the answer")
        elif member.key not in self._shorts:
            raise NotCertain(Doubt.NOT_COMPACT, "a key is not of the compact form")
        self._said[member.key] = member.value

    def finish(self) -> Expanded:
        """The rest, at the end of the model's text. Raises NotCertain."""
        if self.plain:
            return Expanded("", Expansion.ALREADY_FULL)
        scanner = self._scanner
        if not scanner.began:
            raise NotCertain(Doubt.NO_OBJECT, "there is no JSON object in it")
        repaired = scanner.around or not scanner.ended
        if not scanner.ended:
            self._take(scanner.rest())
            if self._stated is None or len(self._rows) < self._stated:
                raise NotCertain(Doubt.CUT, f"{len(self._rows)} of {self._stated} rows are there")
        if not self._rows_ended:
            raise NotCertain(Doubt.MISSING, "there are no rows")
        text = self._tell(ended=True) if self._tells else ""
        notes = () if self._stated in {None, len(self._rows)} else (Note.COUNT_DIFFERS,)
        return Expanded(text, Expansion.REPAIRED if repaired else Expansion.EXPANDED, notes)

    @property
    def _stated(self) -> int | None:
        """How many rows the model said there would be."""
        count = next((one.short for one in self._shape.fields if one.count is not None and one.short is not None), None)
        stated = self._said.get(count) if count is not None else None
        return stated if isinstance(stated, int) and not isinstance(stated, bool) and stated >= 0 else None

    def cut(self) -> str:
        """The rest, where the model's text was cut, at the caller's own limit or by a filter: nothing of the answer,
        as it would be without us; all of a text in which none has begun."""
        return "" if self._scanner.began or self.plain else "".join(self._raw)

    def resume(self, full: Mapping[str, Any]) -> str:
        """The rest, after a fault, from a full answer to the original prompt; what was told stays.

        Raises NotCertain where that answer's first questions are not those that were told.
        """
        rows = full[self._shape.rows.name]
        told_rows = self._rows[: self.emitted_rows]
        if [*map(self._named, rows[: self.emitted_rows])] != [*map(self._named, told_rows)]:
            raise NotCertain(Doubt.MISSING, "the other answer has other questions")
        told = {name: value for name, value in compact(self._shape, full).items() if name != self._shape.rows.short}
        told.pop(EXCEPTIONS, None)
        self._said = {**told, **{name: value for name, value in self._said.items() if name in told}}
        self._rows = [*told_rows, *rows[self.emitted_rows :]]
        self._rows_ended = True
        return self._tell(ended=True)

    def _named(self, row: Document) -> list[str]:
        """By what a question is known, whatever its white space: its number and its text, or else its first column."""
        record = self._shape.record(self._shape.rows.rows or "")
        labelled = next((one for one in record if one.label is not None), None)
        first = next(one.name for one in record if one.column == 1)
        names = (labelled.label, labelled.same_as) if labelled is not None else (first,)
        return ["".join(str(row[name or first]).casefold().split()) for name in names]

    def whole(self) -> Document:
        """The full answer, after `finish`. Raises NotCertain."""
        return built(self._shape, self._said, self._rows)

    # -- telling

    def _tell(self, *, ended: bool) -> str:
        text: list[str] = []
        while self._next < len(self._steps):
            step = self._steps[self._next]
            if step.field is not None and step.field.rows is not None:
                text.append(self._tell_rows(step))
                if not self._rows_ended:
                    break
                text.append("\n" + " " * INDENT + "]" if self._rows else "]")
                self._full[step.field.name] = self._rows
                self._count_anew()
            elif step.field is not None:
                if not ended and not self._ready(step.field):
                    break
                text.append(self._key(step) + self._value(step, step.field))
            elif step.opens:
                if not ended and not self._rows_ended:
                    break
                self._place(step.path, {})
                text.append(self._key(step) + "{")
            else:
                text.append("\n" + " " * INDENT * len(step.path) + "}")
            self._next += 1
        if ended and self._next == len(self._steps):
            text.append("\n}")
        return "".join(text)

    def _ready(self, one: Field) -> bool:
        if one.short is not None and one.short in self._said:
            return True
        return one.short is None and self._rows_ended

    def _key(self, step: _Step) -> str:
        opening = "" if self._begun else "{"
        self._begun = True
        comma = "" if step.first else ","
        return f"{opening}{comma}\n{' ' * INDENT * len(step.path)}{printed(step.path[-1])}: "

    def _value(self, step: _Step, one: Field) -> str:
        siblings = self._siblings(step.path)
        if one.count is not None and one.short is not None and not self._rows_ended and self._stated is not None:
            value = self._exception(step.path, self._stated)
        else:
            rows = {self._shape.rows.name: self._rows}
            value = value_of(one, step.path, self._said, siblings, {**self._full, **rows})
        self._place(step.path, value)
        return printed(value)

    def _exception(self, path: tuple[str, ...], value: Any) -> Any:
        return self._said.get(EXCEPTIONS, {}).get(".".join(path), value)

    def _siblings(self, path: tuple[str, ...]) -> Document:
        siblings = self._full
        for name in path[:-1]:
            siblings = siblings[name]
        return siblings

    def _place(self, path: tuple[str, ...], value: Any) -> None:
        self._siblings(path)[path[-1]] = value

    def _count_anew(self) -> None:
        """What follows from a count follows from the rows, whatever the model has stated."""
        for one in self._shape.fields:
            if one.count is not None and one.name in self._full and self._full[one.name] == self._stated:
                derived = of_answer(one, self._full, self._full)
                self._full[one.name] = self._exception((one.name,), derived)

    def _tell_rows(self, step: _Step) -> str:
        text = []
        if step.field is not None and step.field.name not in self._full:
            self._full[step.field.name] = []
            text.append(self._key(step) + "[")
        inner = "\n" + " " * INDENT * 2
        for row in self._rows[self.emitted_rows :]:
            text.append(("," if self.emitted_rows else "") + inner + printed(row, indent=True).replace("\n", inner))
            self.emitted_rows += 1
        return "".join(text)


def expand(shape: Shape, text: str) -> Expanded:
    """The full answer of what a model said, repaired where that is certain. Raises NotCertain."""
    expander = Expander(shape, tells=False)
    expander.feed(text)
    if expander.plain:
        full_answer(shape, text)
        return Expanded(text, Expansion.ALREADY_FULL)
    finished = expander.finish()
    # the counted number of questions, where a stream could only repeat the model's
    return Expanded(printed(expander.whole(), indent=True), finished.found, finished.notes)


def full_answer(shape: Shape, text: str) -> Document:
    """A valid full answer that is somewhere in a text, in a fence perhaps. Raises NotCertain."""
    begin, end = text.find("{"), text.rfind("}")
    try:
        full = decoded(text[begin : end + 1])
    except (ValueError, RecursionError) as fault:
        raise NotCertain(Doubt.NOT_JSON, str(fault)[:80]) from fault
    faults = faults_of(shape, full)
    if faults:
        raise NotCertain(Doubt.NOT_COMPACT, f"the full answer has {counted(len(faults), 'fault')}")
    assert isinstance(full, dict)
    return full
