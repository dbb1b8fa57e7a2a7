"""Several proxies, one Redis, one origin: what the one has, the others have; what it invalidates is gone for all."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from proxy.store import shared as shared_store
from proxy.store.record import VERSION
from proxy.store.replicas import Replicas
from proxy.store.shared import LeaseOutcome
from tests.redis_servers import Redis, running_redis
from tests.relay import relayed
from tests.scenarios.test_collapse import Gate
from tests.support import PATIENCE, Message, Origin, Proxy, Turn, gather, running_proxy, until

SECRET = "0123456789abcdef" * 2
FRESH = "Cache-Control: max-age=60"
REPORTS = """
[[route]]
match = "/reports"
methods = ["POST"]
ttl = 300
key = ["body", "authorization"]
tags = ["reports"]
invalidated_by = ["POST /homework/*"]
"""


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Redis]:
    async with running_redis(tmp_path) as one:
        yield one


def client_of(server: Redis, **options: Any) -> Any:
    """A client whose answers are octets."""
    return redis.asyncio.Redis(port=server.port, **options)


def replicas_of(proxy: Proxy) -> Replicas:
    assert proxy.worker.replicas is not None
    return proxy.worker.replicas


async def holds(condition: Callable[[], bool]) -> None:
    """Wait for what another process brings about."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - another process has no event to wait for
            await asyncio.sleep(0.002)


async def ready(*proxies: Proxy) -> None:
    """They hear of each other."""
    for proxy in proxies:
        store = replicas_of(proxy).store
        await holds(lambda: store.usable)  # noqa: B023 - it is awaited at once


async def settled(*proxies: Proxy) -> None:
    """What is on its way to Redis and back has arrived."""
    for proxy in proxies:
        replicas = replicas_of(proxy)
        await holds(lambda: not replicas.store._tasks and replicas.notices.bulletin.settled)  # noqa: B023


@contextlib.asynccontextmanager
async def several(origin: Origin, url: str, count: int = 2, **options: Any) -> AsyncIterator[list[Proxy]]:
    async with contextlib.AsyncExitStack() as stack:
        options = {"redis_url": url, "cache_secret": SECRET, "wall": time.time, **options}
        proxies = [await stack.enter_async_context(running_proxy(origin.url, **options)) for _ in range(count)]
        await ready(*proxies)
        yield proxies


@pytest.fixture
async def pair(origin: Origin, shared: Redis) -> AsyncIterator[list[Proxy]]:
    async with several(origin, shared.url) as proxies:
        yield proxies


def status_of(message: Message) -> str:
    return message.get("cache-status") or ""


def leases(*proxies: Proxy) -> dict[LeaseOutcome, int]:
    total = dict.fromkeys(LeaseOutcome, 0)
    for proxy in proxies:
        for outcome, count in replicas_of(proxy).store.leases.items():
            total[outcome] += count
    return total


# -- two tiers


async def test_a_tier_that_does_not_write_is_not_left_alone(
    origin: Origin, shared: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with several(origin, shared.url, 1):
        pass
    async with client_of(shared) as client:
        await client.config_set("maxmemory", "1")
        await client.config_set("maxmemory-policy", "noeviction")
    async with running_proxy(origin.url, redis_url=shared.url, cache_secret=SECRET, wall=time.time) as one:
        await holds(replicas_of(one)._comparing.done)  # type: ignore[union-attr]
        assert replicas_of(one).tier.failed == 0
    assert "CACHE_SECRET" not in caplog.text


async def test_another_secret_is_told_of(origin: Origin, shared: Redis, caplog: pytest.LogCaptureFixture) -> None:
    def told() -> int:
        return caplog.text.count("another replica has, or had, another CACHE_SECRET")

    async with several(origin, shared.url) as pair:
        await holds(lambda: all(replicas_of(one)._comparing.done() for one in pair))  # type: ignore[union-attr]
        assert told() == 0
        async with several(origin, shared.url, 1, cache_secret=SECRET[::-1]):
            await holds(lambda: told() == 1)
    assert SECRET not in caplog.text


async def test_the_rights_that_the_readme_names_are_enough(
    origin: Origin, shared: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    found = re.search(r"an ACL needs\s+`([^`]+)`", readme)
    assert found is not None
    async with client_of(shared) as client:
        await client.execute_command("ACL", "SETUSER", "siding", "on", ">secret", *found[1].split())
    async with several(origin, shared.url.replace("//", "//siding:secret@")) as (one, other):
        origin.respond(b"old", FRESH)
        await one.get("/a")
        await settled(one)
        assert status_of(await other.get("/a")).startswith("siding; hit")
        origin.respond(b"new", FRESH)
        await admin(one, "POST", "/api/purge", b'{"url": "/a"}')
        await heard(one, other)
        assert (await other.get("/a")).content == b"new"
        await settled(one, other)
        await replicas_of(one).tier.run(replicas_of(one).tier.look)
    assert not [record for record in caplog.records if record.name in {"siding.tier", "siding.bulletin"}]


async def test_what_one_has_stored_the_other_answers_with(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair
    origin.respond(b"hello", FRESH, "Content-Type: text/plain", "X-Odd: \xe9")
    first = await one.get("/a")
    await settled(one)
    second, third = await other.get("/a"), await other.get("/a")
    assert [message.content for message in (first, second, third)] == [b"hello"] * 3
    assert [message.get("x-odd") for message in (first, second, third)] == ["\xe9"] * 3
    assert first.get("etag") == second.get("etag") == third.get("etag")
    assert len(origin.requests) == 1
    assert "siding; hit" in status_of(second)
    assert "detail=shared" in status_of(second)
    assert "detail" not in status_of(third)
    metrics = (await other.worker.metrics(""))[0].decode()
    assert 'siding_hits_total{tier="shared"} 1.0' in metrics
    assert 'siding_hits_total{tier="memory"} 1.0' in metrics
    assert (await other.worker.report_cache())["sharedHits"] == 1


async def test_a_hit_is_one_round_trip(origin: Origin, shared: Redis, pair: list[Proxy]) -> None:
    one, other = pair
    origin.respond(b"hello", FRESH)
    await one.get("/a")
    await settled(one)
    calls: list[object] = []
    replicas_of(other).tier.observe = lambda *seen: calls.append(seen)
    assert "detail=shared" in status_of(await other.get("/a"))
    assert len(calls) == 1
    await other.get("/a")
    assert len(calls) == 1


async def test_fifty_who_look_for_the_same_make_one_round_trip(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair
    origin.respond(b"hello", FRESH)
    await one.get("/a")
    await settled(one)
    calls: list[object] = []
    replicas_of(other).tier.observe = lambda *seen: calls.append(seen)
    answers = await gather(*(other.get("/a") for _ in range(50)))
    assert {answer.content for answer in answers} == {b"hello"}
    assert len(origin.requests) == 1
    assert len(calls) <= 10


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
async def test_age_is_right_whatever_the_clocks_say(origin: Origin, shared: Redis, skew: float) -> None:
    """The origin says that it is ten seconds old; two replicas whose clocks are hours apart agree on what it is now."""
    options: dict[str, Any] = {"redis_url": shared.url, "cache_secret": SECRET}
    async with (
        running_proxy(origin.url, wall=time.time, **options) as one,
        running_proxy(origin.url, wall=lambda: time.time() + skew, **options) as other,
    ):
        await ready(one, other)
        origin.respond(b"hello", FRESH, "Age: 10")
        await one.get("/a")
        await settled(one)
        answer = await other.get("/a")
        again = await other.get("/a")
    assert "siding; hit" in status_of(answer)
    assert answer.get("age") in {"10", "11"}
    assert again.get("age") in {"10", "11"}
    assert len(origin.requests) == 1


async def test_a_stale_one_is_validated_and_that_is_shared_too(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair
    origin.respond(b"hello", FRESH, 'ETag: "v1"')
    await one.get("/a")
    await admin(one, "POST", "/api/purge", b'{"all": true, "soft": true}')
    await heard(one, other)
    origin.respond(b"", FRESH, 'ETag: "v1"', status="304 Not Modified")
    answer = await other.get("/a")
    await settled(other)
    assert (answer.status, answer.content) == (200, b"hello")
    assert origin.requests[-1].get("if-none-match") == '"v1"'
    assert "siding; hit" in status_of(await one.get("/a"))
    assert len(origin.requests) == 2


async def test_a_client_with_its_own_copy_is_answered_304_by_either(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair
    origin.respond(b"hello", FRESH, 'ETag: "v1"')
    await one.get("/a")
    await settled(one)
    assert (await other.get("/a", 'If-None-Match: "v1"')).status == 304
    assert len(origin.requests) == 1


async def test_variants_are_told_apart(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair

    async def script(turn: Turn) -> None:
        language = turn.request.get("accept-language") or ""
        await turn.answer(language.encode(), FRESH, "Vary: Accept-Language")

    origin.script = script
    for language in ("de", "fr"):
        await one.get("/a", f"Accept-Language: {language}")
    await settled(one)
    for language in ("fr", "de"):
        answer = await other.get("/a", f"Accept-Language: {language}")
        assert answer.content == language.encode()
    assert len(origin.requests) == 2
    assert (await other.get("/a", "Accept-Language: it")).content == b"it"


async def test_what_is_too_large_is_not_shared(origin: Origin, shared: Redis) -> None:
    async with several(origin, shared.url, redis_max_object_bytes="1KiB") as (one, other):
        origin.respond(b"x" * 1025, FRESH)
        await one.get("/a")
        await settled(one)
        await other.get("/a")
    assert len(origin.requests) == 2


async def test_with_no_room_in_memory_the_tier_is_enough(origin: Origin, shared: Redis) -> None:
    content = b"x" * 1800
    async with several(origin, shared.url, cache_max_bytes="2KiB") as (one, other):
        origin.respond(content, FRESH)
        await one.get("/a")
        await settled(one)
        for _ in range(3):
            assert (await other.get("/a")).content == content
        assert other.worker.store.responses == 0
    assert len(origin.requests) == 1


async def test_the_flag_is_obeyed_from_the_next_request_on(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair
    origin.respond(b"hello", FRESH)
    await one.get("/a")
    await settled(one)
    other.flags.update({"ENABLE_REDIS_CACHE": False})
    assert "fwd=uri-miss" in status_of(await other.get("/a"))
    other.worker.store.clear()
    other.flags.update({"ENABLE_REDIS_CACHE": True})
    assert "detail=shared" in status_of(await other.get("/a"))
    assert len(origin.requests) == 2


@pytest.mark.parametrize("how", ["a byte", "cut", "another key's", "another version", "empty", "another type"])
async def test_what_is_corrupted_is_a_miss(origin: Origin, shared: Redis, pair: list[Proxy], how: str) -> None:
    one, other = pair
    origin.respond(b"hello", FRESH)
    await one.get("/a")
    await one.get("/b")
    await settled(one)
    async with client_of(shared) as client:
        keys = [key async for key in client.scan_iter("siding:*:records")]
        values = {key: await client.hgetall(key) for key in keys}
        for key, fields in values.items():
            for name, value in fields.items():
                if not name.startswith(b"record "):
                    continue
                another = next(value for k, v in values.items() if k != key for n, value in v.items() if n == name)
                changed = {
                    "a byte": value[:-1] + b"!",
                    "cut": value[:-3],
                    "another key's": another,
                    "another version": value.replace(VERSION, b"siding\x01"),
                    "empty": b"",
                }.get(how)
                if changed is not None:
                    await client.hset(key, name, changed)
            if how == "another type":
                await client.set(key, b"x")
    assert (await other.get("/a")).content == b"hello"
    assert len(origin.requests) == 3


# -- collapsing across replicas


async def test_many_clients_of_several_replicas_are_one_fetch(origin: Origin, shared: Redis) -> None:
    gate = Gate(origin, FRESH)
    async with several(origin, shared.url, 4) as proxies:
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
    async with relayed(shared.port) as relay:
        url = f"redis://127.0.0.1:{relay.port}/0"
        options: dict[str, Any] = {"cache_secret": SECRET, "wall": time.time}
        async with (
            running_proxy(origin.url, redis_url=url, **options) as dying,
            running_proxy(origin.url, redis_url=shared.url, **options) as other,
        ):
            await ready(dying, other)
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
    monkeypatch.setattr(shared_store, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(shared_store, "BEAT_SECONDS", 0.05)
    one, other = pair
    gate = Gate(origin, FRESH)
    leading = asyncio.create_task(one.get("/a"))
    await gate.asked()
    beats: list[object] = []
    replicas_of(one).tier.observe = lambda *seen: beats.append(seen)
    waiting = asyncio.create_task(other.get("/a"))
    await holds(lambda: len(beats) > 10)
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
    other.worker.store.clear()
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


# -- invalidation


@pytest.mark.parametrize("order", [b'{"url": "/a"}', b'{"prefix": "/"}', b'{"all": true}', b'{"tag": "t"}'])
async def test_a_purge_reaches_the_others(origin: Origin, pair: list[Proxy], order: bytes) -> None:
    one, other = pair
    origin.respond(b"old", FRESH, "Surrogate-Key: t")
    for proxy in (one, other):
        assert (await proxy.get("/a")).content == b"old"
        await settled(proxy)
    origin.respond(b"new", FRESH)
    assert (await admin(one, "POST", "/api/purge", order)).status == 200
    await heard(one, other)
    for proxy in (other, one):
        assert (await proxy.get("/a")).content == b"new"
    assert len(origin.requests) <= 3


async def heard(teller: Proxy, *others: Proxy) -> None:
    """Everything that one has told has arrived at the others."""
    told = replicas_of(teller).notices.bulletin
    await holds(lambda: not told.pending)
    for other in others:
        bulletin = replicas_of(other).notices.bulletin
        await holds(lambda: bulletin.position >= told.published)  # noqa: B023 - it is awaited at once


async def admin(proxy: Proxy, method: str, path: str, content: bytes) -> Message:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.admin_port)
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{proxy.admin_port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    from tests.support import Client  # noqa: PLC0415 - only here

    message = await Client(reader, writer).response()
    writer.close()
    return message


async def test_what_was_purged_does_not_come_back_from_the_tier(origin: Origin, pair: list[Proxy]) -> None:
    """Not even before the purge has a number: what it names is not taken from there."""
    one, other = pair
    origin.respond(b"old", FRESH)
    await one.get("/a")
    await settled(one)
    origin.respond(b"new", FRESH)
    answer = await admin(other, "POST", "/api/purge", b'{"url": "/a"}')
    assert answer.status == 200
    assert (await other.get("/a")).content == b"new"


async def test_a_soft_purge_makes_the_others_validate(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair
    origin.respond(b"hello", FRESH, 'ETag: "v1"')
    await one.get("/a")
    await settled(one)
    await admin(one, "POST", "/api/purge", b'{"url": "/a", "soft": true}')
    await heard(one, other)
    origin.respond(b"", FRESH, 'ETag: "v1"', status="304 Not Modified")
    answer = await other.get("/a")
    assert answer.content == b"hello"
    assert origin.requests[-1].get("if-none-match") == '"v1"'


async def test_a_change_at_one_is_seen_at_the_other(origin: Origin, shared: Redis, tmp_path: Path) -> None:
    """A rule's route, of one credential, and the request that invalidates it at another replica."""
    async with several(origin, shared.url, rules=REPORTS, directory=tmp_path) as (one, other):
        origin.respond(b"old")
        mine = ("Authorization: Bearer a", "Content-Type: application/json")
        for _ in range(2):
            assert (await one.request("POST", "/reports", *mine, content=b"{}")).content == b"old"
        await settled(one)
        assert (await other.request("POST", "/reports", *mine, content=b"{ }")).content == b"old"
        assert len(origin.requests) == 1
        origin.respond(b"new")
        await other.request("POST", "/homework/1/archive", *mine, content=b"{}")
        await heard(other, one)
        assert (await one.request("POST", "/reports", *mine, content=b"{}")).content == b"new"
        await settled(one)
        assert (await other.request("POST", "/reports", *mine, content=b"{}")).content == b"new"
        assert len(origin.requests) == 3


async def test_cache_groups_are_invalidated_everywhere(origin: Origin, pair: list[Proxy]) -> None:
    one, other = pair
    origin.respond(b"old", FRESH, 'Cache-Groups: "g"')
    await one.get("/a")
    await settled(one)
    origin.respond(b"new", FRESH, 'Cache-Group-Invalidation: "g"')
    await other.request("POST", "/b", content=b"")
    await heard(other, one)
    assert (await one.get("/a")).content == b"new"


async def test_who_was_away_asks_on_its_return(origin: Origin, shared: Redis) -> None:
    async with relayed(shared.port) as relay:
        options: dict[str, Any] = {"cache_secret": SECRET, "wall": time.time}
        async with (
            running_proxy(origin.url, redis_url=f"redis://127.0.0.1:{relay.port}/0", **options) as away,
            running_proxy(origin.url, redis_url=shared.url, **options) as other,
        ):
            await ready(away, other)
            origin.respond(b"old", FRESH)
            await away.get("/a")
            await settled(away)
            relay.stop()
            await admin(other, "POST", "/api/purge", b'{"url": "/a"}')
            await settled(other)
            origin.respond(b"new", FRESH)
            assert (await away.get("/a")).content == b"old"
            relay.cut()
            relay.go()
            await heard(other, away)
            assert (await away.get("/a")).content == b"new"


async def test_what_is_invalidated_while_the_tier_is_away_is_told_later(origin: Origin, shared: Redis) -> None:
    async with relayed(shared.port) as relay:
        options: dict[str, Any] = {"cache_secret": SECRET, "wall": time.time}
        async with (
            running_proxy(origin.url, redis_url=f"redis://127.0.0.1:{relay.port}/0", **options) as away,
            running_proxy(origin.url, redis_url=shared.url, **options) as other,
        ):
            await ready(away, other)
            origin.respond(b"old", FRESH)
            await other.get("/a")
            await settled(other)
            relay.stop()
            await admin(away, "POST", "/api/purge", b'{"url": "/a"}')
            relay.cut()
            relay.go()
            origin.respond(b"new", FRESH)
            await heard(away, other)
            assert (await other.get("/a")).content == b"new"


@pytest.mark.parametrize("lost", ["everything", "some entries"])
async def test_a_log_that_lost_something_makes_nothing_valid_that_may_not_be(
    origin: Origin, shared: Redis, lost: str
) -> None:
    async with relayed(shared.port) as relay:
        options: dict[str, Any] = {"cache_secret": SECRET, "wall": time.time}
        async with (
            running_proxy(origin.url, redis_url=f"redis://127.0.0.1:{relay.port}/0", **options) as away,
            running_proxy(origin.url, redis_url=shared.url, **options) as other,
        ):
            await ready(away, other)
            origin.respond(b"old", FRESH)
            await away.get("/a")
            await settled(away)
            relay.stop()
            await admin(other, "POST", "/api/purge", b'{"url": "/a"}')
            await admin(other, "POST", "/api/purge", b'{"url": "/b"}')
            await settled(other)
            async with client_of(shared) as client:
                if lost == "everything":
                    await client.flushall()
                else:
                    [entries] = [key async for key in client.scan_iter("siding:*:entries")]
                    await client.xtrim(entries, maxlen=1, approximate=False)
            origin.respond(b"new", FRESH)
            relay.cut()
            relay.go()
            await ready(away)
            await holds(lambda: away.worker._invalidations.epoch > 0)
            assert (await away.get("/a")).content == b"new"


# -- flags


async def test_flags_are_flipped_everywhere(origin: Origin, shared: Redis, pair: list[Proxy]) -> None:
    one, other = pair
    answer = await admin(one, "PATCH", "/api/flags", b'{"BYPASS": true, "ENABLE_ETAG": "off", "everywhere": true}')
    assert answer.status == 200
    assert b'"everywhere":true' in answer.content
    await holds(lambda: other.flags.bypass and not other.flags.etag)
    assert one.flags.bypass
    async with running_proxy(origin.url, redis_url=shared.url) as late:
        await holds(lambda: late.flags.bypass and not late.flags.etag)
    await admin(other, "PATCH", "/api/flags", b'{"BYPASS": false, "everywhere": true}')
    await holds(lambda: not one.flags.bypass)
    assert not one.flags.etag


async def test_flags_are_flipped_here_alone_where_nothing_else_is_said(pair: list[Proxy]) -> None:
    one, other = pair
    await admin(one, "PATCH", "/api/flags", b'{"ENABLE_ETAG": false}')
    await admin(one, "PATCH", "/api/flags", b'{"ENABLE_DEDUP": false, "everywhere": true}')
    await holds(lambda: not other.flags.dedup)
    assert other.flags.etag


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"BYPASS": true, "everywhere": "yes"}', b"neither true nor false"),
        (b'{"everywhere": true}', b"give flags to change"),
        (b'{"BYPASS": true, "everywhere": true}', b"REDIS_URL"),
    ],
)
async def test_a_flip_everywhere_that_cannot_be_is_refused(origin: Origin, content: bytes, says: bytes) -> None:
    async with running_proxy(origin.url) as proxy:
        answer = await admin(proxy, "PATCH", "/api/flags", content)
        assert (answer.status, proxy.flags.bypass) == (400, False)
        assert says in answer.content


async def test_a_flip_while_the_tier_is_away_is_told_later(
    origin: Origin, shared: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.everywhere.TELL_SECONDS", 0.05)
    async with relayed(shared.port) as relay:
        options: dict[str, Any] = {"cache_secret": SECRET, "wall": time.time}
        async with (
            running_proxy(origin.url, redis_url=f"redis://127.0.0.1:{relay.port}/0", **options) as away,
            running_proxy(origin.url, redis_url=shared.url, **options) as other,
        ):
            await ready(away, other)
            relay.stop()
            answer = await admin(away, "PATCH", "/api/flags", b'{"BYPASS": true, "everywhere": true}')
            assert b'"everywhere":false' in answer.content
            assert away.flags.bypass
            relay.cut()
            relay.go()
            await holds(lambda: other.flags.bypass)


# -- privacy


async def dump(shared: Redis) -> bytes:
    """Every key and value of the server."""
    found = []
    async with client_of(shared) as client:
        async for key in client.scan_iter("*"):
            kind = await client.type(key)
            values = {
                b"string": client.get,
                b"hash": client.hgetall,
                b"stream": client.xrange,
            }
            found.append(repr((key, await values[kind](key))).encode())
    return b"\n".join(found)


async def test_no_credential_is_in_the_tier(origin: Origin, shared: Redis, tmp_path: Path) -> None:
    async with several(origin, shared.url, rules=REPORTS, directory=tmp_path) as (one, other):
        origin.respond(b"report")
        fields = ("Authorization: Bearer sk-secret", "Cookie: session=secret", "Content-Type: application/json")
        content = b'{"student": "secret-name"}'
        for proxy in (one, other):
            await proxy.request("POST", "/reports", *fields[::2], content=content)
            origin.respond(b"page", FRESH, "Vary: Cookie")
            await proxy.get("/a", fields[1])
            await settled(proxy)
        everything = await dump(shared)
    assert b"report" in everything
    assert b"secret" not in everything


async def test_each_credential_has_its_own(origin: Origin, shared: Redis, tmp_path: Path) -> None:
    async with several(origin, shared.url, rules=REPORTS, directory=tmp_path) as (one, other):

        async def script(turn: Turn) -> None:
            await turn.answer((turn.request.get("authorization") or "").encode())

        origin.script = script
        for proxy in (one, other):
            for who in ("a", "b"):
                answer = await proxy.request("POST", "/reports", f"Authorization: {who}", content=b"{}")
                assert answer.content == who.encode()
            await settled(proxy)
        assert len(origin.requests) == 2


async def test_without_a_secret_only_what_its_url_tells_is_shared(
    origin: Origin, shared: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with several(origin, shared.url, cache_secret="", rules=REPORTS, directory=tmp_path) as (one, other):
        assert "CACHE_SECRET is not set" in caplog.text
        origin.respond(b"report", FRESH)
        for proxy in (one, other):
            await proxy.request("POST", "/reports", "Authorization: Bearer sk-secret", content=b"{}")
            await proxy.get("/a", "X-Forwarded-Host: secret.example")
            await proxy.get("/b", "Authorization: Bearer sk-secret")
            await proxy.get("/c")
            await settled(proxy)
        paths = [request.target for request in origin.requests]
        assert {path: paths.count(path) for path in paths} == {"/reports": 2, "/a": 2, "/b": 2, "/c": 1}
        assert b"secret" not in await dump(shared)


async def test_who_has_another_secret_is_not_believed(origin: Origin, shared: Redis) -> None:
    async with (
        several(origin, shared.url, 1) as [one],
        several(origin, shared.url, 1, cache_secret="f" * 32) as [other],
    ):
        origin.respond(b"hello", FRESH)
        await one.get("/a")
        await settled(one)
        await other.get("/a")
    assert len(origin.requests) == 2


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
