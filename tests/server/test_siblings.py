"""Workers of one proxy: what one has invalidated, the others know before a client does."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import pytest
import uvloop

from config.bulletin import Standing
from config.listen import spare_port
from proxy import fleet as fleet_module
from proxy import siblings as module
from proxy.app import build_routes
from proxy.channel import Channel, ChannelError
from proxy.fleet import UNKNOWN_LOG, Fleet
from proxy.observe.events import PurgeKind
from proxy.server.admin import PurgeOrder
from proxy.store.invalidations import Validity
from tests.fast.passing import DATE, POST, begun, connection_of, nothing_left, usual
from tests.fast.sides import server_of
from tests.server.family import Parent, family, started
from tests.support import PATIENCE, Client, Origin, Proxy, Turn, running_proxy, settings_for, until

WAYS = pytest.mark.parametrize("times", [0, 2], ids=["the ordinary way", "the express way"])


async def has_asked(client: Client, proxy: Proxy, parent: Parent, times: int = 2) -> None:
    """Its request changes something, which the others do not know yet."""
    await begun(client, times)
    parent.told.clear()
    parent.knows.clear()
    await client.send(POST)
    await until(lambda: bool(parent.told))


async def test_what_is_told_meanwhile_goes_with_the_next() -> None:
    async with family() as (parent, siblings):
        parent.knows.clear()
        first = siblings.tell(["uri a"], 1)
        await until(lambda: bool(parent.told))
        second, third = siblings.tell(["uri b"], 2), siblings.tell(["tag c", "tag d"], 4)
        assert first is not None
        assert second is third
        assert second is not None
        assert not first.done()
        parent.knows.set()
        await asyncio.wait((first, second))
        assert parent.told == [("invalidated", [1, ["uri a"]]), ("invalidated", [4, ["uri b", "tag c", "tag d"]])]
        siblings.logged(4, Standing("log", 17))
        await until(lambda: parent.told[-1] == ("logged", [4, ["log", 17]]))


async def test_who_does_not_say_that_he_knows_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "KNOWN_SECONDS", 0.02)
    async with family() as (parent, siblings):
        parent.knows.clear()
        first, second = siblings.tell(["uri a"], 1), None
        await until(lambda: bool(parent.told))
        second = siblings.tell(["uri b"], 2)
        assert first is not None
        assert second is not None
        await asyncio.wait((first, second))
        assert siblings.tell(["uri c"], 3) is None
        await until(lambda: len(parent.told) == 3)
        assert parent.told[1:] == [("invalidated", [2, ["uri b"]]), ("invalidated", [3, ["uri c"]])]
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        parent.knows.set()
        await until(lambda: not siblings._late)
        fourth = siblings.tell(["uri d"], 4)
        assert fourth is not None
        await asyncio.wait((fourth,))
        assert parent.told[-1] == ("invalidated", [4, ["uri d"]])
        # it comes and goes
        parent.knows.clear()
        fifth = siblings.tell(["uri e"], 5)
        assert fifth is not None
        await asyncio.wait((fifth,))
        await until(lambda: siblings._late)
        assert len(caplog.records) == 1
        parent.knows.set()


async def test_without_a_parent_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    async with family() as (_, siblings):
        await siblings._channel.close()
        known = siblings.tell(["uri a"], 1)
        assert known is not None
        await asyncio.wait((known,))
    assert "other workers may not know" in caplog.text


@WAYS
async def test_an_answer_waits_until_the_others_know(origin: Origin, times: int) -> None:
    origin.script = usual
    async with family() as (parent, siblings), running_proxy(origin.url, siblings=siblings) as proxy:
        client, other = await proxy.connect(), await proxy.connect()
        await has_asked(client, proxy, parent, times)
        # nobody else waits
        assert (await other.request("GET", "/b")).status == 200
        assert not await started(client)
        assert proxy.worker.handler.in_flight == 1
        ways = [connection._passing is not None for connection in server_of(proxy).connections]  # type: ignore[attr-defined]
        assert any(ways) is bool(times)
        parent.knows.set()
        assert (await client.response()).content == b"hello"
        assert (await client.request("GET", "/b")).status == 200
        await nothing_left(proxy)
    assert parent.told == [("invalidated", [0, ["uri http://a/a"]])]


@WAYS
async def test_a_client_that_leaves_meanwhile(origin: Origin, times: int) -> None:
    origin.script = usual
    async with family() as (parent, siblings), running_proxy(origin.url, siblings=siblings) as proxy:
        client, other = await proxy.connect(), await proxy.connect()
        await has_asked(client, proxy, parent, times)
        client.close()
        await nothing_left(proxy)
        parent.knows.set()
        assert (await other.request("POST", "/a", content=b"x")).status == 200
        await nothing_left(proxy)
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert 'outcome="client-gone"' in metrics


async def test_what_comes_early_waits_as_well(origin: Origin) -> None:
    origin.script = usual
    async with family() as (parent, siblings), running_proxy(origin.url, siblings=siblings) as proxy:
        client = await proxy.connect()
        await has_asked(client, proxy, parent)
        await client.send(POST)
        await until(lambda: bool(connection_of(proxy)._early))
        parent.knows.set()
        assert [(await client.response()).content for _ in range(2)] == [b"hello", b"hello"]
        await nothing_left(proxy)


@WAYS
async def test_the_end_of_the_proxy_waits_as_well(origin: Origin, times: int) -> None:
    origin.script = usual
    async with family() as (parent, siblings), running_proxy(origin.url, siblings=siblings) as proxy:
        client = await proxy.connect()
        await has_asked(client, proxy, parent, times)
        drained = asyncio.create_task(proxy.worker.drain())
        await until(lambda: proxy.worker._draining)
        parent.knows.set()
        answer = await client.response()
        assert (answer.content, answer.get("connection")) == (b"hello", "close")
        await drained


async def test_what_fails_or_is_safe_is_not_told(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("no", DATE, status="409 Conflict" if turn.request.method == "POST" else "200 OK")

    origin.script = script
    async with family() as (parent, siblings), running_proxy(origin.url, siblings=siblings) as proxy:
        client = await proxy.connect()
        parent.knows.clear()
        for _ in range(3):
            assert (await client.request("POST", "/a", content=b"x")).status == 409
            assert (await client.request("OPTIONS", "/a")).status == 200
    assert parent.told == []


async def test_who_joins_is_told_what_he_cannot_read(origin: Origin) -> None:
    """With the tier away, that is all."""
    origin.script = usual
    url, secret = f"redis://127.0.0.1:{spare_port()}/0", "a-secret-of-sixteen"
    async with (
        family() as (parent, siblings),
        running_proxy(origin.url, siblings=siblings, redis_url=url, cache_secret=secret) as proxy,
    ):
        client = await proxy.connect()
        assert (await client.request("POST", "/a", content=b"x")).status == 200
        await proxy.worker.purge(PurgeOrder(PurgeKind.PREFIX, "/b", soft=True))
        parent.told.clear()
        await proxy.worker.sibling_joined()
        assert parent.told == [("invalidated", [4, ["uri http://app.example/a", "soft prefix /b"]])]
        other = proxy.worker.replicas
        assert other is not None
        proxy.worker.sibling_told(7, 2, ["uri http://a/c", "soft prefix /b"])
        state = [other.notices.state(f"http://a/{name}", (), other.notices.standing) for name in "cb"]
        assert state == [Validity.GONE, Validity.STALE]


@pytest.mark.parametrize(("said", "logs"), [("a log", ["a log"]), ("", []), (None, [UNKNOWN_LOG])])
async def test_who_joins_serves_once_the_others_have_told_him(
    said: str | None, logs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: it hangs."""
    monkeypatch.setattr(fleet_module, "KNOWN_SECONDS", PATIENCE if said is not None else 0.05)
    settings = settings_for("http://127.0.0.1:1", workers=2)
    fleet = Fleet(settings, build_routes(settings), 0)
    [new, old] = fleet._members
    async with family() as (heard, to_old), family() as (_, to_new):
        new.channel, old.channel, old.serving = to_new._channel, to_old._channel, True
        heard.knows.clear()
        heard.says = said
        joined = asyncio.create_task(fleet._answer_worker(new, "listening", None))
        await until(lambda: heard.told == [("joined", None)])
        assert not joined.done()
        if said is not None:
            heard.knows.set()
        assert await joined == logs


async def test_who_is_being_started_is_told_when_he_listens_and_nobody_fails_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_for("http://127.0.0.1:1", workers=2)
    fleet = Fleet(settings, build_routes(settings), 0)
    [new, old] = fleet._members
    opening, pair = asyncio.Event(), socket.socketpair()

    async def open_slowly(channel: Channel, sock: socket.socket) -> None:
        opening.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Channel, "open", open_slowly)
    monkeypatch.setattr("proxy.fleet.socket.socketpair", lambda: pair)
    starting = asyncio.create_task(fleet._live(new))
    await opening.wait()
    await fleet._answer_worker(old, "invalidated", [1, ["uri http://a/a"]])
    starting.cancel()
    await asyncio.wait((starting,))
    for one in pair:
        one.close()


async def test_who_joins_a_proxy_alone_is_told_nothing(origin: Origin) -> None:
    origin.script = usual
    async with family() as (parent, siblings), running_proxy(origin.url, siblings=siblings) as proxy:
        await proxy.worker.sibling_joined()
        assert parent.told == []


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_what_is_told_to_a_parent_that_has_just_ended_is_no_fault(
    loop: Callable[[], asyncio.AbstractEventLoop] | None,
) -> None:
    """And of which the reader does not know yet: uvloop raises RuntimeError then."""

    async def told() -> None:
        async with family() as (_, siblings):
            channel = siblings._channel
            assert channel._writer is not None
            channel._writer.transport.abort()
            while not channel.closed.is_set():
                siblings.logged(1, Standing("log", 1))
                await asyncio.sleep(0)
            with pytest.raises(ChannelError, match="gone"):
                await channel.call("listening")

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(told())
