"""Nothing of a request waits for the garbage collector, however it ends: cycles are looked for too rarely for that.

What a request leaves in a cycle, with all that came of its answer, may be hundreds of megabytes by the time that they
are.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import Origin, Proxy, Script, Turn, gather, running_proxy, until

Do = Callable[[Proxy, Origin, str], Awaitable[None]]
RULES = """
[[route]]
match = "/report"
methods = ["POST"]
key = ["body", "authorization"]
"""
TIMES = 5
FRESH = "Cache-Control: max-age=60"
PART = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


# -- what the origin does


async def fine(turn: Turn) -> None:
    await turn.answer("x" * 5000, FRESH, "Content-Type: text/plain")


async def closes(turn: Turn) -> None:
    await turn.answer("x" * 5000, FRESH, "Connection: close")
    turn.writer.close()


async def passes(turn: Turn) -> None:
    await turn.answer("x" * 5000, "Cache-Control: no-store")


async def fails(turn: Turn) -> None:
    await turn.answer("no", status="500 Oops")


async def cut(turn: Turn) -> None:
    turn.writer.close()


async def nonsense(turn: Turn) -> None:
    await turn.send(b"nonsense\r\n\r\n")


async def silent(turn: Turn) -> None:
    await turn.reader.read()


async def short(turn: Turn) -> None:
    await turn.send(PART + b"Cache-Control: max-age=60\r\nContent-Length: 9000\r\n\r\n" + b"x" * 5000)
    turn.writer.close()


async def short_chunks(turn: Turn) -> None:
    await turn.send(PART + b"Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + b"x" * 5000)
    turn.writer.close()


async def long(turn: Turn) -> None:
    await turn.send(PART + b"Cache-Control: max-age=60\r\nContent-Length: 9000000\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(90):
            await turn.send(b"x" * 100_000)


async def switches(turn: Turn) -> None:
    await turn.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    await turn.send(await turn.reader.read(5))
    turn.writer.close()


# -- what the client does


async def get(proxy: Proxy, _: Origin, path: str) -> None:
    await proxy.get(path, "Accept-Encoding: gzip")


async def get_again(proxy: Proxy, _: Origin, path: str) -> None:
    await proxy.get(path)
    await proxy.get(path, "Range: bytes=0-9")
    proxy.clock.now += 100
    await proxy.get(path)


async def get_together(proxy: Proxy, _: Origin, path: str) -> None:
    await gather(*(proxy.get(path) for _ in range(3)))


async def get_and_leave(proxy: Proxy, origin: Origin, path: str) -> None:
    client, before = await proxy.connect(), len(origin.requests)
    client.writer.write(f"GET {path} HTTP/1.1\r\nHost: app.example\r\n\r\n".encode())
    await until(lambda: len(origin.requests) > before)
    client.writer.transport.abort()


async def post(proxy: Proxy, _: Origin, path: str) -> None:
    await proxy.request("POST", path, content=b"x" * 3000)


async def post_report(proxy: Proxy, _: Origin, path: str) -> None:
    await proxy.request("POST", "/report", "Content-Type: application/json", content=f'"{path}"'.encode())


async def post_and_leave(proxy: Proxy, _: Origin, path: str) -> None:
    client = await proxy.connect()
    client.writer.write(f"POST {path} HTTP/1.1\r\nHost: app.example\r\nContent-Length: 10\r\n\r\nhalf".encode())
    await client.writer.drain()
    client.close()


async def post_too_much(proxy: Proxy, _: Origin, path: str) -> None:
    await proxy.request("POST", path, content=b"x" * 20_000)


async def post_in_broken_chunks(proxy: Proxy, _: Origin, path: str) -> None:
    client = await proxy.connect()
    head = f"POST {path} HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.writer.write(head.encode() + b"zz\r\n")
    await client.at_end()
    client.close()


async def ask_nonsense(proxy: Proxy, _: Origin, path: str) -> None:
    client = await proxy.connect()
    client.writer.write(b"nonsense\r\n\r\n")
    await client.reader.read()
    client.close()


async def upgrade(proxy: Proxy, _: Origin, path: str) -> None:
    client = await proxy.connect()
    await client.send(f"GET {path} HTTP/1.1\r\nHost: app.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await client.head()).status == 101
    await client.send("hello")
    assert await client.reader.read() == b"hello"
    client.close()


ALL: list[Do] = [get, get_again, get_together, get_and_leave, post, post_report]
WELL: list[Script] = [fine, closes, passes, fails, switches]
"""Whoever asks these has to be answered."""
EACH: list[Script] = [fine, closes, passes, fails, cut, nonsense, silent, short, short_chunks]
WAYS: list[tuple[Script, list[Do]]] = [
    *((script, ALL) for script in EACH),
    (long, [get, get_together, get_and_leave]),
    (fine, [post_and_leave, post_too_much, post_in_broken_chunks, ask_nonsense]),
    (silent, [post_and_leave, post_in_broken_chunks]),
    (switches, [upgrade]),
]


@pytest.fixture(scope="module", autouse=True)
def _only_what_is_new() -> None:
    """What other tests have left is not looked through each time."""
    gc.collect()
    gc.freeze()


CASES = [pytest.param(script, do, id=f"{script.__name__}-{do.__name__}") for script, dos in WAYS for do in dos]


@pytest.mark.parametrize(("script", "do"), CASES)
async def test_nothing_is_left_in_cycles(origin: Origin, script: Script, do: Do, tmp_path: Path) -> None:
    origin.script = script if script is switches else fine
    bounds: dict[str, Any] = {"upstream_timeout_ms": 200, "max_request_bytes": 10_000}
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path, **bounds) as proxy:
        handler = proxy.worker.handler
        unanswered = () if script in WELL else (ConnectionError, asyncio.IncompleteReadError, AssertionError)

        async def several(prefix: str) -> None:
            for number in range(TIMES):
                with contextlib.suppress(*unanswered):
                    await do(proxy, origin, f"/{prefix}{number}")
            await until(lambda: handler.in_flight == 0)

        await several("before")
        origin.script = script
        gc.collect()
        gc.disable()
        try:
            await several("then")
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert {name: count for name, count in left.items() if name.startswith(("proxy.", "config."))} == {}
