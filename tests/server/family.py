"""A worker's siblings as it sees them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from proxy.channel import Channel
from proxy.siblings import Siblings
from tests.support import Client


class Parent:
    """Takes what a worker tells; answers while `knows` is set."""

    def __init__(self) -> None:
        self.knows = asyncio.Event()
        self.knows.set()
        self.told: list[tuple[str, object]] = []
        self.says: object = None

    async def answer(self, name: str, argument: object) -> object:
        self.told.append((name, argument))
        await self.knows.wait()
        return self.says


@contextlib.asynccontextmanager
async def family() -> AsyncIterator[tuple[Parent, Siblings]]:
    """A parent, and what a worker of it tells by."""
    parent = Parent()
    far, near = Channel(parent.answer), Channel(parent.answer)
    ours, theirs = socket.socketpair()
    await far.open(ours)
    await near.open(theirs)
    try:
        yield parent, Siblings(near)
    finally:
        await near.close()
        await far.close()


async def started(client: Client) -> bool:
    """Whether anything of an answer has come; whatever has been written by now would be there."""
    await asyncio.sleep(0)
    return bool(client.reader._buffer)  # type: ignore[attr-defined]
