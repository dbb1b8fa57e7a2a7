"""Routes about the wire: content of any length, both ways, a piece at a time; what arrived exactly as it arrived."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator

from aiohttp import WSMsgType, web

from deploy.example_origin.answers import STATE, Refused, json_answer, number_in_query, pause
from deploy.example_origin.school import timestamp

MAX_INTERVAL = 600
MAX_COUNT = 1_000_000
MAX_DOWNLOAD = 2**40
PERIOD = 251
"""The downloaded content repeats 0, 1, .. 250: a prime, so that a shift by any power of two shows."""
BLOCK = bytes(range(PERIOD)) * 256


async def _ticks(request: web.Request, count: float, interval: float) -> AsyncIterator[int]:
    """1, 2, .. count, with `interval` seconds in between; ends early when the origin is stopping."""
    for number in itertools.count(1):
        if number > count or (number > 1 and not await pause(request, interval)):
            return
        yield number


async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events, one each ?interval= seconds (1), ?count= of them (without end)."""
    interval = number_in_query(request, "interval", 1, most=MAX_INTERVAL)
    count = number_in_query(request, "count", float("inf"), most=MAX_COUNT)
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await answer.prepare(request)
    async for number in _ticks(request, count, interval):
        data = json.dumps({"number": number, "at": timestamp(time.time())})
        await answer.write(f"id: {number}\nevent: tick\ndata: {data}\n\n".encode())
    return answer


async def stream(request: web.Request) -> web.StreamResponse:
    """NDJSON in chunks, ?count= lines (10), one each ?interval= seconds (0.2)."""
    interval = number_in_query(request, "interval", 0.2, most=MAX_INTERVAL)
    count = number_in_query(request, "count", 10, most=MAX_COUNT)
    answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await answer.prepare(request)
    async for number in _ticks(request, count, interval):
        await answer.write(f'{{"line":{number},"of":{count:.0f}}}\n'.encode())
    return answer


async def download(request: web.Request) -> web.StreamResponse:
    """?bytes= octets (1 MiB) with Content-Length, made as they are sent."""
    left = int(number_in_query(request, "bytes", 2**20, most=MAX_DOWNLOAD))
    answer = web.StreamResponse(headers={"Content-Type": "application/octet-stream", "Content-Length": str(left)})
    await answer.prepare(request)
    while left and request.method != "HEAD":
        await answer.write(BLOCK[:left])
        left -= min(left, len(BLOCK))
    return answer


async def upload(request: web.Request) -> web.StreamResponse:
    """Reads content of any length; answers its length and SHA-256."""
    length, digest = 0, hashlib.sha256()
    async for piece in request.content.iter_any():
        length += len(piece)
        digest.update(piece)
    return json_answer({"bytes": length, "sha256": digest.hexdigest()})


async def echo(request: web.Request) -> web.StreamResponse:
    """The content sent, back as it comes in, with the same type and framing."""
    answer = web.StreamResponse(headers={"Content-Type": request.headers.get("Content-Type", "text/plain")})
    answer.content_length = request.content_length
    await answer.prepare(request)
    async for piece in request.content.iter_any():
        await answer.write(piece)
    return answer


async def headers(request: web.Request) -> web.StreamResponse:
    """The request's fields as a list of [name, value]: in the order received, repeated ones apart, case kept."""
    return json_answer([[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers])


async def target(request: web.Request) -> web.StreamResponse:
    """The method and the request target as they were received, undecoded; octets as latin-1."""
    received = request.raw_path.encode("utf-8", "surrogateescape").decode("latin-1")
    return json_answer({"method": request.method, "target": received})


async def early_hints(request: web.Request) -> web.StreamResponse:
    """103 with a Link, then 200 (RFC 8297); only the 200 for a client of HTTP/1.0."""
    link = "</images/logo.png>; rel=preload; as=image"
    if request.version >= (1, 1) and request.transport is not None:
        # aiohttp has no interim responses of its own: at this point nothing of the final one is written
        request.transport.write(f"HTTP/1.1 103 Early Hints\r\nLink: {link}\r\n\r\n".encode())
    page = '<!doctype html><title>Early hints</title><img src="/images/logo.png" alt="a siding">'
    return web.Response(text=page, content_type="text/html", headers={"Link": link})


async def websocket(request: web.Request) -> web.StreamResponse:
    """A WebSocket that echoes text and binary messages; subprotocol `echo`."""
    answer = web.WebSocketResponse(protocols=("echo",))
    if not answer.can_prepare(request).ok:
        raise Refused(426, "this is a WebSocket", {"Upgrade": "websocket", "Connection": "Upgrade"})
    await answer.prepare(request)
    opened = request.app[STATE].websockets
    opened.add(answer)
    try:
        # a client that is gone before its echo is no fault of this side
        with contextlib.suppress(ConnectionError):
            async for message in answer:
                if message.type is WSMsgType.TEXT:
                    await answer.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await answer.send_bytes(message.data)
    finally:
        opened.discard(answer)
    return answer
