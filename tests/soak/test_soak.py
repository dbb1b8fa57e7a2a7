"""The soak itself: a little of it finds nothing, and what callers must not see it finds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from aiohttp import web

from tests.deploy.processes import ROOT
from tests.soak import __main__ as soak
from tests.soak import chaos
from tests.soak.clients import USERS, Clients
from tests.soak.truth import Truth, content_of, is_sound
from tests.support import holds, serving

SEEN = (
    "item 1 at one (plain, identity): version 1 after a change to 2",
    f"me at one: {USERS[0]} got",
    "now at one: ",
    "report at one: ",
    "echo at one: ",
    "change of marks at one: ",
)


async def test_a_little_of_it_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SETTLED_SECONDS", 1.0)
    monkeypatch.setattr(chaos, "SETTLED_SECONDS", 1.0)
    report = await soak.Soak(tmp_path, sys.executable, ROOT, clients=8, seed=2).run(0.1)
    assert report.faults == []
    assert report.events == 1
    assert report.answers > 300


@pytest.mark.parametrize(
    ("options", "said"),
    [
        # nobody would find anything wrong, for ten minutes
        (["--clients", "0"], "argument --clients: '0' is no whole number from 1 to 1000"),
        (["--workers", "x"], "argument --workers: 'x' is no whole number from 1 to 1000"),
        (["--minutes", "-1"], "argument --minutes: '-1' is no number above 0, and up to 10000"),
        (["--code", "/nothing"], "argument --code: no Siding lies in '/nothing'"),
    ],
)
def test_what_it_cannot_do_is_said(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["soak", *options])
    with pytest.raises(SystemExit, match="2"):
        soak.main()
    assert said in capsys.readouterr().err


def test_a_thing_looks_like_itself_alone() -> None:
    content = content_of("item", "7", 3, USERS[0])
    assert is_sound(content, "item", "7", USERS[0]) == 3
    for other in (("item", "8", USERS[0]), ("me", "7", USERS[0]), ("item", "7", USERS[1])):
        assert is_sound(content, *other) is None
    assert is_sound(content[:-1], "item", "7", USERS[0]) is None
    assert is_sound(content.replace(b'"version": 3', b'"version": 4'), "item", "7", USERS[0]) is None


async def test_what_callers_must_not_see_is_a_fault() -> None:
    """A proxy that gives everybody the same."""

    async def same(_: web.Request) -> web.Response:
        return web.Response(body=content_of("item", "1", 1), headers={"ETag": '"1.1"'})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", same)
    truth = Truth()
    async with serving(app) as url:
        clients = Clients(truth, {"one": url}, number=1, seed=1)
        truth.answered("one", "item 1", 2)
        clients.start()
        await holds(lambda: all(any(word in fault for fault in truth.faults) for word in SEEN))
        await clients.stop()
