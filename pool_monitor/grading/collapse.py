"""Equal requests in flight share one answer, streamed ones too.

The asking belongs to the sharing, not to whoever came first: it goes on while anybody listens, and ends with the last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from config.tasks import end
from pool_monitor.grading.calls import Answer, Fields, OwnFault, UpstreamFault

log = logging.getLogger("siding.grading")

MAX_TOLD_BYTES = 64 * 1024 * 1024
"""A longer answer is not shared: whoever asked is told that it cannot be."""


class Telling:
    """An answer on its way, to any number of listeners, each from its beginning."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: Fields = ()
        self._pieces: list[bytes] = []
        self._size = 0
        self._fault: UpstreamFault | None = None
        self.ended = False
        self._news = asyncio.Event()

    @property
    def begun(self) -> bool:
        return self.status > 0

    @property
    def broken(self) -> bool:
        """Whether it ended in the middle, or before it began."""
        return self._fault is not None

    @property
    def content(self) -> bytes:
        """What has been told so far."""
        return b"".join(self._pieces)

    def begin(self, status: int, fields: Fields) -> None:
        self.status, self.fields = status, fields
        self._tell()

    def write(self, piece: bytes) -> None:
        """Raises UpstreamFault when it grows too large."""
        self._size += len(piece)
        if self._size > MAX_TOLD_BYTES:
            raise UpstreamFault(502, "upstream_answer_too_large", f"the answer has more than {MAX_TOLD_BYTES} bytes")
        if piece:
            self._pieces.append(piece)
            self._tell()

    def whole(self, answer: Answer) -> None:
        """Begin, say everything, and end."""
        self.status, self.fields = answer.status, answer.fields
        self._pieces.append(answer.content)
        self.end()

    def end(self) -> None:
        self.ended = True
        self._tell()

    def fail(self, fault: UpstreamFault) -> None:
        self._fault = fault
        self.end()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def head(self) -> tuple[int, Fields]:
        """Status and fields. Raises UpstreamFault where there are none."""
        while not self.begun and not self.ended:
            await self._news.wait()
        if not self.begun:
            raise self._fault or UpstreamFault(502, "upstream_no_answer", "the upstream gave no answer")
        return self.status, self.fields

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Everything, as it comes. Raises UpstreamFault where it breaks off."""
        told = 0
        while True:
            if told < len(self._pieces):
                # a listener that comes late, or is slow, gets all that is there at once
                fresh = self._pieces[told:]
                told = len(self._pieces)
                yield b"".join(fresh)
            elif self.ended:
                break
            else:
                await self._news.wait()
        if self._fault is not None:
            raise self._fault

    async def answer(self) -> Answer:
        """The whole of it. Raises UpstreamFault."""
        status, fields = await self.head()
        return Answer(status, fields, b"".join([piece async for piece in self.pieces()]))


Produce = Callable[[Telling], Awaitable[asyncio.Future[None] | None]]
"""Gives what is done with the answer behind its end, if anything."""


class _Asking:
    def __init__(self, produce: Produce) -> None:
        self.telling = Telling()
        self.listeners = 0
        self.behind: asyncio.Future[None] | None = None
        self.task = asyncio.create_task(self._run(produce))

    async def _run(self, produce: Produce) -> None:
        """Whatever happens, the listeners hear of it."""
        telling = self.telling
        try:
            self.behind = await produce(telling)
            telling.end()
        except UpstreamFault as fault:
            telling.fail(fault)
        except asyncio.CancelledError:
            telling.fail(_given_up())
            raise
        except Exception:
            log.exception("asking the grading upstream failed")
            telling.fail(OwnFault())


class Collapse:
    """Askings by key. They end when nobody listens any more."""

    def __init__(self) -> None:
        self._askings: dict[bytes, _Asking] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def behind(self, key: bytes | None) -> asyncio.Future[None] | None:
        """What is still done with the answer that has ended under `key`; None where one is on its way."""
        asking = self._askings.get(key) if key is not None else None
        return asking.behind if asking is not None else None

    @asynccontextmanager
    async def join(self, key: bytes | None, produce: Produce) -> AsyncIterator[tuple[Telling, bool]]:
        """Listen to the asking under `key`, which `produce` begins where none is on its way; None shares with nobody.

        Gives the answer on its way and whether another had begun it.
        """
        asking = self._askings.get(key) if key is not None else None
        collapsed = asking is not None and not asking.telling.ended
        if asking is None or not collapsed:
            asking = self._begin(key, produce)
        asking.listeners += 1
        try:
            yield asking.telling, collapsed
        finally:
            asking.listeners -= 1
            if not asking.listeners and not asking.task.done():
                self._forget(key, asking)
                asking.task.cancel()

    def _begin(self, key: bytes | None, produce: Produce) -> _Asking:
        asking = _Asking(produce)
        self._tasks.add(asking.task)
        if key is not None:
            self._askings[key] = asking

        def over(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if not asking.telling.ended:
                # it was cancelled before it began
                asking.telling.fail(_given_up())
            if asking.behind is None:
                self._forget(key, asking)
            else:
                asking.behind.add_done_callback(lambda _: self._forget(key, asking))

        asking.task.add_done_callback(over)
        return asking

    def _forget(self, key: bytes | None, asking: _Asking) -> None:
        if key is not None and self._askings.get(key) is asking:
            del self._askings[key]

    async def close(self) -> None:
        """End whatever is still asked."""
        await end(self._tasks)


def _given_up() -> UpstreamFault:
    return UpstreamFault(503, "shutting_down", "the request was given up here", retry_after=1)
