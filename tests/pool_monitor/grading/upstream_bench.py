"""An upstream client of ours before an origin, for the tests of what goes over the wire."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from pool_monitor.grading.asking import Ended, Retried
from pool_monitor.grading.calls import Call, Fields, Lane
from pool_monitor.grading.care import BreakerState
from pool_monitor.grading.limits import Limits
from pool_monitor.grading.upstream import Upstream
from tests.support import Origin, Script, Turn

SECRET = "Bearer sk-caller-secret"  # noqa: S105 - made up
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "naïve \\frac{1}{2}"}]}
MEGABYTE = 1024 * 1024
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nx-request-id: r\r\n\r\n"
)


class Seen:
    """What was observed."""

    def __init__(self) -> None:
        self.outcomes: list[Ended] = []
        self.forwards: list[Ended] = []
        self.retries: list[Retried] = []
        self.states: list[BreakerState] = []
        self.lanes: list[Lane] = []

    def waited(self, lane: Lane, seconds: float) -> None:
        self.lanes.append(lane)

    def asked(self, lane: Lane, how: Ended, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes.append(how)

    def forwarded(self, how: Ended, seconds: float) -> None:
        self.forwards.append(how)

    def retried(self, reason: Retried) -> None:
        self.retries.append(reason)

    def breaker(self, state: BreakerState) -> None:
        self.states.append(state)


LIMITS = Limits(capacity=8, connect_seconds=5.0, seconds=600.0, content_bytes=0)


class Clock:
    """Runs, and jumps over what is slept."""

    def __init__(self) -> None:
        self.jumped = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return time.monotonic() + self.jumped

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.jumped += seconds
        await asyncio.sleep(0)


class Bench:
    """An upstream client of ours, what it told, and the origin it asks."""

    def __init__(self, upstream: Upstream, origin: Origin, seen: Seen, clock: Clock) -> None:
        self.upstream = upstream
        self.origin = origin
        self.seen = seen
        self.clock = clock

    def call(self, *fields: tuple[str, str], seconds: float = 10, lane: Lane = Lane.CALLER, body: Any = None) -> Call:
        return Call(BODY if body is None else body, fields, self.clock() + seconds, lane)

    async def stream(self, call: Call) -> bytes:
        async with self.upstream.stream(call) as streamed, aclosing(streamed.pieces()) as pieces:
            return b"".join([piece async for piece in pieces])

    async def forward(
        self, method: str, path: str, *fields: tuple[str, str], content: Any = None
    ) -> tuple[int, Fields, bytes]:
        async with self.upstream.forward(method, path, fields, content) as answer, aclosing(answer.pieces()) as pieces:
            return answer.status, answer.fields, b"".join([piece async for piece in pieces])


@asynccontextmanager
async def running(
    origin: Origin, url: str | None = None, api_key: str | None = None, limits: Limits = LIMITS, **more: Any
) -> AsyncIterator[Bench]:
    seen, clock = Seen(), Clock()
    settings: dict[str, Any] = {"jitter": lambda: 0.0, "sleep": clock.sleep, **more}
    upstream = Upstream(url or f"{origin.url}/v1", api_key, limits, clock=clock, observe=seen, **settings)
    await upstream.start()
    try:
        yield Bench(upstream, origin, seen, clock)
    finally:
        await upstream.close()


def completion(origin: Origin, *fields: str, status: str = "200 OK", content: object = None) -> bytes:
    body = json.dumps({"id": "c1", "choices": []} if content is None else content).encode()
    origin.respond(body, "Content-Type: application/json", *fields, status=status)
    return body


def one_after_another(*answers: tuple[str, str, tuple[str, ...]]) -> Script:
    """Status, content and fields of each answer; the last one again and again."""
    left = list(answers)

    async def script(turn: Turn) -> None:
        status, content, fields = left.pop(0) if len(left) > 1 else left[0]
        await turn.answer(content, *fields, status=status)

    return script


async def cut(turn: Turn) -> None:
    turn.writer.close()


class Held:
    """A script that answers nothing, or a beginning, and tells when its connection ends."""

    def __init__(self, beginning: bytes = b"") -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self._beginning = beginning

    async def __call__(self, turn: Turn) -> None:
        if self._beginning:
            await turn.send(self._beginning)
        self.asked.set()
        assert await turn.reader.read(1) == b""
        self.left.set()
        turn.writer.close()


async def streaming(bench: Bench) -> None:
    await bench.stream(bench.call())


async def completing(bench: Bench) -> None:
    await bench.upstream.complete(bench.call())


async def forwarding(bench: Bench) -> None:
    await bench.forward("POST", "/embeddings", content=b"{}")
