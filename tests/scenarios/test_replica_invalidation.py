"""What one replica purges or invalidates is gone for all, and for who was away as well."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from proxy.server.admin import UNTOLD
from tests.redis_servers import Redis, client_of
from tests.scenarios.replicas import FRESH, REPORTS, admin, heard, parted, ready, settled, several
from tests.support import PATIENCE, Origin, Proxy, holds


@pytest.mark.parametrize("order", [b'{"url": "/a"}', b'{"prefix": "/"}', b'{"all": true}', b'{"tag": "t"}'])
async def test_a_purge_reaches_the_others(
    origin: Origin, shared: Redis, order: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.store.replicas.TOLD_SECONDS", PATIENCE)
    async with several(origin, shared.url, redis_timeout_ms=5000) as (one, other):
        origin.respond(b"old", FRESH, "Surrogate-Key: t")
        for proxy in (one, other):
            assert (await proxy.get("/a")).content == b"old"
            await settled(proxy)
        origin.respond(b"new", FRESH)
        answer = await admin(one, "POST", "/api/purge", order)
        assert (answer.status, b'"everywhere":true' in answer.content) == (200, True)
        await heard(one, other)
        for proxy in (other, one):
            assert (await proxy.get("/a")).content == b"new"
        assert len(origin.requests) <= 3


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
    async with parted(origin, shared) as (away, other, relay):
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
    async with parted(origin, shared) as (away, other, relay):
        origin.respond(b"old", FRESH)
        await other.get("/a")
        await settled(other)
        relay.stop()
        answer = await admin(away, "POST", "/api/purge", b'{"url": "/a"}')
        document = orjson.loads(answer.content)
        assert (document["purged"], document["everywhere"], document["note"]) == ("url", False, UNTOLD)
        relay.cut()
        relay.go()
        origin.respond(b"new", FRESH)
        await heard(away, other)
        assert (await other.get("/a")).content == b"new"


@pytest.mark.parametrize("lost", ["everything", "some entries"])
async def test_a_log_that_lost_something_makes_nothing_valid_that_may_not_be(
    origin: Origin, shared: Redis, lost: str
) -> None:
    async with parted(origin, shared) as (away, other, relay):
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
