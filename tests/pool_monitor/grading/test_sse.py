from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading import sse
from pool_monitor.grading.calls import UpstreamFault
from pool_monitor.grading.sse import DONE, Decoder, Event, event

STREAM = b'data: {"a":1}\n\n: a comment\n\nevent: x\r\ndata: {"b":\r\ndata:2}\r\n\r\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_however_they_arrive(cuts: list[int]) -> None:
    decoder, places = Decoder(), [0, *sorted(cuts), len(STREAM)]
    events = [one for begin, end in itertools.pairwise(places) for one in decoder.feed(STREAM[begin:end])]
    assert [one.data for one in events] == [b'{"a":1}', b"", b'{"b":\n2}', b"[DONE]"]
    assert [one.document for one in events] == [{"a": 1}, None, {"b": 2}, None]
    assert b"".join(one.raw for one in events) == STREAM
    assert decoder.rest() is None


def test_what_is_not_ended_is_the_rest() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: 1\n") == []
    assert decoder.rest() == Event(b"data: 1\n", b"1")


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = Decoder()
    decoder.feed(b"x" * 100)
    with pytest.raises(UpstreamFault, match="100 bytes"):
        decoder.feed(b"x")


def test_a_document_as_an_event() -> None:
    [one] = Decoder().feed(event({"é": [1]}))
    assert one.document == {"é": [1]}
    [done] = Decoder().feed(DONE)
    assert done.is_last
    assert not one.is_last
