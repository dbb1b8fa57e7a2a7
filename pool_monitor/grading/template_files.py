"""Template files: read and checked at the start, every fault in one message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

import config
from config.toml_file import TomlError, read_toml
from config.words import counted
from pool_monitor.grading.shapes import EXCEPTIONS, NOTHING, Field, Shape
from pool_monitor.grading.templates import Template, words_pattern

PACKAGED = Path(config.__file__).parent / "prompts"
ALLOWED_TYPES = Literal["string", "number", "integer", "boolean"]
_ANCHOR = re.compile(r"[A-Za-z]{4,}")


class TemplatesError(ValueError):
    """Templates that cannot be used. Its text lists every fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n  ".join([f"prompt templates: {counted(len(faults), 'fault')}:", *faults]))
        self.faults = tuple(faults)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class _FieldFile(BaseModel):
    """A field as a file has it; see config/prompts/homework_grading.toml."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Annotated[list[ALLOWED_TYPES], BeforeValidator(_listed)] = []
    enum: list[str] = []
    short: Annotated[str, StringConstraints(min_length=1)] | None = None
    column: int | None = None
    percent: bool = False
    codes: dict[str, str] = {}
    same_as: str | None = None
    label: str | None = None
    by: str | None = None
    values: dict[str, Any] = {}
    constant: Any = NOTHING
    count: str | None = None
    where: dict[str, Any] = {}
    ratio: Annotated[list[str], Len(2, 2)] | None = None
    digits: int = 2
    flag: bool = False
    rows: str | None = None
    object: str | None = None


class _TemplateFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
    original: Annotated[str, StringConstraints(min_length=20, strip_whitespace=True)]
    compact: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
    answer: dict[str, _FieldFile]
    records: dict[str, dict[str, _FieldFile]] = {}


def load_templates(folder: Path | None = None) -> tuple[Template, ...]:
    """The templates that come with Siding, and those in a folder of the operator's. Raises TemplatesError."""
    faults: list[str] = []
    files = sorted(PACKAGED.glob("*.toml"))
    if folder is not None:
        if not folder.is_dir():
            raise TemplatesError([f"GRADING_TEMPLATES {folder}: it is no folder"])
        files += sorted(folder.glob("*.toml"))
    templates: list[Template] = []
    for file in files:
        template = read_template(file, faults)
        if template is not None:
            templates.append(template)
    faults += list(_clashes(templates))
    if faults:
        raise TemplatesError(faults)
    return tuple(templates)


def _clashes(templates: Sequence[Template]) -> Iterable[str]:
    for index, one in enumerate(templates):
        for other in templates[:index]:
            if one.name == other.name:
                yield f"{one.name}: two templates have this name"
            elif one.pattern.search(other.original) or other.pattern.search(one.original):
                yield f"{one.name}: its original is in that of {other.name}, or the other way round"


def read_template(file: Path, faults: list[str]) -> Template | None:
    """A template; None, and what is wrong with it added to `faults`."""
    try:
        document = read_toml(file)
        given = _TemplateFile.model_validate(document)
    except TomlError as fault:
        faults.append(f"{file}: it {fault}")
    except ValidationError as fault:
        faults += [
            f"{file}: {'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in fault.errors(include_url=False, include_input=False)
        ]
    else:
        shape = Shape(_fields(given.answer), {name: _fields(record) for name, record in given.records.items()})
        found = list(_faults(given, shape))
        faults += [f"{file}: {fault}" for fault in found]
        if not found:
            anchor = max(_ANCHOR.findall(given.original), key=len)
            return Template(given.name, given.original, given.compact, shape, words_pattern(given.original), anchor)
    return None


def _fields(given: Mapping[str, _FieldFile]) -> tuple[Field, ...]:
    return tuple(
        Field(
            name=name,
            types=tuple(one.type),
            enum=tuple(one.enum or one.codes.values()),
            short=one.short,
            column=one.column,
            percent=one.percent,
            codes=one.codes,
            same_as=one.same_as,
            label=one.label,
            by=one.by,
            values=one.values,
            constant=one.constant,
            count=one.count,
            where=one.where,
            ratio=(one.ratio[0], one.ratio[1]) if one.ratio is not None else None,
            digits=one.digits,
            flag=one.flag,
            rows=one.rows,
            object=one.object,
        )
        for name, one in given.items()
    )


def _faults(given: _TemplateFile, shape: Shape) -> Iterable[str]:
    """What the types cannot tell."""
    if not _ANCHOR.search(given.original):
        yield "original: it has no word of four ASCII letters to find it by"
    groups = {"answer": shape.fields} | {f"records.{name}": fields for name, fields in shape.records.items()}
    for where, fields in groups.items():
        for one in fields:
            yield from (f"{where}.{one.name}: {fault}" for fault in _field_faults(one, fields, shape))
    lists = [one for one in shape.fields if one.rows is not None]
    if len(lists) != 1 or lists[0].short is None:
        yield "answer: exactly one field has rows, and a short key"
        return
    yield from _record_faults(shape, lists[0])


def _field_faults(one: Field, fields: tuple[Field, ...], shape: Shape) -> Iterable[str]:
    names = {other.name for other in fields}
    for what, record in (("rows", one.rows), ("object", one.object)):
        if record is not None and record not in shape.records:
            yield f"{what} is {record!r}; allowed: {', '.join(shape.records) or 'a record, of which there is none'}"
    if one.rows is None and one.object is None and not one.types:
        yield "it has no type"
    of_others = (("same_as", one.same_as), ("label", one.label), ("by", one.by))
    for what, other in (*of_others, *(("where", name) for name in one.where if one.same_as is not None)):
        if other is not None and other not in names:
            yield f"{what} is {other!r}; allowed: {', '.join(sorted(names - {one.name}))}"
    if one.short == EXCEPTIONS:
        yield f"short is {EXCEPTIONS!r}, which is kept for exceptions"


def _record_faults(shape: Shape, rows: Field) -> Iterable[str]:
    record = shape.records.get(rows.rows or "", ())
    columns = sorted(one.column for one in record if one.column is not None)
    if columns != list(range(1, len(columns) + 1)) or not columns:
        yield f"records.{rows.rows}: its columns are {columns}; allowed: 1, 2, 3 and so on, each once"
    placed = {one.name: one.column or 0 for one in record}
    for one in record:
        if one.same_as is not None and placed.get(one.same_as, 0) >= (one.column or 0):
            yield f"records.{rows.rows}.{one.name}: same_as must be a column before it"
        if not all(placed.get(name) for name in (*one.where, *([one.label] if one.label is not None else ()))):
            yield f"records.{rows.rows}.{one.name}: label and where must be columns"
        told = one.column is not None or one.rows is not None or one.flag or one.by is not None
        if not told and one.constant is NOTHING:
            yield f"records.{rows.rows}.{one.name}: it is in no column, and follows from nothing"
    shorts = [one.short for _, one in shape.leaves() if one.short is not None]
    if len(shorts) != len(set(shorts)):
        yield "answer: two fields have the same short key"
    for path, one in shape.leaves():
        computed = one.count is not None or one.ratio is not None or one.constant is not NOTHING
        if one.short is None and not computed:
            yield f"{'.'.join(path)}: it has no short key, and follows from nothing"
        if one.count is not None and one.count != rows.name:
            yield f"{'.'.join(path)}: count is {one.count!r}; allowed: {rows.name}"
