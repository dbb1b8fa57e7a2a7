"""The rows of the first table, each a comparison in alternating rounds."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from tests.bench.ask import check
from tests.bench.memory import many_rows, memory_rows
from tests.bench.peers import BIG_BYTES, ROOT, Peer
from tests.bench.processes import cpu_seconds, forget_peak, memory, pinned
from tests.bench.stage import BUSY, Sample, Stage, rates, row_of
from tests.bench.table import Goal, Row, Spread, differences, ratios
from tests.bench.works import FORWARD, GZIP, HIT, NOT_MODIFIED, POST, RULE, STORED_GZIP, Work

HIT_GOAL = Goal(1.2, 1.5)
FORWARD_GOAL = Goal(0.6, 1.0)
RATE = 500
"""Requests a second when latency is measured."""
MEGABYTE = 1e6


@dataclass(frozen=True)
class Field:
    """Who is compared. varnish -- None where it cannot run."""

    stage: Stage
    siding: Peer
    nginx: Peer
    varnish: Peer | None


def _hits(field: Field, name: str, work: Work, theirs: Work) -> list[Row]:
    contest = {"Siding": (field.siding, work), "nginx": (field.nginx, theirs)}
    if field.varnish is not None:
        contest["Varnish"] = (field.varnish, theirs)
    return [row_of(name, HIT_GOAL, field.stage.contest(name, contest), "Siding", "nginx")]


def _forwards(field: Field, name: str, work: Work) -> list[Row]:
    contest = {"Siding": (field.siding, work), "nginx": (field.nginx, work)}
    return [row_of(name, FORWARD_GOAL, field.stage.contest(name, contest), "Siding", "nginx")]


def _helper(stage: Stage, module: str, *arguments: object) -> float | dict[str, float]:
    """Run a client of ours as a process on the client's core, and read what it prints."""
    command = [*pinned(stage.cores.client), sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    if done.returncode:
        raise SystemExit(f"{module}: {done.stderr.strip()[-600:]}")
    found: float | dict[str, float] = orjson.loads(done.stdout)
    return found


def _latency(field: Field) -> list[Row]:
    stage = field.stage
    ports = {"direct": stage.origin.port, "Siding": field.siding.port, "nginx": field.nginx.port}
    seen: dict[str, list[dict[str, float]]] = {who: [] for who in ports}
    for number in range(stage.rounds):
        stage.peers.trim()
        for who in list(ports)[:: 1 if number % 2 else -1]:
            times = _helper(stage, "latency", ports[who], RATE, stage.seconds)
            assert isinstance(times, dict)
            seen[who].append({name: 1000 * value for name, value in times.items()})
        told = ", ".join(f"{who} {each[-1]['p50']:.2f}/{each[-1]['p99']:.2f} ms" for who, each in seen.items())
        stage.say(f"latency p50/p99, round {number + 1} of {stage.rounds}: {told}")
    late = statistics.median(each["late"] for times in seen.values() for each in times)
    rows = []
    for name, goal in (("p50", Goal(0.3, 0.15, "ms", more=False)), ("p99", Goal(1.5, 0.7, "ms", more=False))):
        figures = {who: [each[name] for each in times] for who, times in seen.items()}
        added = {who: differences(figures[who], figures["direct"]) for who in ("Siding", "nginx")}
        direct = statistics.median(figures["direct"])
        note = f"direct {direct:.2f} ms, nginx adds {added['nginx'].shown('ms')}"
        if name == "p99":
            note += f"; the client itself was up to {late:.2f} ms late (p99)"
        rows.append(
            Row(
                f"added latency of a forward at {RATE} requests/s, {name} over direct", added["Siding"], goal, note=note
            )
        )
    return rows


def _workers(field: Field) -> list[Row]:
    stage = field.stage
    one = stage.peers.siding(stage.origin, "siding-one", cores=stage.cores.two)
    two = stage.peers.siding(stage.origin, "siding-two", cores=stage.cores.two, settings={"WORKERS": "2"})
    contest = {"WORKERS=2": (two, HIT), "WORKERS=1": (one, HIT)}
    samples = stage.contest("hit with WORKERS=2", contest, stage.cores.beside)
    for peer in (one, two):
        stage.peers.stop(peer)
    return [_workers_row(samples)]


def _workers_row(samples: Mapping[str, list[Sample]]) -> Row:
    busy = {who: statistics.median(sample.busy for sample in seen) for who, seen in samples.items()}
    cpu = {who: statistics.median(sample.cpu for sample in seen) for who, seen in samples.items()}
    limited = busy["WORKERS=2"] < 2 * BUSY
    able = ratios([2 * sample.cpu for sample in samples["WORKERS=1"]], [sample.cpu for sample in samples["WORKERS=2"]])
    note = (
        f"of 2 cores the two workers used {busy['WORKERS=2']:.2f}, the one {busy['WORKERS=1']:.2f}; "
        f"by processor time a request two could do {able.shown('x')}"
    )
    if limited:
        note += "; the client, which takes a share of the same cores, was the limit"
    return Row(
        "hit, WORKERS=2 on two cores",
        ratios(rates(samples["WORKERS=2"]), rates(samples["WORKERS=1"])),
        Goal(1.5),
        "WORKERS=1",
        rates={who: statistics.median(rates(seen)) for who, seen in samples.items()},
        cpu=cpu,
        saved=able,
        limited=limited,
        note=note,
    )


def _download(field: Field) -> list[Row]:
    stage = field.stage
    fresh = stage.peers.siding(stage.origin, "siding-download")
    peers = {"Siding": fresh, "nginx": field.nginx}
    check(fresh, FORWARD)
    forget_peak(fresh.pid)
    before = memory(fresh.pid)
    # the first of each is not timed: it brings the file into the kernel's memory
    for peer in peers.values():
        _helper(stage, "download", peer.port)
    speeds: dict[str, list[float]] = {who: [] for who in peers}
    spent: dict[str, list[float]] = {who: [] for who in peers}
    for number in range(stage.rounds):
        for who in list(peers)[:: 1 if number % 2 else -1]:
            pid = peers[who].pid
            cpu = cpu_seconds(pid)
            seconds = _helper(stage, "download", peers[who].port)
            assert isinstance(seconds, float)
            spent[who].append(cpu_seconds(pid) - cpu)
            speeds[who].append(BIG_BYTES / seconds / MEGABYTE)
        told = ", ".join(f"{who} {each[-1]:,.0f} MB/s" for who, each in speeds.items())
        stage.say(f"1 GB download, round {number + 1} of {stage.rounds}: {told}")
    grown = Spread(((memory(fresh.pid, "VmHWM") - before) / MEGABYTE,))
    stage.peers.stop(fresh)
    medians = {who: statistics.median(each) for who, each in speeds.items()}
    said = ", ".join(
        f"{who} {medians[who]:,.0f} MB/s and {statistics.median(spent[who]):.2f} s of CPU" for who in peers
    )
    return [
        Row(
            "1 GB download",
            ratios(speeds["Siding"], speeds["nginx"]),
            Goal(0.7, 1.0),
            "nginx",
            saved=ratios(spent["nginx"], spent["Siding"]),
            note=said,
        ),
        Row("1 GB download, growth of memory at its peak", grown, Goal(20, unit="MB", more=False)),
    ]


Rows = Callable[[Field], list[Row]]

ROWS: Mapping[str, Rows] = {
    "hit": lambda field: _hits(field, "hit in memory", HIT, HIT),
    "304": lambda field: _hits(field, "hit answered 304 to If-None-Match", NOT_MODIFIED, NOT_MODIFIED),
    "gzip": lambda field: _hits(field, "hit, gzip variant stored", GZIP, STORED_GZIP),
    "forward": lambda field: _forwards(field, "forwarded GET, not cacheable", FORWARD),
    "post": lambda field: _forwards(field, "forwarded POST with 2 KB of content", POST),
    "rule": lambda field: _forwards(field, "rule-cached POST, hit", RULE),
    "latency": _latency,
    "workers": _workers,
    "download": _download,
    "memory": lambda field: memory_rows(field.stage),
    "many": lambda field: many_rows(field.stage, field.nginx),
}
"""By the name that `--only` takes."""
