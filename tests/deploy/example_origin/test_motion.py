"""Content in motion: events, chunks, up- and downloads, echoes and a WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from tests.deploy.example_origin.support import exchange
from tests.deploy.processes import PATIENCE


async def test_events_come_one_by_one(client: ClientSession) -> None:
    async with client.get("/events?interval=0&count=3") as answer:
        events = (await answer.text()).removesuffix("\n\n").split("\n\n")
    assert [event.split("\n")[:2] for event in events] == [[f"id: {number}", "event: tick"] for number in (1, 2, 3)]
    assert json.loads(events[2].split("data: ")[1])["number"] == 3


async def test_an_event_is_sent_before_the_next_is_due(client: ClientSession) -> None:
    async with client.get("/events?interval=600") as answer:
        assert await answer.content.readline() == b"id: 1\n"


async def test_lines_are_chunks(origin: str) -> None:
    answer = await exchange(
        origin, b"GET /stream?count=2&interval=0 HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n"
    )
    first, second = b'{"line":1,"of":2}\n', b'{"line":2,"of":2}\n'
    assert answer.partition(b"\r\n\r\n")[2] == b"12\r\n" + first + b"\r\n12\r\n" + second + b"\r\n0\r\n\r\n"


async def test_a_download_is_as_long_as_asked(client: ClientSession) -> None:
    async with client.get("/download?bytes=1000003") as answer:
        content = await answer.read()
        assert answer.headers["Content-Length"] == "1000003"
    assert content == (bytes(range(251)) * 4000)[:1000003]


async def test_an_upload_is_counted_and_digested(client: ClientSession) -> None:
    sent = bytes(range(256)) * 40_000

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(sent), 1_000_000):
            yield sent[at : at + 1_000_000]

    async with client.post("/upload", data=pieces()) as answer:
        assert await answer.json() == {"bytes": len(sent), "sha256": hashlib.sha256(sent).hexdigest()}


@pytest.mark.parametrize("length", ["5", None])
async def test_an_echo_has_the_contents_type_and_framing(origin: str, length: str | None) -> None:
    framing, content = (
        (b"Content-Length: 5", b"hello") if length else (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")
    )
    answer = await exchange(
        origin,
        b"POST /echo HTTP/1.1\r\nHost: origin\r\nContent-Type: x/y\r\nConnection: close\r\n"
        + framing
        + b"\r\n\r\n"
        + content,
    )
    head, _, echoed = answer.partition(b"\r\n\r\n")
    assert framing in head
    assert b"Content-Type: x/y" in head
    assert echoed == content


async def test_an_echo_does_not_wait_for_the_end(origin: str) -> None:
    host, _, port = origin.rpartition(":")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /echo HTTP/1.1\r\nHost: origin\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await reader.readuntil(b"\r\n\r\n5\r\nfirst\r\n")
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
        await reader.readuntil(b"6\r\nsecond\r\n0\r\n\r\n")
        writer.close()


async def test_fields_are_told_as_they_came(origin: str) -> None:
    sent = [
        ["Host", "origin"],
        ["X-b", "2"],
        ["x-A", "1"],
        ["X-b", "1, 3"],
        ["X-Latin", "caf\xe9"],
        ["Connection", "close"],
    ]
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent)
    answer = await exchange(origin, f"GET /headers HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == sent


@pytest.mark.parametrize(
    "target", ["/echo/", "/echo/a%2Fb/../c//d?x=%20y&x=+&&", "/echo/%7Euser;v=1,2", "/echo/%zz", "/echo/a?b#c"]
)
async def test_targets_are_told_as_they_came(origin: str, target: str) -> None:
    answer = await exchange(origin, f"PURGE {target} HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"method": "PURGE", "target": target}


async def test_early_hints_come_before_the_answer(origin: str) -> None:
    answer = await exchange(origin, b"GET /early-hints HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n")
    hints, final, page = answer.split(b"\r\n\r\n", 2)
    assert hints == b"HTTP/1.1 103 Early Hints\r\nLink: </images/logo.png>; rel=preload; as=image"
    assert final.startswith(b"HTTP/1.1 200 OK\r\n")
    assert page.startswith(b"<!doctype html>")
    old = await exchange(origin, b"GET /early-hints HTTP/1.0\r\nHost: origin\r\n\r\n")
    assert old.startswith(b"HTTP/1.0 200 OK\r\n")


@pytest.mark.parametrize("compress", [0, 15])
async def test_a_websocket_echoes(client: ClientSession, compress: int) -> None:
    async with client.ws_connect("/ws", protocols=("other", "echo"), compress=compress) as socket:
        await socket.send_str("gr\xfc\xdf dich")
        await socket.send_bytes(b"\x00\xff" * 1000)
        assert await socket.receive_str() == "gr\xfc\xdf dich"
        assert await socket.receive_bytes() == b"\x00\xff" * 1000
        assert (socket.protocol, bool(socket.compress)) == ("echo", bool(compress))
