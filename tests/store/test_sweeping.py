"""What nobody will be given any more makes way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.policy.messages import Freshness, StoredResponse
from proxy.store import sweeping
from proxy.store.invalidations import Invalidations
from proxy.store.memory import MemoryStore
from proxy.store.sweeping import EVERY_SECONDS, KEPT_SECONDS, Sweeper
from tests.store.responses import stored


class World:
    """A store that is swept, and its clocks."""

    def __init__(self, *responses: StoredResponse) -> None:
        self.now = self.monotonic = 0.0
        self.store = MemoryStore(10_000_000)
        self.invalidations = Invalidations()
        for response in responses:
            assert self.store.put(response)
        self.sweeper = Sweeper(self.store, self.invalidations, lambda: self.now, lambda: self.monotonic)

    def sweep(self) -> list[str]:
        """Look at all; the keys that are left."""
        self.sweeper.sweep(self.store.keys())
        return sorted(self.store.keys())


def test_what_may_be_used_stays() -> None:
    world = World(stored("a"), stored("b"))
    world.invalidations.purge_uri("http://example.org/c")
    world.invalidations.purge_all(soft=True)
    assert world.sweep() == ["a", "b"]


def test_what_is_invalid_goes() -> None:
    world = World(stored("a"), stored("b", tags=("t",)), stored("c"), stored("later"))
    world.invalidations.purge_uri("http://example.org/a")
    world.invalidations.purge_tag("t")
    assert world.sweep() == ["c", "later"]
    world.invalidations.purge_prefix("http://example.org/l")
    assert world.sweep() == ["c"]
    world.invalidations.purge_all()
    assert world.sweep() == []
    assert (world.store.responses, world.store.bytes, world.store.evictions) == (0, 0, 0)


def test_of_one_key_only_the_variants_that_are_invalid_go() -> None:
    world = World(stored("a", variant="de"), replace(stored("a", variant="en"), epoch=1))
    world.invalidations.purge_all()
    assert world.sweep() == ["a"]
    assert [one.secondary_key for one in world.store.get("a")] == [(("accept-language", "en"),)]


def test_what_is_stale_stays_for_its_validator_and_then_goes() -> None:
    world = World(
        stored("a"), replace(stored("b"), freshness=Freshness(lifetime=60.0, stale_if_error=2 * KEPT_SECONDS))
    )
    world.now = 60.0 + KEPT_SECONDS
    assert world.sweep() == ["a", "b"]
    world.now += 1.0
    assert world.sweep() == ["b"]


def test_keys_that_are_gone_meanwhile_are_no_matter() -> None:
    world = World(stored("a"))
    world.sweeper.sweep(["gone", "a"])
    assert world.store.keys() == ["a"]


async def test_a_turn_is_due_after_an_invalidation_and_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "TURN_SECONDS", 0.0)
    world = World(stored("a"))
    assert not world.sweeper.due()
    world.invalidations.purge_uri("http://example.org/a")
    assert world.sweeper.due()
    await world.sweeper.turn()
    assert not world.sweeper.due()
    assert world.store.responses == 0
    world.monotonic = EVERY_SECONDS
    assert world.sweeper.due()
    await world.sweeper.turn()
    assert not world.sweeper.due()


async def test_others_go_on_between_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(sweeping, "PORTION", 2)
    world = World(*(stored(f"k{number}") for number in range(5)))
    world.invalidations.purge_all()
    left = []
    turn = asyncio.create_task(world.sweeper.turn())
    while not turn.done():
        await asyncio.sleep(0)
        left.append(world.store.responses)
    assert {3, 1, 0} <= set(left)


async def test_a_turn_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sweeping, "LOOK_SECONDS", 0.0)
    world = World(stored("a"))
    world.invalidations.purge_all()
    turns, again = 0, asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise RuntimeError("once")
        again.set()

    monkeypatch.setattr(world.sweeper, "turn", turn)
    running = asyncio.create_task(world.sweeper.run())
    async with asyncio.timeout(10):
        await again.wait()
    running.cancel()
    assert "a turn of the sweeper failed" in caplog.text
