"""How late the event loop is: what every request of the process waits for while something else computes."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Histogram

EVERY_SECONDS = 0.25
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag:
    """Asks to be called four times a second, and counts on `registry` by how much later that happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "siding_event_loop_lag_seconds",
            "How much later than asked the event loop calls.",
            registry=registry,
            buckets=SECONDS,
        )
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, in a running event loop."""
        loop = asyncio.get_running_loop()
        self._ask(loop, loop.time() + EVERY_SECONDS)

    def _ask(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._next = loop.call_at(due, self._called, loop, due)

    def _called(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._seconds.observe(max(0.0, loop.time() - due))
        self._ask(loop, loop.time() + EVERY_SECONDS)

    def stop(self) -> None:
        """End."""
        if self._next is not None:
            self._next.cancel()
