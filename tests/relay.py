"""A TCP relay between a client and a server that a test makes slow, deaf, or untrue."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from config.listen import spare_port


class Relay:
    """What passes from the server is held back for `delay` seconds and goes through `spoil`; `stopped` holds all.

    connections -- how many there were; open -- how many there are; most -- of those at once.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.port = spare_port()
        self.delay = 0.0
        self.spoil: Callable[[bytes], bytes] = bytes
        self.connections = 0
        self.open = 0
        self.most = 0
        self._cuts = 0
        self._go = asyncio.Event()
        self._go.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        cuts = self._cuts
        try:
            await self._relay(reader, writer, task)
        finally:
            if cuts == self._cuts:
                self.open -= 1

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        self._writers.add(writer)
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._server_port)
        except (OSError, asyncio.CancelledError):
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)
            return
        self._writers.add(there)
        try:
            await asyncio.gather(self._pass(reader, there, back=False), self._pass(there_reader, writer, back=True))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for one in (writer, there):
                one.close()
                self._writers.discard(one)
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        while data := await reader.read(65536):
            await self._go.wait()
            if back:
                if self.delay:
                    await asyncio.sleep(self.delay)
                data = self.spoil(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    def stop(self) -> None:
        """Nothing passes any more."""
        self._go.clear()

    def go(self) -> None:
        """Everything passes again."""
        self._go.set()

    def cut(self) -> None:
        """End every connection that there is; from now on `most` counts anew."""
        self._cuts += 1
        self.open = self.most = 0
        for writer in self._writers:
            writer.transport.abort()

    async def away(self) -> None:
        """End every connection, and take no more."""
        assert self._server is not None
        self._server.close()
        self.cut()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.go()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def relayed(port: int) -> AsyncIterator[Relay]:
    """A relay to a local port."""
    relay = Relay(port)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.close()
