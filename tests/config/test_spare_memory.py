"""Freed memory goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
from pathlib import Path

import pytest

from config import spare_memory
from config.spare_memory import WORTH_BYTES, SpareMemory, resident, trimmer

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
    await spare.give_back()
    assert resident() < full - 2 * WORTH_BYTES
    assert len(kept) == -(-4 * WORTH_BYTES // PIECE // 20)


async def test_a_process_that_has_not_grown_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def trim(pad: int) -> int:
        asked.append(pad)
        return 1

    monkeypatch.setattr(spare_memory, "trimmer", lambda: trim)
    sizes = iter([100, 100 + WORTH_BYTES, 101 + WORTH_BYTES, 90, 90 + WORTH_BYTES])
    monkeypatch.setattr(spare_memory, "resident", lambda: next(sizes))
    spare = SpareMemory()
    await spare.give_back()
    assert asked == []
    await spare.give_back()
    assert asked == [0]
    # it has become smaller than it was at the start, from where growth counts now
    await spare.give_back()
    assert asked == [0]


async def test_it_is_done_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare_memory, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(spare_memory, "trimmer", lambda: int)
    spare, times, enough = SpareMemory(), 0, asyncio.Event()

    async def give_back() -> None:
        nonlocal times
        times += 1
        if times == 3:
            enough.set()

    monkeypatch.setattr(spare, "give_back", give_back)
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
