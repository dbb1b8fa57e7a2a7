"""What an answer says under its content coding: whole, in pieces, and within bounds."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading import decoding
from pool_monitor.grading.decoding import MOST_AT_ONCE_BYTES, MOST_DECODED_BYTES, Decoding, Seen, without_coding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "GZIP ": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
CODED = sorted(CODINGS.keys() - {"", "identity"})
EVENTS = (("Content-Type", "text/event-stream; charset=utf-8"),)


def in_pieces(content: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


@given(st.sampled_from(sorted(CODINGS)), st.binary(max_size=500), st.integers(1, 100))
def test_what_is_decoded_in_pieces_is_what_was_coded(coding: str, said: bytes, size: int) -> None:
    content, decoding = CODINGS[coding](said), Decoding(coding, 1000)
    assert b"".join(map(decoding.feed, in_pieces(content, size))) == said
    assert decoding.ended
    assert without_coding(content, coding) == said


@pytest.mark.parametrize("coding", CODED)
def test_what_broke_off_is_not_whole(coding: str) -> None:
    with pytest.raises(ValueError, match="broke off"):
        without_coding(CODINGS[coding](b"x" * 1000)[:-3], coding)


@pytest.mark.parametrize("coding", ["GZIP ", "deflate", "zstd"])
def test_parts_that_were_coded_one_after_the_other_are_one_content(coding: str) -> None:
    assert without_coding(CODINGS[coding](b"a") + CODINGS[coding](b"b"), coding) == b"ab"


@pytest.mark.parametrize("coding", CODED)
def test_a_little_that_says_much_is_not_read(coding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_DECODED_BYTES", MOST_DECODED_BYTES // 64)
    content = CODINGS[coding](bytes(2 * MOST_AT_ONCE_BYTES))
    with pytest.raises(ValueError, match="more than"):
        without_coding(content, coding)
    seen = Seen(10, (*EVENTS, ("Content-Encoding", coding)))
    seen.add(content)
    assert seen.content == b""


@given(
    st.sampled_from(sorted(CODINGS)),
    st.binary(min_size=1, max_size=500),
    st.integers(1, 100),
    st.integers(1, 600),
    st.booleans(),
)
def test_what_is_seen_is_all_or_of_events_the_end(coding: str, said: bytes, size: int, most: int, events: bool) -> None:
    fields = (*(EVENTS if events else ()), ("Content-Encoding", coding))
    seen, content = Seen(most, fields), CODINGS[coding](said)
    for piece in in_pieces(content, size):
        seen.add(piece)
    if events:
        assert (seen.coding, seen.content) == ("", said[-most:])
    else:
        assert (seen.coding, seen.content) == (coding, content if len(content) <= most else b"")


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "compress"])
def test_of_events_that_cannot_be_read_nothing_is_seen(coding: str) -> None:
    seen = Seen(1000, (*EVENTS, ("Content-Encoding", coding)))
    for _ in range(3):
        seen.add(b"data: {}")
    assert (seen.content, seen.coding) == (b"", "")
