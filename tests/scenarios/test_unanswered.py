"""Unsafe requests that the origin had and did not answer: it may have done what they ask for, so they invalidate."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.family import family, started
from tests.support import PATIENCE, Client, Origin, Proxy, Turn, running_proxy, until

FRESH = "Cache-Control: max-age=60"
DATE = "Date: Fri, 15 Jan 2027 08:00:00 GMT"
WAYS = pytest.mark.parametrize(
    "extra", [[], ["Connection: keep-alive, x"]], ids=["the express way", "the ordinary way"]
)
HIT, MISS = "siding; hit; ttl=60", "siding; fwd=uri-miss; fwd-status=200; stored"
FAILURES = {"it closes": 502, "it breaks off": 502, "it talks nonsense": 502, "it is silent": 504}
RULE = """
[[route]]
match = "/report"
ttl = 60
invalidated_by = ["POST /a"]
"""


class Failing:
    """An origin that answers the first POST alone. failure -- what becomes of the others."""

    def __init__(self, origin: Origin, failure: str) -> None:
        self.had = 0
        self.failure = failure
        origin.script = self.script

    async def script(self, turn: Turn) -> None:
        if turn.request.method == "GET" or turn.request.target == "/first":
            await turn.answer("one", FRESH, DATE)
            return
        self.had += 1
        match self.failure:
            case "it closes":
                turn.writer.close()
            case "it breaks off":
                await turn.send("HTTP/1.1 200 O")
                turn.writer.close()
            case "it talks nonsense":
                await turn.send("NO HTTP\r\n\r\n")
            case _:
                await turn.reader.read(1)


async def states(proxy: Proxy, *targets: str) -> list[str | None]:
    """What the cache has to say to each."""
    return [(await proxy.get(target)).get("cache-status") for target in targets]


async def has_asked(proxy: Proxy, *targets: str) -> Client:
    """Everything is stored, and there is an idle connection to the origin."""
    client = await proxy.connect()
    await client.request("POST", "/first", content=b"")
    assert await states(proxy, *targets) == [MISS] * len(targets)
    assert await states(proxy, *targets) == [HIT] * len(targets)
    return client


@WAYS
@pytest.mark.parametrize("bypass", [False, True], ids=["", "bypass"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_what_the_origin_does_not_answer(
    origin: Origin, tmp_path: object, failure: str, bypass: bool, extra: list[str]
) -> None:
    """Of the same URI, and what a rule says; nothing else."""
    failing = Failing(origin, failure)
    async with running_proxy(origin.url, rules=RULE, directory=tmp_path, upstream_timeout_ms=100) as proxy:  # type: ignore[arg-type]
        client = await has_asked(proxy, "/a", "/b", "/report")
        proxy.flags.update({"BYPASS": bypass})
        assert (await client.request("POST", "/a", *extra, content=b"x")).status == FAILURES[failure]
        proxy.flags.update({"BYPASS": False})
        assert await states(proxy, "/a", "/b", "/report") == [MISS, HIT, MISS]
        assert failing.had == 1


@WAYS
async def test_what_its_client_does_not_wait_for(origin: Origin, extra: list[str]) -> None:
    failing = Failing(origin, "it is silent")
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await has_asked(proxy, "/a", "/b")
        waiting = asyncio.create_task(client.request("POST", "/a", *extra, content=b"x"))
        await until(lambda: failing.had == 1)
        waiting.cancel()
        client.close()
        await until(lambda: proxy.worker.handler.in_flight == 0)
        assert await states(proxy, "/a", "/b") == [MISS, HIT]


async def test_content_that_its_client_does_not_send_whole(origin: Origin) -> None:
    failing, origin.read_content = Failing(origin, "it is silent"), False
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await has_asked(proxy, "/a")
        await client.send("PUT /a HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await until(lambda: failing.had == 1)
        await client.send("no size")
        assert (await client.response()).status == 400
        assert await states(proxy, "/a") == [MISS]


async def test_what_the_origin_never_had(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection, and none free."""
    Failing(origin, "it is silent")
    async with running_proxy(origin.url, upstream_connect_timeout_ms=50) as proxy, asyncio.timeout(PATIENCE):
        client = await has_asked(proxy, "/a")
        with monkeypatch.context() as patch:
            patch.setattr(proxy.worker._origin, "_max", 0)
            assert (await client.request("POST", "/a", content=b"x")).status == 503
        await origin.stop()
        await until(lambda: proxy.worker._origin.idle == 0)
        assert (await client.request("POST", "/a", content=b"x")).status == 502
        assert await states(proxy, "/a") == [HIT]


@WAYS
async def test_other_workers_know_before_the_client_does(origin: Origin, extra: list[str]) -> None:
    failing = Failing(origin, "it closes")
    async with family() as (parent, siblings), running_proxy(origin.url, siblings=siblings) as proxy:
        client = await has_asked(proxy, "/a")
        parent.told.clear()
        parent.knows.clear()
        asked = "\r\n".join(["POST /a HTTP/1.1", "Host: app.example", *extra, "Content-Length: 1", "", "x"])
        await client.send(asked)
        await until(lambda: bool(parent.told))
        assert failing.had == 1
        assert not await started(client)
        parent.knows.set()
        assert (await client.response()).status == 502
        told = [argument[1] for _, argument in parent.told]  # type: ignore[index]
        assert told == [["uri http://app.example/a"]]
