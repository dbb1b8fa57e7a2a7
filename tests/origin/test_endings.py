"""The client's accounts after every way an exchange can end before its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import pytest

from proxy import errors
from proxy.origin import client as module
from proxy.origin.client import OriginResponse
from tests.origin.support import ask, at_rest, client_of, read_all
from tests.support import Origin, Turn, no_descriptor_left

# -- cancelled at every stage


async def test_cancelled_while_connecting(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        task = asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(client)


@pytest.mark.parametrize("sent", ["", "HTTP/1.1 200 OK\r\nContent-Le"])
async def test_cancelled_while_the_origin_thinks(origin: Origin, sent: str) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send(sent)
        asked.set()
        with contextlib.suppress(ConnectionError):
            await turn.reader.read(1)
        gone.set()

    origin.script = script
    async with client_of(origin.url) as client:
        task = asyncio.create_task(ask(client))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(client)
        assert client.idle == 0
        await gone.wait()


async def test_cancelled_while_reading(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")

    origin.script = script
    async with client_of(origin.url) as client:
        response = await ask(client)
        task = asyncio.create_task(read_all(response))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(client)
        assert client.idle == 0


async def test_settling_loses_nothing(origin: Origin) -> None:
    more = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await more.wait()
        await turn.send("five")

    origin.script = script
    async with client_of(origin.url) as client:
        response = await ask(client)
        assert await response.settle(100, 0.01) is None
        assert await response.settle(3, 1.0) is None
        more.set()
        assert await response.settle(100, 5.0) == b"hellofive"
        assert await response.read() == b""
        response.close()
        assert client.idle == 1


# -- silence


async def test_a_silent_origin_times_out(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.reader.read(1)

    origin.script = script
    async with client_of(origin.url, idle_timeout=0.05) as client:
        with pytest.raises(errors.OriginTimeout, match=r"0\.05 s"):
            await ask(client)
        assert at_rest(client)


async def test_silence_within_content_times_out(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await turn.reader.read(1)

    origin.script = script
    async with client_of(origin.url, idle_timeout=0.05) as client:
        with pytest.raises(errors.OriginTimeout):
            await read_all(await ask(client))


async def test_nobody_listening() -> None:
    server = await Origin().start()
    await server.stop()
    async with client_of(server.url) as client:
        with pytest.raises(errors.OriginRefused, match="refused"):
            await ask(client)
        assert at_rest(client)


async def test_a_name_that_does_not_exist(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of("http://nowhere.invalid:80") as client:
        with pytest.raises(errors.OriginRefused, match="host name cannot be resolved"):
            await ask(client)
    (told,) = caplog.messages
    assert told.startswith("cannot connect to the origin at nowhere.invalid:80: ")


async def test_an_origin_that_accepts_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address: tuple[str, int] = full.getsockname()
        for _ in range(4):
            # whom it has no room for hears nothing
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        async with client_of(f"http://127.0.0.1:{address[1]}", connect_timeout=0.1) as client:
            with pytest.raises(errors.OriginTimeout, match=r"accepted no connection within 0\.1 s"):
                await ask(client)
    (told,) = caplog.messages
    assert told.startswith(f"cannot connect to the origin at 127.0.0.1:{address[1]}: ")
    assert told.endswith("accepted no connection within 0.1 s")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_without_a_descriptor_it_is_not_the_origin_that_refuses(
    origin: Origin, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    async with client_of(f"http://{host}:{origin.port}") as client:
        with no_descriptor_left():
            for _ in range(2):
                with pytest.raises(errors.OutOfDescriptors):
                    await ask(client)
        assert at_rest(client)
        assert await read_all(await ask(client)) == b"hello"
    assert caplog.messages == ["Siding is out of file descriptors and cannot connect to the origin: raise their limit"]


@pytest.mark.parametrize(("again", "times"), [(60.0, 1), (0.0, 3)])
async def test_how_often_the_log_is_told_of_a_lasting_fault(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, again: float, times: int
) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", again)
    server = await Origin().start()
    await server.stop()
    async with client_of(server.url) as client:
        for _ in range(3):
            with pytest.raises(errors.OriginRefused):
                await ask(client)
    assert len(caplog.messages) == times


# -- the end


async def test_closing_fails_what_is_under_way(origin: Origin) -> None:
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        asked.set()
        await turn.reader.read(1)

    origin.script = script
    async with client_of(origin.url) as client:
        task = asyncio.create_task(ask(client, "POST"))
        await asked.wait()
        await client.close()
        with pytest.raises(errors.OriginReset):
            await task
        with pytest.raises(errors.OriginRefused, match="stopping"):
            await ask(client)


@pytest.mark.parametrize("use", [lambda response: response.read(), lambda response: response.settle(1, 1)])
async def test_a_closed_response_is_not_read(origin: Origin, use: Callable[[OriginResponse], object]) -> None:
    async with client_of(origin.url) as client:
        response = await ask(client)
        response.close()
        response.close()
        with pytest.raises(RuntimeError, match="closed"):
            await use(response)  # type: ignore[misc]
        assert at_rest(client)
