"""How a client's connection ends: in steps where it must, and known to the drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from config.ending import Lingering, Taking
from proxy.server.in_flight import InFlight


class Ending:
    """Of one connection.

    lingering -- it has been sent the end of the stream; what it still sends is read, and nobody looks at it.
    """

    __slots__ = ("_awaited", "_leaving", "_taking", "lingering")

    def __init__(self, leaving: InFlight) -> None:
        """leaving -- those for which a drain waits."""
        self._leaving = leaving
        self._awaited = False
        self._taking: Taking | None = None
        self.lingering: Lingering | None = None

    @property
    def has_begun(self) -> bool:
        """It is closed but for what the client is still sent, or still sends."""
        return self.lingering is not None or self._taking is not None

    def leave(self) -> None:
        """From now on a drain waits until it is over. Idempotent."""
        if not self._awaited:
            self._awaited = True
            self._leaving.enter()

    def linger(self, transport: asyncio.Transport, close: Callable[[], None]) -> bool:
        """See `Lingering`; False where the client has left."""
        try:
            self.lingering = Lingering(transport, close)
        except OSError:
            return False
        self.leave()
        return True

    def part_from(self, transport: asyncio.Transport | None) -> None:
        """It is being closed: the client takes what is left, or is cut."""
        # one with nothing left to send is closed at once
        if transport is not None and self._taking is None and transport.get_write_buffer_size():
            self.leave()
            self._taking = Taking(transport)

    def over(self) -> None:
        """It is closed."""
        if self._awaited:
            self._leaving.leave()
        if self.lingering is not None:
            self.lingering.end()
            self.lingering = None
        if self._taking is not None:
            self._taking.end()
