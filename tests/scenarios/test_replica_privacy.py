"""What is in the tier tells nobody's secrets, and nobody is answered with another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.redis_servers import Redis
from tests.scenarios.replicas import FRESH, REPORTS, dump, settled, several
from tests.support import Origin, Turn


async def test_no_credential_is_in_the_tier(origin: Origin, shared: Redis, tmp_path: Path) -> None:
    async with several(origin, shared.url, rules=REPORTS, directory=tmp_path) as (one, other):
        origin.respond(b"report")
        fields = ("Authorization: Bearer sk-secret", "Cookie: session=secret", "Content-Type: application/json")
        content = b'{"student": "secret-name"}'
        for proxy in (one, other):
            await proxy.request("POST", "/reports", *fields[::2], content=content)
            origin.respond(b"page", FRESH, "Vary: Cookie")
            await proxy.get("/a", fields[1])
            await settled(proxy)
        everything = await dump(shared)
    assert b"report" in everything
    assert b"secret" not in everything


async def test_each_credential_has_its_own(origin: Origin, shared: Redis, tmp_path: Path) -> None:
    async with several(origin, shared.url, rules=REPORTS, directory=tmp_path) as (one, other):

        async def script(turn: Turn) -> None:
            await turn.answer((turn.request.get("authorization") or "").encode())

        origin.script = script
        for proxy in (one, other):
            for who in ("a", "b"):
                answer = await proxy.request("POST", "/reports", f"Authorization: {who}", content=b"{}")
                assert answer.content == who.encode()
            await settled(proxy)
        assert len(origin.requests) == 2


async def test_without_a_secret_only_what_its_url_tells_is_shared(
    origin: Origin, shared: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with several(origin, shared.url, cache_secret="", rules=REPORTS, directory=tmp_path) as (one, other):
        assert "CACHE_SECRET is not set" in caplog.text
        origin.respond(b"report", FRESH)
        for proxy in (one, other):
            await proxy.request("POST", "/reports", "Authorization: Bearer sk-secret", content=b"{}")
            await proxy.get("/a", "X-Forwarded-Host: secret.example")
            await proxy.get("/b", "Authorization: Bearer sk-secret")
            await proxy.get("/c")
            await settled(proxy)
        paths = [request.target for request in origin.requests]
        assert {path: paths.count(path) for path in paths} == {"/reports": 2, "/a": 2, "/b": 2, "/c": 1}
        assert b"secret" not in await dump(shared)


async def test_who_has_another_secret_is_not_believed(origin: Origin, shared: Redis) -> None:
    async with (
        several(origin, shared.url, 1) as [one],
        several(origin, shared.url, 1, cache_secret="f" * 32) as [other],
    ):
        origin.respond(b"hello", FRESH)
        await one.get("/a")
        await settled(one)
        await other.get("/a")
    assert len(origin.requests) == 2
