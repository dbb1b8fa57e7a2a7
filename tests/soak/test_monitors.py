"""The monitors' soak itself: a little of it finds nothing, and what callers must not see it finds."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web

from tests.deploy.processes import ROOT
from tests.soak import monitors
from tests.soak.monitor_callers import ITEMS, LINES, USERS, Callers, is_told
from tests.soak.monitors import World
from tests.soak.process import Process
from tests.soak.truth import Truth
from tests.support import serving

DICE = random.Random(1)  # noqa: S311 - repeatable on purpose


async def test_a_little_of_it_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "SETTLED_SECONDS", 3.0)
    world = World(tmp_path, sys.executable, ROOT, clients=8, seed=0)

    async def happen() -> str:
        await world.connections_are_ended()
        return "connections are ended"

    monkeypatch.setattr(world, "happen", happen)
    assert await world.run(0.1) == 1
    assert world.truth.faults == []
    assert world.callers.statuses["right"] > 200
    assert [monitor.errors() for monitor in world.monitors.values()] == [[], []]


@pytest.mark.parametrize("options", [["--clients", "0"], ["--minutes", "-1"], ["--code", "/nothing"]])
def test_what_it_cannot_do_is_said(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["monitors", *options])
    with pytest.raises(SystemExit, match="2"):
        monitors.main()
    assert f"argument {options[0]}: " in capsys.readouterr().err


def test_who_is_told_what() -> None:
    assert is_told(f"whose: 1 {USERS[0]}", "whose: 1", USERS[0])
    assert is_told("an echo", "whose: 1", USERS[0])
    assert not is_told(f"whose: 1 {USERS[1]}", "whose: 1", USERS[0])
    assert not is_told(f"whose: 2 {USERS[0]}", "whose: 1", USERS[0])


async def test_what_callers_must_not_see_is_a_fault(tmp_path: Path) -> None:
    """A monitor that tells everybody the same, an old version, and half of it."""
    rows = {
        "item": [{"id": 1, "version": 0}],
        "all": [{"id": number, "version": 0} for number in range(ITEMS)],
        "raise": [{"version": 5}],
    }

    async def query(request: web.Request) -> web.Response:
        return web.json_response({"rows": rows[request.match_info["name"]]})

    async def lines(_: web.Request) -> web.Response:
        return web.Response(body=b"".join(orjson.dumps({"id": n}) + b"\n" for n in range(LINES)))

    said = {"choices": [{"message": {"content": f"whose: 0 {USERS[0]}"}}]}

    async def completion(request: web.Request) -> web.Response:
        if b'"stream"' not in await request.read():
            return web.json_response(said)
        chunk = {"choices": [{"delta": {"content": "whose: 0 Bearer sk-user-0"}}]}
        return web.Response(body=b"data: " + orjson.dumps(chunk) + b"\n\ndata: [DONE]\n\n")

    async def batch(_: web.Request) -> web.Response:
        return web.json_response({"results": [{"status": 200, "response": said}] * 6})

    app = web.Application()
    app.router.add_route("*", "/api/queries/lines", lines)
    app.router.add_route("*", "/api/queries/{name}", query)
    app.router.add_post("/v1/chat/completions", completion)
    app.router.add_post("/v1/batch/chat/completions", batch)
    monitor = Process(sys.executable, ROOT, "pool_monitor", {}, tmp_path / "log")
    callers = Callers(Truth(), {"one": monitor}, number=1, seed=1)
    callers.graded = dict.fromkeys((f"page {number}" for number in range(6)), "{}")
    async with serving(app) as url, aiohttp.ClientSession() as session:
        assert await callers.change(session, url, DICE) == ""
        callers.committed.update({item: [(0.0, 1)] for item in range(ITEMS)})
        for ask in (callers.item, callers.all, callers.lines, callers.grade, callers.batch):
            assert await ask(session, url, DICE), ask.__name__
        assert any([await callers.whose(session, url, DICE) for _ in range(9)])
