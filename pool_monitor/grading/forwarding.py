"""What is forwarded to the grading upstream octet for octet, and its answer back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import count
from urllib.parse import unquote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from pool_monitor.grading.asking import Ended, Observe, Retried, ended_by, ended_with
from pool_monitor.grading.calls import CallersFault, UpstreamFault
from pool_monitor.grading.wire import (
    PIECE_BYTES,
    Failure,
    Upload,
    as_text,
    end_to_end,
    failure_of,
    in_pieces,
    length_of,
    sendable,
)

Content = bytes | AsyncIterable[bytes] | None

_NOT_FORWARDED = frozenset({"expect", "host"})
"""Expect was answered by the server here."""


_BETWEEN_SEGMENTS = re.compile(r"[/\\]")


def leads_out(path: str) -> bool:
    """Whether it is above the base that it is appended to, as an upstream may decode it: our key is not for that."""
    depth = 0
    for segment in _BETWEEN_SEGMENTS.split(unquote(unquote(path.partition("?")[0]))):
        match segment.partition(";")[0]:
            case "" | ".":
                pass
            case "..":
                depth -= 1
            case _:
                depth += 1
        if depth < 0:
            return True
    return False


class Forwarded:
    """The answer to what was forwarded. fields -- as they came, without those for one hop.

    heard -- is given each piece as well; None where nobody listens. ended -- told how it ended: with None, or a fault.
    """

    def __init__(self, response: aiohttp.ClientResponse, ended: Callable[[BaseException | None], None]) -> None:
        self.status = response.status
        self.reason = sendable(response.reason or "")
        self.fields = end_to_end(as_text(response.raw_headers))
        self._content = response.content
        self._ended = ended
        self.heard: Callable[[bytes], None] | None = None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Octets as they come, encoded as they are. Raises UpstreamFault where they break off."""
        try:
            async for piece in self._content.iter_any():
                if self.heard is not None:
                    self.heard(piece)
                yield piece
        except (aiohttp.ClientError, TimeoutError) as fault:
            self._ended(fault)
            raise failure_of(fault).fault from None
        self._ended(None)


class Forwarding:
    """Forwards by a session of ours. All times in seconds.

    base -- of the API's URL. connect_seconds -- for a connection, and for making it again. silence -- the longest.
    heard -- told of every answer (None), and of what came instead of one. ended -- of how each ends, likewise.
    pause -- how long to wait before a connection that was refused is tried again: given how often it was, and the
    seconds left.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base: str,
        *,
        connect_seconds: float,
        silence: float,
        clock: Callable[[], float],
        observe: Observe,
        heard: Callable[[BaseException | None], None],
        ended: Callable[[BaseException | None], None],
        pause: Callable[[int, float], float | None],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._session = session
        self._base = URL(base, encoded=True)
        self._connect_seconds = connect_seconds
        self._silence = silence
        self._clock = clock
        self._observe = observe
        self._heard = heard
        self._ended = ended
        self._pause = pause
        self._sleep = sleep
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_seconds, sock_read=silence)

    @asynccontextmanager
    async def forward(
        self, method: str, path: str, fields: Iterable[tuple[str, str]], content: Content, *, trying: bool = False
    ) -> AsyncIterator[Forwarded]:
        """See Upstream.forward."""
        began = self._clock()
        outcome = Ended.LEFT
        response: aiohttp.ClientResponse | None = None
        try:
            sent = CIMultiDict((name, sendable(value)) for name, value in end_to_end(fields, _NOT_FORWARDED))
            if isinstance(content, bytes):
                sent["Content-Length"] = str(len(content))
            elif "Content-Length" in sent:
                sent["Content-Length"] = length_of(sent["Content-Length"])
            response = await self._answered(method, self._url_of(path), sent, content)
            yield Forwarded(response, self._ended)
            outcome = ended_with(response.status, trying=trying)
        except UpstreamFault as fault:
            outcome = ended_by(fault)
            raise
        finally:
            if response is not None:
                response.close()
            self._observe.forwarded(outcome, self._clock() - began)

    def _url_of(self, path: str) -> URL:
        if (path and path[0] not in "/?") or leads_out(path):
            raise CallersFault(404, "unknown_url", "there is no such path below /v1")
        if "#" in path:
            raise CallersFault(400, "invalid_url", "a request's target has no fragment")
        # as a path it keeps the mark of a query that is empty
        return self._base.with_path(self._base.raw_path.rstrip("/") + path, encoded=True)

    async def _answered(
        self, method: str, url: URL, fields: CIMultiDict[str], content: Content
    ) -> aiohttp.ClientResponse:
        until = self._clock() + self._connect_seconds
        for attempt in count():
            answered = await self._send(method, url, fields, content)
            if not isinstance(answered, Failure):
                return answered
            pause = self._pause(attempt, until - self._clock()) if answered.never_sent else None
            if pause is None:
                raise answered.fault
            self._observe.retried(Retried.NEVER_SENT)
            await self._sleep(pause)
        raise AssertionError

    async def _send(
        self, method: str, url: URL, fields: CIMultiDict[str], content: Content
    ) -> aiohttp.ClientResponse | Failure:
        upload: Upload | None = None
        try:
            async with asyncio.timeout(self._connect_seconds + self._silence) as watch:
                if content is not None and (not isinstance(content, bytes) or len(content) > PIECE_BYTES):
                    pieces = in_pieces(content) if isinstance(content, bytes) else content
                    upload = Upload(pieces, watch, self._silence)
                try:
                    response = await self._session.request(
                        method,
                        url,
                        headers=fields,
                        data=content or None if upload is None else upload,
                        allow_redirects=False,
                        timeout=self._timeout,
                    )
                finally:
                    if upload is not None:
                        upload.watched = False
        except (aiohttp.ClientError, TimeoutError) as fault:
            if upload is not None and upload.fault is not None:
                raise upload.fault from None
            self._heard(fault)
            return failure_of(fault)
        self._heard(None)
        return response
