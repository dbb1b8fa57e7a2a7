"""Validators made here, and the conditional requests they answer."""

from __future__ import annotations

import pytest

from proxy.policy.fields import format_date
from tests.support import Origin, Turn, running_proxy

FRESH = "Cache-Control: max-age=60"
CONTENT = "x" * 3000


async def test_a_validator_is_made_once_for_an_answer_without_one(origin: Origin) -> None:
    origin.respond(CONTENT, FRESH)
    async with running_proxy(origin.url) as proxy:
        first, second = await proxy.get("/a"), await proxy.get("/a")
    tag = first.get("etag")
    assert tag is not None
    assert tag.startswith('"')
    assert second.get("etag") == tag


async def test_equal_content_has_an_equal_validator_and_other_content_another(origin: Origin) -> None:
    origin.respond(CONTENT, FRESH)
    async with running_proxy(origin.url) as proxy:
        tags = [(await proxy.get(target)).get("etag") for target in ("/a", "/b")]
        origin.respond(CONTENT + "y", FRESH)
        other = (await proxy.get("/c")).get("etag")
    assert tags[0] == tags[1] != other


@pytest.mark.parametrize(
    "given", [['ETag: "mine"'], ["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"], ["Cache-Control: no-store"]]
)
async def test_none_is_made_where_the_origin_has_its_own_or_forbids_keeping(origin: Origin, given: list[str]) -> None:
    origin.respond(CONTENT, *given)
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a")
    assert answer.get("etag") == ('"mine"' if "mine" in given[0] else None)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('If-None-Match: "v1"', 304),
        ('If-None-Match: W/"v1"', 304),
        ('If-None-Match: "v0", W/"v1"', 304),
        ("If-None-Match: *", 304),
        ('If-None-Match: "v0"', 200),
        ("If-None-Match: v1", 200),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", 304),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT", 200),
        ("If-Modified-Since: yesterday", 200),
    ],
)
async def test_conditions_are_evaluated_on_the_stored_response(origin: Origin, condition: str, status: int) -> None:
    origin.respond(
        CONTENT, FRESH, 'ETag: "v1"', "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "Content-Type: x/y", "X-Own: 1"
    )
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        answer = await proxy.get("/a", condition)
    assert answer.status == status
    assert len(origin.requests) == 1
    assert answer.get("etag") == '"v1"'
    assert answer.get("cache-control") == "max-age=60"
    assert answer.get("date") is not None
    assert answer.get("cache-status") == "siding; hit; ttl=60"
    if status == 304:
        assert answer.get("content-type") is None
        assert answer.get("content-length") is None


@pytest.mark.parametrize("given", [["Cache-Control: private"], [FRESH], [FRESH, "Age: 1"]])
async def test_the_date_of_an_answer_just_made_is_no_date_of_modification(origin: Origin, given: list[str]) -> None:
    """RFC 9110 13.1.3: the condition is ignored. Only of what was stored before may the Date tell (RFC 9111 4.3.2)."""
    origin.respond(CONTENT, *given, f"Date: {format_date(1_800_000_000)}")
    condition = f"If-Modified-Since: {format_date(1_800_000_001)}"
    async with running_proxy(origin.url) as proxy:
        made = await proxy.get("/a", condition)
        again = await proxy.get("/a", condition)
    assert (made.status, made.content) == (200, CONTENT.encode())
    assert again.status == (304 if FRESH in given else 200)


async def test_if_none_match_stands_above_if_modified_since(origin: Origin) -> None:
    origin.respond(CONTENT, FRESH, 'ETag: "v1"', "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        answer = await proxy.get("/a", 'If-None-Match: "v0"', "If-Modified-Since: Sun, 06 Nov 2094 08:49:37 GMT")
    assert answer.status == 200


async def test_a_plain_get_is_never_answered_304(origin: Origin) -> None:
    """The proxy's own condition, and a 304 to it, are not the client's (Souin answered 304)."""

    async def script(turn: Turn) -> None:
        if turn.request.get("if-none-match"):
            await turn.answer("", FRESH, 'ETag: "v1"', status="304 Not Modified")
        else:
            await turn.answer(CONTENT, FRESH, 'ETag: "v1"')

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 100
        answer = await proxy.get("/a")
    assert (answer.status, answer.content) == (200, CONTENT.encode())


async def test_a_made_validator_is_not_shown_to_the_origin(origin: Origin) -> None:
    origin.respond(CONTENT, FRESH)
    async with running_proxy(origin.url) as proxy:
        tag = (await proxy.get("/a")).get("etag")
        proxy.clock.now += 100
        again = await proxy.get("/a", f"If-None-Match: {tag}")
    assert again.status == 304
    assert [request.get("if-none-match") for request in origin.requests] == [None, None]


async def test_a_client_may_validate_what_the_origin_alone_knows(origin: Origin) -> None:
    """Nothing is stored: the client's condition reaches the origin, whose 304 comes back."""

    async def script(turn: Turn) -> None:
        assert turn.request.get("if-none-match") == '"v1"'
        await turn.answer("", 'ETag: "v1"', status="304 Not Modified")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        answer = await proxy.get("/a", 'If-None-Match: "v1"')
    assert (answer.status, answer.get("etag")) == (304, '"v1"')


async def test_polling_costs_at_least_forty_per_cent_less_traffic(origin: Origin) -> None:
    """The plan's figure, as a replay: a list polled 50 times that changes every tenth time, never stored by itself."""
    version = 0

    async def script(turn: Turn) -> None:
        await turn.answer(f"version {version} " + CONTENT, "Content-Type: application/json", "Cache-Control: no-cache")

    async def poll(on: bool) -> int:
        nonlocal version
        received, tag = 0, None
        async with running_proxy(origin.url, enable_etag=on, enable_compression=False) as proxy:
            for turn in range(50):
                version = turn // 10
                answer = await proxy.get("/api/list", *([f"If-None-Match: {tag}"] if tag else []))
                tag = answer.get("etag")
                received += len(answer.raw_head) + len(answer.content)
        return received

    origin.script = script
    assert await poll(True) <= 0.6 * await poll(False)


async def test_without_the_flag_no_validator_is_made(origin: Origin) -> None:
    origin.respond(CONTENT, FRESH)
    async with running_proxy(origin.url, enable_etag=False) as proxy:
        assert (await proxy.get("/a")).get("etag") is None
