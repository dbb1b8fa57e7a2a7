"""The in-memory store against a model that never forgets, under whatever calls hypothesis thinks of."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.policy.messages import StoredResponse
from proxy.store.memory import GHOST_BYTES, KEY_BYTES, VARIANT_BYTES, MemoryStore
from proxy.store.weight import weigh
from tests.store.responses import stored

BUDGET = 24_000
MAX_VARIANTS = 3

keys = st.sampled_from([f"key-{number}" for number in range(12)])
variants = st.sampled_from([None, "de", "en", "fr", "it"])
sizes = st.sampled_from([0, 100, 1_000, 6_000, 20_000, 30_000])


class StoreAgainstModel(RuleBasedStateMachine):
    """`held` is what the store should have, evictions apart: those are taken over after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(BUDGET, MAX_VARIANTS)
        self.held: dict[str, list[StoredResponse]] = {}
        self.evictions = 0

    def kept(self, key: str) -> tuple[StoredResponse, ...]:
        """What the store has, without using it."""
        slot = self.store.find(key)
        return slot.variants if slot is not None else ()

    def accept_evictions(self) -> None:
        """Everything that is missing was evicted, and counted as such; nothing else changed."""
        missing = 0
        for key, expected in list(self.held.items()):
            kept = self.kept(key)
            missing += len(expected) - len(kept)
            assert list(kept) == [one for one in expected if one in kept]
            self.held[key] = list(kept)
        assert self.store.evictions - self.evictions == missing
        self.evictions = self.store.evictions

    @rule(key=keys, variant=variants, size=sizes)
    def put(self, key: str, variant: str | None, size: int) -> None:
        response = stored(key, variant=variant, size=size)
        fits = KEY_BYTES + VARIANT_BYTES + weigh(response) <= BUDGET
        others = [one for one in self.held.get(key, []) if one.secondary_key != response.secondary_key]
        self.held[key] = [*others, response] if fits else others
        assert self.store.put(response) is fits
        self.accept_evictions()
        if fits:
            assert self.kept(key)[-1] is response

    @rule(key=keys, times=st.integers(1, 3))
    def get(self, key: str, times: int) -> None:
        for _ in range(times):
            assert self.store.get(key) == tuple(self.held.get(key, []))

    @rule(key=keys, which=st.integers(0, 4))
    def remove(self, key: str, which: int) -> None:
        held = self.held.get(key, [])
        if held:
            self.store.remove(held.pop(which % len(held)))
        self.store.remove(stored(key))
        self.accept_evictions()

    @rule(key=keys, which=st.integers(0, 4), size=sizes, coding=st.sampled_from(["br", "gzip"]))
    def add_coding(self, key: str, which: int, size: int, coding: str) -> None:
        held = self.held.get(key, [])
        assert self.store.add_coding(stored(key), coding, b"") is False
        if held:
            response = held[which % len(held)]
            before = dict(response.codings)
            content = b"c" * size
            added = self.store.add_coding(response, coding, content)
            assert response.codings == ({**before, coding: content} if added else before)
            assert response in self.kept(key)
        self.accept_evictions()

    @invariant()
    def the_budget_holds(self) -> None:
        assert 0 <= self.store.bytes <= BUDGET

    @invariant()
    def bytes_are_what_is_held(self) -> None:
        slots = [*self.store._small, *self.store._main]
        weights = [KEY_BYTES + sum(VARIANT_BYTES + weigh(one) for one in slot.variants) for slot in slots]
        assert self.store.bytes == sum(weights) + GHOST_BYTES * len(self.store._ghosts)

    @invariant()
    def every_key_stands_in_one_queue(self) -> None:
        queues = (self.store._small, self.store._main)
        slots = [slot for queue in queues for slot in queue]
        assert sorted(slot.key for slot in slots) == sorted(self.store._slots)
        assert all(self.store._slots[slot.key] is slot for slot in slots)
        for queue in queues:
            assert len(queue) == len(list(queue))
            assert all(slot.queue is queue for slot in queue)

    @invariant()
    def variants_are_bounded_and_counted(self) -> None:
        assert all(len(self.kept(key)) <= MAX_VARIANTS for key in self.held)
        assert self.store.responses == sum(map(len, self.held.values()))


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
