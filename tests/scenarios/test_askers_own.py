"""What the origin says to one user while it confirms what is stored for all: that user has it, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.policy.fields import format_date
from tests.support import Origin, Turn, gather, running_proxy, until

SHARED = "Cache-Control: public, max-age=10"


def speaks_to(name: str, *own: str) -> Callable[[Turn], Awaitable[None]]:
    """An origin that has one page for all, and says something of its own to whoever brings a field `name`."""

    async def script(turn: Turn) -> None:
        who = turn.request.get(name)
        fields = [f"X-User: {who}", *own] if who is not None else [SHARED]
        known = turn.request.get("if-none-match") == '"a"'
        await turn.answer(
            "" if known else "page", 'ETag: "a"', *fields, status="304 Not Modified" if known else "200 OK"
        )

    return script


@pytest.mark.parametrize(
    "own", ["Cache-Control: private", "Cache-Control: no-store", "Cache-Control: private, max-age=60"]
)
async def test_a_304_that_forbids_storing_is_for_the_asker(origin: Origin, own: str) -> None:
    origin.script = speaks_to("cookie", own)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 11
        alice = await proxy.get("/a", "Cookie: alice")
        assert (alice.content, alice.get("x-user"), alice.get("cache-control")) == (b"page", "alice", own[15:])
        assert alice.get("cache-status") == "siding; fwd=stale; fwd-status=304"
        [stored] = proxy.stored()
        assert "x-user" not in stored.head.fields
        assert stored.freshness.no_cache, "the origin does not want it to be given without being asked"
        bob = await proxy.get("/a")
        assert (bob.content, bob.get("x-user"), bob.get("cache-control")) == (b"page", None, "public, max-age=10")
        # as it was: the origin has said again that it is for all
        assert (await proxy.get("/a")).get("cache-status") == "siding; hit; ttl=10"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_said_to_credentials_is_said_to_them(origin: Origin, method: str) -> None:
    """RFC 9111 3.5: without `public`, `must-revalidate` or `s-maxage` it answers no other request."""
    origin.script = speaks_to("authorization", "Cache-Control: max-age=10")
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 11
        alice = await proxy.request(method, "/a", "Authorization: Bearer alice")
        assert alice.get("x-user") == "Bearer alice"
        asked = len(origin.requests)
        bob = await proxy.get("/a")
        assert (bob.content, bob.get("x-user")) == (b"page", None)
        assert len(origin.requests) == asked + 1
        [stored] = proxy.stored()
        assert "x-user" not in stored.head.fields


async def test_where_the_origin_allows_it_credentials_confirm_it_for_all(origin: Origin) -> None:
    origin.script = speaks_to("authorization", SHARED)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 11
        await proxy.get("/a", "Authorization: Bearer alice")
        assert (await proxy.get("/a")).get("cache-status") == "siding; hit; ttl=10"


async def test_a_request_that_wants_nothing_stored_leaves_nothing(origin: Origin) -> None:
    """RFC 9111 5.2.1.5 is about any response to it, so about a 304 as well."""
    origin.script = speaks_to("x-name", SHARED)
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 11
        alice = await proxy.get("/a", "X-Name: alice", "Cache-Control: no-store")
        assert alice.get("x-user") == "alice"
        assert (await proxy.get("/a")).get("x-user") is None
        assert len(origin.requests) == 3


async def test_who_waits_for_such_a_304_asks_for_himself(origin: Origin) -> None:
    open_ = asyncio.Event()
    answer = speaks_to("cookie", "Cache-Control: private")

    async def script(turn: Turn) -> None:
        if turn.request.get("if-none-match") is not None:
            await open_.wait()
        await answer(turn)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 11
        alice = asyncio.create_task(proxy.get("/a", "Cookie: alice"))
        await until(lambda: len(origin.requests) == 2)
        bob = asyncio.create_task(proxy.get("/a", "Cookie: bob"))
        await until(lambda: proxy.worker.handler.in_flight == 2)
        open_.set()
        answers = await gather(alice, bob)
    assert [answer.get("x-user") for answer in answers] == ["alice", "bob"]


@pytest.mark.parametrize("field", ["Set-Cookie: session=new", "X-Token: 7"])
async def test_the_asker_has_what_a_304_says_to_him_alone(origin: Origin, field: str) -> None:
    name = field.partition(":")[0]

    async def script(turn: Turn) -> None:
        known = turn.request.get("if-none-match") is not None
        fields = ['ETag: "a"', 'Cache-Control: max-age=10, private="X-Token"', *([field] if known else [])]
        await turn.answer("" if known else "page", *fields, status="304 Not Modified" if known else "200 OK")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 11
        validated, hit = await proxy.get("/a"), await proxy.get("/a")
        assert validated.get("cache-status") == "siding; fwd=stale; fwd-status=304; stored"
        assert f"{name}: {validated.get(name)}" == field
        assert (hit.get("cache-status"), hit.get(name)) == ("siding; hit; ttl=10", None)


async def test_a_rule_that_stores_cookies_stores_those_of_a_304(origin: Origin, tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        known = turn.request.get("if-none-match") is not None
        fields = ['ETag: "a"', f"Set-Cookie: seen={int(known)}"]
        await turn.answer("" if known else "page", *fields, status="304 Not Modified" if known else "200 OK")

    origin.script = script
    rules = '[[route]]\nmatch = "/a"\npublic = true\nttl = 10\nset_cookie = true\n'
    async with running_proxy(origin.url, rules=rules, directory=tmp_path) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 11
        answers = [await proxy.get("/a"), await proxy.get("/a")]
    assert [answer.fields.count(("Set-Cookie", "seen=1")) for answer in answers] == [1, 1]


@pytest.mark.parametrize(
    ("status", "fields"), [("500 Oops", []), ("304 Not Modified", ['ETag: "de"', "Cache-Control: max-age=10"])]
)
async def test_a_stand_in_and_a_304_are_for_those_whom_the_stored_response_is_for(
    origin: Origin, status: str, fields: list[str]
) -> None:
    """Whatever of Vary they repeat."""
    later, open_ = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        language = turn.request.get("accept-language")
        if later.is_set() and language == "de":
            await open_.wait()
            await turn.answer("" if status.startswith("304") else "oops", *fields, status=status)
            return
        vary = "Vary: Accept-Language" if language == "de" else "Vary: Accept-Encoding"
        date = f"Date: {format_date(proxy.clock.now)}"
        await turn.answer(f"page {language}", "Cache-Control: max-age=10", f'ETag: "{language}"', vary, date)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Accept-Language: de", "Accept-Encoding: br")
        await proxy.get("/a", "Accept-Language: en", "Accept-Encoding: gzip")
        proxy.clock.now += 11
        later.set()
        german = asyncio.create_task(proxy.get("/a", "Accept-Language: de", "Accept-Encoding: br"))
        await until(lambda: len(origin.requests) == 3)
        french = asyncio.create_task(proxy.get("/a", "Accept-Language: fr", "Accept-Encoding: br"))
        await until(lambda: proxy.worker.handler.in_flight == 2)
        open_.set()
        answers = await gather(german, french)
    assert [answer.content for answer in answers] == [b"page de", b"page fr"]
