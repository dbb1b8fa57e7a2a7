"""An item of a batch meets the upstream's limits."""

from __future__ import annotations

import pytest

from pool_monitor.grading.batch_asking import MOST_ATTEMPTS, Asking, Reply
from pool_monitor.grading.calls import Answer, Call
from pool_monitor.grading.care import LONGEST_BELIEVED, RateLimits

HOUR = 3600.0
LIMITED = b'{"error": {"code": "rate_limit_exceeded"}}'


class Upstream:
    """It says 429 before `free`, and how long to wait as `told`. The clock goes on while one sleeps."""

    def __init__(self, told: str | None, free: float) -> None:
        self.now = 0.0
        self.asked: list[float] = []
        self._fields = (("Retry-After", told),) if told is not None else ()
        self._free = free
        self.asking = Asking(
            self.ask, RateLimits(), clock=lambda: self.now, wall=lambda: self.now, secret=b"s", sleep=self.sleep
        )

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def ask(self, call: Call) -> Answer:
        self.asked.append(self.now)
        return Answer(200, (), b"{}") if self.now >= self._free else Answer(429, self._fields, LIMITED)

    async def reply(self) -> Reply:
        return await self.asking.reply(Call({"model": "m"}, (), 0.0), 24 * HOUR)


async def test_a_wait_that_is_too_long_to_be_believed_is_seen_to_the_end_all_the_same() -> None:
    """A limit by the day; the time of the batch is what bounds it."""
    upstream = Upstream(str(HOUR), free=HOUR)
    reply = await upstream.reply()
    assert (reply.status, reply.calls) == (200, 1 + HOUR / LONGEST_BELIEVED)
    assert upstream.asked == [LONGEST_BELIEVED * number for number in range(reply.calls)]


@pytest.mark.parametrize(
    ("told", "calls"),
    [(None, MOST_ATTEMPTS), ("120", MOST_ATTEMPTS), ("90000", 1), ("Thu, 15 Jan 2099 08:00:00 GMT", 1)],
)
async def test_who_is_refused_again_and_again_or_for_too_long_is_told(told: str | None, calls: int) -> None:
    upstream = Upstream(told, free=30 * HOUR)
    reply = await upstream.reply()
    assert (reply.status, reply.body, reply.calls) == (429, LIMITED, calls)


async def test_another_is_asked_for_before_the_time_that_one_was_told() -> None:
    upstream = Upstream("90000", free=60)
    assert [(await upstream.reply()).status for _ in range(2)] == [429, 200]
    assert upstream.asked == [0, LONGEST_BELIEVED]
