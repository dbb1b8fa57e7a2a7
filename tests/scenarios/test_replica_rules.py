"""Replicas with other rules, as while new ones are deployed: what a rule has stored is no answer by another one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.redis_servers import Redis
from tests.scenarios.replicas import SECRET, ready, settled, status_of
from tests.support import Origin, Turn, running_proxy

ANN = "Authorization: Bearer ann"
RULE = '[[route]]\nmatch = "/a"\n'


@pytest.mark.parametrize(
    ("before", "after", "asked", "asked_then"),
    [
        # it was not the same for everyone, after all
        ("public = true", "", ("/a", ANN), ("/a",)),
        ("public = true\nset_cookie = true", "public = true", ("/a", ANN), ("/a",)),
        # the origin reads one more argument
        ('key = ["query:page"]', 'key = ["query:page", "query:user"]', ("/a?page=1&user=ann",), ("/a?page=1",)),
        # it has to be newer than it was thought
        ("ttl = 3600", "ttl = 60", ("/a",), ("/a",)),
    ],
    ids=["public", "cookie", "query", "ttl"],
)
async def test_what_a_rule_has_stored_is_no_answer_by_the_rule_that_takes_its_place(
    origin: Origin,
    shared: Redis,
    tmp_path: Path,
    before: str,
    after: str,
    asked: tuple[str, ...],
    asked_then: tuple[str, ...],
) -> None:
    async def script(turn: Turn) -> None:
        anns = "ann" in turn.request.target or turn.request.get("authorization") is not None
        fields = ["Set-Cookie: session=ann"] if "set_cookie" in before else []
        await turn.answer("ann's" if anns else "nobody's", *fields)

    origin.script = script
    settings: dict[str, Any] = {"redis_url": shared.url, "redis_timeout_ms": 1000, "cache_secret": SECRET}
    folders = [tmp_path / name for name in ("old", "same", "new")]
    for folder in folders:
        folder.mkdir()
    async with (
        running_proxy(origin.url, rules=RULE + before, directory=folders[0], wall=time.time, **settings) as old,
        running_proxy(origin.url, rules=RULE + before, directory=folders[1], wall=time.time, **settings) as same,
        running_proxy(origin.url, rules=RULE + after, directory=folders[2], wall=time.time, **settings) as new,
    ):
        await ready(old, same, new)
        await old.get(*asked)
        await settled(old)
        assert status_of(await same.get(*asked_then)).startswith("siding; hit")
        answer = await new.get(*asked_then)
        assert (status_of(answer).startswith("siding; fwd"), answer.content) == (True, b"nobody's")
