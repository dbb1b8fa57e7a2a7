"""Collapsed requests: who waits for whom, and what happens when somebody leaves."""

from __future__ import annotations

import asyncio

import pytest

from proxy.origin import fetch as fetches
from tests.fast.passing import nothing_left
from tests.support import PATIENCE, Client, Gate, Message, Origin, Proxy, Turn, gather, running_proxy, until

FRESH = "Cache-Control: max-age=60"


async def test_a_hundred_clients_are_one_fetch(origin: Origin) -> None:
    gate = Gate(origin, FRESH)
    async with running_proxy(origin.url) as proxy:
        clients = [asyncio.create_task(proxy.get("/a")) for _ in range(100)]
        await until(lambda: proxy.worker.handler.in_flight == 100)
        gate.open.set()
        answers = await gather(*clients)
    assert {answer.content for answer in answers} == {b"one"}
    assert len(origin.requests) == 1
    assert sum("collapsed" in (answer.get("cache-status") or "") for answer in answers) == 99


async def test_the_first_client_may_leave_without_failing_the_others(origin: Origin) -> None:
    gate = Gate(origin, FRESH)
    async with running_proxy(origin.url) as proxy:
        first = await proxy.connect()
        await first.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await gate.asked()
        others = [asyncio.create_task(proxy.get("/a")) for _ in range(5)]
        await until(lambda: proxy.worker.handler.in_flight == 6)
        first.writer.transport.abort()
        await until(lambda: proxy.worker.handler.in_flight == 5)
        gate.open.set()
        answers = await gather(*others)
    assert {answer.content for answer in answers} == {b"one"}
    assert len(origin.requests) == 1


async def test_when_everybody_leaves_the_origin_is_let_go(origin: Origin) -> None:
    gone = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.reader.read(1)
        gone.set()

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await until(lambda: len(origin.requests) == 1)
        client.writer.transport.abort()
        async with asyncio.timeout(5):
            await gone.wait()


@pytest.mark.parametrize("fields", [[], ["Cache-Control: private"], ["Cache-Control: max-age=60", "Set-Cookie: a=b"]])
async def test_an_unshareable_answer_releases_everybody_at_once(origin: Origin, fields: list[str]) -> None:
    first_asked, go = asyncio.Event(), asyncio.Event()
    together = asyncio.Barrier(10)

    async def script(turn: Turn) -> None:
        if len(origin.requests) == 1:
            first_asked.set()
            await go.wait()
        else:
            # only requests that are at the origin at the same time get past this
            await together.wait()
        await turn.answer(str(len(origin.requests)), *fields)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        clients = [asyncio.create_task(proxy.get("/a")) for _ in range(11)]
        await first_asked.wait()
        await until(lambda: proxy.worker.handler.in_flight == 11)
        go.set()
        answers = await gather(*clients)
        assert len(origin.requests) == 11
        assert all(answer.status == 200 for answer in answers)
        # remembered: now nobody waits for anybody
        together = asyncio.Barrier(10)
        await gather(*(proxy.get("/a") for _ in range(10)))


async def test_a_shareable_answer_ends_the_memory_of_unshareable_ones(origin: Origin) -> None:
    origin.respond("mine", "Cache-Control: private")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        origin.respond("ours", "Cache-Control: max-age=1")
        await proxy.get("/a")
        proxy.clock.now += 5
        before = len(origin.requests)
        gate = Gate(origin, FRESH)
        clients = [asyncio.create_task(proxy.get("/a")) for _ in range(10)]
        await until(lambda: proxy.worker.handler.in_flight == 10)
        gate.open.set()
        await gather(*clients)
    assert len(origin.requests) == before + 1


async def test_followers_stream_what_is_still_arriving(origin: Origin) -> None:
    half_sent, go = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        half_sent.set()
        await go.wait()
        await turn.send("6\r\n world\r\n0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        clients = [await proxy.connect() for _ in range(3)]
        for client in clients:
            await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await half_sent.wait()
        for client in clients:
            await client.head()
            assert await client.reader.readuntil(b"hello\r\n") == b"5\r\nhello\r\n"
        go.set()
        for client in clients:
            assert await client.reader.readuntil(b"0\r\n\r\n") == b"6\r\n world\r\n0\r\n\r\n"
        stored = await proxy.get("/a")
    assert stored.content == b"hello world"
    assert len(origin.requests) == 1


async def test_a_truncated_answer_is_cut_for_everybody_and_not_stored(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nContent-Length: 100000\r\n\r\nonly this")
        turn.writer.close()

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for _ in range(2):
            client = await proxy.connect()
            await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
            assert (await client.head()).get("content-length") == "100000"
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await client.reader.readexactly(100_000)
    assert len(origin.requests) == 2


async def test_the_origins_failure_is_everybodys(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await go.wait()
        turn.writer.transport.abort()

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        clients = [asyncio.create_task(proxy.get("/a")) for _ in range(10)]
        await until(lambda: proxy.worker.handler.in_flight == 10)
        go.set()
        answers = await gather(*clients)
    assert {answer.status for answer in answers} == {502}
    assert len(origin.requests) == 1


async def test_a_follower_that_selects_another_variant_goes_on_its_own(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await go.wait()
        await turn.answer(turn.request.get("accept-language") or "", FRESH, "Vary: Accept-Language")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        languages = ["de", "en", "de", "en", "de"]
        clients = [asyncio.create_task(proxy.get("/a", f"Accept-Language: {language}")) for language in languages]
        await until(lambda: proxy.worker.handler.in_flight == 5)
        go.set()
        answers = await gather(*clients)
    assert [answer.content.decode() for answer in answers] == languages


async def test_credentials_are_not_collapsed_with_each_other(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await go.wait()
        await turn.answer(turn.request.get("authorization") or "", FRESH)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        people = ["alice", "bob", "alice", "bob"]
        clients = [asyncio.create_task(proxy.get("/a", f"Authorization: {name}")) for name in people]
        await until(lambda: proxy.worker.handler.in_flight == 4)
        go.set()
        answers: list[Message] = await gather(*clients)
    assert [answer.content.decode() for answer in answers] == people


async def test_without_dedup_every_request_goes_upstream(origin: Origin) -> None:
    gate = Gate(origin, FRESH)
    async with running_proxy(origin.url, enable_dedup=False) as proxy:
        clients = [asyncio.create_task(proxy.get("/a")) for _ in range(5)]
        await gate.asked(5)
        gate.open.set()
        await gather(*clients)
    assert len(origin.requests) == 5


async def test_a_slow_reader_of_a_response_too_large_to_keep_bounds_the_memory(origin: Origin) -> None:
    """Chunked, so its size is not known before: kept until the limit, then only as far as the slowest client."""
    sent = 0
    total = 32 * 1024 * 1024

    async def script(turn: Turn) -> None:
        nonlocal sent
        await turn.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"x" * 65536
        while sent < total:
            await turn.send(b"10000\r\n" + piece + b"\r\n")
            sent += len(piece)
        await turn.send("0\r\n\r\n")

    origin.script = script
    async with running_proxy(origin.url, cache_max_object_bytes=1024 * 1024) as proxy:
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        head = await client.head()
        (fetch,) = proxy.worker.handler.fetches.running
        last = -1
        while last != sent:
            last = sent
            for _ in range(2000):
                await asyncio.sleep(0)
        held = sum(map(len, fetch._pieces))
        assert held <= 1024 * 1024 + 1024 * 1024
        assert sent < total
        received = 0
        from tests.support import read_chunked  # noqa: PLC0415

        async for chunk in read_chunked(client.reader):
            received += len(chunk)
    assert (head.status, received) == (200, total)


def a_minute_later(fetch: fetches.Fetch) -> None:
    """It is looked whether anything has come."""
    look = fetch._unread
    assert look is not None
    look._run()
    look.cancel()


async def begun(proxy: Proxy, client: Client) -> fetches.Fetch:
    await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
    await client.head()
    (fetch,) = proxy.worker.handler.fetches.running
    return fetch


class Drops:
    """An origin that sends content as it is told, and no end before that."""

    def __init__(self, origin: Origin) -> None:
        self.pieces: asyncio.Queue[int] = asyncio.Queue()
        origin.script = self.script

    async def script(self, turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nTransfer-Encoding: chunked\r\n\r\n")
        while size := await self.pieces.get():
            await turn.send(b"%x\r\n%b\r\n" % (size, bytes(size)))
        await turn.send("0\r\n\r\n")

    async def come(self, fetch: fetches.Fetch, size: int) -> None:
        before = fetch._size
        self.pieces.put_nowait(size)
        await until(lambda: fetch._size == before + size)


async def test_what_hardly_comes_is_given_up_once_its_clients_have_left(origin: Origin) -> None:
    drops = Drops(origin)
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        fetch = await begun(proxy, client)
        client.close()
        await until(lambda: proxy.worker.handler.in_flight == 0)
        a_minute_later(fetch)
        await drops.come(fetch, fetches.UNREAD_BYTES - 1)
        a_minute_later(fetch)
        await until(lambda: not proxy.worker.handler.fetches.running)
        await nothing_left(proxy)
        assert proxy.stored() == []


@pytest.mark.parametrize("leaves", [False, True])
async def test_what_is_read_and_what_comes_steadily_is_fetched_to_its_end(origin: Origin, leaves: bool) -> None:
    drops = Drops(origin)
    size = fetches.UNREAD_BYTES if leaves else 1
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        fetch = await begun(proxy, client)
        if leaves:
            client.close()
            await until(lambda: proxy.worker.handler.in_flight == 0)
        for _ in range(3):
            a_minute_later(fetch)
            await drops.come(fetch, size)
        drops.pieces.put_nowait(0)
        await until(lambda: not proxy.worker.handler.fetches.running)
        assert [len(stored.content) for stored in proxy.stored()] == [3 * size]
