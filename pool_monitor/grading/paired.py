"""Whether two ways of grading are as good as each other: statistics of pairs that come in clusters. Pure.

The questions of one homework are not independent of each other (one image, one answer), so a homework is drawn as a
whole wherever chance is reckoned with.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

MARGIN = 0.02
CONFIDENCE = 0.95
SEED = 1
POWER = 0.8
RESAMPLES = 2000
MOST_GROUPS = 400
"""More clusters than these are drawn in groups; it bounds the work, and the spread of a mean of groups is the same."""
FEWEST_HOMEWORKS = 20
"""Below, a bootstrap of clusters is too narrow (Cameron, Gelbach and Miller 2008), whatever the number of questions."""
PLANNED_SHARE = 0.1
"""The share of discordant pairs that is reckoned with before any was seen,"""
PLANNED_WEIGHT = 20
"""and which weighs as much as so many questions afterwards: none seen in ten does not mean that there are none."""
_NEGLIGIBLE = 1e-17


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float

    def within(self, margin: float) -> bool:
        """Whether all of it is nearer to 0 than `margin`."""
        return -margin < self.low and self.high < margin

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


# -- McNemar's test


@dataclass(frozen=True, slots=True)
class McNemar:
    """first_only, second_only -- the discordant pairs: good in one alone. p, mid_p -- two-sided."""

    first_only: int
    second_only: int
    p: float
    mid_p: float


def mcnemar(first_only: int, second_only: int) -> McNemar:
    """The exact conditional test and its mid-p form (Fagerland, Lydersen and Laake 2013), at any count."""
    total, fewer = first_only + second_only, min(first_only, second_only)
    if total == 0:
        return McNemar(0, 0, 1.0, 1.0)
    at = term = math.exp(
        math.lgamma(total + 1) - math.lgamma(fewer + 1) - math.lgamma(total - fewer + 1) - total * math.log(2)
    )
    tail = 0.0
    for count in range(fewer, -1, -1):
        tail += term
        if term < tail * _NEGLIGIBLE:
            break
        term *= count / (total - count + 1)
    if first_only == second_only:
        return McNemar(first_only, second_only, 1.0, 1 - at / 2)
    return McNemar(first_only, second_only, min(1.0, 2 * tail), min(1.0, 2 * tail - at))


# -- bootstrap


def seeded() -> random.Random:
    """Equal homeworks give equal intervals."""
    return random.Random(SEED)  # noqa: S311 - it draws samples


def bootstrap(clusters: Sequence[Sequence[float]], chance: random.Random, resamples: int = RESAMPLES) -> list[Interval]:
    """Means with percentile intervals, one for each sum that the clusters have.

    clusters -- for each its size and then its sums; clusters are drawn, not what is in them. None: no intervals.
    """
    rows = _grouped([row for row in clusters if row[0] > 0], chance)
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    drawn: list[list[float]] = [[] for _ in columns[1:]]
    numbers = range(len(rows))
    for _ in range(resamples):
        taken = chance.choices(numbers, k=len(rows))
        size = sum(map(columns[0].__getitem__, taken))
        for means, column in zip(drawn, columns[1:], strict=True):
            means.append(sum(map(column.__getitem__, taken)) / size)
    size = sum(columns[0])
    return [_interval(sum(column) / size, means) for column, means in zip(columns[1:], drawn, strict=True)]


def _grouped(rows: list[Sequence[float]], chance: random.Random) -> list[Sequence[float]]:
    """At most MOST_GROUPS, by adding up at random."""
    if len(rows) <= MOST_GROUPS:
        return rows
    shuffled = chance.sample(rows, len(rows))
    return [[sum(column) for column in zip(*shuffled[one::MOST_GROUPS], strict=True)] for one in range(MOST_GROUPS)]


def _interval(estimate: float, means: list[float]) -> Interval:
    ordered = sorted(means)
    outside = (1 - CONFIDENCE) / 2
    last = len(ordered) - 1
    return Interval(estimate, ordered[math.floor(outside * last)], ordered[math.ceil((1 - outside) * last)])


# -- how many are needed


def needed(
    discordant_share: float,
    margin: float = MARGIN,
    confidence: float = CONFIDENCE,
    power: float = POWER,
    design_effect: float = 1.0,
) -> int:
    """Questions that are needed so that two ways which are the same are likely (`power`) to be shown within `margin`.

    Two one-sided tests (Schuirmann 1987), that is a confidence interval inside the margin: (z + z')² · variance /
    margin² (Chow, Shao and Wang, one-sample equivalence), and the variance of the difference within a pair is the
    share of discordant pairs where both ways are equally good (Connor 1987).
    design_effect -- how much more the clusters vary than as many questions one by one would (Kish).
    """
    normal = NormalDist()
    both = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf((1 + power) / 2)
    return math.ceil(both**2 * discordant_share * max(1.0, design_effect) / margin**2)


def expected_share(discordant: int, questions: int) -> float:
    """The share of discordant pairs to reckon with: as seen, with a little of what was planned."""
    return (discordant + PLANNED_SHARE * PLANNED_WEIGHT) / (questions + PLANNED_WEIGHT)


def design_effect(clusters: Sequence[tuple[int, int, int]]) -> float:
    """How much more the difference varies than it would if all pairs were independent; at least 1.

    clusters -- questions, and those good in the first and in the second way alone. By linearisation of the ratio.
    """
    size = sum(questions for questions, _, _ in clusters)
    first = sum(one for _, one, _ in clusters)
    second = sum(one for _, _, one in clusters)
    if len(clusters) < 2 or size == 0:
        return 1.0
    mean = (second - first) / size
    alone = ((first + second) / size - mean**2) / size
    if alone <= 0:
        return 1.0
    squares = sum((only_second - only_first - mean * questions) ** 2 for questions, only_first, only_second in clusters)
    return max(1.0, len(clusters) / (len(clusters) - 1) * squares / size**2 / alone)


# -- the verdict


class Verdict(StrEnum):
    """What may be said of two ways of grading."""

    NOT_ENOUGH = "not-enough"
    WITHIN = "within"
    """the whole interval is inside the margin"""
    DIFFERENT = "different"
    """the interval leaves the margin, and 0 is not in it"""
    UNDECIDED = "undecided"
    """enough were seen, and still the interval holds both 0 and what is beyond the margin"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the pairs show. difference -- second minus first, as a share; None where there are no pairs.

    needed -- questions for a claim of ± margin, by what was seen of them.
    """

    verdict: Verdict
    sentence: str
    questions: int
    homeworks: int
    needed: int
    difference: Interval | None
    test: McNemar
    design_effect: float


def judge(
    clusters: Sequence[tuple[int, int, int]], difference: Interval | None, what: str, margin: float = MARGIN
) -> Finding:
    """The verdict on `clusters`, as in `design_effect`, whose difference is already known. what -- that differs."""
    clusters = [cluster for cluster in clusters if cluster[0] > 0]
    questions = sum(cluster[0] for cluster in clusters)
    first, second = sum(cluster[1] for cluster in clusters), sum(cluster[2] for cluster in clusters)
    effect = design_effect(clusters)
    least = needed(expected_share(first + second, questions), margin, design_effect=effect)
    verdict = _verdict(questions, len(clusters), least, difference, margin)
    sentence = _sentence(verdict, what, questions, len(clusters), least, difference, margin)
    return Finding(verdict, sentence, questions, len(clusters), least, difference, mcnemar(first, second), effect)


def _verdict(questions: int, homeworks: int, least: int, difference: Interval | None, margin: float) -> Verdict:
    if difference is None or homeworks < FEWEST_HOMEWORKS:
        return Verdict.NOT_ENOUGH
    within = difference.within(margin)
    if difference.excludes_zero and not within:
        return Verdict.DIFFERENT
    if questions < least:
        return Verdict.NOT_ENOUGH
    return Verdict.WITHIN if within else Verdict.UNDECIDED


def _sentence(
    verdict: Verdict,
    what: str,
    questions: int,
    homeworks: int,
    least: int,
    difference: Interval | None,
    margin: float,
) -> str:
    claim = f"±{100 * margin:g} %"
    seen = f" {what} differs by {points(difference)} so far." if difference is not None else ""
    match verdict:
        case Verdict.NOT_ENOUGH if questions < least:
            return f"not enough: {questions} questions of at least {least} needed for a claim of {claim}.{seen}"
        case Verdict.NOT_ENOUGH:
            few = f"not enough: {homeworks} homeworks of at least {FEWEST_HOMEWORKS} needed for a claim of {claim}"
            return f"{few}.{seen}"
        case Verdict.WITHIN:
            return f"within {claim}: {what} differs by {points(difference)}, in {questions} questions."
        case Verdict.DIFFERENT:
            return f"different: {what} differs by {points(difference)}, in {questions} questions."
        case Verdict.UNDECIDED:
            return f"undecided: {what} differs by {points(difference)}, which allows both none and more than {claim}."


def points(difference: Interval | None) -> str:
    """A share as percentage points, with its interval."""
    if difference is None:
        return "an unknown amount"
    estimate, low, high = (100 * one for one in (difference.estimate, difference.low, difference.high))
    return f"{estimate:+.2f} percentage points (95 % CI {low:+.2f} to {high:+.2f})"
