"""How a client's connection ends: what was sent is taken first, and what is still being sent is read (RFC 9112 9.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from config.untaken import untaken
from proxy.server import exchange

LINGER_SECONDS = 30.0
"""The longest that is read what nobody looks at (nginx: lingering_time)."""
SILENT_SECONDS = 5.0
"""A client that sends nothing for as long has sent all (nginx: lingering_timeout)."""


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


class Parting:
    """A connection that is being closed: until the client has the rest, or is cut as `exchange.drained` cuts it."""

    __slots__ = ("_left", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._wait()

    def _wait(self) -> None:
        self._left = untaken(self._transport)
        self._timer = asyncio.get_running_loop().call_later(exchange.SEND_SECONDS, self._look)

    def _look(self) -> None:
        if untaken(self._transport) >= self._left:
            self._transport.abort()
        else:
            self._wait()

    def end(self) -> None:
        """The connection is closed."""
        self._timer.cancel()
