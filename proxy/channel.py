"""Calls between the parent and its workers: one JSON document a line over a socket pair.

{"id": 7, "call": "purge", "with": {...}}      ->  {"id": 7, "result": ...} or {"id": 7, "error": "..."}
{"tell": "invalidate", "with": [...]}           no answer
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import orjson

from config.tasks import end

log = logging.getLogger("siding.channel")

CALL_SECONDS = 5.0
MAX_LINE_BYTES = 64 * 1024 * 1024

Answer = Callable[[str, object], Awaitable[object]]


class ChannelError(Exception):
    """The other side is gone, did not answer in time, or refused; the message says which."""


class Channel:
    """Both ends are alike: each may call, tell and answer.

    answer -- called with the name and argument of what the other side asks. It runs in a task of its own.
    seconds -- how long a call waits for its answer.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.seconds = CALL_SECONDS
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._calls: dict[int, asyncio.Future[object]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._next = 0
        self.closed = asyncio.Event()

    async def open(self, sock: socket.socket) -> None:
        """Start reading from and writing to `sock`."""
        reader, self._writer = await asyncio.open_connection(sock=sock, limit=MAX_LINE_BYTES)
        self._reader_task = asyncio.create_task(self._read(reader))

    def call(self, name: str, argument: object = None) -> Coroutine[Any, Any, object]:
        """Ask at once; what is given waits for the answer, and raises ChannelError."""
        self._next += 1
        number, waiting = self._next, asyncio.get_running_loop().create_future()
        self._calls[number] = waiting
        try:
            self._send({"id": number, "call": name, "with": argument})
        except ChannelError as fault:
            waiting.set_exception(fault)
        return self._answered(number, name, waiting)

    async def _answered(self, number: int, name: str, waiting: asyncio.Future[object]) -> object:
        try:
            async with asyncio.timeout(self.seconds):
                return await waiting
        except TimeoutError:
            raise ChannelError(f"no answer to {name!r} within {self.seconds:.0f} s") from None
        finally:
            del self._calls[number]

    def tell(self, name: str, argument: object) -> None:
        """Say without waiting; silently nothing once the other side is gone."""
        with suppress(ChannelError):
            self._send({"tell": name, "with": argument})

    def _send(self, document: Mapping[str, object]) -> None:
        # uvloop has closed it before the reader knows, and raises RuntimeError
        if self._writer is None or self.closed.is_set() or self._writer.is_closing():
            raise ChannelError("the other side is gone")
        self._writer.write(orjson.dumps(document) + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(orjson.loads(line))
        except ConnectionError as fault:
            # the other side has ended, and what that means is told by who minds it
            log.debug("a channel between processes ended: %s", fault)
        except ValueError as fault:
            log.warning("a channel between processes broke: %s", fault)
        finally:
            self._end()

    def _end(self) -> None:
        self.closed.set()
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(ChannelError("the other side is gone"))

    def _take(self, document: dict[str, object]) -> None:
        if "call" in document or "tell" in document:
            task = asyncio.create_task(self._reply(document))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        waiting = self._calls.get(int(str(document["id"])))
        if waiting is None or waiting.done():
            return
        if "error" in document:
            waiting.set_exception(ChannelError(str(document["error"])))
        else:
            waiting.set_result(document["result"])

    async def _reply(self, document: dict[str, object]) -> None:
        name = str(document.get("call") or document["tell"])
        try:
            reply: dict[str, object] = {"result": await self._answer(name, document.get("with"))}
        except Exception as fault:
            log.exception("%r failed", name)
            reply = {"error": f"{type(fault).__name__}: {fault}"}
        if "call" in document:
            with suppress(ChannelError):
                self._send({"id": document["id"], **reply})

    async def close(self) -> None:
        """Stop; what still waits raises ChannelError."""
        await end([self._reader_task])
        # it may not even have begun
        self._end()
        if self._writer is not None:
            self._writer.close()
