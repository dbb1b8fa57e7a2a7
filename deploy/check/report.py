"""The verdicts in words; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import orjson

from deploy.check.criteria import Result, Verdict

HEADS = ("criterion", "target", "measured", "verdict", "how to read it")


def summary(results: Sequence[Result]) -> str:
    """One line."""
    return ", ".join(f"{count} {verdict}" for verdict, count in _counts(results).items())


def _counts(results: Sequence[Result]) -> dict[str, int]:
    return {verdict.value: sum(one.verdict is verdict for one in results) for verdict in Verdict}


def _rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    return [
        (
            one.name,
            one.target,
            one.measured,
            one.verdict.value.upper() if one.verdict is Verdict.MISSED else one.verdict.value,
            f"{one.where}: {one.reading}" if one.where else one.reading,
        )
        for one in results
    ]


def table(results: Sequence[Result]) -> str:
    """For a terminal."""
    rows = [HEADS, *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]) for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in [*widths, len(HEADS[-1])]))
    return "\n".join([*lines, "", summary(results)])


def markdown(results: Sequence[Result]) -> str:
    """For an issue or a runbook."""
    rows = [HEADS, ("---",) * len(HEADS), *_rows(results)]
    lines = [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows]
    return "\n".join([*lines, "", summary(results)])


def as_json(results: Sequence[Result]) -> str:
    """For a program: {"met": something is and nothing was missed, "counts": {verdict: number}, "results": [...]}."""
    counts = _counts(results)
    met = counts[Verdict.MET] > 0 and counts[Verdict.MISSED] == 0
    document = {"met": met, "counts": counts, "results": [asdict(one) for one in results]}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
