"""What the pool monitor says: of the pool while it is asked, and of the tokens of gradings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import aiohttp

from config.tasks import end
from deploy.asking import Ask, Unreachable, Way, why
from deploy.check.criteria import Pool

GRADINGS = 10
"""As many as the plan's own test."""
SAMPLE_SECONDS = 0.05
COUNTED_TRIES = 50
HOMEWORK = "1. 7 + 5 = 12\n2. 9 - 4 = 6\n3. The capital of France is Paris\n4. Water boils at ____ degrees"
POOL = "/api/metrics/database-pool"


@dataclass(frozen=True, slots=True)
class _Sample:
    waiting: int
    active: int
    acquired: int
    wait_ms: float


async def _sample(monitor: Way) -> _Sample | None:
    document = await monitor.document(POOL)
    try:
        return _Sample(
            waiting=int(document["waitingCount"]),
            active=int(document["activeConnections"]),
            acquired=int(document["acquiredTotal"]),
            wait_ms=float(document["waitMs"]["p95"]),
        )
    except (TypeError, KeyError, ValueError):
        return None


@contextlib.asynccontextmanager
async def pool_watched(monitor: Way) -> AsyncIterator[Callable[[], Pool | None]]:
    """Samples of the pool while the block runs, and at its end; what they come to by calling what is given."""
    samples: list[_Sample] = []

    async def take() -> None:
        sample = await _sample(monitor)
        if sample is not None:
            samples.append(sample)

    async def watch() -> None:
        while True:
            await take()
            await asyncio.sleep(SAMPLE_SECONDS)

    await take()
    task = asyncio.create_task(watch())
    try:
        yield lambda: _most(samples)
        await take()
    finally:
        await end([task])


def _most(samples: Sequence[_Sample]) -> Pool | None:
    """The worst of each figure, and how many connections were asked for meanwhile."""
    if not samples:
        return None
    return Pool(
        waiting=max(one.waiting for one in samples),
        active=max(one.active for one in samples),
        wait_ms=samples[-1].wait_ms,
        acquired=samples[-1].acquired - samples[0].acquired,
    )


async def queries(monitor: Way, asks: Callable[[], Sequence[Ask]], clients: int, seconds: float) -> str:
    """Ask the monitor what `asks` gives, anew for each client and turn. Returns the first fault, if any."""
    until = time.monotonic() + seconds
    faults: list[str] = []

    async def client() -> None:
        while time.monotonic() < until and not faults:
            for ask in asks():
                try:
                    status = (await monitor.send(ask)).status
                    if status >= 400:
                        faults.append(f"{ask.name}: status {status}")
                except (aiohttp.ClientError, OSError, TimeoutError) as fault:
                    faults.append(f"{ask.name}: {why(fault)}")

    await asyncio.gather(*(client() for _ in range(clients)))
    return next(iter(faults), "")


@dataclass(frozen=True, slots=True)
class Graded:
    """Known prompts: how many requests, and their tokens as they came and as they were sent."""

    requests: int = 0
    before: int = 0
    after: int = 0


async def graded(monitor: Way) -> Graded:
    """All since the monitor started."""
    document = await monitor.document("/api/metrics/grading")
    try:
        prompt = document["estimated"]["prompt"]
        return Graded(int(document["requests"]), int(prompt["before"]), int(prompt["after"]))
    except (TypeError, KeyError, ValueError):
        return Graded()


async def grade(monitor: Way) -> Graded:
    """Grade homework through the monitor with the plan's prompt. Raises Unreachable."""
    # a second of imports, for those who grade
    import openai  # noqa: PLC0415

    from pool_monitor.grading.template_files import load_templates  # noqa: PLC0415

    [template, *_] = load_templates()
    key = os.environ.get("OPENAI_API_KEY", "").strip() or "siding-check"
    nonce, earlier = secrets.token_hex(6), await graded(monitor)
    async with openai.AsyncOpenAI(base_url=f"{monitor.url}/v1", api_key=key, max_retries=0) as client:

        async def one(number: int) -> None:
            await client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[
                    {"role": "system", "content": template.original},
                    {"role": "user", "content": f"Sheet {number} of {nonce}\n{HOMEWORK}"},
                ],
                response_format={"type": "json_object"},
            )

        try:
            await asyncio.gather(*map(one, range(GRADINGS)))
        except openai.OpenAIError as fault:
            raise Unreachable(f"{monitor.url}/v1 does not grade: {fault}") from fault
    return await _counted(monitor, earlier)


async def _counted(monitor: Way, earlier: Graded) -> Graded:
    """What came on top of `earlier`: tokens are counted behind the answers."""
    for _ in range(COUNTED_TRIES):
        later = await graded(monitor)
        if later.requests - earlier.requests >= GRADINGS:
            break
        await asyncio.sleep(0.2)
    return Graded(later.requests - earlier.requests, later.before - earlier.before, later.after - earlier.after)
