"""The live page and its stream over real sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from config.flags import FlagName, Flags
from config.listen import open_socket
from proxy.app import AdminListener
from proxy.observe.live import Numbers, added_up
from proxy.server import monitor
from proxy.server.admin import admin_app
from proxy.server.live import MAX_HOLDERS, LiveSettings, MonitorReader, refusal_to_read, trimmed
from proxy.server.monitor import MonitorError
from proxy.server.page import CONTENT
from tests.server.control import Scripted
from tests.support import PATIENCE, Gate, Origin, holds, running_proxy

ROOT = Path(__file__).resolve().parents[2]
FAST = LiveSettings(every=0.01, monitor_every=0.01)
STREAM = {"Accept": "text/event-stream"}


@dataclass
class Counting(Scripted):
    """Counts how often it was asked, and may be large or broken."""

    asked: int = 0
    padding: int = 0
    failing: bool = False

    async def live(self) -> Numbers:
        self.asked += 1
        if self.failing:
            raise RuntimeError("no numbers")
        return {**added_up([]), "instances": ["x" * self.padding], "outcomes": {"hit": self.asked}}


@dataclass
class Listening:
    control: Counting
    port: int
    listener: AdminListener

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def listening(settings: LiveSettings, token: str | None = None) -> AsyncIterator[Listening]:
    control, sock = Counting(), open_socket("127.0.0.1", 0)
    listener = AdminListener(admin_app(control, SecretStr(token) if token else None, settings))
    await listener.start(sock)
    try:
        yield Listening(control, sock.getsockname()[1], listener)
    finally:
        async with asyncio.timeout(PATIENCE):
            await listener.close()


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """The stream's events with their numbers."""
    number = 0
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            yield number, orjson.loads(value)


async def monitor_at(documents: Mapping[str, object]) -> tuple[web.AppRunner, str]:
    """A stand-in that answers with `documents`, which may change; what it lacks is 404."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path not in documents:
            return web.Response(status=404)
        return web.Response(body=orjson.dumps(documents[request.path]))

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner, sock = web.AppRunner(app), open_socket("127.0.0.1", 0)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    return runner, f"http://127.0.0.1:{sock.getsockname()[1]}"


def samplers() -> list[str]:
    """The tasks that sample or ask the monitor."""
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return [name for name in names if name in {"Live._keep_sampling", "MonitorReader.keep_reading"}]


async def until_nobody_samples() -> None:
    await holds(lambda: not samplers())


# -- the page


async def test_the_page_may_do_nothing_but_what_it_does() -> None:
    async with listening(LiveSettings()) as admin, aiohttp.ClientSession() as session:
        async with session.get(f"{admin.url}/") as answer:
            content = await answer.text()
            fields = answer.headers
        assert (answer.status, answer.content_type) == (200, "text/html")
        rules = dict(rule.split(" ", 1) for rule in fields["Content-Security-Policy"].split("; "))
    for name in ("script", "style"):
        (inside,) = re.findall(rf"<{name}>(.*?)</{name}>", content, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert rules["connect-src"] == "'self'"
    for name in ("default-src", "frame-ancestors", "base-uri", "form-action"):
        assert rules[name] == "'none'"
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert fields["Referrer-Policy"] == "no-referrer"
    assert fields["Cache-Control"] == "no-store"


def test_the_page_has_no_outside_assets_and_takes_nothing_for_markup() -> None:
    text = CONTENT.decode()
    assert "/*style*/" not in text
    assert "/*script*/" not in text
    assert set(re.findall(r"https?://[^'\" ]+", text)) == {"http://www.w3.org/2000/svg"}
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick="):
        assert word not in text


def test_the_switches_are_the_flags_that_the_proxy_acts_upon() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py"))
    acted = {name for name in FlagName if re.search(rf"flags\.{name.attribute}\b", source)}
    shown = re.findall(r'data-flag="(\w+)"', CONTENT.decode())
    assert set(shown) == {name.value for name in acted}
    assert shown[0] == FlagName.BYPASS


# -- the stream


async def test_an_event_comes_at_once_and_then_one_after_another() -> None:
    async with listening(FAST) as admin, aiohttp.ClientSession() as session:
        async with asyncio.timeout(PATIENCE), session.get(f"{admin.url}/api/live", headers=STREAM) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            assert answer.headers["Cache-Control"] == "no-store"
            assert await answer.content.readline() == b"retry: 2000\n"
            stream = events(answer)
            (first, one), (second, two) = await anext(stream), await anext(stream)
        assert second > first
        assert two["outcomes"]["hit"] > one["outcomes"]["hit"]
        assert (one["flags"], one["pinned"]) == (Flags().as_dict(), {"BYPASS": False})
        assert (one["ready"], one["workers"], one["shared"]) == (True, 1, False)
        assert one["monitor"] == {"url": None, "state": "off"}


async def test_there_is_one_sampler_for_all_and_none_for_nobody() -> None:
    async with listening(FAST) as admin, aiohttp.ClientSession() as session:
        assert (admin.control.asked, samplers()) == (0, [])
        async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                answer = await stack.enter_async_context(session.get(f"{admin.url}/api/live", headers=STREAM))
                await anext(events(answer))
            assert sorted(samplers()) == ["Live._keep_sampling"]


async def test_whoever_comes_sees_what_was_changed_before() -> None:
    async with (
        listening(LiveSettings(every=60)) as admin,
        aiohttp.ClientSession() as session,
        asyncio.timeout(PATIENCE),
        contextlib.AsyncExitStack() as stack,
    ):
        for on in (True, False, True):
            await admin.control.set_flags({"ENABLE_ETAG": on})
            answer = await stack.enter_async_context(session.get(f"{admin.url}/api/live", headers=STREAM))
            assert (await anext(events(answer)))[1]["flags"]["ENABLE_ETAG"] is on


async def test_sampling_ends_with_the_last_listener() -> None:
    async with listening(FAST) as admin, aiohttp.ClientSession() as session:
        async with asyncio.timeout(PATIENCE), session.get(f"{admin.url}/api/live", headers=STREAM) as answer:
            await anext(events(answer))
            answer.close()
        await until_nobody_samples()


async def test_listeners_are_capped_and_the_place_of_one_that_left_is_free() -> None:
    async with listening(replace(FAST, listeners=2)) as admin, aiohttp.ClientSession() as session:
        url = f"{admin.url}/api/live"
        async with asyncio.timeout(PATIENCE), session.get(url, headers=STREAM):
            async with session.get(url, headers=STREAM) as leaving:
                async with session.get(url, headers=STREAM) as refused:
                    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
                    assert (await refused.json())["error"]["code"] == "too-many-listeners"
                leaving.close()
            while True:
                async with session.get(url, headers=STREAM) as answer:
                    if answer.status == 200:
                        break


async def test_closing_ends_every_stream_promptly() -> None:
    async with (
        listening(LiveSettings(every=60)) as admin,
        aiohttp.ClientSession() as session,
        asyncio.timeout(PATIENCE),
        session.get(f"{admin.url}/api/live", headers=STREAM) as answer,
    ):
        stream = events(answer)
        await anext(stream)
        began = asyncio.get_running_loop().time()
        await admin.listener.close()
        assert [event async for event in stream] == []
        assert asyncio.get_running_loop().time() - began < 2


async def test_one_that_does_not_read_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "siding.live")
    async with listening(replace(FAST, send=0.2)) as admin:
        admin.control.padding = 1_000_000
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(deaf, ("127.0.0.1", admin.port))
            request = f"GET /api/live HTTP/1.1\r\nHost: 127.0.0.1:{admin.port}\r\nAccept: text/event-stream\r\n\r\n"
            await loop.sock_sendall(deaf, request.encode())
            await holds(lambda: "is cut" in caplog.text)
            await until_nobody_samples()
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionResetError):
                    while await loop.sock_recv(deaf, 2**20):
                        pass
        finally:
            deaf.close()


async def test_a_fault_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(FAST) as admin, aiohttp.ClientSession() as session:
        admin.control.failing = True
        async with asyncio.timeout(PATIENCE), session.get(f"{admin.url}/api/live", headers=STREAM) as answer:
            await holds(lambda: admin.control.asked >= 3)
            admin.control.failing = False
            assert (await anext(events(answer)))[1]["outcomes"]["hit"] > 3
    assert "could not be read" in caplog.text


# -- one snapshot, and who may read


@pytest.mark.parametrize("fields", [{}, {"Accept": "application/json"}, {"Accept": "*/*"}])
async def test_a_snapshot_is_json(fields: dict[str, str]) -> None:
    async with (
        listening(LiveSettings()) as admin,
        aiohttp.ClientSession() as session,
        session.get(f"{admin.url}/api/live", headers=fields) as answer,
    ):
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert (await answer.json())["outcomes"] == {"hit": 1}


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_name_that_is_rebound_to_this_machine_reads_nothing(accept: str) -> None:
    fields = {"Host": "evil.example", "Accept": accept}
    for token in (None, "sesame"):
        async with (
            listening(LiveSettings(), token=token) as admin,
            aiohttp.ClientSession() as session,
            session.get(f"{admin.url}/api/live", headers=fields) as answer,
        ):
            assert answer.status == 403
            assert (await answer.json())["error"]["code"] == "host-not-local"


@pytest.mark.parametrize(
    ("peer", "host", "allowed"),
    [
        ("127.0.0.1", "localhost:9090", True),
        ("::1", "[::1]:9090", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "", False),
        ("10.0.0.7", "siding.internal:9090", True),
    ],
)
def test_who_may_read(peer: str, host: str, allowed: bool) -> None:
    assert (refusal_to_read(peer, host) is None) is allowed


# -- the monitor


def test_what_would_only_make_events_long_is_left_out() -> None:
    assert trimmed("grading", {"requests": 1, "days": [1, 2]}) == {"requests": 1}
    assert trimmed("pool", {"state": "healthy", "holders": list(range(100))}) == {
        "state": "healthy",
        "holders": list(range(MAX_HOLDERS)),
    }
    assert trimmed("pool", {"holders": "x"}) == {"holders": []}
    with pytest.raises(MonitorError):
        trimmed("flags", ["a"])


async def test_the_monitor_comes_and_goes() -> None:
    documents: dict[str, object] = {
        "/api/metrics/database-pool": {"activeConnections": 3, "holders": []},
        "/api/metrics/grading": {"requests": 7, "days": []},
        "/api/flags": {"BYPASS": False},
    }
    runner, url = await monitor_at(documents)
    try:
        async with listening(replace(FAST, monitor_url=url)) as admin, aiohttp.ClientSession() as session:
            async with session.get(f"{admin.url}/api/live") as answer:
                seen = (await answer.json())["monitor"]
            assert seen.pop("at") > 0
            assert seen == {
                "url": url,
                "state": "here",
                "pool": {"activeConnections": 3, "holders": []},
                "grading": {"requests": 7},
                "flags": {"BYPASS": False},
            }

            async def until(state: str, reason: str = "") -> None:
                async for _, one in stream:
                    if one["monitor"]["state"] == state and reason in one["monitor"].get("reason", ""):
                        return

            async with asyncio.timeout(PATIENCE), session.get(f"{admin.url}/api/live", headers=STREAM) as answer:
                stream = events(answer)
                await until("here")
                flags = documents.pop("/api/flags")
                await until("away", "answered 404")
                documents["/api/flags"] = ["nonsense"]
                await until("away", "something else")
                documents["/api/flags"] = flags
                await until("here")
                await runner.cleanup()
                await until("away", "did not answer")
    finally:
        await runner.cleanup()


async def test_each_fault_of_the_monitor_is_logged_once_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "siding.monitor")
    runner, url = await monitor_at({})
    reader = MonitorReader(url, 0.01)
    try:
        for _ in range(3):
            await reader.read()
        assert caplog.messages == [f"the pool monitor answered 404 (POOL_MONITOR_URL is {url})"]
        await runner.cleanup()
        for _ in range(3):
            await reader.read()
        assert len(caplog.messages) == 2
        assert caplog.messages[1].startswith("cannot connect to the pool monitor at 127.0.0.1:")
        assert "origin" not in caplog.text
    finally:
        await reader.close()
        await runner.cleanup()


async def test_a_monitor_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "SECONDS", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with (
            listening(replace(FAST, monitor_url=url)) as admin,
            aiohttp.ClientSession() as session,
            asyncio.timeout(PATIENCE),
            session.get(f"{admin.url}/api/live", headers=STREAM) as answer,
        ):
            stream = events(answer)
            assert [(await anext(stream))[1]["monitor"]["state"] for _ in range(5)] == ["waiting"] * 5
            async for _, told in stream:
                if told["monitor"]["state"] == "away":
                    assert told["monitor"]["reason"].startswith("the pool monitor did not answer")
                    break


# -- a worker


async def test_while_it_drains_the_stream_goes_on_and_says_so(origin: Origin) -> None:
    gate = Gate(origin, content=b"finished")
    async with (
        running_proxy(origin.url) as proxy,
        aiohttp.ClientSession() as session,
        asyncio.timeout(PATIENCE),
        session.get(f"{proxy.admin}/api/live", headers=STREAM) as answer,
    ):
        stream = events(answer)
        assert (await anext(stream))[1]["ready"]
        client = await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        await gate.asked()
        draining = asyncio.create_task(proxy.worker.drain())
        async for _, told in stream:
            if not told["ready"]:
                assert told["readyReason"] == "draining: no new connections are accepted"
                assert told["levels"]["inFlight"] == 1
                break
        gate.open.set()
        assert (await client.response()).content == b"finished"
        await draining


async def test_a_worker_tells_of_its_requests(origin: Origin) -> None:
    origin.respond("one", "Cache-Control: max-age=60")
    async with running_proxy(origin.url) as proxy, aiohttp.ClientSession() as session:
        for _ in range(3):
            await proxy.get("/a")
        async with session.get(f"{proxy.admin}/api/live") as answer:
            told = await answer.json()
    assert told["outcomes"] == {"miss": 1, "hit": 2}
    assert (sum(told["buckets"]), told["statuses"]) == (3, {"2xx": 3})
    assert len(told["buckets"]) == len(told["bounds"]) + 1
    assert told["levels"]["storedResponses"] == 1
    assert told["slow"] == []
