"""How a connection ends: what was sent is taken first, and what is still being sent is read (RFC 9112 9.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from config.untaken import untaken

LINGER_SECONDS = 30.0
"""The longest that is read what nobody looks at (nginx: lingering_time)."""
SILENT_SECONDS = 5.0
"""A client that sends nothing for as long has sent all (nginx: lingering_timeout)."""
SEND_SECONDS = 60.0
"""The longest a client may take nothing of what it is sent (nginx: send_timeout)."""


class Lingering:
    """Sends the end of the stream and reads on, until the client has ended as well, is silent, or has had its time.

    Closing at once would have the kernel reset the connection, and the client lose answers that it has not read.
    heard -- to be set when something is received.
    """

    __slots__ = ("_close", "_end", "_loop", "_timer", "heard")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        """close -- called when it is over. Raises OSError where the connection has ended."""
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + LINGER_SECONDS
        self.heard = False
        transport.write_eof()
        transport.resume_reading()
        self._timer = self._loop.call_later(SILENT_SECONDS, self._look)

    def _look(self) -> None:
        if self.heard and self._loop.time() < self._end:
            self.heard = False
            self._timer = self._loop.call_later(SILENT_SECONDS, self._look)
        else:
            self._close()

    def end(self) -> None:
        """The connection is closed."""
        self._timer.cancel()


class Taking:
    """Cuts a connection whose client takes nothing for `SEND_SECONDS` of what waits for it."""

    __slots__ = ("_left", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._wait()

    def _wait(self) -> None:
        self._left = untaken(self._transport)
        self._timer = asyncio.get_running_loop().call_later(SEND_SECONDS, self._look)

    def _look(self) -> None:
        # where it is more, something small was written behind it, which is bounded, and tells nothing
        if untaken(self._transport) == self._left:
            self._transport.abort()
        else:
            self._wait()

    def end(self) -> None:
        """It has taken all, or the connection is closed."""
        self._timer.cancel()
