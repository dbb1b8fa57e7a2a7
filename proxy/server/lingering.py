"""The end of a connection whose client is still sending (RFC 9112 9.6)."""

from __future__ import annotations

import asyncio

LINGER_SECONDS = 30.0
"""The longest that is read what nobody looks at (nginx: lingering_time)."""
SILENT_SECONDS = 5.0
"""A client that sends nothing for as long has sent all (nginx: lingering_timeout)."""


class Lingering:
    """Sends the end of the stream, reads on, and closes once the client has, is silent, or has had its time.

    Closing at once would have the kernel reset the connection, and the client lose answers that it has not read.
    heard -- to be set when something is received.
    """

    __slots__ = ("_end", "_loop", "_timer", "_transport", "heard")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Begin. Raises OSError where the connection has ended."""
        self._transport = transport
        self._loop = loop
        self._end = loop.time() + LINGER_SECONDS
        self.heard = False
        transport.write_eof()
        transport.resume_reading()
        self._timer = loop.call_later(SILENT_SECONDS, self._look)

    def _look(self) -> None:
        if not self.heard or self._loop.time() >= self._end:
            self._transport.close()
            return
        self.heard = False
        self._timer = self._loop.call_later(SILENT_SECONDS, self._look)

    def end(self) -> None:
        """The connection is closed."""
        self._timer.cancel()
