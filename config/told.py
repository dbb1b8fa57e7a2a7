"""What was said in the log of one thing: each reason once, and again after the thing has worked."""

from __future__ import annotations

import math

SILENT_SECONDS = 60.0
"""What comes and goes all the time is said again after it was away for so long."""
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


class Episode:
    """Of something that comes and goes, as a lack of room does under a load that is just too much."""

    def __init__(self) -> None:
        self._over = -math.inf

    def begins(self, now: float) -> bool:
        """It is so now. Whether that is to be said: it was not so for `SILENT_SECONDS`. now -- monotonic, seconds."""
        begins, self._over = now >= self._over, now + SILENT_SECONDS
        return begins
