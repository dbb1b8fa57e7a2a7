"""Clients that still send when their connection is closed: they get what was sent to them, and an end, no reset."""

from __future__ import annotations

import asyncio
import errno

import pytest

from config import ending
from tests.fast.passing import connection_of
from tests.fast.sides import server_of
from tests.support import PATIENCE, Client, Origin, Turn, running_proxy, until

FIELDS = "Host: app.example\r\n"
MUCH = b"x" * 2**23
"""More than the kernel's buffers hold: somebody has to read it."""
LAST = {
    "malformed": ("GET /a HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "malformed behind another": (f"GET /a HTTP/1.1\r\n{FIELDS}\r\n?\r\n\r\n", 200),
    "too many fields": (f"GET /a HTTP/1.1\r\n{FIELDS}" + "A: b\r\n" * 300 + "\r\n", 431),
    "a target that is none": (f"GET a HTTP/1.1\r\n{FIELDS}\r\n", 400),
    "Connection: close": (f"GET /a HTTP/1.1\r\n{FIELDS}Connection: close\r\n\r\n", 200),
    "HTTP/1.0": (f"GET /a HTTP/1.0\r\n{FIELDS}\r\n", 200),
    "trailer fields": (
        f"POST /a HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n",
        200,
    ),
    "chunks that make no sense": (f"POST /a HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n?\r\n", 400),
    "content that is too long": (f"POST /a HTTP/1.1\r\n{FIELDS}Content-Length: {2**40}\r\n\r\n", 413),
}


async def end_of(client: Client) -> bytes:
    """What is received up to the end of the stream. Raises ConnectionError where it is no end."""
    async with asyncio.timeout(PATIENCE):
        return await client.reader.read()


async def send_for_ever(client: Client) -> None:
    while True:
        await client.send(b"x")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("last", LAST)
async def test_who_still_sends_is_not_reset(origin: Origin, last: str) -> None:
    sent, status = LAST[last]
    async with running_proxy(origin.url, max_request_bytes=2**20) as proxy:
        client = await proxy.connect()
        await client.send(sent.encode() + MUCH)
        response = await client.response()
        assert response.status == status
        rest = await end_of(client)
    assert rest.startswith(b"HTTP/1.1 501") == (last == "malformed behind another")


async def test_who_sends_trailer_fields_after_the_answer_is_not_reset(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("early")

    origin.script, origin.read_content = script, False
    head, end = LAST["trailer fields"][0].split("0\r\nA")
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send(head)
        assert (await client.response()).content == b"early"
        await client.send(f"0\r\nA{end}".encode() + MUCH)
        assert await end_of(client) == b""


async def test_who_has_an_early_answer_and_goes_on_sending_is_not_reset(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("early")

    origin.script, origin.read_content = script, False
    async with running_proxy(origin.url, max_request_bytes=2**30) as proxy:
        client = await proxy.connect()
        await until(lambda: bool(server_of(proxy).connections))
        # aiohttp reads what is left of the content for so long
        connection_of(proxy)._lingering_time = 0.05
        await client.send(f"POST /a HTTP/1.1\r\n{FIELDS}Content-Length: {2**29}\r\n\r\n")
        assert (await client.response()).content == b"early"
        sending = asyncio.create_task(send_for_ever(client))
        assert await end_of(client) == b""
        sending.cancel()
        await client.send(MUCH)


@pytest.mark.parametrize("last", LAST)
async def test_who_is_silent_is_not_waited_for_long(origin: Origin, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not close its side."""
    monkeypatch.setattr(ending, "SILENT_SECONDS", 0.05)
    async with running_proxy(origin.url, max_request_bytes=2**20) as proxy:
        client = await proxy.connect()
        await client.send(LAST[last][0] + "more")
        assert (await client.response()).status == LAST[last][1]
        await until(lambda: not server_of(proxy).connections)
        await end_of(client)


async def test_who_sends_for_ever_is_cut(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(ending, "LINGER_SECONDS", 0.2)
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send(LAST["malformed"][0])
        with pytest.raises(ConnectionError):
            await send_for_ever(client)


async def test_who_ends_its_side_is_not_waited_for(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left of what it sent before."""
    monkeypatch.setattr(ending, "SILENT_SECONDS", 1000.0)
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await until(lambda: bool(server_of(proxy).connections))
        connection = connection_of(proxy)
        # as much as a head may have, in two segments: both make no sense
        for _ in range(2):
            connection.data_received(b"?" * 2**16)
        assert (await client.response()).status == 501
        assert connection.ending.lingering is not None
        client.writer.write_eof()
        await until(lambda: not server_of(proxy).connections)


async def test_what_comes_after_the_answer_is_not_processed(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send(LAST["malformed"][0])
        assert (await client.response()).status == 400
        assert await end_of(client) == b""
        await client.send(f"GET /b HTTP/1.1\r\n{FIELDS}\r\n")
        await until(lambda: (held := connection_of(proxy).ending.lingering) is not None and held.heard)
        client.close()
        await until(lambda: not server_of(proxy).connections)
    assert origin.requests == []


async def test_the_end_of_the_proxy_waits_for_them_as_long_as_they_are_waited_for(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "SILENT_SECONDS", 0.05)
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send(LAST["malformed"][0])
        assert (await client.response()).status == 400
        sending = asyncio.create_task(send_for_ever(client))
        assert await end_of(client) == b""
        draining = asyncio.create_task(proxy.worker.drain())
        await until(lambda: (held := connection_of(proxy).ending.lingering) is not None and held.heard)
        assert not draining.done()
        sending.cancel()
        await draining


async def test_the_end_of_the_proxy_waits_for_them_no_longer_than_it_may(origin: Origin) -> None:
    async with running_proxy(origin.url, drain_seconds=0.05) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send(LAST["malformed"][0])
        assert (await client.response()).status == 400
        sending = asyncio.create_task(send_for_ever(client))
        await proxy.worker.drain()
        with pytest.raises(ConnectionError):
            await sending


async def test_a_client_that_has_left_is_none_to_wait_for(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await until(lambda: len(server_of(proxy).connections) == 1)
        monkeypatch.setattr(connection_of(proxy).transport, "write_eof", refuse)
        await client.send(LAST["malformed"][0])
        assert (await client.response()).status == 400
        await until(lambda: not server_of(proxy).connections)
    assert caplog.records == []


@pytest.mark.parametrize("length", [0, 200_000])
async def test_what_comes_at_the_very_end_of_a_drain_is_not_read(origin: Origin, length: int) -> None:
    """Not its head, which aiohttp no longer takes, and not its content as a head then."""
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await until(lambda: bool(server_of(proxy).connections))
        connection = connection_of(proxy)
        await until(lambda: connection._waiter is not None)
        ending = asyncio.create_task(connection.shutdown(1.0))
        await until(lambda: connection._force_close)
        await client.send(f"POST /a HTTP/1.1\r\n{FIELDS}Content-Length: {length}\r\n\r\n".encode() + b"x" * length)
        try:
            rest = await end_of(client)
        except ConnectionResetError:
            rest = b""
        await ending
    assert rest == b""
    assert origin.requests == []
