"""What was measured against the plan's targets; pure.

Sources of the targets: the plan's success criteria, step by step, and its "Success metrics".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

SECOND_MS = 500.0
FASTER = 0.80
HIT_RATE = 0.60
ACTIVE_UNDER = 15
CONNECTION_MS = 20.0
TOKENS_FEWER = 0.60
GZIP_SMALLER = 0.60
ETAG_LESS = 0.40
P95_BETTER = 0.40
ERRORS_UNDER = 0.001
LEAST_REQUESTS = 40
"""Of fewer a 95th percentile says nothing."""
LEAST_LOOKUPS = 100
"""So many before the check, and the hit rate is the clients' and not the check's own."""


class Verdict(StrEnum):
    """How it stands."""

    MET = "met"
    MISSED = "missed"
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Result:
    """One criterion. reading -- how to read it, or what to do to have it measured. where -- what was asked."""

    name: str
    target: str
    measured: str
    verdict: Verdict
    reading: str
    where: str = ""


# -- what is measured; durations in seconds, sizes in octets of content


@dataclass(frozen=True, slots=True)
class Pair:
    """The same request, new and then repeated, by medians. A hit came from the cache.

    direct -- past Siding; None where there is no way past it. status -- the worst of all its answers.
    """

    request: str
    first: float
    second: float
    first_hit: bool
    second_hit: bool
    direct: float | None = None
    status: int = 200


@dataclass(frozen=True, slots=True)
class Renewal:
    """A stored answer, asked for again once its freshness was over.

    lifetime -- in all, by the proxy. waited -- since it was new. age -- of the last answer.
    """

    request: str
    lifetime: float
    waited: float
    age: float


@dataclass(frozen=True, slots=True)
class Isolation:
    """A stored private answer, asked for with another credential. status -- of the answer to the other.

    asked -- the answer to the other is what the origin gave to it.
    """

    request: str
    hit: bool
    same: bool
    status: int
    asked: bool = False

    @property
    def alike(self) -> bool:
        return self.same and self.status < 300

    @property
    def leaks(self) -> bool:
        return self.hit or (self.alike and not self.asked)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Clients that ask for the same at the same time. spared -- of them, who did not reach the origin."""

    request: str
    clients: int
    spared: int
    failed: int


@dataclass(frozen=True, slots=True)
class Load:
    """One way under load. seconds -- ascending. failed -- no answer, or one from 400 on. fault -- the first."""

    seconds: Sequence[float]
    failed: int
    fault: str = ""

    @property
    def requests(self) -> int:
        return len(self.seconds)

    @property
    def error_rate(self) -> float:
        return self.failed / max(1, self.requests)

    def quantile(self, share: float) -> float:
        """The nearest rank."""
        return self.seconds[max(0, math.ceil(share * len(self.seconds)) - 1)]


@dataclass(frozen=True, slots=True)
class Counts:
    """Look-ups of the proxy."""

    hits: int
    misses: int

    @property
    def total(self) -> int:
        return self.hits + self.misses


@dataclass(frozen=True, slots=True)
class Sizes:
    """before -- without the optimisation, after -- with it."""

    before: int
    after: int

    @property
    def saved(self) -> float:
        return 1 - self.after / self.before if self.before else 0.0


@dataclass(frozen=True, slots=True)
class Pool:
    """The most that was seen. wait_ms -- for a connection, p95. acquired -- how many were asked for."""

    waiting: int
    active: int
    wait_ms: float
    acquired: int


# -- verdicts


def _result(name: str, target: str, measured: str, met: bool, reading: str, where: str = "") -> Result:
    return Result(name, target, measured, Verdict.MET if met else Verdict.MISSED, reading, where)


def unmeasured(name: str, target: str, reading: str, measured: str = "-") -> Result:
    return Result(name, target, measured, Verdict.UNMEASURED, reading)


def repeats(pairs: Sequence[Pair]) -> Iterator[Result]:
    """Of the slowest request that is stored, or of the slowest: that is what a cache is for."""
    names = ("second answer", "second answer faster")
    targets = (f"under {SECOND_MS:.0f} ms", f"at least {FASTER:.0%}")
    good = [one for one in pairs if one.status < 400]
    if not good:
        bad = [f"{one.request} is answered with {one.status}" for one in pairs]
        told = "; ".join([*bad, "name a request that is slow and may be cached"])
        yield from (unmeasured(name, target, told) for name, target in zip(names, targets, strict=True))
        return
    stored = [one for one in good if one.second_hit] or good
    pair = max(stored, key=lambda one: one.direct if one.first_hit and one.direct is not None else one.first)
    milliseconds = 1000 * pair.second
    came = "from the cache" if pair.second_hit else "NOT from the cache: see its Cache-Status and the route's rule"
    yield _result(
        names[0], targets[0], f"{milliseconds:.1f} ms", milliseconds < SECOND_MS, f"it came {came}", pair.request
    )
    before = pair.direct if pair.first_hit else pair.first
    if before is None:
        yield unmeasured(
            names[1], targets[1], "the first was stored already: put ${nonce} into the request, or give --direct"
        )
        return
    faster = 1 - pair.second / before
    against = "direct" if pair.first_hit else "the first"
    measured = f"{faster:.1%} ({1000 * before:.0f} ms before)"
    told = (
        f"against {against}, by medians" if pair.second_hit else "nothing was stored: what came sooner did so by chance"
    )
    yield _result(names[1], targets[1], measured, faster >= FASTER and pair.second_hit, told, pair.request)


def everybody(statuses: Sequence[int], request: str) -> Result:
    """Each user's own request succeeds."""
    good = sum(200 <= status < 300 for status in statuses)
    told = "each user's own answer" if good == len(statuses) else f"statuses: {', '.join(map(str, statuses))}"
    return _result("all users served", "all", f"{good} of {len(statuses)}", good == len(statuses), told, request)


def isolated(seen: Sequence[Isolation]) -> Result:
    """What is stored for one is not shown to another."""
    name, target = "another credential", "never shown the first's answer"
    if not seen:
        return unmeasured(name, target, "name a request with an Authorization field that is stored")
    leaks = [one for one in seen if one.leaks]
    if leaks:
        advice = "LEAK: set BYPASS now (siding rollback --all), then put authorization into the route's key"
        return _result(name, target, f"shown, {len(leaks)} of {len(seen)}", False, advice, leaks[0].request)
    apart = [one for one in seen if not one.alike]
    if not apart:
        return unmeasured(name, target, "the origin gives everybody the same: name a request whose answers differ")
    told = f"the origin was asked and gave {', '.join(str(one.status) for one in apart)}"
    return _result(name, target, f"{len(apart)} of {len(apart)} kept apart", True, told)


def renewed(seen: Renewal | None, longest: float, shortest: float | None) -> Result:
    """Once the freshness is over, what is shown is new. longest -- the wait allowed. shortest -- the least lifetime."""
    name, target = "fresh after its time", "never older than its time"
    if seen is None:
        have = "no stored answer was seen" if shortest is None else f"the shortest lives {shortest:.0f} s"
        return unmeasured(
            name, target, f"{have}: wait longer with --wait (now {longest:.0f} s), or name one that lives shorter"
        )
    measured = f"{seen.age:.0f} s old, {seen.waited:.1f} s after the one before"
    told = f"it lives {seen.lifetime:.0f} s; one stale answer while it is renewed is allowed"
    return _result(name, target, measured, seen.age <= seen.lifetime, told, seen.request)


def hit_rate(before: Counts | None, after: Counts | None) -> Result:
    """By the deployment's own count, without this check's requests where others came before it."""
    name, target = "cache hit rate", f"over {HIT_RATE:.0%}"
    if before is None or after is None:
        return unmeasured(name, target, "the proxy does not say: give --admin, or set PUBLIC_METRICS there")
    if before.total >= LEAST_LOOKUPS:
        seen, whose = before, "by others, since it started; the plan asks for it after an hour of traffic"
    else:
        seen = Counts(after.hits - before.hits, after.misses - before.misses)
        whose = "by this check, which repeats itself: look again after an hour of clients' traffic"
    if seen.total <= 0:
        return unmeasured(name, target, "nothing was looked up: no request may be cached, or a flag is off")
    rate = seen.hits / seen.total
    return _result(name, target, f"{rate:.1%}", rate > HIT_RATE, f"{seen.hits} of {seen.total} {whose}")


def collapsed(seen: Sequence[Crowd]) -> Result:
    """Of many who ask for the same at once, one asks the origin."""
    name, target = "collapsed requests", "all but one"
    if not seen:
        return unmeasured(name, target, "name a request that may be cached and has ${nonce} in it")
    worst = min(seen, key=lambda one: one.spared)
    good = all(one.spared == one.clients - 1 and not one.failed for one in seen)
    failed = f", {worst.failed} failed" if worst.failed else ""
    told = "asked for at once, on a key that nobody had asked for"
    return _result(name, target, f"{worst.spared} of {worst.clients} spared{failed}", good, told, worst.request)


def coded(sizes: Sizes) -> Result:
    """Content codings."""
    name, target = "gzip", f"{GZIP_SMALLER:.0%} smaller"
    if not sizes.before:
        return unmeasured(name, target, "name a GET whose answer is text of more than a kilobyte")
    told = f"{sizes.before} octets without, {sizes.after} with Accept-Encoding: gzip"
    return _result(name, target, f"{sizes.saved:.1%}", sizes.saved >= GZIP_SMALLER, told)


def validated(sizes: Sizes, polls: int) -> Result:
    """Entity tags."""
    name, target = "ETag traffic", f"{ETAG_LESS:.0%} less"
    if not sizes.before:
        return unmeasured(name, target, "name a GET whose answer has an ETag")
    told = f"each asked for once and then {polls} times with If-None-Match: {sizes.after} of {sizes.before} octets"
    return _result(name, target, f"{sizes.saved:.1%}", sizes.saved >= ETAG_LESS, told)


def pool(seen: Pool | None, *, monitored: bool, fault: str = "") -> Iterator[Result]:
    """The database's pool. fault -- of the queries that were to make it work."""
    names = ("pool waiting", "pool active", "connection time")
    targets = ("0", f"under {ACTIVE_UNDER}", f"p95 up to {CONNECTION_MS:.0f} ms")
    why = ""
    if fault:
        why = f"the monitor does not answer a query: {fault}"
    elif not monitored:
        why = "give --monitor"
    elif seen is None:
        why = "--monitor tells of no pool: is it the pool monitor, and has that a DATABASE_URL?"
    elif not seen.acquired:
        why = 'nobody asked for a connection meanwhile: name a query with at = "monitor" in the file of requests'
    if why or seen is None:
        yield from (unmeasured(name, target, why) for name, target in zip(names, targets, strict=True))
        return
    told = f"the most that was seen while {seen.acquired} were asked for; /api/metrics/database-pool names the holders"
    yield _result(names[0], targets[0], str(seen.waiting), seen.waiting == 0, told)
    yield _result(names[1], targets[1], str(seen.active), seen.active < ACTIVE_UNDER, told)
    told = "waiting for a connection of the pool, the latest by its own count"
    yield _result(names[2], targets[2], f"{seen.wait_ms:.1f} ms", seen.wait_ms <= CONNECTION_MS, told)


def tokens(before: int, after: int, requests: int, *, monitored: bool, own: bool) -> Result:
    """The plan's prompt, before and after. own -- whether only this check's gradings are counted."""
    name, target = "prompt tokens", f"{TOKENS_FEWER:.0%} fewer"
    if not before:
        told = "no known prompt was graded; --grade grades some homeworks (the upstream asks money for it)"
        return unmeasured(name, target, told if monitored else "give --monitor")
    fewer = 1 - after / before
    whose = "of this check" if own else "since the monitor started"
    told = f"{before} to {after} in {requests} gradings {whose}"
    return _result(name, target, f"{fewer:.1%}", fewer >= TOKENS_FEWER, told)


def loads(through: Load, direct: Load | None) -> Iterator[Result]:
    """Both ways under the same load."""
    names = ("error rate", "p95 under load")
    better_than_direct = f"{P95_BETTER:.0%} better than direct"
    if not through.requests:
        yield unmeasured(names[0], "not above direct", "nothing was answered")
        return
    told = f"{through.failed} of {through.requests} through Siding" + (f" ({through.fault})" if through.fault else "")
    rate, ours = f"{through.error_rate:.2%}", through.quantile(0.95)
    if direct is None or not direct.requests:
        yield _result(names[0], f"under {ERRORS_UNDER:.1%}", rate, through.error_rate < ERRORS_UNDER, told)
        yield unmeasured(names[1], better_than_direct, "give --direct", f"{1000 * ours:.1f} ms")
        return
    told = f"{told}, {direct.failed} of {direct.requests} direct"
    if direct.failed == direct.requests:
        why = f"{told}: name a request that succeeds"
        yield unmeasured(names[0], "not above direct", why, rate)
        yield unmeasured(names[1], better_than_direct, why)
        return
    yield _result(names[0], "not above direct", rate, through.error_rate <= direct.error_rate, told)
    theirs = direct.quantile(0.95)
    better = 1 - ours / theirs
    told = f"{1000 * ours:.1f} ms against {1000 * theirs:.1f} ms direct, the same requests in turn, repeated"
    fewest = min(through.requests, direct.requests)
    if fewest < LEAST_REQUESTS:
        told = f"{told}; only {fewest} requests: give more --seconds"
        yield unmeasured(names[1], better_than_direct, told, f"{better:.1%}")
        return
    yield _result(names[1], better_than_direct, f"{better:.1%}", better >= P95_BETTER, told)
