"""Where a request ends, wherever the segments do."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.extent import Extent, Stage

HEAD = b"POST /a HTTP/1.1\r\nHost: a\r\n\r\n"


def follow(pieces: list[bytes], length: int | None, extent: Extent | None = None) -> tuple[int, Extent]:
    """How many octets the request takes of `pieces`, and what is known of it then."""
    extent = extent or Extent()
    taken = 0
    for piece in pieces:
        while piece:
            size = extent.take(piece)
            taken += size
            piece = piece[size:]
            if extent.stage is Stage.FRAMING:
                extent.framed(length)
            elif not size:
                return taken, extent
    return taken, extent


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(place, len(data)) for place in at), len(data)]
    return [data[begin:end] for begin, end in pairwise(bounds)]


@pytest.mark.parametrize("length", [0, 1, 5])
@pytest.mark.parametrize("width", [1, 2, 3, 1000])
def test_content_of_known_length(length: int, width: int) -> None:
    sent = HEAD + b"x" * length + HEAD
    taken, extent = follow([sent[at : at + width] for at in range(0, len(sent), width)], length)
    assert (taken, extent.stage, extent.trailers) == (len(HEAD) + length, Stage.OVER, False)


def test_nothing_is_taken_before_the_framing_is_known() -> None:
    extent = Extent()
    assert (extent.take(HEAD + b"x"), extent.take(b"x"), extent.stage) == (len(HEAD), 0, Stage.FRAMING)


CHUNKS = {
    "none": (b"0\r\n\r\n", False),
    "one": (b"5\r\nhello\r\n0\r\n\r\n", False),
    "in capitals, with zeros": (b"00A\r\n0123456789\r\n000\r\n\r\n", False),
    "what looks like ends": (b"c\r\n0\r\n\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", False),
    "extensions": (b'5;a=b;c="0\\\\"\r\nhello\r\n0;d\r\n\r\n', False),
    "trailer fields": (b"5\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n", True),
    "a trailer field of nothing": (b"0\r\n:\r\n\r\n", True),
}


@pytest.mark.parametrize("width", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("content", CHUNKS)
def test_chunks(content: str, width: int) -> None:
    chunks, trailers = CHUNKS[content]
    sent = HEAD + chunks + HEAD
    taken, extent = follow([sent[at : at + width] for at in range(0, len(sent), width)], None)
    assert (taken, extent.stage, extent.trailers) == (len(HEAD + chunks), Stage.OVER, trailers)


def test_zeros_in_front_of_a_size_are_not_gone_through_one_by_one() -> None:
    """A client may send them without end, and everybody waits meanwhile."""
    began = time.process_time()
    taken, extent = follow([HEAD, b"0" * 2**24 + b"1\r\nx\r\n"], None)
    assert time.process_time() - began < 1
    assert (taken, extent.stage) == (len(HEAD) + 2**24 + 6, Stage.SIZE)


class Searched(bytes):
    """Counts how often the end of a line is looked for."""

    times = 0

    def find(self, *given: Any) -> int:
        self.times += 1
        return super().find(*given)


@pytest.mark.parametrize(("chunk", "times"), [(b"1\r\nx\r\n", 0), (b"1;\r\nx\r\n", 1000)])
def test_short_chunks_are_not_gone_through_step_by_step(chunk: bytes, times: int) -> None:
    """A client may send its content an octet a chunk. Extensions, which nobody sends, are gone through."""
    sent = Searched(chunk * 1000)
    taken, _ = follow([HEAD, sent], None)
    assert (taken, sent.times) == (len(HEAD + sent), times)


@pytest.mark.parametrize("size", [b"", b" ", b"\r\n", b"x", b"-1", b"1" + b"0" * 16, b"f" * 16])
def test_what_has_no_size_has_no_end(size: bytes) -> None:
    sent = HEAD + size + b"\r\n0\r\n\r\n" + HEAD
    taken, extent = follow([sent], None)
    assert (taken, extent.stage) == (len(sent), Stage.LOST)


@given(
    contents=st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from([b"\r\n0\r\n\r\n", b"\n", b"0"]))),
    trailers=st.lists(st.sampled_from([b"A: b", b"C:", b"D: 0"]), max_size=2),
    at=st.lists(st.integers(0, 400), max_size=20),
    rest=st.sampled_from([b"", b"\r\n", HEAD, b"0\r\n\r\n"]),
)
def test_any_chunks_end_where_they_end(
    contents: list[bytes], trailers: list[bytes], at: list[int], rest: bytes
) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents)
    sent = HEAD + chunks + b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"
    taken, extent = follow(cut(sent + rest, at), None)
    assert (taken, extent.stage, extent.trailers) == (len(sent), Stage.OVER, bool(trailers))
    # and not one octet earlier
    assert follow([sent[:-1]], None)[1].stage is not Stage.OVER


@given(
    st.lists(
        st.sampled_from([b"0", b"1", b"2", b"a", b"F", b"\r\n", b"\r", b"\n", b";", b"x", b"1\r\nx\r\n", b"00000000"])
    ),
    st.binary(max_size=5),
)
def test_what_comes_at_once_is_what_comes_octet_by_octet(pieces: list[bytes], rest: bytes) -> None:
    """Whether it makes sense or not."""
    sent = HEAD + b"".join(pieces) + rest
    whole, extent = follow([sent], None)
    assert (whole, extent.stage, extent.trailers) == _as_told(follow(cut(sent, list(range(len(sent)))), None))


def _as_told(followed: tuple[int, Extent]) -> tuple[int, Stage, bool]:
    taken, extent = followed
    return taken, extent.stage, extent.trailers
