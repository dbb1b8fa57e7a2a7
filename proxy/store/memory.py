"""Stored responses in memory, within a budget of bytes, evicted by S3-FIFO.

S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023):

    new --> small, a tenth --used twice or more--> main, the rest: each use buys one more round
              | else                                 | no use left
              v                                      v
            ghost, a fingerprint only              gone
              |
              +--put again--> main

A hit bumps a counter that stops at 3: no lock and no reordering. What is asked for only once, a crawl or
a scan, leaves through the small queue and pushes nothing out that is in demand. Written here because no
well-kept library offers such an admission with a budget in bytes.

Laws: `bytes` <= `max_bytes` at all times; `bytes` is the sum of what is held, this module's own overhead
included; a response that was just put is there; no call waits or reads a clock.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator

from proxy.policy.messages import ResponseHead, StoredResponse
from proxy.policy.prepared import MOST, Prepared, chain_of, chained
from proxy.store.weight import weigh

MAX_VARIANTS = 32
"""Stored responses under one cache key. Vary on a field with many values would otherwise fill the store."""
SMALL_SHARE = 10
"""The small queue gets one part in this many of the budget."""
MAX_USES = 3
PROMOTING_USES = 2
MAX_LOOKS = 128
"""Keys that one call spares for their uses before it evicts whatever comes first: a bound on its duration."""

KEY_BYTES = 352
"""A `Slot`, its tuples and number, and its place in the hash table at its emptiest."""
VARIANT_BYTES = 48
"""A stored response's places in a slot, and its weight there."""
GHOST_BYTES = 176
"""A fingerprint, and its place in a set that has just grown."""
FINGERPRINT = (1 << 30) - 1
"""Bits of a key's hash that a ghost keeps; a collision only lets a key into main too early."""

_Held = list[tuple[StoredResponse, int]]
"""Stored responses with their weights (`VARIANT_BYTES` included), latest put last."""


class Slot:
    """What is held under one cache key, and its place in a queue. `weights` are those of `variants`, in the same order.

    form -- what was prepared of the only variant: what a hit looks at lies close together.
    """

    __slots__ = ("after", "before", "form", "key", "queue", "uses", "variants", "weight", "weights")

    def __init__(self, queue: _Queue) -> None:
        self.queue = queue
        self.before: Slot | None = None
        self.after: Slot | None = None
        self.key = ""
        self.variants: tuple[StoredResponse, ...] = ()
        self.weights: tuple[int, ...] = ()
        self.weight = 0
        self.uses = 0
        self.form: Prepared | None = None

    def use(self) -> None:
        """Count a use."""
        if self.uses < MAX_USES:
            self.uses += 1

    def held(self) -> _Held:
        return list(zip(self.variants, self.weights, strict=True))

    def hold(self, held: _Held) -> None:
        self.variants = tuple([stored for stored, _ in held])
        self.weights = tuple([weight for _, weight in held])
        self.weight = KEY_BYTES + sum(self.weights)
        self.form = self.variants[0].prepared if len(held) == 1 else None


class _Queue:
    """Slots, first in first out, with their weight. Linked, so that one can be taken out wherever it stands."""

    __slots__ = ("_first", "_last", "_length", "bytes")

    def __init__(self) -> None:
        self._first: Slot | None = None
        self._last: Slot | None = None
        self._length = 0
        self.bytes = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Slot]:
        slot = self._first
        while slot is not None:
            yield slot
            slot = slot.after

    def push(self, slot: Slot) -> None:
        slot.queue = self
        slot.before = self._last
        if self._last is None:
            self._first = slot
        else:
            self._last.after = slot
        self._last = slot
        self._length += 1
        self.bytes += slot.weight

    def take(self, slot: Slot) -> None:
        before, after = slot.before, slot.after
        if before is None:
            self._first = after
        else:
            before.after = after
        if after is None:
            self._last = before
        else:
            after.before = before
        slot.before = slot.after = None
        self._length -= 1
        self.bytes -= slot.weight

    def pop(self) -> Slot:
        slot = self._first
        assert slot is not None
        self.take(slot)
        return slot


class _Ghosts:
    """Fingerprints of keys lately evicted from the small queue, in two generations of bounded size."""

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: set[int] = set()
        self._old: set[int] = set()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, key: str, limit: int) -> None:
        """Remember `key`, and about `limit` keys in all."""
        if len(self._young) >= max(1, limit // 2):
            self._old = self._young
            self._young = set()
        self._young.add(hash(key) & FINGERPRINT)

    def take(self, key: str) -> bool:
        """Whether `key` was remembered; it is not any more."""
        fingerprint = hash(key) & FINGERPRINT
        for generation in (self._young, self._old):
            if fingerprint in generation:
                generation.discard(fingerprint)
                return True
        return False


class MemoryStore:
    """Stored responses by cache key, one for each secondary key (RFC 9111 4.1), in at most `max_bytes` bytes.

    It keeps and finds; whether a response may be used is decided in `proxy.policy`. For one thread.
    evictions -- how many responses were dropped for want of room since the start.
    """

    def __init__(self, max_bytes: int, max_variants: int = MAX_VARIANTS) -> None:
        self.max_bytes = max_bytes
        self.evictions = 0
        self.responses = 0
        self._max_variants = max_variants
        self._slots: dict[str, Slot] = {}
        self._small = _Queue()
        self._main = _Queue()
        self._ghosts = _Ghosts()

    def __repr__(self) -> str:
        return (
            f"<MemoryStore {self.responses} responses, {self.bytes} of {self.max_bytes} bytes, keys: "
            f"{len(self._small)} small, {len(self._main)} main, {len(self._ghosts)} ghosts>"
        )

    @property
    def bytes(self) -> int:
        """What is kept, in bytes of memory, all overhead counted."""
        return self._small.bytes + self._main.bytes + GHOST_BYTES * len(self._ghosts)

    def get(self, key: str) -> tuple[StoredResponse, ...]:
        """Every stored response under `key`, latest put last; counts as a use of all of them."""
        slot = self.find(key)
        if slot is None:
            return ()
        slot.use()
        return slot.variants

    def put(self, stored: StoredResponse) -> bool:
        """Keep `stored` in place of the one with an equal secondary key.

        False when it cannot fit; the one that it would have replaced is gone all the same: it has been superseded.
        A key that is written again goes to the end of its queue, with the uses it has.
        """
        pack(stored)
        slot = self._take_out(stored.key)
        held = [pair for pair in slot.held() if pair[0].secondary_key != stored.secondary_key]
        weight = VARIANT_BYTES + weigh(stored)
        fits = KEY_BYTES + weight <= self.max_bytes
        if fits:
            held.append((stored, weight))
            while len(held) > self._max_variants or KEY_BYTES + _weight(held) > self.max_bytes:
                del held[0]
                self.evictions += 1
        self._put_back(slot, held)
        return fits

    def remove(self, stored: StoredResponse) -> None:
        """Drop exactly this stored response, if it is still there."""
        if self._holds(stored):
            slot = self._take_out(stored.key)
            self._put_back(slot, [pair for pair in slot.held() if pair[0] is not stored])

    def add_coding(self, stored: StoredResponse, coding: str, content: builtins.bytes) -> bool:
        """Keep `content`, which is that of `stored` in `coding`, with it.

        False, and nothing is changed, when `stored` is no longer there or the two cannot fit.
        """
        if not self._holds(stored):
            return False
        slot = self._take_out(stored.key)
        before = slot.held()
        codings, stored.codings = stored.codings, {**stored.codings, coding: content}
        weight = VARIANT_BYTES + weigh(stored)
        held = [(each, weight if each is stored else its) for each, its in before]
        fits = KEY_BYTES + _weight(held) <= self.max_bytes
        if not fits:
            stored.codings, held = codings, before
        self._put_back(slot, held)
        return fits

    def add_prepared(self, stored: StoredResponse, form: Prepared) -> None:
        """Keep a prepared answer with `stored`, in place of one of the same shape; the oldest of too many is dropped.

        Nothing happens when `stored` is no longer there. To make room for it others may go, or all of it.
        """
        slot = self.find(stored.key)
        if slot is None or stored not in slot.variants:
            return
        before = slot.weight
        kept = [one for one in chain_of(stored.prepared) if one.shape != form.shape][: MOST - 1]
        stored.prepared = chained([form, *kept])
        held = slot.held()
        slot.hold([(each, VARIANT_BYTES + weigh(each) if each is stored else its) for each, its in held])
        slot.queue.bytes += slot.weight - before
        self._make_room(0)

    def keys(self) -> list[str]:
        """Under which something is held."""
        return list(self._slots)

    def find(self, key: str) -> Slot | None:
        """What is held under `key`, without counting it as a use."""
        return self._slots.get(key)

    def _holds(self, stored: StoredResponse) -> bool:
        slot = self.find(stored.key)
        return slot is not None and stored in slot.variants

    def _take_out(self, key: str) -> Slot:
        """The slot of `key`, no longer counted; a new one where there is none."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return Slot(self._main if self._ghosts.take(key) else self._small)
        slot.queue.take(slot)
        self.responses -= len(slot.variants)
        return slot

    def _put_back(self, slot: Slot, held: _Held) -> None:
        """Count `slot` again, now holding `held`, once there is room for it. An empty one is gone."""
        if not held:
            return
        slot.hold(held)
        self._make_room(slot.weight)
        # the latest response's own text, so that no other copy of the key stays alive unweighed
        slot.key = held[-1][0].key
        self._slots[slot.key] = slot
        slot.queue.push(slot)
        self.responses += len(held)

    def _make_room(self, weight: int) -> None:
        looks = MAX_LOOKS
        while self.bytes + weight > self.max_bytes:
            small_is_due = self._small.bytes * SMALL_SHARE > self.max_bytes or not self._main
            if self._small and small_is_due:
                spared = self._pop_small(spare=looks > 0)
            elif self._main:
                spared = self._pop_main(spare=looks > 0)
            else:
                self._ghosts = _Ghosts()
                return
            looks -= spared

    def _pop_small(self, *, spare: bool) -> bool:
        """Promote or evict what came first; True when it was promoted."""
        slot = self._small.pop()
        if spare and slot.uses >= PROMOTING_USES:
            slot.uses = 0
            self._main.push(slot)
            return True
        self._evicted(slot)
        self._ghosts.add(slot.key, len(self._small) + len(self._main))
        return False

    def _pop_main(self, *, spare: bool) -> bool:
        """Give what came first another round for one of its uses, or evict it; True when it stays."""
        slot = self._main.pop()
        if spare and slot.uses:
            slot.uses -= 1
            self._main.push(slot)
            return True
        self._evicted(slot)
        return False

    def _evicted(self, slot: Slot) -> None:
        del self._slots[slot.key]
        self.responses -= len(slot.variants)
        self.evictions += len(slot.variants)


def pack(stored: StoredResponse) -> None:
    """Have it take up little memory, as is worth it for what is kept."""
    head = stored.head
    stored.head = ResponseHead(head.status, sys.intern(head.reason), head.fields.packed())


def _weight(held: _Held) -> int:
    return sum([weight for _, weight in held])
