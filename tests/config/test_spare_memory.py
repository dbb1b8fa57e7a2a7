"""Freed memory goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
from pathlib import Path

import pytest

from config import spare_memory
from config.spare_memory import MOST_TURNS, WORTH_BYTES, SpareMemory, resident, trimmer

PIECE = 64 * 1024
"""Less than what glibc maps for itself, at which it would be given back at once."""


@pytest.mark.skipif(trimmer() is None, reason="a C library without malloc_trim(3)")
async def test_after_a_burst_memory_goes_back() -> None:
    spare = SpareMemory()
    # what is in use lies between what is freed, as in life
    pieces = [bytes(PIECE) for _ in range(4 * WORTH_BYTES // PIECE)]
    full = resident()
    kept = pieces[::20]
    del pieces
    await spare.look()
    assert resident() < full - 2 * WORTH_BYTES
    assert len(kept) == -(-4 * WORTH_BYTES // PIECE // 20)


class Process:
    """A process of a size of its own; asked, it shrinks to what it needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = self.needed = 100 * WORTH_BYTES
        self.asked = 0
        monkeypatch.setattr(spare_memory, "trimmer", lambda: self.trim)
        monkeypatch.setattr(spare_memory, "resident", lambda: self.taken)
        self.spare = SpareMemory()

    def trim(self, pad: int) -> int:
        assert pad == 0
        self.asked += 1
        self.taken = min(self.taken, self.needed)
        return 1

    async def minutes(self, number: int) -> int:
        """How often it was asked meanwhile."""
        before = self.asked
        for _ in range(number):
            await self.spare.look()
        return self.asked - before


async def test_one_that_has_nothing_to_give_is_asked_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch)
    assert [await process.minutes(number) for number in (1, 1, 1, 3, 1, 7, 1)] == [1, 0, 1, 0, 1, 0, 1]
    await process.minutes(1000)
    assert await process.minutes(10 * MOST_TURNS) == 10


async def test_one_that_has_grown_is_asked_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch)
    await process.minutes(1000)
    process.taken += WORTH_BYTES
    assert await process.minutes(1) == 0
    process.taken += 1
    assert await process.minutes(1) == 1
    # what it was given has not been needed since
    assert (process.taken, await process.minutes(1)) == (process.needed, 1)


async def test_what_is_freed_after_it_was_asked_is_given_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process does not look smaller when it frees something."""
    process = Process(monkeypatch)
    await process.minutes(1000)
    process.taken = process.needed = 120 * WORTH_BYTES
    assert await process.minutes(1) == 1
    process.needed = 100 * WORTH_BYTES
    assert await process.minutes(1) == 1
    assert process.taken == 100 * WORTH_BYTES


async def test_one_that_has_become_smaller_by_itself_has_grown_when_it_is_as_large_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process(monkeypatch)
    await process.minutes(1000)
    for taken, asked in ((98, 0), (100, 1)):
        process.taken = taken * WORTH_BYTES
        assert await process.minutes(1) == asked


async def test_it_is_done_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare_memory, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(spare_memory, "trimmer", lambda: int)
    spare, times, enough = SpareMemory(), 0, asyncio.Event()

    async def look() -> None:
        nonlocal times
        times += 1
        if times == 3:
            enough.set()

    monkeypatch.setattr(spare, "look", look)
    running = asyncio.create_task(spare.run())
    async with asyncio.timeout(10):
        await enough.wait()
    running.cancel()


@pytest.mark.parametrize("said", [None, "", "nonsense", "1 x 3"])
async def test_where_the_system_does_not_say_nothing_is_done(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statm = tmp_path / "statm"
    if said is not None:
        statm.write_text(said)
    monkeypatch.setattr(spare_memory, "STATM", statm)
    assert resident() == 0
    await SpareMemory().run()


async def test_a_c_library_without_the_call_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> object:
        return object()

    monkeypatch.setattr(ctypes, "CDLL", none)
    assert trimmer() is None
    await SpareMemory().run()
