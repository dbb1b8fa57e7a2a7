"""Callers' connections; the only file that touches aiohttp's internals."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from config.untaken import untaken

SEND_SECONDS = 60.0
"""The longest a caller may take nothing of an answer (nginx: send_timeout)."""


class Caller(RequestHandler):
    """aiohttp's connection, which is cut where the caller takes nothing of what waits for it, whether somebody waits
    for that or the answer is over: its upstream, its memory and its descriptor would be held for good."""

    __slots__ = ("_connected", "_left", "_watch")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connected: asyncio.Transport
        self._left = 0
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._connected = cast("asyncio.Transport", transport)
        # of anything that the kernel does not take at once it is told
        self._connected.set_write_buffer_limits(0)

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self._end_watch()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self._end_watch()

    def _wait(self) -> None:
        self._left = untaken(self._connected)
        self._watch = self._loop.call_later(SEND_SECONDS, self._look)

    def _look(self) -> None:
        # where it is more, something small was written behind it, which is bounded, and tells nothing
        if untaken(self._connected) == self._left:
            self._connected.abort()
        else:
            self._wait()

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
