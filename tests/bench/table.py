"""Figures and what they say: ratios with their spread, verdicts, and both tables as Markdown and JSON. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

DASH = "-"


class Verdict(StrEnum):
    """What a figure says of its goal."""

    AIM = "aim reached"
    LEAST = "reached"
    MISSED = "not reached"
    UNKNOWN = "not known: the proxy was not the limit"


@dataclass(frozen=True)
class Spread:
    """The figures of all rounds, at least one."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def shown(self, unit: str, digits: int = 2) -> str:
        """`1.31 x (1.22 - 1.40)`."""
        unit = f" {unit}" if unit else ""
        spread = f" ({min(self.values):,.{digits}f} - {max(self.values):,.{digits}f})" if len(self.values) > 1 else ""
        return f"{self.median:,.{digits}f}{unit}{spread}"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Round by round, so that what slows the machine for a while slows both sides of a ratio."""
    return Spread(tuple(one / other for one, other in zip(ours, theirs, strict=True)))


def differences(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Round by round."""
    return Spread(tuple(one - other for one, other in zip(ours, theirs, strict=True)))


@dataclass(frozen=True)
class Goal:
    """What is wanted. more -- whether more is better."""

    least: float
    aim: float | None = None
    unit: str = "x"
    more: bool = True

    def verdict(self, value: float) -> Verdict:
        """Of a median."""
        if self.aim is not None and self._reaches(value, self.aim):
            return Verdict.AIM
        return Verdict.LEAST if self._reaches(value, self.least) else Verdict.MISSED

    def shown(self, value: float | None) -> str:
        """A goal in words."""
        if value is None:
            return ""
        return f"{'' if self.more else 'under '}{value:g} {self.unit}"

    def _reaches(self, value: float, goal: float) -> bool:
        return value >= goal if self.more else value < goal


@dataclass(frozen=True)
class Row:
    """One line of the first table.

    compared -- with what; empty for a figure of its own. rates, cpu -- requests a second, and microseconds of
    processor time a request, of each program: medians. saved -- how much less of it Siding takes than what it is
    compared with. beside -- ratios to other programs, which the goal does not speak of. limited -- whether something
    other than the proxy was the limit. note -- what the reader has to know.
    """

    work: str
    measured: Spread
    goal: Goal
    compared: str = ""
    rates: Mapping[str, float] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)
    saved: Spread | None = None
    beside: Mapping[str, Spread] = field(default_factory=dict)
    limited: bool = False
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Of the figure, as the goal is meant. Missed for want of a client is not known to be missed."""
        found = self.goal.verdict(self.measured.median)
        return Verdict.UNKNOWN if found is Verdict.MISSED and self.limited and self._enough else found

    @property
    def by_time(self) -> Verdict | None:
        """What the same goal says of the processor time: of the rate where nothing but the proxy is the limit."""
        return self.goal.verdict(self.saved.median) if self.saved else None

    @property
    def _enough(self) -> bool:
        return self.by_time in (Verdict.LEAST, Verdict.AIM)


@dataclass(frozen=True)
class Cost:
    """One line of the second table: microseconds of processor time a request, with a feature off and on."""

    feature: str
    work: str
    off: Spread
    on: Spread

    @property
    def added(self) -> Spread:
        """By switching it on; less than nothing where it saves."""
        return differences(self.on.values, self.off.values)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _each(values: Mapping[str, float], digits: int) -> str:
    return ", ".join(f"{name} {value:,.{digits}f}" for name, value in values.items()) or DASH


def _beside(row: Row) -> str:
    return ", ".join(f"{spread.median:.2f} x {name}" for name, spread in row.beside.items()) or DASH


def rows_table(rows: Sequence[Row]) -> str:
    """The first table, and below it the notes."""
    head = (
        "work",
        "median (min - max)",
        "at least",
        "aim",
        "reached",
        "also",
        "CPU time, peer's over Siding's",
        "by that",
        "CPU µs a request",
        "requests/s",
    )
    lines = [_line(head), _line(["---"] * len(head))]
    notes: list[str] = []
    for row in rows:
        verdict = str(row.verdict)
        if row.note:
            notes.append(f"({len(notes) + 1}) {row.work}: {row.note}")
            verdict += f" ({len(notes)})"
        cells = (
            row.work,
            row.measured.shown(f"{row.goal.unit} {row.compared}".strip()),
            row.goal.shown(row.goal.least),
            row.goal.shown(row.goal.aim) or DASH,
            verdict,
            _beside(row),
            row.saved.shown("x") if row.saved else DASH,
            str(row.by_time or DASH),
            _each(row.cpu, 1),
            _each(row.rates, 0),
        )
        lines.append(_line(cells))
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def costs_table(costs: Sequence[Cost]) -> str:
    """The second table."""
    head = ("feature", "requests", "off: CPU µs a request", "on", "added by it (min - max)")
    lines = [_line(head), _line(["---"] * len(head))]
    for cost in costs:
        cells = (
            cost.feature,
            cost.work,
            f"{cost.off.median:.1f}",
            f"{cost.on.median:.1f}",
            cost.added.shown("µs", 1),
        )
        lines.append(_line(cells))
    return "\n".join(lines)


def markdown(machine: Mapping[str, str], rows: Sequence[Row], costs: Sequence[Cost]) -> str:
    """Everything that was found, and where."""
    parts = ["\n".join(f"- {name}: {said}" for name, said in machine.items())]
    if rows:
        parts.append(rows_table(rows))
    if costs:
        parts.append(f"What each feature costs:\n\n{costs_table(costs)}")
    return "\n\n".join(parts) + "\n"


def document(machine: Mapping[str, str], rows: Sequence[Row], costs: Sequence[Cost]) -> dict[str, object]:
    """The same for programs: medians, and the figures of every round."""
    return {
        "machine": dict(machine),
        "rows": [
            {
                "work": row.work,
                "compared": row.compared,
                "unit": row.goal.unit,
                "median": row.measured.median,
                "rounds": row.measured.values,
                "least": row.goal.least,
                "aim": row.goal.aim,
                "verdict": row.verdict.name.lower(),
                "verdictByCpu": row.by_time.name.lower() if row.by_time else None,
                "requestsPerSecond": dict(row.rates),
                "cpuMicroseconds": dict(row.cpu),
                "cpuSaved": row.saved.values if row.saved else None,
                "beside": {name: spread.values for name, spread in row.beside.items()},
                "note": row.note,
            }
            for row in rows
        ],
        "features": [
            {"feature": cost.feature, "work": cost.work, "off": cost.off.values, "on": cost.on.values} for cost in costs
        ],
    }
