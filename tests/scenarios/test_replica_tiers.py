"""Two tiers: what one replica has stored, the others answer with."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.store.record import VERSION
from tests.redis_servers import Redis, client_of
from tests.scenarios.replicas import FRESH, SECRET, admin, heard, ready, replicas_of, settled, several, status_of
from tests.support import Origin, Proxy, Turn, gather, holds, running_proxy


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
    other.store_nothing()
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
