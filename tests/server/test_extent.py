"""What is counted to find a request's end, held to the parser that reads it."""

from __future__ import annotations

import asyncio

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.extent import Extent, Stage

HEAD = b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LIKELY = [b"2\r\nhi\r\n", b"5;x=y\r\nhello\r\n", b"0\r\n", b"0\r\n\r\n", b"A: b\r\n", b"A:\r\r\n", b" folded\r\n"]
PIECES = st.sampled_from(LIKELY) | st.sampled_from(b'01aF\r\n;=" \t:h\0\xff-x').map(lambda octet: bytes([octet]))
REFUSED = -1


def end_of(data: bytes) -> int | None:
    """How many octets of `data` the parser takes for content; REFUSED, or None where it wants more."""

    async def parse() -> int | None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        ((_, content),) = parser.feed_data(HEAD)[0]
        assert isinstance(content, StreamReader)
        for at in range(len(data)):
            try:
                parser.feed_data(data[at : at + 1])
            except HttpProcessingError:
                return REFUSED
            if content.exception() is not None:
                return REFUSED
            if content.is_eof():
                return at + 1
        return None

    return asyncio.run(parse())


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_chunks_end_where_the_parser_has_them_end(data: bytes) -> None:
    """For all that it takes; what it refuses ends the connection, wherever it was thought to end."""
    end = end_of(data)
    extent = Extent()
    assert extent.take(HEAD) == len(HEAD)
    extent.framed(None)
    taken = extent.take(data)
    if end is None:
        assert extent.stage not in {Stage.OVER, Stage.LOST}
    elif end != REFUSED:
        assert (taken, extent.stage) == (end, Stage.OVER)
