"""Parts: stored, served, completed, and never a wrong octet."""

from __future__ import annotations

import pytest

from tests.support import Message, Origin, Turn, running_proxy

CONTENT = b"0123456789"
FRESH = "Cache-Control: max-age=60"
TAG = 'ETag: "v1"'


def ranged(*fields: str, content: bytes = CONTENT) -> object:
    """An origin that serves single ranges as it should."""

    async def script(turn: Turn) -> None:
        asked = turn.request.get("range")
        condition = turn.request.get("if-range")
        if asked is None or (condition is not None and f"ETag: {condition}" not in fields):
            await turn.answer(content, *fields)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        if not first:
            start, end = len(content) - int(last), len(content)
        else:
            start, end = int(first), int(last) + 1 if last else len(content)
        span = f"Content-Range: bytes {start}-{end - 1}/{len(content)}"
        await turn.answer(content[start:end], *fields, span, status="206 Partial Content")

    return script


def told(message: Message) -> tuple[int, bytes, str | None]:
    return message.status, message.content, message.get("content-range")


async def test_ranges_of_a_stored_response(origin: Origin) -> None:
    origin.respond(CONTENT, FRESH, TAG)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        assert told(await proxy.get("/a", "Range: bytes=2-4")) == (206, b"234", "bytes 2-4/10")
        assert told(await proxy.get("/a", "Range: bytes=-2")) == (206, b"89", "bytes 8-9/10")
        assert told(await proxy.get("/a", "Range: bytes=20-")) == (416, b"", "bytes */10")
        assert told(await proxy.get("/a", "Range: bytes=0-1", 'If-Range: "v0"')) == (200, CONTENT, None)
        several = await proxy.get("/a", "Range: bytes=0-1,5-6")
        head = await proxy.request("HEAD", "/a", "Range: bytes=2-4")
    assert several.status == 206
    assert (several.get("content-type") or "").startswith("multipart/byteranges; boundary=")
    assert b"Content-Range: bytes 0-1/10\r\n\r\n01\r\n--" in several.content
    assert head.status == 200
    assert len(origin.requests) == 1


async def test_a_part_is_stored_and_answers_what_it_holds(origin: Origin) -> None:
    origin.script = ranged(FRESH, TAG)  # type: ignore[assignment]
    async with running_proxy(origin.url) as proxy:
        assert told(await proxy.get("/a", "Range: bytes=-6")) == (206, b"456789", "bytes 4-9/10")
        hit = await proxy.get("/a", "Range: bytes=5-7")
        assert told(hit) == (206, b"567", "bytes 5-7/10")
        assert (hit.get("cache-status") or "").startswith("siding; hit")
        assert told(await proxy.get("/a", "Range: bytes=-1")) == (206, b"9", "bytes 9-9/10")
        assert len(origin.requests) == 1
        # the two are joined
        lower = await proxy.get("/a", "Range: bytes=0-4")
        assert told(lower) == (206, b"01234", "bytes 0-4/10")
        assert lower.get("cache-status") == "siding; fwd=partial; fwd-status=206; stored"
        assert told(await proxy.get("/a")) == (200, CONTENT, None)
    assert len(origin.requests) == 2


async def test_a_part_is_completed(origin: Origin) -> None:
    origin.script = ranged(FRESH, TAG)  # type: ignore[assignment]
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Range: bytes=0-4")
        whole = await proxy.get("/a")
        assert told(whole) == (200, CONTENT, None)
        assert whole.get("content-length") == "10"
        assert whole.get("cache-status") == "siding; fwd=partial; fwd-status=206; stored"
        assert told(await proxy.get("/a")) == (200, CONTENT, None)
    assert [(one.get("range"), one.get("if-range")) for one in origin.requests] == [
        ("bytes=0-4", None),
        ("bytes=5-", '"v1"'),
    ]


async def test_a_large_part_is_completed_as_the_rest_arrives(origin: Origin) -> None:
    large = bytes(range(256)) * 4096
    origin.script = ranged(FRESH, TAG, content=large)  # type: ignore[assignment]
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Range: bytes=0-299999")
        assert told(await proxy.get("/a")) == (200, large, None)
        assert told(await proxy.get("/a")) == (200, large, None)
    assert len(origin.requests) == 2


async def test_a_part_of_what_has_changed_is_not_completed(origin: Origin) -> None:
    origin.script = ranged(FRESH, TAG)  # type: ignore[assignment]
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Range: bytes=0-4")
        origin.script = ranged(FRESH, 'ETag: "v2"', content=b"ABCDEFGHIJ")  # type: ignore[assignment]
        assert told(await proxy.get("/a")) == (200, b"ABCDEFGHIJ", None)
        assert told(await proxy.get("/a", "Range: bytes=0-1")) == (206, b"AB", "bytes 0-1/10")
    assert len(origin.requests) == 2


async def test_without_a_validator_nothing_is_combined(origin: Origin) -> None:
    origin.script = ranged(FRESH)  # type: ignore[assignment]
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Range: bytes=0-4")
        origin.script = ranged(FRESH, content=b"ABCDEFGHIJ")  # type: ignore[assignment]
        assert told(await proxy.get("/a")) == (200, b"ABCDEFGHIJ", None)
    assert [one.get("range") for one in origin.requests] == ["bytes=0-4", "bytes=5-", None]


async def test_a_stale_part_is_not_used(origin: Origin) -> None:
    origin.script = ranged(FRESH, TAG)  # type: ignore[assignment]
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Range: bytes=0-4")
        proxy.clock.now += 61
        await proxy.get("/a", "Range: bytes=0-4")
        proxy.clock.now += 61
        assert told(await proxy.get("/a")) == (200, CONTENT, None)
    assert [one.get("range") for one in origin.requests] == ["bytes=0-4", "bytes=0-4", None]


async def test_a_part_never_replaces_the_whole(origin: Origin) -> None:
    origin.respond(CONTENT, FRESH, TAG)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        origin.script = ranged(FRESH, TAG)  # type: ignore[assignment]
        assert told(await proxy.get("/a", "Range: bytes=0-1", "Cache-Control: no-cache"))[0] == 206
        assert told(await proxy.get("/a")) == (200, CONTENT, None)


async def test_a_purge_reaches_parts(origin: Origin) -> None:
    origin.script = ranged(FRESH, TAG)  # type: ignore[assignment]
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Range: bytes=0-4")
        await proxy.request("POST", "/a", content=b"")
        await proxy.get("/a", "Range: bytes=0-4")
    assert len(origin.requests) == 3


@pytest.mark.parametrize("authorization", ["Authorization: Bearer a"])
async def test_anothers_part_is_not_given(origin: Origin, authorization: str) -> None:
    origin.script = ranged(FRESH, TAG)  # type: ignore[assignment]
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Range: bytes=0-4", authorization)
        await proxy.get("/a", "Range: bytes=0-4")
    assert len(origin.requests) == 2
