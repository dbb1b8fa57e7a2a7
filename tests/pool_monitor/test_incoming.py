"""What comes on a connection is counted, however it is cut, and ends it beyond its bounds."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.incoming import Incoming


class Behind(asyncio.Protocol):
    def __init__(self) -> None:
        self.came = b""

    def data_received(self, data: bytes) -> None:
        self.came += data


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.behind = Behind()
        self.aborted = 0

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.behind

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        self.aborted += 1


def message(kind: str, content: bytes = b"") -> bytes:
    return kind.encode() + (len(content) + 4).to_bytes(4) + content


ROWS = [message("D", b"\0\1" + b"x" * size) for size in (0, 7, 300)]
ANSWER = message("2") + b"".join(ROWS) + message("s") + message("Z", b"T")


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 6, 7, 100, 1000])
def test_rows_and_octets_are_counted_however_they_come(piece: int) -> None:
    transport = Transport()
    incoming = Incoming(transport)
    incoming.begin(len(ANSWER), len(ROWS))
    for at in range(0, len(ANSWER), piece):
        incoming.data_received(ANSWER[at : at + piece])
    assert (incoming.rows, incoming.octets) == (3, len(ANSWER))
    assert (transport.behind.came, transport.aborted) == (ANSWER, 0)


@pytest.mark.parametrize(("octets", "rows"), [(len(ANSWER) - 1, 3), (len(ANSWER), 2)])
@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_what_is_too_much_ends_the_connection(octets: int, rows: int, piece: int) -> None:
    transport = Transport()
    incoming = Incoming(transport)
    incoming.begin(octets, rows)
    for at in range(0, len(ANSWER), piece):
        incoming.data_received(ANSWER[at : at + piece])
    assert incoming.exceeded
    assert transport.aborted
    assert len(transport.behind.came) < len(ANSWER)


COMPLETE = b"".join(ROWS) + message("C", b"SELECT 3\0")


@pytest.mark.parametrize("piece", [1, 6, len(COMPLETE), 1000])
def test_each_statement_is_counted_for_itself(piece: int) -> None:
    transport = Transport()
    incoming = Incoming(transport)
    incoming.begin(len(COMPLETE), len(ROWS))
    for at in range(0, 3 * len(COMPLETE), piece):
        incoming.data_received((3 * COMPLETE)[at : at + piece])
    assert (transport.behind.came, incoming.rows) == (3 * COMPLETE, 0)


KINDS = st.sampled_from("DDDDCTENSAtZ123snHdcI")
"""Rows, ends of statements, and whatever else a server says: notices, errors, news, copies."""


@given(st.lists(st.tuples(KINDS, st.integers(0, 400)), min_size=1), st.lists(st.integers(1, 1000), min_size=1))
def test_any_messages_are_counted_however_they_are_cut(said: list[tuple[str, int]], cuts: list[int]) -> None:
    content = b"".join(message(kind, bytes([size % 256]) * size) for kind, size in said)
    rows = [part.count("D") for part in "".join(kind for kind, _ in said).split("C")]

    def after(most_rows: int) -> tuple[Incoming, Transport]:
        transport, at = Transport(), 0
        incoming = Incoming(transport)
        incoming.begin(len(content), most_rows)
        for cut in itertools.cycle(cuts):
            if at >= len(content):
                return incoming, transport
            incoming.data_received(content[at : at + cut])
            at += cut
        raise AssertionError

    incoming, transport = after(max(rows))
    assert (incoming.rows, transport.behind.came, transport.aborted) == (rows[-1], content, 0)
    if max(rows):
        incoming, transport = after(max(rows) - 1)
        assert incoming.exceeded
        assert content.startswith(transport.behind.came)
        assert transport.behind.came != content


def test_what_came_counts_though_its_end_came_with_it() -> None:
    incoming = Incoming(Transport())
    incoming.begin(len(COMPLETE), len(ROWS) - 1)
    incoming.data_received(COMPLETE)
    assert (incoming.exceeded, incoming.rows) == (True, len(ROWS))


def test_without_bounds_anything_may_come() -> None:
    transport = Transport()
    incoming = Incoming(transport)
    incoming.begin(1, 1)
    incoming.end()
    incoming.data_received(ANSWER)
    assert (transport.behind.came, incoming.exceeded) == (ANSWER, False)


@pytest.mark.parametrize("cut", range(1, 12))
def test_what_came_without_bounds_is_not_looked_into(cut: int) -> None:
    transport = Transport()
    incoming = Incoming(transport)
    incoming.begin(len(COMPLETE), len(ROWS))
    incoming.data_received(COMPLETE)
    incoming.end()
    # as when a statement was given up while its answer was on its way
    incoming.data_received(COMPLETE[:-cut])
    assert (incoming.octets, incoming.rows) == (0, 0)
    incoming.begin(len(ANSWER), len(ROWS))
    incoming.data_received(ANSWER)
    assert (incoming.octets, incoming.rows, transport.aborted) == (len(ANSWER), len(ROWS), 0)
