"""Connections that come while a door is shut, on both event loops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Self, cast

import pytest
import uvloop

from config import door
from config.door import Door
from config.listen import open_socket

LOOPS = pytest.mark.parametrize("loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Loop = Callable[[], asyncio.AbstractEventLoop] | None
FOR_EVER = 1000.0
AT_ONCE = 8


def run(loop: Loop, main: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await main

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(in_time())


class House:
    """Who comes in is sent an octet."""

    def __init__(self, sock: socket.socket) -> None:
        self.come = 0
        self.on_come: Callable[[], None] = lambda: None
        self.port = int(sock.getsockname()[1])
        self.door = Door(self._serve, sock, AT_ONCE)

    def _serve(self) -> asyncio.Protocol:
        house = self

        class Guest(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                house.come += 1
                cast("asyncio.Transport", transport).write(b"x")
                transport.close()
                house.on_come()

        return Guest()

    def knock(self) -> socket.socket:
        """A client, connected as far as the kernel goes."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setblocking(False)
        return client

    async def turns(self) -> None:
        """Time enough for who may come in."""
        for _ in range(20):
            await asyncio.sleep(0)


async def served(client: socket.socket) -> bytes:
    with client:
        return await asyncio.get_running_loop().sock_recv(client, 10)


@LOOPS
def test_who_comes_while_it_is_shut_waits(loop: Loop) -> None:
    async def main() -> None:
        house = House(open_socket("127.0.0.1", 0))
        await house.door.open()
        assert await served(house.knock()) == b"x"
        for _ in range(3):
            house.door.shut(FOR_EVER)
            await house.turns()
            waiting = [house.knock() for _ in range(3 * AT_ONCE)]
            come = house.come
            await house.turns()
            assert house.come == come
            house.door.let_in()
            assert {await served(one) for one in waiting} == {b"x"}
        house.door.shut(0)
        assert await served(house.knock()) == b"x"
        await house.door.close()
        with pytest.raises(ConnectionRefusedError):
            house.knock()

    run(loop, main())


@LOOPS
def test_who_has_been_accepted_as_it_is_shut_is_served(loop: Loop) -> None:
    """asyncio accepts several at once, and loses those whose server is closed in the same turn."""

    async def main() -> None:
        house = House(open_socket("127.0.0.1", 0))

        def shut() -> None:
            house.door.shut(FOR_EVER)
            asyncio.get_running_loop().call_soon(house.door.let_in)

        house.on_come = shut
        waiting = [house.knock() for _ in range(10 * AT_ONCE)]
        await house.door.open()
        assert {await served(one) for one in waiting} == {b"x"}
        await house.door.close()

    run(loop, main())


@LOOPS
def test_it_is_shut_again_before_it_has_opened(loop: Loop) -> None:
    async def main() -> None:
        house = House(open_socket("127.0.0.1", 0))
        await house.door.open()
        house.door.shut(FOR_EVER)
        await house.turns()
        house.door.let_in()
        house.door.shut(FOR_EVER)
        waiting = house.knock()
        await house.turns()
        assert house.come == 0
        house.door.let_in()
        assert await served(waiting) == b"x"
        house.door.shut(FOR_EVER)
        house.door.let_in()
        await house.door.close()

    run(loop, main())


class Poor(socket.socket):
    """Without a descriptor for a duplicate, for once."""

    left = 0

    def dup(self) -> Self:
        if not self.left:
            self.left = 2
            raise OSError("Too many open files")
        return super().dup()


@LOOPS
def test_where_there_is_no_descriptor_to_open_it_with_it_is_tried_again(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "AGAIN_SECONDS", 0.0)

    async def main() -> None:
        sock = Poor(fileno=open_socket("127.0.0.1", 0).detach())
        sock.left = 1
        house = House(sock)
        await house.door.open()
        sock.left = 0
        house.door.shut(FOR_EVER)
        house.door.let_in()
        assert await served(house.knock()) == b"x"
        assert sock.left == 2
        await house.door.close()

    run(loop, main())
