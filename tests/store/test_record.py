"""Stored responses as octets, and back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.bulletin import Standing
from proxy.policy.freshness import current_age
from proxy.policy.messages import Fields, Freshness, ResponseHead, StoredResponse
from proxy.store.record import DIGEST_BYTES, VERSION, as_of, packed, unpacked
from tests.store.responses import stored

AT = Standing("log", 1)
SECRET = b"s" * 40
octets = st.text(st.characters(max_codepoint=255), max_size=20)
seconds = st.floats(0, 1e6)


@st.composite
def responses(draw: st.DrawFn) -> StoredResponse:
    life = Freshness(
        initial_age=draw(seconds),
        lifetime=draw(seconds),
        stale_while_revalidate=draw(seconds),
        stale_if_error=draw(st.none() | seconds),
        must_revalidate=draw(st.booleans()),
        no_cache=draw(st.booleans()),
    )
    return StoredResponse(
        key=draw(octets),
        uri=draw(octets),
        secondary_key=tuple(draw(st.lists(st.tuples(octets, st.none() | octets), max_size=3))),
        head=ResponseHead(200, draw(octets), Fields(draw(st.lists(st.tuples(octets, octets), max_size=4)))),
        content=draw(st.binary(max_size=200)),
        freshness=life,
        request_time=1000.0,
        response_time=1001.0,
        epoch=7,
        tags=tuple(draw(st.lists(octets, max_size=3))),
        made_etag=draw(st.booleans()),
        origin_seconds=draw(seconds),
        codings={"gzip": b"not shared"},
    )


def values_of(one: StoredResponse) -> tuple[Any, ...]:
    life = one.freshness
    told = (life.lifetime, life.stale_while_revalidate, life.stale_if_error, life.must_revalidate, life.no_cache)
    head = (one.head.status, one.head.reason, one.head.fields.lines)
    return (one.key, one.uri, one.secondary_key, head, one.content, told, one.tags, one.made_etag, one.origin_seconds)


@given(responses(), seconds, seconds, st.floats(-1e5, 1e5))
def test_what_is_packed_comes_back(one: StoredResponse, waited: float, elapsed: float, skew: float) -> None:
    """Its age is what it was, and the time since, whatever the other machine's clock says."""
    now = one.response_time + waited
    record = unpacked(packed(one, now, Standing("log", 12), SECRET), one.key, SECRET)
    assert record is not None
    assert record.asked_at == Standing("log", 12)
    there = as_of(record, elapsed, now + skew, 99, stale=False)
    assert values_of(there) == values_of(one)
    assert (there.epoch, there.codings) == (99, {})
    age = current_age(one.freshness, one.response_time, now) + elapsed
    assert current_age(there.freshness, there.response_time, now + skew) == pytest.approx(age, abs=1e-3)


@given(responses(), st.data())
def test_one_changed_octet_is_no_response(one: StoredResponse, data: st.DataObject) -> None:
    record = packed(one, 1002.0, AT, SECRET)
    at = data.draw(st.integers(0, len(record) - 1))
    changed = record[:at] + bytes([record[at] ^ data.draw(st.integers(1, 255))]) + record[at + 1 :]
    assert unpacked(changed, one.key, SECRET) is None
    assert unpacked(record[:at], one.key, SECRET) is None


def test_another_key_another_secret_another_version() -> None:
    record = packed(stored("k"), 1.0, AT, SECRET)
    assert unpacked(record, "k", SECRET) is not None
    assert unpacked(record, "other", SECRET) is None
    assert unpacked(record, "k", b"other") is None
    assert unpacked(b"siding\x01" + record[len(VERSION) :], "k", SECRET) is None


@given(st.binary(max_size=100) | st.recursive(st.integers(-9, 9) | st.text(max_size=3), st.lists).map(orjson.dumps))
def test_without_a_secret_anybody_may_write_but_nothing_breaks(header: bytes) -> None:
    """The digest is right, what it is of is not."""
    import hashlib  # noqa: PLC0415 - for this alone

    rest = len(header).to_bytes(4, "big") + header
    digest = hashlib.blake2b(rest, digest_size=DIGEST_BYTES).digest()
    assert unpacked(VERSION + digest + rest, "k", b"") is None


def test_purged_softly_it_is_stale_from_now_on() -> None:
    record = unpacked(packed(stored(), 10.0, AT, b""), "k", b"")
    assert record is not None
    there = as_of(record, 5.0, 1000.0, 0, stale=True)
    assert there.freshness.lifetime == current_age(there.freshness, there.response_time, 1000.0) == 15.0


def test_a_clock_of_the_tier_that_was_set_back_makes_nothing_younger() -> None:
    record = unpacked(packed(stored(), 10.0, AT, b""), "k", b"")
    assert record is not None
    there = as_of(record, -100.0, 1000.0, 0, stale=False)
    assert current_age(there.freshness, there.response_time, 1000.0) == 10.0
