"""Start, drain, stop."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.support import PATIENCE, Gate, Origin, Turn, running_proxy, until


async def test_a_drain_lets_requests_finish_and_takes_no_new_ones(origin: Origin) -> None:
    gate = Gate(origin, content=b"finished")
    async with running_proxy(origin.url) as proxy, aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
        idle = await proxy.connect()
        await idle.send("")
        busy = await proxy.connect()
        await busy.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        await gate.asked()
        async with session.get(f"{proxy.admin}/readyz") as ready:
            assert ready.status == 200
        draining = asyncio.create_task(proxy.worker.drain())
        assert await idle.at_end()
        async with session.get(f"{proxy.admin}/readyz") as ready:
            assert ready.status == 503
        async with session.get(f"{proxy.admin}/healthz") as alive:
            assert alive.status == 200
        with pytest.raises(ConnectionError):
            await proxy.connect()
        assert not draining.done()
        gate.open.set()
        answer = await busy.response()
        assert (answer.content, answer.get("connection")) == (b"finished", "close")
        assert await busy.at_end()
        await draining


async def test_a_drain_is_bounded_and_what_it_cuts_is_not_said_to_have_left(
    origin: Origin, capfd: pytest.CaptureFixture[str]
) -> None:
    async def script(turn: Turn) -> None:
        await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url, drain_seconds=0.1) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: a\r\nCache-Control: no-store\r\n\r\n")
        await until(lambda: len(origin.requests) == 1)
        await proxy.worker.drain()
        assert await client.at_end()
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert 'siding_requests_total{method="GET",outcome="cut",route="other",status="none"} 1.0' in metrics
    assert '"outcome":"cut"' in capfd.readouterr().out


async def test_who_leaves_while_it_drains_has_left(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.reader.read(1)

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: a\r\nCache-Control: no-store\r\n\r\n")
        await until(lambda: len(origin.requests) == 1)
        draining = asyncio.create_task(proxy.worker.drain())
        await until(lambda: proxy.worker._draining)
        client.close()
        await draining
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert 'siding_requests_total{method="GET",outcome="client-gone",route="other",status="none"} 1.0' in metrics


async def test_a_fill_that_nobody_waits_for_is_finished_before_the_end(origin: Origin) -> None:
    """Stale-while-revalidate: the validation behind is the proxy's own to finish."""
    validating, go = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        if len(origin.requests) > 1:
            validating.set()
            await go.wait()
        await turn.answer("one", "Cache-Control: max-age=1, stale-while-revalidate=60")

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        await proxy.get("/a")
        proxy.clock.now += 5
        assert "stale-while-revalidate" in ((await proxy.get("/a")).get("cache-status") or "")
        await validating.wait()
        draining = asyncio.create_task(proxy.worker.drain())
        go.set()
        await draining
        assert proxy.worker.store.responses == 1
