"""Pure: a template whose answers keep failing switches itself off, and is tried again later.

A failure is an answer that had to be asked for again: the caller was served, at the price of two. After `OFF_SECONDS`
one request in `TRY_EVERY` is tried; `TRIES` successes in a row switch it on again, a failure doubles the pause.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

WINDOW = 50
"""The last so many answers are looked at."""
LEAST = 10
SHARE = 0.2
"""Switched off when, of at least `LEAST`, so many failed."""
OFF_SECONDS = 300.0
MOST_OFF_SECONDS = 3600.0
TRIES = 5
TRY_EVERY = 10


class State(StrEnum):
    """How a template stands."""

    ON = "on"
    OFF = "off"
    TRYING = "trying"


@dataclass(slots=True)
class Health:
    """Of one template. Times are monotonic seconds."""

    state: State = State.ON
    until: float = 0.0
    _pause: float = OFF_SECONDS
    _failed: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _asked: int = 0
    _succeeded: int = 0

    @property
    def failures(self) -> int:
        """Of the last answers."""
        return sum(self._failed)

    @property
    def answers(self) -> int:
        """That are looked at: at most `WINDOW`."""
        return len(self._failed)

    def admits(self, now: float) -> bool:
        """Whether the next request may be asked in the compact form."""
        if self.state is State.OFF and now >= self.until:
            self.state = State.TRYING
            self._asked = self._succeeded = 0
        if self.state is State.TRYING:
            self._asked += 1
            return self._asked % TRY_EVERY == 1
        return self.state is State.ON

    def succeeded(self) -> bool:
        """An answer was expanded. True when that switches the template on again."""
        if self.state is State.TRYING:
            self._succeeded += 1
            if self._succeeded < TRIES:
                return False
            self.state, self._pause = State.ON, OFF_SECONDS
            self._failed.clear()
            return True
        self._failed.append(False)
        return False

    def failed(self, now: float) -> bool:
        """An answer had to be asked for again. True when that switches the template off."""
        if self.state is State.TRYING:
            self._pause = min(2 * self._pause, MOST_OFF_SECONDS)
            self._switch_off(now)
            return True
        self._failed.append(True)
        if self.state is State.ON and self.answers >= LEAST and self.failures > SHARE * self.answers:
            self._switch_off(now)
            return True
        return False

    def _switch_off(self, now: float) -> None:
        self.state, self.until = State.OFF, now + self._pause
        self._failed.clear()
