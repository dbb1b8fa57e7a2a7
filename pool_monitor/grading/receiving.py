"""What a caller sends, piece by piece or whole, or to be sent on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import ParamSpec, TypeVar

from aiohttp import hdrs, web

from config.told import Episode
from pool_monitor.grading.calls import CallersFault
from pool_monitor.grading.wire import PIECE_BYTES, in_pieces, length_of

log = logging.getLogger("siding.grading")

READ_SECONDS = 60.0
"""The longest pause of a caller who sends."""
TOGETHER = 4
"""Contents that are looked into may together have so many times the octets that one of them may."""


LARGE_BYTES = 256 * 1024
"""What is done to more is done beside the event loop."""
TIMES_SLOWER = 16
"""Than JSON is read is what goes from mark to mark in Python."""

Given = ParamSpec("Given")
Found = TypeVar("Found")


async def done_to(size: int, do: Callable[Given, Found], *given: Given.args, **more: Given.kwargs) -> Found:
    """What is done to content of that size, in a thread where it is large."""
    return await asyncio.to_thread(do, *given, **more) if size > LARGE_BYTES else do(*given, **more)


class Room:
    """Octets of contents that are looked into: not more than `most` together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._crowded = Episode()

    def take(self, octets: int) -> bool:
        """So many more are held; False where that is too much."""
        self.held += octets
        if self.held > self.most:
            if self._crowded.begins(time.monotonic()):
                log.warning(
                    "requests of %d bytes (%d times GRADING_MAX_REQUEST_BYTES) are on their way: others are forwarded "
                    "without looking into them",
                    self.most,
                    TOGETHER,
                )
            return False
        return True


class Share:
    """What one request has of a `Room`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._octets = 0

    def take(self, octets: int) -> bool:
        """See `Room.take`."""
        self._octets += octets
        return self._room.take(octets)

    def give(self) -> None:
        """Give all of it back."""
        self._room.held -= self._octets
        self._octets = 0


async def pieces_of(request: web.Request) -> AsyncGenerator[bytes, None]:
    """The content as it arrives. Raises UpstreamFault where the caller stops sending."""
    arriving = request.content.iter_any()
    while True:
        try:
            async with asyncio.timeout(READ_SECONDS):
                piece = await anext(arriving)
        except StopAsyncIteration:
            return
        except TimeoutError:
            message = f"nothing arrived for {READ_SECONDS:.0f} s"
            raise CallersFault(408, "request_timeout", message) from None
        yield piece


async def content_of(request: web.Request, most: int, share: Share | None = None) -> tuple[bytes, bool]:
    """The content, and whether there is more of it than `most` octets, or than there is room for; nothing of one whose
    length says so. Raises UpstreamFault where the caller stops sending."""
    if int(length_of(request.headers.get(hdrs.CONTENT_LENGTH, "0"))) > most:
        return b"", True
    more = False
    # tiny pieces would each take a hundred times their octets
    arrived: list[bytes] = []
    last, size = bytearray(), 0
    async with aclosing(pieces_of(request)) as pieces:
        async for piece in pieces:
            last += piece
            size += len(piece)
            if len(last) >= PIECE_BYTES:
                arrived.append(bytes(last))
                last.clear()
            if more := (share is not None and not share.take(len(piece))) or size > most:
                break
    return await done_to(size, b"".join, (*arrived, bytes(last))), more


def all_of(
    request: web.Request, begin: bytes = b"", sent: Callable[[], None] | None = None
) -> AsyncIterator[bytes] | None:
    """The content as it arrives, after what was read of it; None where there is none.

    sent -- called once what was read is on its way, and no longer held.
    """
    if not request.can_read_body and not begin:
        return None

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal begin
        async for piece in in_pieces(begin):
            yield piece
        begin = b""
        if sent is not None:
            sent()
        async for piece in request.content.iter_any():
            yield piece

    return pieces()
