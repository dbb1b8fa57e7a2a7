"""A benchmark under way: measures programs in turn, and makes sure that what was measured is what was meant."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench import load
from tests.bench.ask import asked, check
from tests.bench.peers import Peer, Peers
from tests.bench.processes import Cores, cpu_seconds
from tests.bench.table import Goal, Row, ratios
from tests.bench.works import Reaches, Work

WARM_SECONDS = 1
BUSY = 0.9
"""A proxy that has less than this share of its core's time to do was not the limit."""
TOLERANCE = 0.15
"""Of the octets a response, against one that was looked at: request ids, ages and counters differ in length."""


@dataclass(frozen=True)
class Sample:
    """One measurement. rate -- requests a second; cpu -- microseconds a request; busy -- cores that were kept busy."""

    rate: float
    cpu: float
    busy: float


Contest = Mapping[str, tuple[Peer, Work]]
"""Who takes part, by name, and what each is asked."""


@dataclass(frozen=True)
class Stage:
    """What every measurement needs. say -- tells of progress."""

    folder: Path
    cores: Cores
    peers: Peers
    origin: Peer
    rounds: int
    seconds: int
    say: Callable[[str], None]

    def sample(self, peer: Peer, work: Work, client: frozenset[int] | None = None) -> Sample:
        """Load a peer for `seconds`. Ends the benchmark if it was not answered as `work` expects."""
        self.peers.trim()
        answer = check(peer, work)
        before, spent = asked(self.origin), cpu_seconds(peer.pid)
        done = load.run(peer.port, work, self.seconds, self.folder, client or self.cores.client)
        spent = cpu_seconds(peer.pid) - spent
        reached = asked(self.origin) - before - 1
        fault = fault_of(done, work, reached=reached, octets=answer.octets)
        if fault:
            raise SystemExit(f"{peer.name}, {work.method} {work.target}: {fault}")
        return Sample(done.rate, 1e6 * spent / done.requests, spent / done.seconds)

    def contest(self, name: str, contest: Contest, client: frozenset[int] | None = None) -> dict[str, list[Sample]]:
        """Warm all up, then measure them in turn, the other way round in every other round."""
        for peer, work in contest.values():
            load.run(peer.port, replace(work, targets=1), WARM_SECONDS, self.folder, client or self.cores.client)
        samples: dict[str, list[Sample]] = {who: [] for who in contest}
        for number in range(self.rounds):
            for who in list(contest)[:: 1 if number % 2 else -1]:
                peer, work = contest[who]
                # each round with a part of the targets of its own
                work = replace(work, first=work.targets * number // self.rounds)
                samples[who].append(self.sample(peer, work, client))
            told = ", ".join(f"{who} {seen[-1].rate:,.0f}/s {seen[-1].cpu:.1f} µs" for who, seen in samples.items())
            self.say(f"{name}, round {number + 1} of {self.rounds}: {told}")
        return samples


def fault_of(done: load.Load, work: Work, *, reached: int, octets: int) -> str:
    """Why a measurement does not count; empty if it does.

    reached -- requests that the origin had meanwhile. octets -- of a response that was looked at.
    """
    each = done.octets / done.requests
    if abs(each - octets) > TOLERANCE * octets:
        return f"{each:.0f} bytes a response; the one that was looked at had {octets}"
    if work.reaches is Reaches.STORE and reached > 10 + done.requests / 100:
        return f"{reached} of {done.requests} requests reached the origin, and all should have been hits"
    if work.reaches is Reaches.ORIGIN and reached < done.requests:
        return f"only {reached} of {done.requests} requests reached the origin, and all should have"
    return ""


def rates(samples: Sequence[Sample]) -> list[float]:
    """Requests a second, round by round."""
    return [sample.rate for sample in samples]


def costs(samples: Sequence[Sample]) -> list[float]:
    """Microseconds a request, round by round."""
    return [sample.cpu for sample in samples]


def row_of(work: str, goal: Goal, samples: Mapping[str, Sequence[Sample]], ours: str, theirs: str) -> Row:
    """The rate of `ours` over that of `theirs`, and over that of whoever else took part."""
    busy = {who: statistics.median(sample.busy for sample in samples[who]) for who in (ours, theirs)}
    limited = min(busy.values()) < BUSY
    told = " and ".join(f"{who} {share:.0%}" for who, share in busy.items())
    note = (
        f"{told} of a core was used, so that something else was the limit: go by the processor time" if limited else ""
    )
    return Row(
        work,
        ratios(rates(samples[ours]), rates(samples[theirs])),
        goal,
        theirs,
        rates={who: statistics.median(rates(seen)) for who, seen in samples.items()},
        cpu={who: statistics.median(costs(seen)) for who, seen in samples.items()},
        saved=ratios(costs(samples[theirs]), costs(samples[ours])),
        beside={
            who: ratios(rates(samples[ours]), rates(seen)) for who, seen in samples.items() if who not in (ours, theirs)
        },
        limited=limited,
        note=note,
    )
