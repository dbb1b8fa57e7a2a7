"""Runs that outlast their caller: with the same key, and the same content, it comes back to where they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pool_monitor.grading.batch import Run
from pool_monitor.grading.calls import CallersFault, UpstreamFault

MOST_RUNS = 16
"""At once that are not over."""
KEEP_SECONDS = 3600.0
"""After so long without a listener one is forgotten."""
KEEP_BYTES = 256 * 1024 * 1024
KEEP_COUNT = 1000
"""Of all kept ones; beyond that the oldest one that is over is forgotten first."""
BUSY_SECONDS = 5.0


@dataclass(slots=True)
class _Kept:
    run: Run
    digest: bytes
    timer: asyncio.TimerHandle | None = None


class Runs:
    """Every run, and those that are kept by key."""

    def __init__(self) -> None:
        self._runs: set[Run] = set()
        self._kept: dict[str, _Kept] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many are not over."""
        return sum(not run.over for run in self._runs)

    @contextmanager
    def joined(self, key: str | None, digest: bytes, begin: Callable[[], Run]) -> Iterator[tuple[Run, bool]]:
        """The run under `key`, or one that `begin` makes, and whether it was there before.

        None: a run that ends with its caller. Raises UpstreamFault: the key is another content's (422), or too many
        runs are not over (503).
        """
        kept = self._kept.get(key) if key is not None else None
        if kept is not None and kept.digest != digest:
            raise CallersFault(422, "idempotency_key_reused", "this Idempotency-Key was used with other content before")
        run = kept.run if kept is not None else self._begun(key, digest, begin)
        if key is not None:
            self._stop_timer(key)
        run.ask_failed_again()
        run.listeners += 1
        try:
            yield run, kept is not None
        finally:
            run.listeners -= 1
            self._left(key, run)

    def _begun(self, key: str | None, digest: bytes, begin: Callable[[], Run]) -> Run:
        if len(self) >= MOST_RUNS:
            raise UpstreamFault(
                503, "too_many_batches", f"{MOST_RUNS} batches are being asked already", retry_after=BUSY_SECONDS
            )
        run = begin()
        self._runs.add(run)
        if key is not None:
            self._kept[key] = _Kept(run, digest)
        return run

    def _left(self, key: str | None, run: Run) -> None:
        """One caller listens no more."""
        kept = self._kept.get(key) if key is not None else None
        if kept is None or kept.run is not run:
            if not run.listeners:
                self._end(run)
        elif not run.listeners:
            assert key is not None
            self._stop_timer(key)
            kept.timer = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._forget, key)
        self._shrink()

    def _stop_timer(self, key: str) -> None:
        timer = self._kept[key].timer
        if timer is not None:
            timer.cancel()

    def _shrink(self) -> None:
        """Forget what is more than may be kept."""
        while len(self._kept) > KEEP_COUNT or sum(one.run.bytes for one in self._kept.values()) > KEEP_BYTES:
            over = (key for key, one in self._kept.items() if one.run.over and not one.run.listeners)
            self._forget(next(over, next(iter(self._kept))))

    def _forget(self, key: str) -> None:
        self._stop_timer(key)
        run = self._kept.pop(key).run
        if not run.listeners:
            self._end(run)

    def _end(self, run: Run) -> None:
        self._runs.discard(run)
        if not run.over:
            task = asyncio.create_task(run.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End every run."""
        for key in list(self._kept):
            self._stop_timer(key)
        self._kept.clear()
        await asyncio.gather(*(run.close() for run in self._runs), *self._closing)
        self._runs.clear()
