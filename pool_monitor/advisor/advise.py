"""The advice on COUNT checks: from what the server ran, and from source code; as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg

from pool_monitor.advisor.detect import Finding, Safety, detect
from pool_monitor.advisor.prove import Proof, prove, statements
from pool_monitor.advisor.sources import Place
from pool_monitor.faults import describe

MOST = 50
"""Statements that are looked at."""
PROVED = 10
"""Statements that are measured, those that took most time first."""

_SAFETY = {
    Safety.ALWAYS: "always safe: the statement itself only asks whether there is any",
    Safety.IF_ZERO: "safe if the parameter the count is compared with is always 0",
    Safety.IF_ONLY_TESTED: "safe only if the caller does no more with the count than test it",
}


async def _proof(connection: Any, finding: Finding) -> dict[str, object]:
    try:
        found = await prove(connection, finding)
    except (asyncpg.PostgresError, TimeoutError) as fault:
        return {"proof": None, "why": f"it could not be measured: {describe(fault)}"}
    if found is None:
        return {"proof": None, "why": "no values were found for its parameters"}
    return {"proof": _as_json(found)}


def _as_json(proof: Proof) -> dict[str, object]:
    return {
        "values": list(proof.values),
        "before": {"ms": proof.before.milliseconds, "buffers": proof.before.buffers, "scans": list(proof.before.scans)},
        "after": {"ms": proof.after.milliseconds, "buffers": proof.after.buffers, "scans": list(proof.after.scans)},
        "fewerBuffers": round(proof.gain(), 1),
        "indexFirst": proof.index,
    }


def _described(finding: Finding) -> dict[str, object]:
    return {
        "sql": finding.sql,
        "rewritten": finding.rewritten,
        "safety": finding.safety.value,
        "meaning": _SAFETY[finding.safety],
    }


async def from_server(connection: Any) -> dict[str, object]:
    """The advice on what pg_stat_statements has seen, each with its proof."""
    rows = await statements(connection, MOST)
    if rows is None:
        return {
            "available": False,
            "why": "pg_stat_statements is not there: add it to shared_preload_libraries, restart, CREATE EXTENSION it",
            "advice": [],
        }
    advice: list[dict[str, object]] = []
    for row in rows:
        finding = detect(row["query"])
        if finding is None or finding.table.startswith("pg_"):
            continue
        seen = {"calls": row["calls"], "totalMs": round(row["total_ms"], 1), "meanMs": round(row["mean_ms"], 3)}
        unproved: dict[str, object] = {"proof": None, "why": f"only the first {PROVED} are measured"}
        proof = await _proof(connection, finding) if len(advice) < PROVED else unproved
        advice.append({**_described(finding), **seen, **proof})
    return {"available": True, "advice": advice}


async def from_sources(places: Iterable[Place], connection: Any | None) -> list[dict[str, object]]:
    """The advice on source code, with proofs where there is a database."""
    advice = []
    for place in places:
        where = {"file": place.file, "line": place.line, "tested": place.tested}
        proof = await _proof(connection, place.finding) if connection is not None else {}
        advice.append({**where, **_described(place.finding), **proof})
    return advice


def as_text(one: dict[str, Any]) -> str:
    """A piece of advice for a person at a terminal."""
    lines = []
    if "file" in one:
        tested = "merely tested in the lines behind it" if one["tested"] else "see what is done with its result"
        lines.append(f"{one['file']}:{one['line']}: {tested}")
    else:
        lines.append(f"{one['calls']} calls, {one['totalMs']} ms in all")
    lines += [f"  now:    {' '.join(one['sql'].split())}", f"  better: {one['rewritten']}", f"  {one['meaning']}"]
    proof = one.get("proof")
    if proof:
        before, after = proof["before"], proof["after"]
        given = ", ".join(proof["values"]) or "no parameters"
        lines.append(
            f"  measured with {given}: {before['ms']} ms and {before['buffers']} buffers now, "
            f"{after['ms']} ms and {after['buffers']} buffers then ({proof['fewerBuffers']} times fewer)"
        )
        if proof["indexFirst"]:
            lines.append(f"  first: {proof['indexFirst']};")
    elif "why" in one:
        lines.append(f"  {one['why']}")
    return "\n".join(lines)
