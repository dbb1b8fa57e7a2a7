"""Whatever is asked, stored, purged, switched and changed meanwhile: the fast ways answer as the ordinary way does."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.flags import FlagName
from proxy.observe.events import PurgeKind
from proxy.policy.fields import format_date
from proxy.server.admin import PurgeOrder
from tests.fast.sides import Side, both, seen
from tests.support import Origin, Turn

RULES = """
[[route]]
match = "/rule/*"
methods = ["GET", "POST"]
ttl = 60
key = ["query:a", "body", "authorization", "cookie:sid"]
tags = ["ruled"]
invalidated_by = ["POST /plain/*"]

[[route]]
match = "/tenant/*"
methods = ["GET", "POST"]
ttl = 60
stale_while_revalidate = 30
key = ["header:X-Tenant", "body:id"]
"""
NOW = 1_800_000_000.0
NUMBER = itertools.count()
TEXT = b'{"text": "' + b"lorem ipsum " * 150 + b'"}'


@dataclass(frozen=True)
class Reply:
    """What the origin answers; to a condition that holds, with a 304."""

    status: str
    fields: tuple[str, ...]
    content: bytes


@dataclass(frozen=True)
class Asked:
    """A request: its octets but for the number in the path, and where they are cut."""

    method: str
    wire: str
    cut: int

    def pieces(self, number: int) -> list[bytes]:
        wire = self.wire.replace("NUMBER", str(number)).encode("latin-1")
        at = self.cut % len(wire)
        return [wire[:at], wire[at:]] if self.cut and at else [wire]


def one(name: str, *values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(values).map(lambda value: f"{name}: {value}")


REPLY_FIELDS = st.one_of(
    one("Cache-Control", "max-age=60", "max-age=60, stale-while-revalidate=30", "s-maxage=30", "no-cache", "no-store"),
    one("Cache-Control", "private", "public, max-age=5", 'max-age=60, no-cache="x-own"', "max-age=60, no-transform"),
    one("cache-control", "max-age=60"),
    one("CDN-Cache-Control", "max-age=90"),
    one("ETag", '"a"', 'W/"a"', "a", '"100%d"'),
    one("Last-Modified", format_date(NOW - 100_000)),
    one("Vary", "Accept-Encoding", "accept-language", "Origin, Accept-Encoding", "*", "X-Forwarded-For"),
    one("Set-Cookie", "s=1", "t=%s"),
    one("Age", "0", "7", "x"),
    one("Via", "1.1 other"),
    one("Cache-Status", "edge; hit; ttl=3", "siding; hit; ttl=%d"),
    one("Date", format_date(NOW), format_date(NOW - 20)),
    one("Expires", format_date(NOW + 50), "0"),
    one("X-Odd", "100%", "%d %s %%", "\xe9\xff", ""),
    one("X-Own", "1"),
    one("Content-Encoding", "gzip"),
    one("Content-Location", "/plain/NUMBER"),
    one("Location", "/plain/NUMBER"),
    one("Connection", "keep-alive", "close", "X-Odd"),
    one("Keep-Alive", "timeout=5", "timeout=1"),
)
DATES = [(f"Date: {format_date(NOW)}",)] * 4 + [()]
LIVES = [("Cache-Control: max-age=60",)] * 3 + [("Cache-Control: private",), ("Cache-Control: no-store",), (), ()]
REPLIES = st.builds(
    Reply,
    st.sampled_from(
        ["200 OK"] * 9
        + ["203 Else", "301 Moved 100%", "404 " + "long " * 40, "410 Gone", "204 No Content", "500 No", "200 "]
    ),
    st.tuples(st.sampled_from(DATES), st.sampled_from(LIVES), st.lists(REPLY_FIELDS, max_size=3)).map(
        lambda drawn: ("Content-Type: application/json", *drawn[0], *drawn[1], *drawn[2])
    ),
    st.sampled_from([b"", b"hello", b"100% %d", TEXT]),
)

REQUEST_FIELDS = st.one_of(
    one("Accept-Encoding", "gzip", "br", "gzip, br;q=0.5", "gzip;q=0", "identity", "*", "", "x-gzip"),
    one("ACCEPT-encoding", "gzip"),
    one("If-None-Match", '"a"', 'W/"a"', "*", '"b", "a"', "a", ""),
    one("IF-NONE-MATCH", '"a"'),
    one("If-Modified-Since", format_date(NOW - 100_000), format_date(NOW), "x"),
    one("X-Forwarded-Host", "other.example", "Other.example", "app.example"),
    one("X-Forwarded-Proto", "https", "HTTP", "https, http", ""),
    one("X-Forwarded-For", "192.0.2.1", "192.0.2.1, 192.0.2.2", ""),
    one("X-Original-Url", "/b"),
    one("Forwarded", "for=192.0.2.1;host=a", "for=192.0.2.2;host=a", "host=b"),
    one("Forwarded", 'for="x, host=b"', "host =b", "for=192.0.2.1, for=192.0.2.2;host=a"),
    one("Authorization", "Bearer a", "Bearer b", ""),
    one("Cookie", "sid=1", "sid=2; a=b", "a=b"),
    one("X-Api-Key", "k"),
    one("X-Tenant", "a", "b"),
    one("Cache-Control", "no-cache", "max-age=0", "no-store", "only-if-cached", "max-stale=100", "x"),
    one("Pragma", "no-cache", "x"),
    one("Range", "bytes=0-3", "bytes=9999999-"),
    one("If-Range", '"a"'),
    one("Accept-Language", "de", "en;q=0.5, de"),
    one("Origin", "http://a"),
    one("Via", "1.0 older"),
    one("X-Request-Id", "abc", 'a"b', ""),
    one("TE", "trailers"),
    one("Connection", "keep-alive", "Keep-Alive", "close", "X-Tenant", "X-Tenant, " + "padding, " * 40),
    one("X-Odd", " \t odd\t ", "\xe9", "a:b", ""),
    one("Content-Type", "application/json", "text/plain"),
)
HOSTS = st.sampled_from(
    ["Host: app.example"] * 30
    + ["host:APP.EXAMPLE:80", "Host: app.example:8080", "Host: ", "Host: a b", "Host: a@b", "Host: " + "a" * 300]
    + ["Host: app.example\r\nHost: app.example", "X-No-Host: 1", "Host : app.example", "Host: app.example\r\n folded"]
)
PATHS = st.sampled_from(
    ["/plain/NUMBER"] * 6
    + ["/plain/NUMBER?a=1", "/plain/NUMBER?", "/plain/NUMBER?a=%20&b", "/rule/NUMBER", "/rule/NUMBER?a=1&b=2"]
    + ["/rule/NUMBER?%61=1", "/rule/NUMBER?b=2;a=3&a=1"]
    + ["/rule/NUMBER/../x", "/tenant/NUMBER", "//plain/NUMBER", "http://app.example/plain/NUMBER", "/plain/NUMBER#x"]
)
BODIES = ("", '{"id": 1}', '{"id":1}', '{"id": 2}', "not json", "ends\r\n\r\n")


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    method = draw(st.sampled_from(["GET"] * 6 + ["HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS"]))
    lines = [draw(HOSTS), *draw(st.lists(REQUEST_FIELDS, max_size=draw(st.sampled_from([0, 1, 2, 4]))))]
    content = ""
    if method in {"POST", "PUT"}:
        content = draw(st.sampled_from(BODIES))
        if draw(st.integers(0, 4)) == 0:
            lines.append("Transfer-Encoding: chunked")
            content = f"{len(content):x}\r\n{content}\r\n0\r\n\r\n" if content else "0\r\n\r\n"
        elif content or draw(st.booleans()):
            lines.append(draw(st.sampled_from(["Content-Length: ", "content-length:", "Content-Length: 00"])))
            lines[-1] += str(len(content))
    version = draw(st.sampled_from(["HTTP/1.1"] * 9 + ["HTTP/1.0"]))
    lines = draw(st.permutations(lines))
    head = "\r\n".join([f"{method} {draw(PATHS)} {version}", *lines, "", ""])
    return Asked(method, head + content, draw(st.sampled_from([0] * 5 + [1])) * draw(st.integers(1, 400)))


@st.composite
def related(draw: st.DrawFn) -> list[Asked]:
    """A request, and others that are nearly the same."""
    first = draw(asked())
    found = [first]
    for _ in range(draw(st.integers(0, 2))):
        start, line_end, rest = first.wire.partition("\r\n")
        if draw(st.booleans()) and first.method == "GET":
            found.append(Asked("HEAD", start.replace("GET", "HEAD", 1) + line_end + rest, 0))
        else:
            found.append(Asked(first.method, f"{start}\r\n{draw(REQUEST_FIELDS)}\r\n{rest}", 0))
    return found


@dataclass(frozen=True)
class Step:
    """What happens next: `what` is one of ask, wait, purge, flip, change, clear."""

    what: str
    number: int = 0
    times: int = 1
    text: str = ""
    reply: Reply | None = None


STEPS = st.one_of(
    *[st.builds(Step, st.just("ask"), st.integers(0, 2), st.sampled_from([1, 1, 3, 4]))] * 6,
    st.builds(Step, st.just("wait"), st.sampled_from([1, 20, 29, 31, 59, 61, 100])),
    st.builds(
        Step, st.just("purge"), st.integers(0, 1), st.just(1), st.sampled_from(["url", "url", "prefix", "tag", "all"])
    ),
    st.builds(Step, st.just("flip"), text=st.sampled_from([name.value for name in FlagName])),
    st.builds(Step, st.just("change"), reply=REPLIES),
    st.just(Step("clear")),
)


class World:
    """The two sides with their loop, for as many examples as there are."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._directory = tempfile.TemporaryDirectory()
        self.replies: dict[str, Reply] = {}
        self._ending: asyncio.Event | None = None
        self.fast: Side
        self.slow: Side
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self._origin = await Origin().start()
        self._origin.script = self._answer
        self._context = both(self._origin, rules=RULES, directory=Path(self._directory.name))
        self.fast, self.slow = await self._context.__aenter__()

    def end(self) -> None:
        async def ending() -> None:
            await self._context.__aexit__(None, None, None)
            await self._origin.stop()

        self.runner.run(ending())
        self.runner.close()
        self._directory.cleanup()

    async def _answer(self, turn: Turn) -> None:
        number = turn.request.target.partition("?")[0].rstrip("/").split("/")[-1]
        reply = self.replies.get(number) or Reply("200 OK", (), b"unknown")
        fields = [field.replace("NUMBER", number) for field in reply.fields]
        etags = [field.partition(": ")[2] for field in fields if field.startswith("ETag")]
        if turn.request.method == "GET" and etags and turn.request.get("if-none-match") == etags[0]:
            await turn.answer(b"", *fields, status="304 Not Modified")
        else:
            await turn.answer(reply.content, *fields, status=reply.status)
        if "Connection: close" in fields:
            turn.writer.close()

    async def play(self, reply: Reply, requests: list[Asked], steps: list[Step]) -> None:
        number = next(NUMBER)
        self.replies = {str(number): reply}
        sides, clock = (self.fast, self.slow), self.fast.proxy.clock
        before = dict(self.fast.proxy.flags.as_dict())
        clock.now = NOW + 0.25
        try:
            for step in steps:
                await self._step(step, number, requests)
        finally:
            for side in sides:
                side.proxy.flags.update(before)

    async def _step(self, step: Step, number: int, requests: list[Asked]) -> None:
        sides = (self.fast, self.slow)
        match step.what:
            case "ask":
                asked = requests[step.number % len(requests)]
                pieces = asked.pieces(number)
                for _ in range(step.times):
                    fast, slow = [await side.ask(pieces, asked.method) for side in sides]
                    assert seen(fast[0]) == seen(slow[0])
                    assert fast[1] == slow[1]
                    assert self.fast.proxy.worker._origin.in_use == 0
            case "wait":
                self.fast.proxy.clock.now += step.number
            case "purge":
                value = {"url": f"/plain/{number}", "prefix": "/rule/", "tag": "ruled", "all": ""}[step.text]
                for side in sides:
                    await side.proxy.worker.purge(PurgeOrder(PurgeKind(step.text), value, bool(step.number)))
            case "flip":
                for side in sides:
                    side.proxy.flags.update({step.text: not side.proxy.flags.on(FlagName(step.text))})
            case "change":
                assert step.reply is not None
                self.replies = {str(number): step.reply}
            case "clear":
                for side in sides:
                    side.proxy.store_nothing()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    reply=REPLIES,
    requests=related() | st.lists(asked(), min_size=1, max_size=3),
    steps=st.lists(STEPS, min_size=3, max_size=12),
)
def test_the_same_octets(world: World, reply: Reply, requests: list[Asked], steps: list[Step]) -> None:
    world.runner.run(world.play(reply, requests, steps))
