"""GET by the HTTP standard, seen from both sides of a running proxy."""

from __future__ import annotations

import pytest

from proxy.observe.events import PurgeKind
from proxy.server.admin import PurgeOrder
from proxy.store import sweeping
from tests.support import Origin, Turn, running_proxy, until

FRESH = "Cache-Control: max-age=60"


async def test_a_fresh_stored_response_answers_the_second_request(origin: Origin) -> None:
    origin.respond("one", FRESH, "Content-Type: text/plain")
    async with running_proxy(origin.url) as proxy:
        first = await proxy.get("/a")
        proxy.clock.now += 5
        second = await proxy.get("/a")
    assert (first.content, second.content) == (b"one", b"one")
    assert len(origin.requests) == 1
    assert first.get("cache-status") == "siding; fwd=uri-miss; fwd-status=200; stored"
    assert second.get("cache-status") == "siding; hit; ttl=55"
    assert first.get("age") is None
    assert second.get("age") == "5"
    assert second.get("via") == "1.1 siding"


async def test_an_answer_made_for_the_request_has_no_age(origin: Origin) -> None:
    """However long the origin took (RFC 9111 5.1); one from a cache nearer the origin keeps its own."""
    async with running_proxy(origin.url) as proxy:

        async def script(turn: Turn) -> None:
            proxy.clock.now += 7
            await turn.answer("slow", FRESH, *(["Age: 3"] if turn.request.target == "/cached" else []))

        origin.script = script
        assert (await proxy.get("/a")).get("age") is None
        assert (await proxy.get("/a")).get("age") == "7"
        assert (await proxy.get("/cached")).get("age") == "10"


async def test_a_stale_response_is_validated_and_freshened(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.get("if-none-match") == '"v1"':
            await turn.answer(b"", FRESH, 'ETag: "v1"', "X-Round: 2", status="304 Not Modified")
        else:
            await turn.answer("one", FRESH, 'ETag: "v1"', "X-Round: 1")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 61
        validated = await proxy.get("/a")
        hit = await proxy.get("/a")
    assert (validated.status, validated.content, validated.get("x-round")) == (200, b"one", "2")
    assert validated.get("cache-status") == "siding; fwd=stale; fwd-status=304; stored"
    assert hit.get("cache-status") == "siding; hit; ttl=60"
    assert [request.get("if-none-match") for request in origin.requests] == [None, '"v1"']


async def test_a_changed_response_replaces_the_stale_one(origin: Origin) -> None:
    origin.respond("one", FRESH, 'ETag: "v1"')
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        origin.respond("two", FRESH, 'ETag: "v2"')
        proxy.clock.now += 61
        assert (await proxy.get("/a")).content == b"two"
        assert (await proxy.get("/a")).content == b"two"
    assert len(origin.requests) == 2


async def test_vary_selects_the_stored_response(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer(turn.request.get("accept-language") or "none", FRESH, "Vary: Accept-Language")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for language in ("de", "en", "de", "en"):
            assert (await proxy.get("/a", f"Accept-Language: {language}")).content == language.encode()
        third = await proxy.get("/a", "Accept-Language: fr")
    assert len(origin.requests) == 3
    assert (third.get("cache-status") or "").startswith("siding; fwd=vary-miss")


async def test_head_is_answered_from_a_stored_get(origin: Origin) -> None:
    origin.respond("four", FRESH)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        head = await proxy.request("HEAD", "/a")
    assert (head.status, head.get("content-length"), head.content) == (200, "4", b"")
    assert len(origin.requests) == 1


async def test_a_head_that_misses_is_forwarded_as_head(origin: Origin) -> None:
    origin.respond("four", FRESH)
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        head = await client.request("HEAD", "/a")
        again = await client.request("GET", "/a")
    assert (head.get("content-length"), again.content) == ("4", b"four")
    assert [request.method for request in origin.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"])
async def test_unsafe_methods_invalidate_on_success(origin: Origin, method: str) -> None:
    origin.respond("one", FRESH)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await proxy.request(method, "/a", content=b"{}")
        after = await proxy.get("/a")
    assert (after.get("cache-status") or "").startswith("siding; fwd=uri-miss")


async def test_a_failed_unsafe_request_invalidates_nothing(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.method == "POST":
            await turn.answer("no", status="422 Unprocessable Content")
        else:
            await turn.answer("one", FRESH)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        assert (await proxy.request("POST", "/a", content=b"{}")).status == 422
        assert (await proxy.get("/a")).get("cache-status") == "siding; hit; ttl=60"


@pytest.mark.parametrize(
    ("directive", "shared"),
    [("max-age=60", False), ("public, max-age=60", True), ("s-maxage=60", True), ("max-age=60, must-revalidate", True)],
)
async def test_authorization_is_shared_only_as_the_origin_allows(origin: Origin, directive: str, shared: bool) -> None:
    origin.respond("one", f"Cache-Control: {directive}")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Authorization: Bearer alice")
        await proxy.get("/a", "Authorization: Bearer bob")
    assert len(origin.requests) == (1 if shared else 2)


@pytest.mark.parametrize(
    "fields",
    [
        ["Cache-Control: no-store"],
        ["Cache-Control: private, max-age=60"],
        ["Cache-Control: max-age=60", "Set-Cookie: a=b"],
        ["Cache-Control: max-age=60", "Vary: *"],
        ["Cache-Control: max-age=0"],
        [],
    ],
)
async def test_what_may_not_be_stored_is_not(origin: Origin, fields: list[str]) -> None:
    origin.respond("one", *fields)
    async with running_proxy(origin.url) as proxy:
        for _ in range(2):
            answer = await proxy.get("/a")
            assert answer.content == b"one"
            assert "stored" not in (answer.get("cache-status") or "")
    assert len(origin.requests) == 2


@pytest.mark.parametrize("field", ["Cache-Control: no-cache", "Pragma: no-cache", "Cache-Control: max-age=0"])
async def test_a_request_may_demand_validation(origin: Origin, field: str) -> None:
    origin.respond("one", FRESH, 'ETag: "v1"')
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 1
        answer = await proxy.get("/a", field)
    assert len(origin.requests) == 2
    assert (answer.get("cache-status") or "").startswith("siding; fwd=request")


async def test_only_if_cached_is_answered_without_the_origin(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a", "Cache-Control: only-if-cached")
    assert answer.status == 504
    assert origin.requests == []


async def test_stale_while_revalidate_answers_at_once_and_validates_behind(origin: Origin) -> None:
    origin.respond("one", "Cache-Control: max-age=10, stale-while-revalidate=60")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        origin.respond("two", "Cache-Control: max-age=10, stale-while-revalidate=60")
        proxy.clock.now += 11
        stale = await proxy.get("/a")
        await until(lambda: not proxy.worker.handler.fetches.running)
        after = await proxy.get("/a")
    assert (stale.content, stale.get("age")) == (b"one", "11")
    assert stale.get("cache-status") == "siding; hit; ttl=-1; detail=stale-while-revalidate"
    assert after.content == b"two"
    assert len(origin.requests) == 2


@pytest.mark.parametrize("failure", ["refused", "503"])
async def test_stale_if_error_hides_the_origins_failure(origin: Origin, failure: str) -> None:
    origin.respond("one", "Cache-Control: max-age=10, stale-if-error=60")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 11
        if failure == "refused":
            await origin.stop()
        else:
            origin.respond("down", status="503 Service Unavailable")
        hidden = await proxy.get("/a")
        proxy.clock.now += 60
        shown = await proxy.get("/a")
    assert (hidden.status, hidden.content) == (200, b"one")
    assert "detail=stale-if-error" in (hidden.get("cache-status") or "")
    assert shown.status == (502 if failure == "refused" else 503)


async def test_a_single_range_comes_from_the_stored_response(origin: Origin) -> None:
    origin.respond("0123456789", FRESH, 'ETag: "v1"')
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        part = await proxy.get("/a", "Range: bytes=2-4")
        beyond = await proxy.get("/a", "Range: bytes=20-")
    assert (part.status, part.content, part.get("content-range")) == (206, b"234", "bytes 2-4/10")
    assert (beyond.status, beyond.get("content-range")) == (416, "bytes */10")
    assert len(origin.requests) == 1


async def test_large_responses_stream_through_unstored(origin: Origin) -> None:
    origin.respond(b"x" * 5000, FRESH)
    async with running_proxy(origin.url, cache_max_object_bytes=4096, cache_max_bytes=65536) as proxy:
        for _ in range(2):
            assert (await proxy.get("/a")).content == b"x" * 5000
    assert len(origin.requests) == 2


async def test_what_a_forwarding_field_changes_is_keyed_apart(origin: Origin) -> None:
    """Cache poisoning: an answer made for one X-Forwarded-Host is never given to another."""

    async def script(turn: Turn) -> None:
        await turn.answer(turn.request.get("x-forwarded-host") or "", FRESH)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "X-Forwarded-Host: evil.example")
        assert (await proxy.get("/a")).content != b"evil.example"


async def test_an_invalidation_overtakes_a_response_on_its_way(origin: Origin) -> None:
    """A response asked for before a change must not be stored after it."""
    import asyncio  # noqa: PLC0415 - only here

    asked, go = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        if turn.request.method == "GET" and not go.is_set():
            asked.set()
            await go.wait()
            await turn.answer("before", FRESH)
        else:
            await turn.answer("after", FRESH)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        slow = asyncio.create_task(proxy.get("/a"))
        await asked.wait()
        await proxy.request("POST", "/a", content=b"change")
        go.set()
        assert (await slow).content == b"before"
        assert (await proxy.get("/a")).content == b"after"


async def test_what_was_purged_makes_way_though_nobody_asks_for_it(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(sweeping, "TURN_SECONDS", 0.01)
    origin.respond("one", FRESH)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        await proxy.get("/b")
        assert await proxy.worker.purge(PurgeOrder(PurgeKind.URL, "/a", soft=False))
        await until(lambda: proxy.worker.store.responses == 1)
        assert (await proxy.get("/b")).get("cache-status") == "siding; hit; ttl=60"
