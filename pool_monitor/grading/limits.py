"""Bounds on what the wrapper is asked, and asks: they are an operator's."""

from __future__ import annotations

from dataclasses import dataclass

from pool_monitor.grading.turns import MOST_WAITING


@dataclass(frozen=True, slots=True)
class Limits:
    """capacity -- calls at once; more wait for their turn, `waiting` of them. connect_seconds -- for a connection.
    seconds -- the longest for one answer; while something is forwarded as it came, of silence. content_bytes -- of a
    completion that is looked into.
    """

    capacity: int
    connect_seconds: float
    seconds: float
    content_bytes: int
    waiting: int = MOST_WAITING
