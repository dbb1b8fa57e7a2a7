"""Answers that are on their way while what they tell of changes: they are not stored, nor given to who asks later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.policy.fields import format_date
from tests.support import Client, Origin, Proxy, Turn, running_proxy, until

LONG = "Cache-Control: max-age=600"


class Changing:
    """An origin with a version. What `slow` says it holds back, and that tells of the version there was before."""

    def __init__(self, origin: Origin, slow: Callable[[Turn], bool], *fields: str) -> None:
        self.version = 1
        self.asked, self.open = asyncio.Event(), asyncio.Event()
        self.fields = fields or (LONG,)
        self.done: tuple[str, ...] = ()
        self.slow = slow
        self.proxy: Proxy | None = None
        origin.script = self.script

    @property
    def date(self) -> str:
        assert self.proxy is not None
        return f"Date: {format_date(self.proxy.clock.now)}"

    async def script(self, turn: Turn) -> None:
        if turn.request.method == "PUT":
            self.version += 1
            await turn.answer("done", self.date, *self.done)
            return
        version, date = self.version, self.date
        if self.slow(turn) and not self.asked.is_set():
            self.asked.set()
            await self.open.wait()
        await turn.answer(f"v{version}", *self.fields, f'ETag: "v{version}"', date)


async def changed_meanwhile(proxy: Proxy, origin: Changing, slow: asyncio.Task[object], path: str = "/a") -> bytes:
    """Somebody changes it while it is asked for; what is told of it after the slow answer has come."""
    await origin.asked.wait()
    assert (await proxy.request("PUT", path, content=b"x")).status == 200
    origin.open.set()
    await slow
    return (await proxy.get("/a")).content


@pytest.mark.parametrize("extra", [[], ["Connection: keep-alive, x"]], ids=["the express way", "the ordinary way"])
async def test_a_get(origin: Origin, extra: list[str]) -> None:
    number = 0

    async def script(turn: Turn) -> None:
        nonlocal number
        if turn.request.method == "GET" and (number := number + 1) <= 2:
            # not to be shared, so that the next goes the short way
            await turn.answer("own", "Cache-Control: private", changing.date)
        else:
            await changing.script(turn)

    changing = Changing(origin, lambda turn: turn.request.method == "GET")
    origin.script = script
    async with running_proxy(origin.url) as proxy:
        changing.proxy = proxy
        client = await proxy.connect()
        for _ in range(2):
            await client.request("GET", "/a", *extra)
        slow = asyncio.create_task(client.request("GET", "/a", *extra))
        assert await changed_meanwhile(proxy, changing, slow) == b"v2"


@pytest.mark.parametrize("extra", [[], ["Connection: keep-alive, x"]], ids=["the express way", "the ordinary way"])
async def test_the_age_counts_from_when_the_origin_was_asked(origin: Origin, extra: list[str]) -> None:
    """RFC 9111 4.2.3: response_delay."""
    number = 0

    async def script(turn: Turn) -> None:
        nonlocal number
        number += 1
        if number == 3:
            proxy.clock.now += 30
        lines = [LONG, "Age: 10"] if number == 3 else ["Cache-Control: private"]
        await turn.answer("x", *lines, f"Date: {format_date(proxy.clock.now)}")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client: Client = await proxy.connect()
        for _ in range(3):
            await client.request("GET", "/a", *extra)
        hit = await client.request("GET", "/a")
    assert (hit.get("age"), hit.get("cache-status")) == ("40", "siding; hit; ttl=560")


async def test_a_head(origin: Origin) -> None:
    changing = Changing(origin, lambda turn: turn.request.method == "HEAD", "Cache-Control: max-age=10")
    async with running_proxy(origin.url) as proxy:
        changing.proxy = proxy
        await proxy.get("/a")
        proxy.clock.now += 11
        slow = asyncio.create_task(proxy.request("HEAD", "/a"))
        assert await changed_meanwhile(proxy, changing, slow) == b"v2"


async def test_a_head_that_a_newer_answer_overtakes(origin: Origin) -> None:
    changing = Changing(origin, lambda turn: turn.request.method == "HEAD", "Cache-Control: max-age=10")
    async with running_proxy(origin.url) as proxy:
        changing.proxy = proxy
        await proxy.get("/a")
        proxy.clock.now += 11
        slow = asyncio.create_task(proxy.request("HEAD", "/a"))
        await changing.asked.wait()
        changing.version = 2
        proxy.clock.now += 1
        assert (await proxy.get("/a")).content == b"v2"
        changing.open.set()
        assert (await slow).get("etag") == '"v1"'
        assert (await proxy.get("/a")).content == b"v2"


async def test_an_answer_that_a_newer_one_overtakes(origin: Origin) -> None:
    """The most recent by Date counts (RFC 9111 4), not the last to arrive."""
    changing = Changing(origin, lambda _: True)
    async with running_proxy(origin.url) as proxy:
        changing.proxy = proxy
        slow = asyncio.create_task(proxy.get("/a", "Cache-Control: no-cache"))
        await changing.asked.wait()
        changing.version = 2
        proxy.clock.now += 5
        assert (await proxy.get("/a", "Cache-Control: no-cache")).content == b"v2"
        changing.open.set()
        late = await slow
        assert (late.content, late.get("cache-status")) == (b"v1", "siding; fwd=uri-miss; fwd-status=200")
        hit = await proxy.get("/a")
        assert (hit.content, hit.get("cache-status")) == (b"v2", "siding; hit; ttl=600")
        metrics = (await proxy.worker.metrics(""))[0].decode()
    assert 'verdict="overtaken"' in metrics


async def test_an_older_date_by_itself_is_no_reason(origin: Origin) -> None:
    """An origin behind a cache of its own may well answer with something that was made earlier."""
    lines = iter([[LONG, 'ETag: "a"'], [LONG, 'ETag: "b"', "Age: 300"]])

    async def script(turn: Turn) -> None:
        await turn.answer("x", *next(lines), f"Date: {format_date(proxy.clock.now)}")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        await proxy.get("/a")
        proxy.clock.now += 100
        await proxy.get("/a", "Cache-Control: no-cache")
        assert (await proxy.get("/a")).get("etag") == '"b"'


@pytest.mark.parametrize(("done", "path"), [((), "/a"), (('Cache-Group-Invalidation: "g"',), "/b")])
async def test_the_answer_to_a_post_that_is_kept_for_get(origin: Origin, done: tuple[str, ...], path: str) -> None:
    fields = (LONG, "Content-Location: /a", 'Cache-Groups: "g"')
    changing = Changing(origin, lambda turn: turn.request.method == "POST", *fields)
    changing.done = done
    async with running_proxy(origin.url) as proxy:
        changing.proxy = proxy
        slow = asyncio.create_task(proxy.request("POST", "/a", content=b"x"))
        assert await changed_meanwhile(proxy, changing, slow, path) == b"v2"
        # by itself it is kept
        await proxy.request("POST", "/a", content=b"x")
        assert (await proxy.get("/a")).get("cache-status") == "siding; hit; ttl=600"


@pytest.mark.parametrize("late", [1, 5])
async def test_who_asks_after_a_group_was_invalidated_does_not_join_what_was_asked_before(
    origin: Origin, late: int
) -> None:
    """They join one another instead."""
    changing = Changing(origin, lambda turn: turn.request.method == "GET", LONG, 'Cache-Groups: "g"')
    changing.done = ('Cache-Group-Invalidation: "g"',)
    async with running_proxy(origin.url) as proxy:
        changing.proxy = proxy
        first = asyncio.create_task(proxy.get("/a"))
        await changing.asked.wait()
        await proxy.request("PUT", "/b", content=b"x")
        others = [asyncio.create_task(proxy.get("/a")) for _ in range(late)]
        await until(lambda: proxy.worker.handler.in_flight == 1 + late)
        changing.open.set()
        assert (await first).content == b"v1"
        assert [(await other).content for other in others] == [b"v2"] * late
    assert [request.target for request in origin.requests] == ["/a", "/b", "/a"]


class Stream:
    """An origin that sends the head and the first piece at once, and the rest when it is let."""

    def __init__(self, origin: Origin, *fields: str) -> None:
        self.open, self.begun = asyncio.Event(), 0
        self.fields = fields
        self.proxy: Proxy | None = None
        origin.script = self.script

    async def script(self, turn: Turn) -> None:
        assert self.proxy is not None
        if turn.request.method != "GET":
            await turn.answer("done", 'Cache-Group-Invalidation: "g"')
            return
        self.begun += 1
        lines = [*self.fields, f"Date: {format_date(self.proxy.clock.now)}", "Transfer-Encoding: chunked"]
        await turn.send("\r\n".join(["HTTP/1.1 200 OK", *lines, "", f"2\r\nv{self.begun}\r\n"]))
        await self.open.wait()
        await turn.send("0\r\n\r\n")


async def test_a_stream_is_not_joined_once_its_group_is_invalid(origin: Origin) -> None:
    stream = Stream(origin, LONG, 'Cache-Groups: "g"')
    async with running_proxy(origin.url) as proxy:
        stream.proxy = proxy
        client, other = await proxy.connect(), await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        await client.head()
        await proxy.request("POST", "/b", content=b"x")
        await other.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        assert "collapsed" not in ((await other.head()).get("cache-status") or "")
        assert stream.begun == 2
        stream.open.set()


@pytest.mark.parametrize(
    ("passed", "fields", "age"),
    [
        (0, "", "0"),
        (3, "", "3"),
        (3, "Cache-Control: max-age=5\r\n", "3"),
        (3, "Cache-Control: max-age=2\r\n", None),
        (9, "", None),
    ],
)
async def test_a_stream_that_is_joined_late_has_an_age_and_is_fresh(
    origin: Origin, passed: int, fields: str, age: str | None
) -> None:
    """RFC 9111 4, 5.1."""
    stream = Stream(origin, "Cache-Control: max-age=5")
    async with running_proxy(origin.url) as proxy:
        stream.proxy = proxy
        client, other = await proxy.connect(), await proxy.connect()
        await client.send("GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        first = await client.head()
        proxy.clock.now += passed
        await other.send(f"GET /a HTTP/1.1\r\nHost: app.example\r\n{fields}\r\n")
        joined = await other.head()
        stream.open.set()
    assert first.get("age") is None
    assert joined.get("age") == age
    assert stream.begun == (1 if age is not None else 2)
