"""Requests that pass without a task get the same answers as through the handler, and go there without it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.server.exchange import Exchange
from tests.codings import DECODERS
from tests.fast.passing import (
    ANSWERS,
    BYPASS,
    CHUNKED,
    CODED,
    CONDITIONAL,
    DATE,
    GET,
    JSON,
    OFF,
    POST,
    RULE,
    TEXT,
    in_chunks,
    nothing_left,
    reply,
)
from tests.fast.sides import Side, both, seen, server_of
from tests.support import PATIENCE, Origin, Turn, running_proxy

HEAD = b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n"


ACCEPTING = b"\r\nAccept-Encoding: deflate, zstd;q=0.5\r\n"
ASKED = {"post": POST, "get": GET, "if": CONDITIONAL, "coded": CODED, "head": HEAD}


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        *[pytest.param(asked, {}, id=name) for name, asked in ASKED.items()],
        *[pytest.param(asked, BYPASS, id=f"{name} under BYPASS") for name, asked in ASKED.items() if name != "head"],
        pytest.param(GET, OFF, id="get with nothing stored"),
    ],
)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_the_same_as_the_ordinary_way(
    origin: Origin, answer: str, asked: bytes, flags: dict[str, object]
) -> None:
    """Three times: the first on a connection of its own, the third when all that can be learnt is."""
    method, turns = asked.partition(b" ")[0].decode(), 0

    async def script(turn: Turn) -> None:
        nonlocal turns
        turns += 1
        if turn.request.target == "/first":
            await turn.answer("", DATE)
            return
        pieces = [piece.replace("%d", str(turns)) for piece in ANSWERS[answer]]
        for number, piece in enumerate(pieces):
            bodiless = method == "HEAD" and number == len(pieces) - 1
            await turn.send(piece.partition("\r\n\r\n")[0] + "\r\n\r\n" if bodiless and piece else piece)
            await asyncio.sleep(0)
        if pieces[-1] == "":
            turn.writer.close()

    origin.script = script
    async with both(origin) as sides:
        told = []
        for side in sides:
            side.proxy.flags.update(flags)
            found, turns = [], 0
            for _ in range(3):
                await side.ask([b"DELETE /first HTTP/1.1\r\nHost: a\r\n\r\n"], "DELETE")
                got, requests = await side.ask([asked], method)
                found.append((seen(got), [request.replace(b"\nX-Request-Id: i", b"") for request in requests]))
                await nothing_left(side.proxy)
            told.append(found)
    assert told[0] == told[1]


async def test_two_sides_are_there(origin: Origin) -> None:
    """What is compared above is what it is called."""
    origin.respond("hello", DATE)
    async with both(origin) as (fast, slow):
        for side in (fast, slow):
            for _ in range(3):
                await side.ask([POST], "POST")
        assert isinstance(fast, Side)
        express = server_of(fast.proxy).express
        assert express is not None
        assert express.replies._learnt
        assert server_of(slow.proxy).express is None


# -- which go there


@pytest.mark.parametrize(("flags", "asked"), [(BYPASS, GET), (BYPASS, POST), (BYPASS, CONDITIONAL), (OFF, GET)])
async def test_with_the_cache_off_there_is_a_short_way(
    origin: Origin, tmp_path: Path, flags: dict[str, object], asked: bytes
) -> None:
    origin.respond("hello", DATE, "Cache-Control: private")
    await goes_the_short_way(origin, tmp_path, flags, asked)


@pytest.mark.parametrize("more", [(), ("Vary: Origin",), ('ETag: "a"',), ("Accept-Ranges: bytes",)])
@pytest.mark.parametrize("asked", [CODED, CODED.replace(b"gzip", b"br"), POST.replace(b"\r\n", ACCEPTING, 1)])
async def test_there_is_a_short_way_for_what_is_coded(
    origin: Origin, tmp_path: Path, asked: bytes, more: tuple[str, ...]
) -> None:
    origin.respond(TEXT, DATE, JSON, "Cache-Control: private", *more)
    await goes_the_short_way(origin, tmp_path, {}, asked.replace(b"/a", b"/b"), TEXT.encode())


@pytest.mark.parametrize(("flags", "asked"), [({}, GET), ({}, CODED), ({}, POST), (BYPASS, GET), (BYPASS, POST)])
@pytest.mark.parametrize("content", ["hello", TEXT])
async def test_there_is_a_short_way_for_chunks(
    origin: Origin, tmp_path: Path, flags: dict[str, object], asked: bytes, content: str
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(reply(DATE, JSON, "Cache-Control: private", CHUNKED, content=in_chunks(content))[0])

    origin.script = script
    await goes_the_short_way(origin, tmp_path, flags, asked.replace(b"/a", b"/b"), content.encode())


@pytest.mark.parametrize(
    ("asked", "status"),
    [(CONDITIONAL, "304 Not Modified"), (GET.replace(b"GET", b"OPTIONS"), "204 No Content"), (POST, "204 No Content")],
)
async def test_there_is_a_short_way_for_what_has_no_content(
    origin: Origin, tmp_path: Path, asked: bytes, status: str
) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.get("accept") == "a private answer":
            await turn.answer("hello", DATE, "Cache-Control: private")
        else:
            await turn.send(reply(DATE, "Cache-Control: private", status=status, content="")[0])

    origin.script = script
    before = GET.replace(b"\r\n\r\n", b"\r\nAccept: a private answer\r\n\r\n").replace(b"/a", b"/b")
    await goes_the_short_way(origin, tmp_path, {}, asked.replace(b"/a", b"/b"), b"", before)


async def goes_the_short_way(
    origin: Origin,
    directory: Path,
    flags: dict[str, object],
    asked: bytes,
    content: bytes = b"hello",
    before: bytes = b"",
) -> None:
    """Once there is a connection to the origin, and its answer is known. before -- asked first."""
    async with running_proxy(origin.url, rules=RULE, directory=directory) as proxy, asyncio.timeout(PATIENCE):
        proxy.flags.update(flags)
        client = await proxy.connect()
        handled = 0

        async def counted(exchange: Exchange) -> None:
            nonlocal handled
            handled += 1
            await proxy.worker.handler(exchange)

        server_of(proxy).serve = counted
        if before:
            await client.send(before)
            await client.response()
        for _ in range(5):
            await client.send(asked)
            answer = await client.response()
            decoded = DECODERS[coding](answer.content) if (coding := answer.get("content-encoding")) else answer.content
            assert decoded == content
        assert handled == 2
        await nothing_left(proxy)
    assert len(origin.requests) == 5 + bool(before)
