"""What stored responses take up, and whether it takes longer to find one among many."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

from tests.bench import load
from tests.bench.ask import metric
from tests.bench.peers import CONTENT, Peer
from tests.bench.processes import cpu_seconds, memory
from tests.bench.stage import Stage, costs, rates, row_of
from tests.bench.table import Goal, Row, Spread, ratios
from tests.bench.works import MANY

STORED = "siding_stored_responses"
FEW, SOME, MOST = 100, 20_000, 100_000
STRIDE = 38_317
"""So that those that are asked for one after the other do not lie beside each other in memory."""
BURST_SECONDS = 2
SETTLE_SECONDS = 1.0
"""Twice as long as lines of the access log gather, and connections take to close."""
KILOBYTE = 1000.0


def fill(stage: Stage, peer: Peer, count: int) -> None:
    """Let a peer store `count` responses by being asked for them. Ends the benchmark if they do not come in."""
    stored = int(metric(peer, STORED))
    while stored < count:
        # some requests of a burst are cut off at its end: begin a little before
        work = replace(MANY, targets=count, first=max(0, stored - 4 * load.CONNECTIONS))
        load.run(peer.port, work, BURST_SECONDS, stage.folder, stage.cores.client)
        stage.peers.trim()
        before, stored = stored, int(metric(peer, STORED))
        if stored <= before:
            raise SystemExit(f"{peer.name} stores {stored} responses, and not {count}")
    stage.say(f"{peer.name}: {stored:,} responses are stored")


def sweep(stage: Stage, peer: Peer, count: int) -> float:
    """Ask for all that is stored once, and give the microseconds of processor time that such a first hit takes."""
    asked, spent = 0, cpu_seconds(peer.pid)
    while asked < count:
        work = replace(MANY, targets=count, first=asked)
        asked += load.run(peer.port, work, BURST_SECONDS, stage.folder, stage.cores.client).requests
        stage.peers.trim()
    return 1e6 * (cpu_seconds(peer.pid) - spent) / asked


def memory_rows(stage: Stage) -> list[Row]:
    """Growth of a real process for each stored response, without its content."""
    peer = stage.peers.siding(stage.origin, "siding-memory")
    fill(stage, peer, 10 * FEW)
    time.sleep(SETTLE_SECONDS)
    before = memory(peer.pid), metric(peer, STORED), metric(peer, "siding_stored_bytes")
    fill(stage, peer, SOME)
    time.sleep(SETTLE_SECONDS)
    after = memory(peer.pid), metric(peer, STORED), metric(peer, "siding_stored_bytes")
    stage.peers.stop(peer)
    count = after[1] - before[1]
    grown, told = ((after[each] - before[each]) / count for each in (0, 2))
    note = (
        f"growth of the process by {count:,.0f} of them, {grown:,.0f} bytes each, less {len(CONTENT):,} of content; "
        f"the store itself counts {told:,.0f}"
    )
    over = Spread(((grown - len(CONTENT)) / KILOBYTE,))
    return [Row("memory over the content of a stored response", over, Goal(1.5, 0.7, "KB", more=False), note=note)]


def many_rows(stage: Stage, nginx: Peer) -> list[Row]:
    """What 100,000 stored responses cost those who ask for 100 of them, and those who ask for all, in any order.

    Nothing is hit for the first time. nginx is asked for all as well, for some of that difference is the machine's.
    """
    few, many = (stage.peers.siding(stage.origin, f"siding-{count}") for count in (FEW, MOST))
    fill(stage, few, FEW)
    fill(stage, many, MOST)
    first = sweep(stage, many, MOST)
    names = f"{MOST:,} stored", f"{FEW} stored"
    few_asked, all_asked = (replace(MANY, targets=count, stride=STRIDE) for count in (FEW, MOST))
    same = f"hit among the same {FEW}, with {MOST:,} stored"
    same_samples = stage.contest(same, {names[0]: (many, few_asked), names[1]: (few, few_asked)})
    spread = f"hit among {MOST:,} stored responses"
    spread_samples = stage.contest(spread, {names[0]: (many, all_asked), names[1]: (few, few_asked)})
    for peer in (few, many):
        stage.peers.stop(peer)
    sweep(stage, nginx, 2 * MOST)
    theirs = stage.contest(f"{spread}, nginx", {names[0]: (nginx, all_asked), names[1]: (nginx, few_asked)})
    there, here = (statistics.median(costs(theirs[who])) for who in names)
    row = row_of(spread, Goal(0.9, 1.0), spread_samples, *names)
    notes = [
        *([row.note] if row.note else []),
        f"nginx has {ratios(*(rates(theirs[who]) for who in names)).shown('x')} of its own rate among {FEW}, "
        f"and takes {there:.1f} µs a request instead of {here:.1f}",
        f"all had been hit before; the first hit of each took {first:.1f} µs",
    ]
    return [row_of(same, Goal(0.9, 1.0), same_samples, *names), replace(row, note="; ".join(notes))]
