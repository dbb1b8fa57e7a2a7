"""Collapsed requests of several replicas: one asks, whoever dies, leaves or comes late."""

from __future__ import annotations

import asyncio

import pytest

from proxy.store import shared as shared_store
from proxy.store.shared import LeaseOutcome
from tests.redis_servers import Redis
from tests.scenarios.replicas import FRESH, leases, parted, replicas_of, settled, several, status_of
from tests.support import PATIENCE, Gate, Origin, Proxy, Turn, gather, holds, until


async def test_many_clients_of_several_replicas_are_one_fetch(
    origin: Origin, shared: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(origin, FRESH)
    # this process is all of them and their clients, and busy for longer than a call of Redis, or a lease, may take
    monkeypatch.setattr(shared_store, "LEASE_SECONDS", 60.0)
    async with several(origin, shared.url, 4, redis_timeout_ms=10_000) as proxies:
        clients = [asyncio.create_task(proxy.get("/a")) for proxy in proxies for _ in range(25)]
        await until(lambda: all(proxy.worker.handler.in_flight == 25 for proxy in proxies))
        await gate.asked()
        gate.open.set()
        answers = await gather(*clients)
        assert {answer.content for answer in answers} == {b"one"}
        assert len(origin.requests) == 1
        assert sum("collapsed" in status_of(answer) for answer in answers) == 99
        assert leases(*proxies)[LeaseOutcome.LED] == 1


async def test_who_waits_wakes_as_soon_as_it_is_there(
    origin: Origin, pair: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the whisper, not by looking again: that would take a minute here."""
    monkeypatch.setattr(shared_store, "LOOK_SECONDS", 60.0)
    monkeypatch.setattr(shared_store, "LEASE_SECONDS", 60.0)
    one, other = pair
    gate = Gate(origin, FRESH)
    leading = asyncio.create_task(one.get("/a"))
    await gate.asked()
    waiting = asyncio.create_task(other.get("/a"))
    await holds(lambda: bool(replicas_of(other).notices.bulletin._waiting))
    gate.open.set()
    async with asyncio.timeout(PATIENCE):
        answers = [await leading, await waiting]
    assert [answer.content for answer in answers] == [b"one"] * 2
    assert "collapsed" in status_of(answers[1])
    assert len(origin.requests) == 1


async def test_a_lost_whisper_stalls_nobody(origin: Origin, pair: list[Proxy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_store, "LOOK_SECONDS", 0.01)
    one, other = pair
    bulletin = replicas_of(other).notices.bulletin
    monkeypatch.setattr(bulletin, "_whispered", lambda _: None)
    gate = Gate(origin, FRESH)
    leading = asyncio.create_task(one.get("/a"))
    await gate.asked()
    waiting = asyncio.create_task(other.get("/a"))
    await holds(lambda: bool(bulletin._waiting))
    gate.open.set()
    assert [message.content for message in await gather(leading, waiting)] == [b"one"] * 2
    assert len(origin.requests) == 1


async def test_a_leader_that_dies_is_replaced(origin: Origin, shared: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is heard of it any more: when its lease is over the next one leads."""
    monkeypatch.setattr(shared_store, "LEASE_SECONDS", 0.2)
    async with parted(origin, shared) as (dying, other, relay):
        gate = Gate(origin, FRESH)
        first = asyncio.create_task(dying.get("/a"))
        await gate.asked()
        await relay.away()
        waiting = asyncio.create_task(other.get("/a"))
        await gate.asked(2)
        gate.open.set()
        assert [message.content for message in await gather(first, waiting)] == [b"one"] * 2
        assert leases(other)[LeaseOutcome.LED] == 1


async def test_a_leader_is_heard_of_for_as_long_as_it_asks(
    origin: Origin, pair: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_store, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(shared_store, "BEAT_SECONDS", 0.05)
    one, other = pair
    gate = Gate(origin, FRESH)
    leading = asyncio.create_task(one.get("/a"))
    await gate.asked()
    beats: list[object] = []
    replicas_of(one).tier.observe = lambda *seen: beats.append(seen)
    waiting = asyncio.create_task(other.get("/a"))
    await holds(lambda: len(beats) > 30)
    assert len(origin.requests) == 1
    gate.open.set()
    await gather(leading, waiting)
    assert len(origin.requests) == 1


async def test_when_the_leaders_clients_leave_another_leads(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair
    gate = Gate(origin, FRESH)
    client = await one.connect()
    await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
    await gate.asked()
    waiting = asyncio.create_task(other.get("/a"))
    await holds(lambda: bool(replicas_of(other).notices.bulletin._waiting))
    client.writer.transport.abort()
    await gate.asked(2)
    gate.open.set()
    assert (await waiting).content == b"one"
    assert leases(other)[LeaseOutcome.LED] == 1


async def test_who_came_too_late_overwrites_nothing_newer(
    origin: Origin, shared: Redis, pair: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is held up until its lease is over; what the second got stays."""
    monkeypatch.setattr(shared_store, "LEASE_SECONDS", 0.05)
    one, other = pair
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        number = len(origin.requests)
        if number == 1:
            await go.wait()
        await turn.answer(b"%d" % number, FRESH)

    origin.script = script
    late = asyncio.create_task(one.get("/a"))
    await until(lambda: len(origin.requests) == 1)
    assert (await other.get("/a")).content == b"2"
    await settled(other)
    go.set()
    assert (await late).content == b"1"
    await settled(one)
    other.store_nothing()
    assert (await other.get("/a")).content == b"2"


@pytest.mark.parametrize("fields", [[], ["Cache-Control: private"], ["Cache-Control: max-age=60", "Set-Cookie: a=b"]])
async def test_an_unshareable_answer_releases_everybody(origin: Origin, pair: list[Proxy], fields: list[str]) -> None:
    one, other = pair
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        if len(origin.requests) == 1:
            await go.wait()
        await turn.answer(b"mine", *fields)

    origin.script = script
    clients = [asyncio.create_task(proxy.get("/a")) for proxy in pair for _ in range(5)]
    await until(lambda: all(proxy.worker.handler.in_flight == 5 for proxy in (one, other)))
    go.set()
    answers = await gather(*clients)
    assert {answer.content for answer in answers} == {b"mine"}
    assert len(origin.requests) == 10


async def test_an_origin_that_fails_releases_everybody(origin: Origin, pair: list[Proxy]) -> None:
    async def script(turn: Turn) -> None:
        turn.writer.transport.abort()

    origin.script = script
    answers = await gather(*(proxy.get("/a") for proxy in pair for _ in range(5)))
    assert {answer.status for answer in answers} == {502}
    assert len(origin.requests) <= 2 * len(pair)


async def test_nobody_waits_long_for_what_arrives_slowly_at_another(
    origin: Origin, pair: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader's client has its beginning; the others would have nothing until it is whole."""
    monkeypatch.setattr("proxy.server.sharing.STREAM_SECONDS", 0.05)
    one, other = pair
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nContent-Length: 10\r\n\r\nhello")
        await go.wait()
        await turn.send("world")

    origin.script = script
    clients = [await one.connect(), await other.connect()]
    for client in clients:
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
    for client in clients:
        assert (await client.head()).status == 200
        async with asyncio.timeout(PATIENCE):
            assert await client.reader.readexactly(5) == b"hello"
    assert len(origin.requests) == 2
    go.set()
    for client in clients:
        async with asyncio.timeout(PATIENCE):
            assert await client.reader.readexactly(5) == b"world"
    await settled(one, other)
    assert "siding; hit" in status_of(await other.get("/a"))
