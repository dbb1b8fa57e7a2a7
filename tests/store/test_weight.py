"""The weight of a stored response against what the interpreter really takes for it."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from proxy.policy.messages import Fields, Freshness, ResponseHead, StoredResponse
from proxy.store.memory import MemoryStore
from proxy.store.weight import block, weigh

RAW = [
    (b"Date", b"Sun, 05 Oct 2025 12:00:00 GMT"),
    (b"Content-Type", b"application/json; charset=utf-8"),
    (b"Cache-Control", b"public, max-age=60, stale-while-revalidate=30"),
    (b"ETag", b'"33a64df551425fcc55e4d42a148795d9f25f89d4"'),
    (b"Vary", b"Accept-Encoding"),
    (b"Set-Cookie", b"a=b; Path=/"),
    (b"Set-Cookie", b"c=d; Path=/"),
    (b"Strict-Transport-Security", b"max-age=15552000; includeSubDomains"),
    (b"Last-Modified", b"Sun, 05 Oct 2025 11:00:00 GMT"),
    (b"X-Title", "caf\xe9".encode("latin-1")),
    (b"Via", b"1.1 siding"),
]
NUMBER = 400


def as_received(number: int, size: int, fields: int) -> StoredResponse:
    """A response as it comes from a connection: every text its own, the index of the fields in use."""
    received = Fields.from_raw(RAW[:fields])
    assert "no-such-field" not in received
    return StoredResponse(
        key=f"3:GET28:http://example.org/reports/{number:04d}",
        uri=f"http://example.org/reports/{number:04d}",
        secondary_key=(("".join(["accept", "-language"]), f"de-{number:04d}"),),
        head=ResponseHead(300 + number, f"Status {number}", received),
        content=bytes(size),
        freshness=Freshness(0.5 + number, 60.5 + number, 30.5 + number, 600.5 + number),
        request_time=1e9 + number,
        response_time=1e9 + number + 0.5,
        epoch=10**6 + number,
        tags=(f"report-{number}", f"class-{number}"),
        origin_seconds=0.25 + number,
        codings={"br": bytes(size // 5)} if size else {},
    )


def filled(size: int, fields: int) -> tuple[int, int]:
    """What a store is filled with takes, as the store says, and as the interpreter does."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        store = MemoryStore(1 << 40)
        for number in range(NUMBER):
            store.put(as_received(number, size, fields))
        gc.collect()
        return store.bytes, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("fields", [3, len(RAW)])
@pytest.mark.parametrize("size", [0, 2_048, 20_000])
def test_the_store_counts_what_is_really_taken(size: int, fields: int) -> None:
    weigh(as_received(0, size, fields))
    # the interpreter's table of interned strings may grow meanwhile, by megabytes, though not twice in a row
    [(says, taken), (again, taken_again)] = [filled(size, fields) for _ in range(2)]
    assert says == again
    taken = min(taken, taken_again)
    assert taken <= says <= taken * 1.25


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 16), (16, 16), (17, 32), (512, 512), (513, 528), (520, 528), (521, 544), (131_072, 135_168)],
)
def test_blocks_are_what_allocators_give(size: int, expected: int) -> None:
    assert block(size) == expected


def test_everything_adds_weight() -> None:
    plain = as_received(0, 100, 2)
    weight = weigh(plain)
    plain.tags = (*plain.tags, "another")
    with_tag = weigh(plain)
    plain.codings = {**plain.codings, "gzip": bytes(1000)}
    assert weight < with_tag < weigh(plain) - 1000
