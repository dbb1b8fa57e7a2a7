"""What was said in the log of one thing: each reason once, and again after the thing has worked."""

from __future__ import annotations

MOST_REASONS = 10
"""Further ones are not said: they tell nothing new of a thing that does not work."""


class Told:
    """See the module."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()

    def news(self, reason: str) -> bool:
        """Whether this is to be said now."""
        if reason in self._reasons or len(self._reasons) >= MOST_REASONS:
            return False
        self._reasons.add(reason)
        return True

    def works(self) -> bool:
        """The next fault is said, be it the same as the last. Whether something was said since it last worked."""
        said = bool(self._reasons)
        self._reasons.clear()
        return said
