"""Where connections come in, and may be let wait for a while."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from config.listen import BACKLOG

AGAIN_SECONDS = 1.0
"""After which it is tried again to accept, where there was no descriptor for that (asyncio: ACCEPT_RETRY_DELAY)."""


class Door:
    """Accepts connections on a listening socket, unless it is shut: who comes then waits in the kernel's queue.

    An event loop stops accepting only where it closes its socket, so it is given duplicates.
    """

    def __init__(self, make: Callable[[], asyncio.BaseProtocol], sock: socket.socket, at_once: int = 100) -> None:
        """make -- what serves a connection. at_once -- accepted in a turn of asyncio's loop; uvloop accepts one."""
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._sock = sock
        self._at_once = at_once
        self._is_open = False
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Accept from now on."""
        self._is_open = True
        await self._listen()

    async def _listen(self) -> None:
        duplicate = self._sock.dup()
        try:
            self._server = await self._loop.create_server(self._make, sock=duplicate, backlog=self._at_once)
        except OSError:
            duplicate.close()
            raise
        # to the loop the queue is as long as what it accepts at once
        self._sock.listen(BACKLOG)
        if not self._is_open:
            self._close_server()

    def shut(self, seconds: float) -> None:
        """Accept nobody for so long, unless `let_in` is called before."""
        self._stop()
        self._timer = self._loop.call_later(seconds, self.let_in)

    def let_in(self) -> None:
        """Accept again, where it is shut."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._is_open = True
        if self._opening is None or self._opening.done():
            self._opening = self._loop.create_task(self._listen_again())

    async def _listen_again(self) -> None:
        try:
            if self._is_open:
                await self._listen()
        except OSError:
            self.shut(AGAIN_SECONDS)

    def _stop(self) -> None:
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._close_server()

    def _close_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            for sock in server.sockets:
                self._loop.remove_reader(sock.fileno())
            # those whom asyncio has just accepted would be lost: each has a task, which has yet to begin
            self._loop.call_soon(self._loop.call_soon, server.close)

    async def close(self) -> None:
        """Accept nobody any more; who waits is reset."""
        self._stop()
        if self._opening is not None:
            # not cancelled: asyncio would go on with what it has begun
            await self._opening
            self._stop()
        # until the duplicates are closed, too
        for _ in range(3):
            await asyncio.sleep(0)
        self._sock.close()
