"""What the live page shows of the requests: numbers that add up over workers, and the slowest of late. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from proxy.observe.events import Brief, Observation
from proxy.policy.decisions import Outcome

SLOW_SECONDS = 0.5
"""From here on a request is a slow one: what reports are promised within."""
KEPT_MINUTES = 10
KEPT_A_MINUTE = 20
SHOWN = 20
MAX_PATH = 200
MAX_METHOD = 20


class SlowRequest(TypedDict):
    """One request. at -- its end, seconds since 1970. path -- without the query, and cut to MAX_PATH."""

    at: float
    method: str
    path: str
    route: str
    outcome: str
    status: int
    seconds: float
    originSeconds: float | None


class Numbers(TypedDict):
    """A worker's, or those of several added up. All but levels only grow, as long as `instances` stays the same.

    instances -- a word for each worker that has counted. outcomes, statuses -- requests. buckets -- requests by
    duration, not cumulative: one for each bound of the histogram, and one for what is longer. counts -- see
    `Metrics.live`; seconds, bytes or numbers. slow -- the slowest of the last KEPT_MINUTES, slowest first.
    """

    instances: list[str]
    outcomes: dict[str, float]
    statuses: dict[str, float]
    buckets: list[float]
    counts: dict[str, float]
    levels: dict[str, float]
    slow: list[SlowRequest]


def added_up(parts: Sequence[Numbers]) -> Numbers:
    """The numbers of several workers as one."""
    return Numbers(
        instances=sorted(name for part in parts for name in part["instances"]),
        outcomes=_sum(part["outcomes"] for part in parts),
        statuses=_sum(part["statuses"] for part in parts),
        buckets=[sum(column) for column in itertools.zip_longest(*(part["buckets"] for part in parts), fillvalue=0)],
        counts=_sum(part["counts"] for part in parts),
        levels=_sum(part["levels"] for part in parts),
        slow=_slowest(request for part in parts for request in part["slow"]),
    )


def _sum(maps: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: Tally[str] = Tally()
    for one in maps:
        # not `total.update`, which is meant for whole numbers
        for name, number in one.items():
            total[name] += number  # type: ignore[assignment]
    return dict(total)


def _slowest(requests: Iterable[SlowRequest]) -> list[SlowRequest]:
    return heapq.nlargest(SHOWN, requests, key=lambda one: (one["seconds"], one["at"]))


# -- slow requests


class SlowRequests:
    """The slowest of each of the last minutes: however many are slow, no more is kept than that."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, list[tuple[float, int, SlowRequest]]]] = deque(maxlen=KEPT_MINUTES + 1)
        self._serial = itertools.count()

    def observe(self, seen: Observation) -> None:
        """Note a request, if it was slow."""
        if seen.duration >= SLOW_SECONDS:
            self.add(seen)

    def observe_briefs(self, briefs: list[Brief]) -> None:
        """Note those that were slow."""
        for brief in briefs:
            if brief.duration >= SLOW_SECONDS:
                self.add(brief.observation())

    def add(self, seen: Observation) -> None:
        """Note a request that took at least SLOW_SECONDS."""
        if seen.outcome is Outcome.TUNNEL:
            return  # as long as its user likes, and no fault
        at = seen.started + seen.duration
        minute = int(at // 60)
        if not self._minutes or self._minutes[-1][0] < minute:
            self._minutes.append((minute, []))
        heap = self._minutes[-1][1]
        if len(heap) < KEPT_A_MINUTE:
            heapq.heappush(heap, (seen.duration, next(self._serial), _told(seen, at)))
        elif seen.duration > heap[0][0]:
            heapq.heapreplace(heap, (seen.duration, next(self._serial), _told(seen, at)))

    def worst(self, now: float) -> list[SlowRequest]:
        """The slowest of the last KEPT_MINUTES before `now` (seconds since 1970), slowest first."""
        since = now - 60 * KEPT_MINUTES
        return _slowest(one for _, heap in self._minutes for _, _, one in heap if one["at"] >= since)


def _told(seen: Observation, at: float) -> SlowRequest:
    # as the octets were meant, most likely; and JSON has no lone surrogates
    path = seen.path.encode("latin-1", "replace").decode("utf-8", "replace")
    return SlowRequest(
        at=round(at, 3),
        method=seen.method[:MAX_METHOD].encode("ascii", "replace").decode(),
        path=path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}…",
        route=seen.route,
        outcome=seen.outcome.value,
        status=seen.status,
        seconds=round(seen.duration, 4),
        originSeconds=None if seen.origin_seconds is None else round(seen.origin_seconds, 4),
    )
