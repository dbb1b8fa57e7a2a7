"""Flags of all replicas at once."""

from __future__ import annotations

import orjson
import pytest

from config.everywhere import UNTOLD
from config.flags import FlagName
from tests.redis_servers import Redis
from tests.scenarios.replicas import admin, parted, settled
from tests.support import PATIENCE, Origin, Proxy, holds, running_proxy


async def test_flags_are_flipped_everywhere(
    origin: Origin, shared: Redis, pair: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.everywhere.TELL_SECONDS", PATIENCE)
    one, other = pair
    answer = await admin(one, "PATCH", "/api/flags", b'{"BYPASS": true, "ENABLE_ETAG": "off", "everywhere": true}')
    assert answer.status == 200
    assert b'"everywhere":true' in answer.content
    await holds(lambda: other.flags.bypass and not other.flags.etag)
    assert one.flags.bypass
    async with running_proxy(origin.url, redis_url=shared.url) as late:
        await holds(lambda: late.flags.bypass and not late.flags.etag)
        assert await pinned(late) == {"BYPASS": True, "ENABLE_ETAG": False}
    await admin(other, "PATCH", "/api/flags", b'{"BYPASS": false, "everywhere": true}')
    await holds(lambda: not one.flags.bypass)
    assert not one.flags.etag
    assert await pinned(one) == {"BYPASS": False, "ENABLE_ETAG": False}


async def pinned(proxy: Proxy) -> dict[str, bool]:
    """As it tells, and its metric as well."""
    told: dict[str, bool] = orjson.loads((await admin(proxy, "GET", "/api/flags", b"")).content)["pinned"]
    metrics = (await admin(proxy, "GET", "/metrics", b"")).content.decode()
    for name in FlagName:
        assert f'siding_flag_pinned{{flag="{name}"}} {(name in told):.1f}\n' in metrics
    return told


async def test_flags_are_handed_back_to_the_settings_of_each(origin: Origin, shared: Redis, pair: list[Proxy]) -> None:
    one, other = pair
    async with running_proxy(origin.url, redis_url=shared.url, bypass="on") as differs:
        await admin(one, "PATCH", "/api/flags", b'{"BYPASS": false, "ENABLE_ETAG": false, "everywhere": true}')
        await holds(lambda: not differs.flags.bypass and not other.flags.etag)
        answer = await admin(other, "PATCH", "/api/flags", b'{"BYPASS": null, "ENABLE_ETAG": null, "everywhere": true}')
        assert (answer.status, b'"BYPASS":false' in answer.content) == (200, True)
        await holds(lambda: differs.flags.bypass and one.flags.etag)
        assert not one.flags.bypass
        assert await pinned(one) == {}


async def test_flags_are_flipped_here_alone_where_nothing_else_is_said(pair: list[Proxy]) -> None:
    one, other = pair
    await admin(one, "PATCH", "/api/flags", b'{"ENABLE_ETAG": false}')
    await admin(one, "PATCH", "/api/flags", b'{"ENABLE_DEDUP": false, "everywhere": true}')
    await holds(lambda: not other.flags.dedup)
    assert other.flags.etag
    await admin(one, "PATCH", "/api/flags", b'{"ENABLE_DEDUP": true}')
    assert await pinned(one) == {"ENABLE_DEDUP": False}


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


@pytest.mark.parametrize("purges", [0, 3])
async def test_a_flip_while_the_tier_is_away_is_told_later(
    origin: Origin, shared: Redis, purges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where too much else waits to be told."""
    monkeypatch.setattr("config.everywhere.TELL_SECONDS", 0.05)
    monkeypatch.setattr("config.bulletin.MOST_PENDING", 2)
    async with parted(origin, shared) as (away, other, relay):
        relay.stop()
        answer = await admin(away, "PATCH", "/api/flags", b'{"BYPASS": true, "everywhere": true}')
        document = orjson.loads(answer.content)
        assert (document["everywhere"], document["untold"], document["note"]) == (False, {"BYPASS": True}, UNTOLD)
        stand = orjson.loads((await admin(away, "GET", "/api/flags", b"")).content)
        assert (stand["pinned"], stand["untold"], stand["settings"]["BYPASS"]) == ({}, {"BYPASS": True}, False)
        assert away.flags.bypass
        for _ in range(purges):
            await admin(away, "POST", "/api/purge", b'{"tag": "t"}')
        relay.cut()
        relay.go()
        await holds(lambda: other.flags.bypass)
        await settled(away)
        stand = orjson.loads((await admin(away, "GET", "/api/flags", b"")).content)
        assert (stand["pinned"], stand["untold"]) == ({"BYPASS": True}, {})


async def test_who_flips_last_while_the_tier_is_away_has_the_last_word_there_too(
    origin: Origin, shared: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.everywhere.TELL_SECONDS", 0.05)
    async with parted(origin, shared) as (away, other, relay):
        relay.stop()
        await admin(other, "PATCH", "/api/flags", b'{"BYPASS": true, "ENABLE_ETAG": false, "everywhere": true}')
        await settled(other)
        await admin(away, "PATCH", "/api/flags", b'{"BYPASS": false, "everywhere": true}')
        relay.cut()
        relay.go()
        await holds(lambda: not (other.flags.bypass or away.flags.etag))
        await settled(away)
        assert not away.flags.bypass
