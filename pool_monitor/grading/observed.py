"""What the grading wrapper tells of itself: one event a request, read by metrics and accounts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pool_monitor.grading.calls import Expansion, Left

CLIENT_GONE = "client-gone"
"""The caller left before there was anything to tell."""


class Found(StrEnum):
    """Where a chat completion's answer came from."""

    ASKED = "asked"
    COLLAPSED = "collapsed"
    HIT = "hit"
    SHARED = "shared"
    """kept by another replica"""


@dataclass(slots=True)
class Served:
    """A request under `/v1` that was answered. chat -- a chat completion. left -- why it was not made compact;
    expansion -- what became of it where it was. template -- whose prompt it has. status -- 0 when the caller left
    before."""

    chat: bool
    left: Left | None = None
    expansion: Expansion | None = None
    found: Found = Found.ASKED
    status: int = 0
    seconds: float = 0.0
    template: str | None = None

    @property
    def what(self) -> str:
        """What was done, as a label: how it was expanded, why it was not, or `other` for what is no completion."""
        if not self.chat:
            return "other"
        if self.expansion is not None:
            return self.expansion.value
        if self.left is not None:
            return self.left.value
        if self.found is not Found.ASKED:
            return "compact"
        return "failed" if self.status else CLIENT_GONE
