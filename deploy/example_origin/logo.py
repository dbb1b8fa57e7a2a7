"""The logo: a PNG made here, served as a file so that byte ranges, ETag and Last-Modified are aiohttp's own."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

WIDTH, HEIGHT = 200, 84
DRAWN = 1_756_713_600
"""The file's modification time, 2025-09-01, so that its validators outlive a restart."""
FILE = web.AppKey("FILE", Path)


async def logo(request: web.Request) -> web.StreamResponse:
    """A PNG of about 20 KB, fresh for an hour, with validators and byte ranges."""
    return web.FileResponse(request.app[FILE], headers={"Cache-Control": "public, max-age=3600"})


async def with_logo(app: web.Application) -> AsyncIterator[None]:
    """Keeps the file for as long as the application runs."""
    with tempfile.TemporaryDirectory(prefix="siding-origin-") as directory:
        path = Path(directory) / "logo.png"
        path.write_bytes(png())
        os.utime(path, (DRAWN, DRAWN))
        app[FILE] = path
        yield


def png() -> bytes:
    """The image's octets (PNG specification 5.3, 11.2): signature, header, pixels, end."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    # each row begins with its filter type, 0: none
    rows = b"".join(b"\0" + b"".join(_pixel(x, y) for x in range(WIDTH)) for y in range(HEIGHT))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pixel(x: int, y: int) -> bytes:
    """The main line, and a siding that leaves it and comes back, on grained ground."""
    siding = 58 - max(0, min(34, x - 32, 168 - x))
    if min(abs(y - 62), abs(y - siding)) < 3:
        return bytes((40, 44, 52))
    grain = (x * x * 31 + y * y * 17 + x * y * 7) % 13
    return bytes((220 + grain, 200 + y // 4, 160 + x // 8))
