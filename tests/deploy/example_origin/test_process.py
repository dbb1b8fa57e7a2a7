"""What the example origin counts, and how its process begins and ends."""

from __future__ import annotations

import asyncio
import signal

import pytest
from aiohttp import ClientSession, ClientTimeout, WSMsgType

from deploy.example_origin import make_app
from tests.deploy.example_origin.support import ORIGIN, report
from tests.deploy.processes import PATIENCE, python
from tests.support import serving


async def in_progress(client: ClientSession, number: int) -> None:
    """Ask the origin until that many requests are under way."""
    under_way = None
    async with asyncio.timeout(PATIENCE):
        while under_way != number:
            async with client.get("/stats") as answer:
                under_way = (await answer.json())["inProgress"]


async def test_requests_are_counted_by_route() -> None:
    async with (
        serving(make_app(report_seconds=0)) as base,
        ClientSession(base, timeout=ClientTimeout(total=PATIENCE)) as client,
    ):
        await report(client, "uma")
        async with client.get("/api/subjects") as answer:
            etag = answer.headers["ETag"]
        for method, path in [
            ("GET", "/api/subjects"),
            ("HEAD", "/api/subjects"),
            ("GET", "/echo/one"),
            ("GET", "/echo/two"),
            ("MKCOL", "/echo/three"),
            ("GET", "/made/up"),
            ("GET", "/healthz"),
        ]:
            async with client.request(method, path, headers={"If-None-Match": etag}):
                pass
        async with client.get("/stats") as answer:
            counted = await answer.json()
        async with client.post("/stats/reset") as answer:
            assert answer.status == 204
        async with client.get("/stats") as answer:
            emptied = await answer.json()
    assert counted == {
        "requests": {
            "GET /api/subjects": 2,
            "GET /echo/{tail}": 2,
            "HEAD /api/subjects": 1,
            "POST /api/parent-reports/generate": 1,
            "other": 1,
            "other /echo/{tail}": 1,
        },
        "reportsGenerated": 1,
        "notModified": 2,
        "inProgress": 0,
    }
    assert emptied == {"requests": {}, "reportsGenerated": 0, "notModified": 0, "inProgress": 0}


async def test_two_origins_share_nothing() -> None:
    async with (
        serving(make_app(0)) as first,
        serving(make_app(0)) as second,
        ClientSession(timeout=ClientTimeout(total=PATIENCE)) as client,
    ):
        async with client.post(f"{first}/api/announcements", json={"text": "here"}):
            pass
        async with client.get(f"{second}/api/announcements") as answer:
            assert await answer.json() == {"announcements": []}


async def test_stopping_ends_what_would_go_on_for_long() -> None:
    async with python(*ORIGIN, "--port", "0", "--report-seconds", "3600") as process:
        base = "http://" + (await process.line("example origin: http://")).rpartition("http://")[2]
        async with ClientSession(base, timeout=ClientTimeout(total=PATIENCE)) as client:
            made = asyncio.create_task(report(client, "vera"))
            async with client.ws_connect("/ws") as socket, client.get("/events?interval=600") as events:
                assert await events.content.readline() == b"id: 1\n"
                await in_progress(client, 3)
                process.send(signal.SIGTERM)
                assert (await socket.receive()).type is WSMsgType.CLOSE
                assert (await events.content.read()).endswith(b"\n\n")
            status, _, document = await made
        assert (status, document["message"]) == (503, "the origin is stopping")
        assert await process.end() == 0
    assert "Traceback" not in process.output


async def test_a_report_nobody_waits_for_is_given_up() -> None:
    async with python(*ORIGIN, "--port", "0", "--report-seconds", "3600") as process:
        base = "http://" + (await process.line("example origin: http://")).rpartition("http://")[2]
        async with ClientSession(base, timeout=ClientTimeout(total=PATIENCE)) as client:
            made = asyncio.create_task(report(client, "will"))
            await in_progress(client, 1)
            made.cancel()
            await in_progress(client, 0)
        process.send(signal.SIGINT)
        assert await process.end() == 0
    assert "Traceback" not in process.output


async def test_a_taken_port_is_said_plainly(origin: str) -> None:
    port = origin.rpartition(":")[2]
    async with python(*ORIGIN, "--port", port) as process:
        assert await process.end() == 1
    assert len(process.lines) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in process.output
    assert process.output.endswith("(set --port to a free one)")


@pytest.mark.parametrize("option", ["--port=70000", "--port=many", "--report-seconds=-1", "--report-seconds=inf"])
async def test_bad_options_are_refused(option: str) -> None:
    async with python(*ORIGIN, option) as process:
        assert await process.end() == 2
    assert option.partition("=")[0] in process.output
    assert "Traceback" not in process.output
