"""Clients that end their side of the connection once they have asked, as `nc -N` does, and read on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from config import ending
from tests.fast.passing import connection_of, nothing_left, one_that_holds_little
from tests.fast.sides import server_of
from tests.support import PATIENCE, Client, Origin, Proxy, Turn, running_proxy, until

MUCH = b"0123456789abcdef" * 7 * 2**16
"""7 MiB: more than the kernel's buffers hold for `one_that_holds_little`, and stored."""
FIELDS = "Host: app.example\r\n"
HIT = f"GET /a HTTP/1.1\r\n{FIELDS}\r\n"
ASKED = {
    "plain": HIT,
    "parsed by aiohttp": f"GET http://app.example/a HTTP/1.1\r\n{FIELDS}\r\n",
    "HTTP/1.0": f"GET /a HTTP/1.0\r\n{FIELDS}\r\n",
    "one that names itself": f"GET /a HTTP/1.1\r\n{FIELDS}Connection: close\r\n\r\n",
    "a range": f"GET /a HTTP/1.1\r\n{FIELDS}Range: bytes=0-4000000\r\n\r\n",
}


@contextlib.asynccontextmanager
async def storing_much(origin: Origin) -> AsyncIterator[Proxy]:
    """A proxy without clients, that has stored /a."""
    origin.respond(MUCH, "Cache-Control: max-age=60")
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        assert (await proxy.get("/a")).content == MUCH
        await until(lambda: not (server_of(proxy).connections or proxy.worker.handler.fetches.running))
        yield proxy


async def half_closed(proxy: Proxy, data: str) -> Client:
    client = await one_that_holds_little(proxy)
    await client.send(data)
    client.writer.write_eof()
    return client


async def left_at(proxy: Proxy, client: Client) -> None:
    """The proxy closes the connection without another word."""
    assert await client.at_end()
    await until(lambda: not server_of(proxy).connections)
    await nothing_left(proxy)


@pytest.mark.parametrize("asked", ASKED)
async def test_what_is_stored_is_sent_whole(origin: Origin, asked: str) -> None:
    async with storing_much(origin) as proxy:
        client = await half_closed(proxy, ASKED[asked])
        # it does not read before the proxy knows that it sends no more
        await until(lambda: bool(server_of(proxy).connections) and connection_of(proxy).ended)
        answer = await client.response()
        assert answer.content == (MUCH[:4_000_001] if asked == "a range" else MUCH)
        await left_at(proxy, client)
    assert len(origin.requests) == 1


async def test_several_in_a_row_are_all_answered(origin: Origin) -> None:
    async with storing_much(origin) as proxy:
        client = await half_closed(proxy, ASKED["plain"] + ASKED["parsed by aiohttp"] + ASKED["plain"])
        answers = [await client.response() for _ in range(3)]
        assert [answer.content == MUCH for answer in answers] == [True] * 3
        assert [answer.get("connection") for answer in answers] == [None, None, "close"]
        await left_at(proxy, client)


@pytest.mark.parametrize("behind", ["GET /a HT", "\r\n", f"POST /b HTTP/1.1\r\n{FIELDS}Content-Length: 9\r\n\r\nhalf"])
@pytest.mark.parametrize("asked", ["plain", "parsed by aiohttp"])
async def test_what_is_not_whole_behind_it_is_not_waited_for(origin: Origin, asked: str, behind: str) -> None:
    async with storing_much(origin) as proxy:
        client = await half_closed(proxy, ASKED[asked] + behind)
        assert (await client.response()).content == MUCH
        await left_at(proxy, client)
    assert len(origin.requests) == 1


@pytest.mark.parametrize(
    "behind",
    [
        f"GET /b HTTP/1.1\r\n{FIELDS}\r\n",
        f"GET /b HTTP/1.1\r\n{FIELDS}Cache-Control: no-store\r\n\r\n",
        f"POST /b HTTP/1.1\r\n{FIELDS}Content-Length: 2\r\n\r\nhi",
        f"HEAD /b HTTP/1.1\r\n{FIELDS}\r\n",
    ],
)
async def test_the_origin_is_not_asked_for_who_has_ended_its_side(origin: Origin, behind: str) -> None:
    async with storing_much(origin) as proxy:
        client = await half_closed(proxy, HIT + behind)
        assert (await client.response()).content == MUCH
        await left_at(proxy, client)
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert len(origin.requests) == 1
    assert 'outcome="client-gone"' in metrics


@pytest.mark.parametrize("fields", ["", "Cache-Control: no-store\r\n"])
async def test_who_waits_for_the_origin_and_ends_its_side_has_left(origin: Origin, fields: str) -> None:
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        asked.set()
        assert await turn.reader.read(1) == b""

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send(f"GET /a HTTP/1.1\r\n{FIELDS}{fields}\r\n")
        await asked.wait()
        client.writer.write_eof()
        await left_at(proxy, client)


async def test_a_refusal_reaches_it(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await half_closed(proxy, f"GET /a HTTP/1.1\r\n{FIELDS}Host : b\r\n\r\n")
        assert (await client.response()).status == 400
        await left_at(proxy, client)


async def test_who_has_left_altogether_is_found_out(origin: Origin) -> None:
    async with storing_much(origin) as proxy:
        client = await one_that_holds_little(proxy)
        await client.send(HIT)
        await until(lambda: proxy.worker.handler.in_flight == 1)
        client.writer.transport.abort()
        await until(lambda: not server_of(proxy).connections)
        await nothing_left(proxy)


async def test_who_reads_nothing_is_cut(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "SEND_SECONDS", 0.1)
    async with storing_much(origin) as proxy:
        await half_closed(proxy, HIT)
        await until(lambda: bool(server_of(proxy).connections) and connection_of(proxy).ended)
        await until(lambda: not server_of(proxy).connections)
        await nothing_left(proxy)
