"""What a caller sends, piece by piece or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import hdrs, web

from pool_monitor.grading.calls import UpstreamFault
from pool_monitor.grading.wire import length_of

READ_SECONDS = 60.0
"""The longest pause of a caller who sends."""


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
            raise UpstreamFault(408, "request_timeout", message, "invalid_request_error") from None
        yield piece


async def content_of(request: web.Request, most: int) -> tuple[bytes, bool]:
    """The content, and whether there is more of it than `most` octets; nothing of one whose length says so. Raises
    UpstreamFault where the caller stops sending."""
    if int(length_of(request.headers.get(hdrs.CONTENT_LENGTH, "0"))) > most:
        return b"", True
    content = bytearray()
    async with aclosing(pieces_of(request)) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > most:
                return bytes(content), True
    return bytes(content), False
