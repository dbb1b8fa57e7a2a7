"""Corners of HTTP caching through a running proxy: targeted fields, groups, several stored responses, HEAD, POST."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support import Origin, Turn, gather, running_proxy, until

FRESH = "Cache-Control: max-age=60"


# -- targeted fields (RFC 9213)


@pytest.mark.parametrize(
    ("fields", "hit"),
    [
        (["CDN-Cache-Control: max-age=60", "Cache-Control: no-store"], True),
        (["CDN-Cache-Control: max-age=60", "Expires: 0"], True),
        (["CDN-Cache-Control: no-store", FRESH], False),
        (["CDN-Cache-Control: private", FRESH], False),
        (["CDN-Cache-Control: max-age=60, &&", "Cache-Control: no-store"], False),
        (["Siding-Cache-Control: no-store", "CDN-Cache-Control: max-age=60"], False),
        (["Siding-Cache-Control: max-age=60", "CDN-Cache-Control: no-store"], True),
    ],
)
async def test_targeted_fields(origin: Origin, fields: list[str], hit: bool) -> None:
    origin.respond("one", *fields)
    async with running_proxy(origin.url) as proxy:
        first = await proxy.get("/a")
        await proxy.get("/a")
    assert len(origin.requests) == (1 if hit else 2)
    for field in fields:
        name, _, value = field.partition(": ")
        assert first.get(name) == value


async def test_the_target_list_is_a_setting(origin: Origin) -> None:
    origin.respond("one", "CDN-Cache-Control: max-age=60", "Edge: no-store")
    async with running_proxy(origin.url, targeted_fields="Edge, CDN-Cache-Control") as proxy:
        await proxy.get("/a")
        await proxy.get("/a")
    async with running_proxy(origin.url, targeted_fields="none") as proxy:
        await proxy.get("/a")
        await proxy.get("/a")
    assert len(origin.requests) == 4


# -- cache groups (RFC 9875)


async def test_a_change_invalidates_groups(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.method == "POST":
            await turn.answer("ok", 'Cache-Group-Invalidation: "scripts"')
        else:
            group = "scripts" if turn.request.target != "/c" else "styles"
            await turn.answer(turn.request.target, FRESH, f'Cache-Groups: "{group}", "all"')

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        for target in ("/a", "/b", "/c"):
            await proxy.get(target)
        await proxy.request("POST", "/elsewhere", content=b"")
        asked = len(origin.requests)
        states = [(await proxy.get(target)).get("cache-status") or "" for target in ("/a", "/b", "/c")]
        assert ["; hit" in state for state in states] == [False, False, True]
        assert len(origin.requests) == asked + 2
        # another host's groups are another's
        await proxy.request("POST", "/elsewhere", content=b"", host="other.example")
        assert "; hit" in ((await proxy.get("/a")).get("cache-status") or "")


# -- what is for the client that asked


@pytest.mark.parametrize("directive", ["no-cache", "private"])
async def test_named_fields_are_for_the_client_that_asked(origin: Origin, directive: str) -> None:
    origin.respond("one", f'Cache-Control: max-age=60, {directive}="X-Own, Set-Cookie"', "X-Own: 1", "Set-Cookie: a=b")
    async with running_proxy(origin.url) as proxy:
        first, second = await proxy.get("/a"), await proxy.get("/a")
    assert (first.get("x-own"), first.get("set-cookie")) == ("1", "a=b")
    assert (second.get("x-own"), second.get("set-cookie"), second.content) == (None, None, b"one")
    assert len(origin.requests) == 1


@pytest.mark.parametrize("size", [3, 500_000])
async def test_nor_are_they_given_to_those_who_waited(origin: Origin, size: int) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await go.wait()
        await turn.answer("x" * size, 'Cache-Control: max-age=60, no-cache="x-own"', "X-Own: 1")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        requests = [asyncio.create_task(proxy.get("/a")) for _ in range(5)]
        await until(lambda: proxy.worker.handler.in_flight == 5)
        go.set()
        answers = await gather(*requests)
    assert sorted(answer.get("x-own") or "" for answer in answers) == ["", "", "", "", "1"]
    assert len(origin.requests) == 1


# -- several stored responses, of which the origin picks one (RFC 9111 4.3.1)


async def test_the_origin_says_which_of_several_will_do(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        language = "de" if (turn.request.get("accept-language") or "").startswith("de") else "en"
        fields = (FRESH, "Vary: Accept-Language", f'ETag: "{language}"')
        if f'"{language}"' in (turn.request.get("if-none-match") or ""):
            await turn.answer(b"", *fields, status="304 Not Modified")
        else:
            await turn.answer(language, *fields)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a", "Accept-Language: de")
        await proxy.get("/a", "Accept-Language: en")
        picked = await proxy.get("/a", "Accept-Language: de-AT")
        assert (picked.status, picked.content) == (200, b"de")
        assert picked.get("cache-status") == "siding; fwd=vary-miss; fwd-status=304; stored"
        assert (await proxy.get("/a", "Accept-Language: de-AT")).content == b"de"
        assert (await proxy.get("/a", "Accept-Language: en")).content == b"en"
    assert [one.get("if-none-match") for one in origin.requests] == [None, '"de"', '"en", "de"']


async def test_a_304_that_confirms_nothing_stored_is_not_believed(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        if turn.request.get("if-none-match") is not None:
            await turn.answer(b"", 'ETag: "other"', status="304 Not Modified")
        else:
            await turn.answer(f"answer {len(origin.requests)}", FRESH, 'ETag: "v1"')

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 61
        assert (await proxy.get("/a")).content == b"answer 3"


# -- conditional requests with nothing stored


async def test_a_conditional_request_that_finds_news_fills_the_cache(origin: Origin) -> None:
    origin.respond("new", FRESH, 'ETag: "v2"')
    async with running_proxy(origin.url) as proxy:
        first = await proxy.get("/a", 'If-None-Match: "v1"')
        second = await proxy.get("/a")
        third = await proxy.get("/a", 'If-None-Match: "v2"')
    assert (first.status, second.content, third.status) == (200, b"new", 304)
    assert [one.get("if-none-match") for one in origin.requests] == ['"v1"']


async def test_a_plain_request_is_never_answered_304(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        await go.wait()
        if turn.request.get("if-none-match") == '"v1"':
            await turn.answer(b"", 'ETag: "v1"', status="304 Not Modified")
        else:
            await turn.answer("whole", FRESH, 'ETag: "v1"')

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        requests = [
            asyncio.create_task(proxy.get("/a", *(['If-None-Match: "v1"'] if number % 2 else [])))
            for number in range(6)
        ]
        await until(lambda: proxy.worker.handler.in_flight == 6)
        go.set()
        answers = await gather(*requests)
    assert [answer.status for answer in answers] == [200, 304, 200, 304, 200, 304]


# -- HEAD (RFC 9111 4.3.5)


async def test_a_head_freshens_what_it_describes(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("one", FRESH, 'ETag: "v1"', f"X-Round: {len(origin.requests)}")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 61
        head = await proxy.request("HEAD", "/a")
        again = await proxy.get("/a")
    assert (head.status, head.content, head.get("content-length")) == (200, b"", "3")
    assert (again.content, again.get("x-round")) == (b"one", "2")
    assert [one.method for one in origin.requests] == ["GET", "HEAD"]


async def test_a_head_that_describes_something_else_invalidates(origin: Origin) -> None:
    origin.respond("one", "Cache-Control: max-age=60, stale-while-revalidate=600", 'ETag: "v1"')
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        origin.respond("two", FRESH, 'ETag: "v2"')
        await proxy.request("HEAD", "/a", "Cache-Control: no-cache")
        assert (await proxy.get("/a")).content == b"two"


# -- POST that stands for GET (RFC 9110 9.3.3)


@pytest.mark.parametrize(
    ("fields", "hit"),
    [
        (["Content-Location: /a"], True),
        (["Content-Location: http://app.example/a"], True),
        (["Content-Location: /b"], False),
        ([], False),
        (["Content-Location: /a", "Set-Cookie: a=b"], False),
    ],
)
async def test_a_post_whose_answer_is_that_of_a_get(origin: Origin, fields: list[str], hit: bool) -> None:
    origin.respond("made", FRESH, *fields)
    async with running_proxy(origin.url) as proxy:
        posted = await proxy.request("POST", "/a", 'If-None-Match: "x"', content=b"abc")
        got = await proxy.get("/a")
    assert (posted.status, posted.content, got.content) == (200, b"made", b"made")
    assert posted.get("cache-status") == f"siding; fwd=method; fwd-status=200{'; stored' if hit else ''}"
    assert len(origin.requests) == (1 if hit else 2)


async def test_such_a_post_is_kept_though_its_client_leaves(origin: Origin) -> None:
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        head = ["HTTP/1.1 200 OK", FRESH, "Content-Location: /a", "Content-Length: 4"]
        await turn.send("\r\n".join([*head, "", "ma"]))
        await go.wait()
        await turn.send("de")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await client.send("POST /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 1\r\n\r\nx")
        await until(lambda: len(origin.requests) == 1)
        client.close()
        await until(lambda: proxy.worker.handler.in_flight == 0)
        go.set()
        await until(lambda: not proxy.worker.handler.fetches.running)
        got = await proxy.get("/a")
    assert (got.content, len(origin.requests)) == (b"made", 1)


# -- rules that leave the lifetime to the origin, or allow cookies

COOKIES = """
[[route]]
match = "/*"
ttl = "origin"
public = true
set_cookie = true
tags = ["all"]
"""


async def test_a_rule_without_a_lifetime_of_its_own(origin: Origin, tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer("x", *([FRESH, "Set-Cookie: a=b"] if turn.request.target == "/a" else []))

    origin.script = script
    async with running_proxy(origin.url, rules=COOKIES, directory=tmp_path) as proxy:
        await proxy.get("/a")
        hit = await proxy.get("/a")
        await proxy.get("/b")
        await proxy.get("/b")
    assert hit.get("set-cookie") == "a=b"
    assert [one.target for one in origin.requests] == ["/a", "/b", "/b"]


# -- interim responses


async def test_interim_responses_reach_the_first_client_and_are_not_stored(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.send("HTTP/1.1 102 Processing\r\n\r\n")
        await turn.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Hint: 1\r\n\r\n")
        await turn.answer("one", FRESH)

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        first, second = await proxy.get("/a"), await proxy.get("/a")
    assert [(one.status, one.get("link")) for one in first.interim] == [(102, None), (103, "</a.css>")]
    assert second.interim == []
    assert (first.get("x-hint"), second.get("x-hint")) == (None, None)
    assert len(origin.requests) == 1


# -- Cache-Status (RFC 9211)


async def test_the_key_is_told_to_who_looks_for_a_fault(origin: Origin) -> None:
    origin.respond("one", FRESH)
    async with running_proxy(origin.url, cache_status_key=True) as proxy:
        await proxy.get("/a", "Cookie: secret=1", "X-Forwarded-Host: hidden.example")
        told = (await proxy.get("/a", "X-Forwarded-Host: hidden.example")).get("cache-status") or ""
    assert told.startswith('siding; hit; ttl=60; key="3:GET4:http11:app.example2:/a')
    assert "hidden" not in told
