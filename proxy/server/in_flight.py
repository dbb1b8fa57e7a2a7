"""How many requests are on their way, or connections at their end."""

from __future__ import annotations

import asyncio
import contextlib

from proxy.policy.decisions import Outcome


class InFlight:
    """Counts them. For the event loop's thread.

    unfinished -- what became of one that ends without its answer.
    """

    def __init__(self) -> None:
        self.count = 0
        self.unfinished = Outcome.CLIENT_GONE
        self._none: asyncio.Event | None = None

    def enter(self) -> None:
        """One more is on its way."""
        self.count += 1

    def leave(self) -> None:
        """One has ended."""
        self.count -= 1
        if self._none is not None and not self.count:
            self._none.set()

    def cut(self) -> None:
        """Those that are left are ended here: it is not their clients who leave."""
        self.unfinished = Outcome.CUT

    async def ended(self, seconds: float) -> bool:
        """Wait until none is on its way; False when some still were after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # another may begin before this is woken
                while self.count:
                    self._none = asyncio.Event()
                    await self._none.wait()
        return not self.count
