"""Where answers end, whatever pieces the network makes of them, and how the content of requests is framed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy import errors
from proxy.policy.messages import ResponseHead
from tests.origin.support import FIELDS, ask, at_rest, client_of, pieces, read_all
from tests.support import Origin, Turn

# -- framing, whatever the pieces the network makes of it

ANSWERS: dict[str, tuple[bytes, bytes]] = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n",
        b"hello",
    ),
    "until-close": (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello"),
    "http-1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "interim": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", b"a"),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "empty-reason": (b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\na", b"a"),
    "bare-line-feeds": (b"HTTP/1.1 200 OK\nContent-Length: 5\nX: y\n\nhello", b"hello"),
    "later-version": (b"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "padded-sizes": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3  \r\nhel\r\n2 ;x=y\r\nlo\r\n0 \r\n\r\n",
        b"hello",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_cut_at_every_octet_reads_the_same(origin: Origin, name: str) -> None:
    wire, expected = ANSWERS[name]
    cuts = iter(range(1, len(wire)))

    async def script(turn: Turn) -> None:
        cut = next(cuts)
        turn.writer.write(wire[:cut])
        await turn.writer.drain()
        await asyncio.sleep(0)
        turn.writer.write(wire[cut:])
        if name == "until-close":
            turn.writer.close()

    origin.script = script
    async with client_of(origin.url) as client:
        for _ in range(len(wire) - 1):
            assert await read_all(await ask(client)) == expected
        assert at_rest(client)


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (b"", errors.OriginReset),
        (b"HTTP/1.1 200 OK\r\nContent-Le", errors.OriginReset),
        (b"hello\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", errors.OriginMalformed),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            errors.OriginMalformed,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked;q=1\r\n\r\n0\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, errors.OriginMalformed),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nhi", errors.OriginMalformed),
        (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", errors.OriginMalformed),
        (b"HTTP/1.1 199 X\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 204 No Content\r\n\r\n", errors.OriginMalformed),
        (b"HTTP/1.1 105 X\r\nContent-Length: 27\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", errors.OriginMalformed),
        (
            b"HTTP/1.1 199 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            errors.OriginMalformed,
        ),
    ],
)
async def test_heads_that_are_no_answer(origin: Origin, wire: bytes, fault: type[Exception]) -> None:
    async def script(turn: Turn) -> None:
        turn.writer.write(wire)
        turn.writer.close()

    origin.script = script
    async with client_of(origin.url) as client:
        with pytest.raises(fault):
            await ask(client, "POST")
        assert at_rest(client)
        assert client.idle == 0


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
)
async def test_content_cut_short_is_never_taken_for_complete(origin: Origin, wire: bytes) -> None:
    async def script(turn: Turn) -> None:
        turn.writer.write(wire)
        turn.writer.close()

    origin.script = script
    async with client_of(origin.url) as client:
        response = await ask(client)
        with pytest.raises(errors.OriginReset):
            await read_all(response)
        assert at_rest(client)


async def test_nonsense_after_the_head_is_a_fault(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await turn.send(b"zz\r\n")

    origin.script = script
    async with client_of(origin.url) as client:
        with pytest.raises(errors.OriginMalformed):
            await read_all(await ask(client))


@pytest.mark.parametrize(
    ("reason", "told"), [(b"Caf\xe9\t!", "Caf\xe9\t!"), (b"", ""), (b"O\0K", ""), (b"\x1b[2J", ""), (b"O\x7fK", "")]
)
async def test_a_reason_with_controls_is_none(origin: Origin, reason: bytes, told: str) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 %b\r\nContent-Length: 2\r\n\r\nhi" % reason)

    origin.script = script
    async with client_of(origin.url) as client:
        response = await ask(client)
        assert (response.head.reason, await read_all(response)) == (told, b"hi")


async def test_interim_responses_are_told(origin: Origin) -> None:
    told: list[ResponseHead] = []

    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await turn.answer("a")

    origin.script = script
    async with client_of(origin.url) as client:
        response = await client.request("GET", "/a", FIELDS, None, None, told.append)
        assert await read_all(response) == b"a"
    assert [(head.status, head.fields.get("link")) for head in told] == [(103, "</a>"), (100, None)]


# -- content of requests


async def test_content_is_framed_as_it_is_known(origin: Origin) -> None:
    async with client_of(origin.url) as client:
        await read_all(await client.request("PUT", "/a", FIELDS, b"whole", None))
        await read_all(await client.request("PUT", "/a", FIELDS, pieces(b"in", b"", b"pieces"), 8))
        await read_all(await client.request("PUT", "/a", FIELDS, pieces(b"in", b"", b"chunks"), None))
        await read_all(await client.request("PUT", "/a", FIELDS, b"", None))
        await read_all(await client.request("GET", "/a", FIELDS, None, None))
    framing = [(one.get("content-length"), one.get("transfer-encoding"), one.content) for one in origin.requests]
    assert framing == [
        ("5", None, b"whole"),
        ("8", None, b"inpieces"),
        (None, "chunked", b"inchunks"),
        ("0", None, b""),
        (None, None, b""),
    ]


async def test_content_that_fails_fails_the_request(origin: Origin) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise errors.MalformedRequest("the client talks nonsense")

    async with client_of(origin.url) as client:
        with pytest.raises(errors.MalformedRequest):
            await client.request("PUT", "/a", FIELDS, broken(), None)
        assert at_rest(client)


async def test_an_early_answer_does_not_wait_for_the_content(origin: Origin) -> None:
    origin.read_content = False
    never = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"abc"
        await never.wait()

    origin.respond("too much", status="413 Content Too Large")
    async with client_of(origin.url) as client:
        response = await client.request("PUT", "/a", FIELDS, endless(), None)
        assert response.head.status == 413
        assert await read_all(response) == b"too much"
        assert client.idle == 0


@pytest.mark.parametrize(("status", "content"), [("100 Continue", b"abc"), ("417 Expectation Failed", b"")])
async def test_content_is_held_back_for_a_continue(origin: Origin, status: str, content: bytes) -> None:
    origin.read_content = False
    sent: list[bytes] = []

    async def script(turn: Turn) -> None:
        if status.startswith("100"):
            await turn.send(f"HTTP/1.1 {status}\r\n\r\n")
            sent.append(await turn.content())
            await turn.answer("ok")
        else:
            await turn.answer("no", status=status)

    origin.script = script
    fields = FIELDS.adding(("Expect", "100-continue"))
    async with client_of(origin.url) as client:
        response = await client.request("PUT", "/a", fields, pieces(b"abc"), 3)
        await read_all(response)
    assert b"".join(sent) == content
