"""S3-FIFO earns its place: more hits than plain FIFO for the same bytes, where a scan passes through."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate

from proxy.store.memory import KEY_BYTES, VARIANT_BYTES, MemoryStore
from proxy.store.weight import weigh
from tests.store.responses import stored

KEYS = 1500
REQUESTS = 12_000
SCAN_EVERY, SCAN_LENGTH = 1000, 150


def chance(number: int) -> float:
    """Between 0 and 1, and the same for ever."""
    return int.from_bytes(hashlib.blake2b(b"%d" % number, digest_size=8).digest(), "big") / 2**64


def trace() -> Iterator[str]:
    """Requests whose popularity follows Zipf's law, with runs of keys that nobody asks for again."""
    shares = list(accumulate(1 / rank**0.9 for rank in range(1, KEYS + 1)))
    for number in range(REQUESTS):
        yield f"popular-{bisect_right(shares, chance(number) * shares[-1]):06d}"
        if number % SCAN_EVERY == 0:
            yield from (f"scanned-{number + step:06d}" for step in range(SCAN_LENGTH))


def hits_of_s3_fifo(budget: int) -> int:
    store, hits = MemoryStore(budget), 0
    for key in trace():
        if store.get(key):
            hits += 1
        else:
            store.put(stored(key))
    assert store.bytes <= budget
    return hits


def hits_of_fifo(budget: int) -> int:
    queue: OrderedDict[str, int] = OrderedDict()
    size = hits = 0
    for key in trace():
        if key in queue:
            hits += 1
            continue
        queue[key] = KEY_BYTES + VARIANT_BYTES + weigh(stored(key))
        size += queue[key]
        while size > budget:
            size -= queue.popitem(last=False)[1]
    return hits


def test_s3_fifo_beats_fifo_where_a_scan_passes_through() -> None:
    tenth_of_the_keys = (KEY_BYTES + VARIANT_BYTES + weigh(stored("popular-000000"))) * KEYS // 10
    better, plain = hits_of_s3_fifo(tenth_of_the_keys), hits_of_fifo(tenth_of_the_keys)
    assert better > plain * 1.15
