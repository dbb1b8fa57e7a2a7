"""Each flag flipped while requests are on their way, over the admin listener."""

from __future__ import annotations

import asyncio

import aiohttp

from tests.support import PATIENCE, Gate, Origin, Proxy, Turn, gather, running_proxy, until

FRESH = "Cache-Control: max-age=60"


async def flip(proxy: Proxy, **flags: bool) -> dict[str, bool]:
    async with aiohttp.ClientSession() as session, session.patch(f"{proxy.admin}/api/flags", json=flags) as answer:
        assert answer.status == 200, await answer.text()
        state: dict[str, bool] = await answer.json()
        return state


async def test_the_query_cache(origin: Origin) -> None:
    origin.respond("one", FRESH)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await flip(proxy, ENABLE_QUERY_CACHE=False)
        origin.respond("two", FRESH)
        off = [await proxy.get("/a"), await proxy.get("/a")]
        await flip(proxy, ENABLE_QUERY_CACHE=True)
        on = await proxy.get("/a")
    assert [answer.content for answer in off] == [b"two", b"two"]
    assert "stored" not in (off[0].get("cache-status") or "")
    assert on.content == b"one"
    assert len(origin.requests) == 3


async def test_an_answer_on_its_way_when_the_cache_is_switched_off_is_not_kept(origin: Origin) -> None:
    gate = Gate(origin, FRESH)
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        first = asyncio.create_task(proxy.get("/a"))
        await gate.asked()
        await flip(proxy, ENABLE_QUERY_CACHE=False)
        gate.open.set()
        assert (await first).content == b"one"
        await flip(proxy, ENABLE_QUERY_CACHE=True)
        await proxy.get("/a")
    assert len(origin.requests) == 2


async def test_dedup(origin: Origin) -> None:
    gate = Gate(origin, FRESH)
    async with running_proxy(origin.url) as proxy:
        joined = [asyncio.create_task(proxy.get("/a")) for _ in range(3)]
        await until(lambda: proxy.worker.handler.in_flight == 3)
        await flip(proxy, ENABLE_DEDUP=False)
        alone = [asyncio.create_task(proxy.get("/a")) for _ in range(3)]
        await until(lambda: len(origin.requests) == 4)
        gate.open.set()
        answers = await gather(*joined, *alone)
    assert {answer.content for answer in answers} == {b"one"}
    assert len(origin.requests) == 4


async def test_compression_and_etag(origin: Origin) -> None:
    origin.respond("x" * 5000, FRESH, "Content-Type: text/plain")
    async with running_proxy(origin.url) as proxy:
        on = await proxy.get("/a", "Accept-Encoding: gzip")
        await flip(proxy, ENABLE_COMPRESSION=False, ENABLE_ETAG=False)
        off = await proxy.get("/a", "Accept-Encoding: gzip")
        fresh = await proxy.get("/b", "Accept-Encoding: gzip")
    assert on.get("content-encoding") == "gzip"
    assert off.get("content-encoding") is None
    assert off.content == fresh.content == b"x" * 5000
    assert fresh.get("etag") is None


async def test_bypass_is_octet_exact_and_leaves_no_trace_in_the_cache(origin: Origin) -> None:
    head = "HTTP/1.1 200 Very Fine\r\nX-One: 1\r\nX-Two: a\r\nx-one: 2\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\n"
    content = b"x" * 5000

    async def script(turn: Turn) -> None:
        await turn.send(
            f"{head}{FRESH}\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        )

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await flip(proxy, BYPASS=True)
        answers = [await proxy.get("/a", "Accept-Encoding: gzip") for _ in range(2)]
        await flip(proxy, BYPASS=False)
        after = await proxy.get("/a")
    assert len(origin.requests) == 3
    for answer in answers:
        assert answer.start == "HTTP/1.1 200 Very Fine"
        assert answer.content == content
        added = [line for line in answer.fields if line[0] in {"Via", "Cache-Status"}]
        assert added == [("Via", "1.1 siding"), ("Cache-Status", "siding; fwd=bypass; fwd-status=200")]
        kept = [line for line in answer.fields if line not in added and line[0] != "Content-Length"]
        assert kept == [
            ("X-One", "1"),
            ("X-Two", "a"),
            ("x-one", "2"),
            ("Date", "Fri, 15 Jan 2027 08:00:00 GMT"),
            ("Cache-Control", "max-age=60"),
            ("Content-Type", "text/plain"),
        ]
    assert "hit" in (after.get("cache-status") or "")


async def test_what_is_invalidated_under_bypass_stays_so(origin: Origin) -> None:
    origin.respond("old", FRESH)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await flip(proxy, BYPASS=True)
        await proxy.request("POST", "/a", content=b"change")
        origin.respond("new", FRESH)
        await flip(proxy, BYPASS=False)
        assert (await proxy.get("/a")).content == b"new"


async def test_an_upgrade_that_the_origin_refuses_is_octet_exact_too(origin: Origin) -> None:
    origin.respond(b"{}" * 2000, "Content-Type: application/json")
    async with running_proxy(origin.url) as proxy:
        await flip(proxy, BYPASS=True)
        answer = await proxy.get("/a", "Connection: upgrade", "Upgrade: websocket", "Accept-Encoding: gzip")
    assert answer.content == b"{}" * 2000
    assert (answer.get("etag"), answer.get("vary"), answer.get("content-encoding")) == (None, None, None)


async def test_a_follower_survives_the_bypass(origin: Origin) -> None:
    gate = Gate(origin, FRESH)
    async with running_proxy(origin.url) as proxy:
        waiting = [asyncio.create_task(proxy.get("/a")) for _ in range(5)]
        await until(lambda: proxy.worker.handler.in_flight == 5)
        await flip(proxy, BYPASS=True)
        through = asyncio.create_task(proxy.get("/a"))
        await until(lambda: len(origin.requests) == 2)
        gate.open.set()
        answers = await gather(*waiting, through)
        await flip(proxy, BYPASS=False)
        await proxy.get("/a")
    assert [answer.content for answer in answers] == [b"one"] * 6
    assert len(origin.requests) == 3


async def test_flags_are_shown_as_metrics(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy, aiohttp.ClientSession() as session:
        for value in (True, False):
            await flip(proxy, BYPASS=value)
            async with session.get(f"{proxy.admin}/metrics") as answer:
                text = await answer.text()
            assert f'siding_flag{{flag="BYPASS"}} {float(value)}' in text
