"""What a caller sends: how much it says that it is, and the pieces as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from aiohttp import hdrs, web

from pool_monitor.grading.calls import UpstreamFault
from pool_monitor.grading.wire import length_of

READ_SECONDS = 60.0
"""The longest pause of a caller who sends."""


def announced(request: web.Request) -> int:
    """Octets of the content, as its length says; 0 where there is none."""
    return int(length_of(request.headers.get(hdrs.CONTENT_LENGTH, "0")))


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
