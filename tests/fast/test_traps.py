"""Known traps: what is invalidated meanwhile, whose answer it is, where a message ends, and what is kept of clients."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from pathlib import Path

import pytest

from proxy.observe.events import PurgeKind
from proxy.server import coding, fast_path, protocol
from proxy.server.admin import PurgeOrder
from tests.fast.passing import DATE, JSON, TEXT, connection_of, nothing_left
from tests.fast.sides import Side, both, seen
from tests.support import PATIENCE, Client, Message, Origin, Proxy, Turn, running_proxy, until

FRESH = "Cache-Control: max-age=60"


def hits(proxy: Proxy) -> int:
    """How many were answered from prepared octets, and not told of yet."""
    return len(proxy.worker._briefs._gathered)


@pytest.fixture(autouse=True)
def _hits_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.observe.briefs.GATHER_SECONDS", 3600.0)


async def asked(client: Client, target: str, *fields: str, times: int = 3, method: str = "GET") -> list[Message]:
    return [await client.request(method, target, *fields) for _ in range(times)]


def states(answers: list[Message]) -> list[str]:
    return [(answer.get("cache-status") or "").removeprefix("siding; ").partition(";")[0] for answer in answers]


# -- what changes meanwhile


@pytest.mark.parametrize(
    "told",
    [
        ("Cache-Control: private, max-age=60",),
        ("Cache-Control: no-store, max-age=60",),
        ("Cache-Control: no-cache, max-age=60",),
        ("Vary: X-User", "Cache-Control: max-age=60"),
        ("Cache-Control: max-age=60", "X-New: 1"),
    ],
)
async def test_what_a_304_changes_is_changed_for_the_fast_path_as_well(origin: Origin, told: tuple[str, ...]) -> None:
    """A response was fresh and prepared; then the origin confirms it, and says that it is not for everyone any more."""
    fields = [FRESH]

    async def script(turn: Turn) -> None:
        if turn.request.get("if-none-match") == '"a"':
            await turn.answer(b"", *fields, 'ETag: "a"', status="304 Not Modified")
        else:
            await turn.answer("hello", *fields, 'ETag: "a"')

    origin.script = script
    async with both(origin) as sides:
        told_by = []
        for side in sides:
            fields[:] = [FRESH]
            side.proxy.clock.now = 1_800_000_000.0
            client = await side.proxy.connect()
            answers = await asked(client, "/a", times=4)
            fields[:] = [*told]
            side.proxy.clock.now += 61
            answers += await asked(client, "/a", times=4)
            told_by.append([seen(answer) for answer in answers])
        assert hits(sides[0].proxy) >= 2
    assert told_by[0] == told_by[1]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", list(PurgeKind))
async def test_what_is_purged_while_it_is_coded_is_not_prepared_as_valid(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, kind: PurgeKind, soft: bool
) -> None:
    origin.respond(TEXT, DATE, FRESH, JSON, "Cache-Tag: t")
    value = {PurgeKind.URL: "/a", PurgeKind.PREFIX: "/", PurgeKind.TAG: "t"}.get(kind, "")
    encode = coding.encode_whole
    async with running_proxy(origin.url) as proxy:

        async def purged_meanwhile(content: bytes, name: str) -> bytes:
            await proxy.worker.purge(PurgeOrder(kind, value, soft))
            return await encode(content, name)

        client = await proxy.connect()
        await asked(client, "/a", times=1)
        monkeypatch.setattr(coding, "encode_whole", purged_meanwhile)
        await asked(client, "/a", "Accept-Encoding: gzip", times=1)
        monkeypatch.setattr(coding, "encode_whole", encode)
        assert any(stored.prepared is not None for stored in proxy.stored())
        before = len(origin.requests)
        await asked(client, "/a", "Accept-Encoding: gzip", times=1)
        assert len(origin.requests) == before + 1


async def test_what_is_switched_while_it_is_coded_is_not_prepared(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.respond(TEXT, DATE, FRESH, JSON)
    encode = coding.encode_whole
    async with running_proxy(origin.url) as proxy:

        async def switched_meanwhile(content: bytes, name: str) -> bytes:
            proxy.flags.update({"ENABLE_COMPRESSION": False})
            return await encode(content, name)

        client = await proxy.connect()
        await asked(client, "/a", times=1)
        monkeypatch.setattr(coding, "encode_whole", switched_meanwhile)
        await asked(client, "/a", "Accept-Encoding: gzip", times=1)
        answers = await asked(client, "/a", "Accept-Encoding: gzip")
        assert [answer.get("content-encoding") for answer in answers] == [None] * 3


async def test_a_newer_response_a_variant_and_an_eviction(origin: Origin) -> None:
    number = itertools.count()

    async def script(turn: Turn) -> None:
        await turn.answer(f"{next(number)} {turn.request.get('accept-encoding')}", FRESH, "Vary: Accept-Encoding")

    origin.script = script
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()

        async def contents(*fields: str) -> set[bytes]:
            return {answer.content for answer in await asked(client, "/a", *fields)}

        assert await contents() == {b"0 None"}
        assert await contents("Accept-Encoding: br") == {b"1 br"}
        assert await contents() == {b"0 None"}
        assert (await asked(client, "/a", "Cache-Control: no-cache", times=1))[0].content == b"2 None"
        assert await contents() == {b"2 None"}
        assert await contents("Accept-Encoding: br") == {b"1 br"}
        assert hits(proxy) == 10
        proxy.store_nothing()
        assert await contents() == {b"3 None"}


async def test_a_clock_that_is_set_back_and_the_last_moment(origin: Origin) -> None:
    origin.respond("hello", FRESH)
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        await asked(client, "/a")
        for seconds, age, ttl in ((-100, "0", 60), (100.5, "0", 59), (59, "59", 0), (0.499, "59", 0)):
            proxy.clock.now += seconds
            [answer] = await asked(client, "/a", times=1)
            assert (answer.get("age"), answer.get("cache-status")) == (age, f"siding; hit; ttl={ttl}")
        assert hits(proxy) == 5
        proxy.clock.now += 0.001
        assert states(await asked(client, "/a", times=1)) == ["fwd=stale"]


# -- whose answer it is

RULES = """
[[route]]
match = "/by/*"
methods = ["GET"]
ttl = 60
key = ["query", "authorization", "header:X-Tenant", "cookie:sid"]

[[route]]
match = "/by/*"
methods = ["POST"]
ttl = 60
key = ["body", "authorization", "header:X-Tenant", "cookie:sid"]
"""
USERS = [
    (),
    ("Authorization: Bearer a",),
    ("Authorization: Bearer b",),
    ("Authorization: Bearer a", "X-Tenant: b"),
    ("X-Tenant: b",),
    ("X-Tenant: a", "X-Tenant: b"),
    ("X-Tenant: a, b",),
    ("Cookie: sid=1",),
    ("Cookie: sid=1; x=2",),
    ("Cookie: x=sid; sid=2",),
    ("Cookie: x=1",),
    ("X-Api-Key: k",),
    ("X-Forwarded-Host: evil.example",),
    ("X-Forwarded-Proto: https",),
    ("X-Forwarded-Host: evil.example", "X-Forwarded-Host: app.example"),
    ("X-Original-Url: /admin",),
    ("Forwarded: host=evil.example",),
    ("Forwarded: for=1;proto=https",),
]


@pytest.mark.parametrize("path", ["/by/a", "/plain", "/by/a?x=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_nobody_is_given_what_was_made_for_another(
    origin: Origin, tmp_path: Path, path: str, method: str
) -> None:
    """Each answer tells what it was asked with; all are asked in turns, many times, over one connection."""
    credentials = ("Authorization", "X-Api", "Cookie: sid", "Cookie: x=sid", "X-Forwarded-Host: evil", "X-Original")

    async def script(turn: Turn) -> None:
        told = [f"{name}: {value}" for name, value in turn.request.fields]
        await turn.answer("x", FRESH, "X-Told: " + "|".join(told))

    origin.script = script
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path) as proxy:
        client = await proxy.connect()
        await asked(client, path, times=1)
        for _ in range(4):
            for fields in USERS:
                told = ((await client.request(method, path, *fields)).get("x-told") or "").split("|")
                foreign = {field for user in USERS for field in user if field.startswith(credentials)} - set(fields)
                if any("sid=1" in field for field in fields):
                    # the cookie that the rule names is the session
                    foreign -= {"Cookie: sid=1", "Cookie: sid=1; x=2"}
                if path == "/plain":
                    # the origin says to all that it is for all; without a rule only what rewrites is told apart
                    foreign = {field for field in foreign if field.startswith(("X-Forw", "X-Orig", "Auth"))}
                assert foreign.isdisjoint(told)
                if (
                    any(field.startswith(("X-Forwarded", "X-Original", "X-Tenant")) for field in fields)
                    and "by" in path
                ):
                    assert set(fields) <= set(told)
        assert hits(proxy) > 0


async def test_a_host_in_another_form_makes_another_answer(origin: Origin) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer(turn.request.get("host") or "", FRESH)

    origin.script = script
    hosts = ["a.example", "b.example", "a.example:8080", "a.example.", "[::1]", "A.EXAMPLE", "a.example:80"]
    async with running_proxy(origin.url) as proxy:
        client = await proxy.connect()
        found = {
            host: {(await client.request("GET", "/a", host=host)).content for _ in range(3)}
            for host in (*hosts, *hosts)
        }
    assert found == {host: {host.encode()} for host in hosts}


# -- where a message ends


def fed(proxy: Proxy, *pieces: bytes) -> None:
    """As if each piece had come by itself from the client."""
    for piece in pieces:
        connection_of(proxy).data_received(piece)


async def test_content_that_looks_like_a_head_is_content(origin: Origin) -> None:
    """A chunk that begins like a plain request must not make the count of what is owed go wrong.

    Otherwise the parser is left with half a head while what follows is taken for a request of its own.
    """
    go = asyncio.Event()

    async def script(turn: Turn) -> None:
        if turn.request.target == "/upload":
            await go.wait()
        await turn.answer(turn.request.target, DATE)

    origin.script = script
    fake = b"POST /fake HTTP/1.1\r\nHost: a\r\nContent-Length: 47\r\n\r\n"
    begin = b"\r\n" + fake
    head = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    end = b"\r\n0\r\n\r\n"
    part = b"GET /part HTTP/1.1\r\nHost: a\r\nX-Long: 4567\r\n"[: 47 - len(end)]
    part = part + b"x" * (47 - len(end) - len(part))
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await client.request("GET", "/first")
        fed(proxy, head)
        await until(lambda: connection_of(proxy)._waiter is None)
        fed(proxy, b"%x\r\n\r\n" % len(begin), fake, end)
        go.set()
        assert (await client.response("POST")).content == b"/upload"
        await until(lambda: connection_of(proxy)._waiter is not None)
        fed(proxy, part)
        assert connection_of(proxy)._extent is not None
        fed(proxy, b"\r\n\r\n")
        await client.response()
    assert [request.target for request in origin.requests] == ["/first", "/upload", "/part"]


HOST = b" HTTP/1.1\r\nHost: a\r\n"
LAST = b"GET /b" + HOST + b"\r\n"
PIPELINES = {
    "two": b"GET /a" + HOST + b"\r\n" + LAST,
    "content, then another": b"POST /a" + HOST + b"Content-Length: 4\r\n\r\n\r\n\r\n" + LAST,
    "chunks, then another": b"PUT /a" + HOST + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n" + LAST,
    "empty lines between": b"GET /a" + HOST + b"\r\n\r\n\r\n" + LAST,
    "content that is a request": b"POST /a" + HOST + b"Content-Length: 32\r\n\r\nGET /evil" + HOST + b"\r\n." + LAST,
}


@pytest.mark.parametrize("name", PIPELINES)
async def test_cut_anywhere_it_is_the_same_messages(origin: Origin, name: str) -> None:
    async def script(turn: Turn) -> None:
        await turn.answer(turn.request.target.encode() + b" " + turn.request.content, DATE, FRESH)

    origin.script = script
    wire = PIPELINES[name]
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        found = set()
        for at in range(1, len(wire)):
            await until(lambda: connection_of(proxy)._waiter is not None)
            fed(proxy, wire[:at])
            if at % 2:
                await asyncio.sleep(0)
            fed(proxy, wire[at:])
            found.add(tuple([(await client.response()).content for _ in range(2)]))
        await nothing_left(proxy)
    assert len(found) == 1
    assert "/evil" not in {request.target for request in origin.requests}


# -- what clients may cause


async def test_what_is_kept_of_clients_is_bounded_in_octets(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.respond("hello", DATE, FRESH)
    for name in ("MAX_PLACES", "MAX_RULED"):
        monkeypatch.setattr(fast_path, name, 4)
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path) as proxy:
        client = await proxy.connect()
        for number in range(12):
            await asked(client, f"/by/{number}")
            await asked(client, f"/by/a?{'x' * 3000}{number}")
            await asked(client, "/a", f"X-Forwarded-Host: {number}{'x' * 3000}")
            await asked(client, "/a", f"X-Forwarded-Host: {number}")
            await asked(client, "/a", f"If-None-Match: {number}{'x' * 3000}")
        index = proxy.worker._fast
        assert len(index._places) <= 4
        assert len(index._ruled) <= 4
        assert all(len(key) <= fast_path.MAX_RULED_KEY for key in index._ruled.values())
        assert index.lexicon.starts
        assert all(len(start.key) <= fast_path.MAX_PLACE for start in index.lexicon.starts.values())
        assert connection_of(proxy)._seat.plain is None
        kept = [line.line[1] for place in index._places for line in place]
        assert max(len(value) for value in kept) <= fast_path.MAX_PLACE
        assert hits(proxy) > 0
        store = proxy.worker.store
        assert store.bytes == sum(queue.bytes for queue in (store._small, store._main)) + 176 * len(store._ghosts)


@pytest.mark.parametrize("quiet", [False, True])
async def test_a_client_that_does_not_read_is_not_written_to_without_end(origin: Origin, quiet: bool) -> None:
    origin.respond(b"x" * 60_000, FRESH)
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        await asked(client, "/a")
        connection = connection_of(proxy)
        assert connection.transport is not None
        for _ in range(300):
            if not connection._paused:
                # False is as after anything that was no hit
                connection._quiet = quiet
            connection.data_received(b"GET /a HTTP/1.1\r\nHost: app.example\r\n\r\n")
        waiting = connection.transport.get_write_buffer_size()
        assert waiting < 4 * 60_000
        assert not connection.transport.is_reading() or len(connection._early) <= protocol.EARLY_BYTES


# -- how long a connection stays


async def closed_after(client: Client, since: float) -> float:
    assert await client.at_end()
    return time.monotonic() - since


@pytest.mark.parametrize("way", ["hit", "express", "ordinary"])
async def test_an_idle_connection_is_closed_in_its_time_and_not_before(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(protocol, "KEEPALIVE_SECONDS", 0.2)
    slowly = False

    async def script(turn: Turn) -> None:
        if slowly:
            # longer than an idle connection lives
            await asyncio.sleep(0.5)
        await turn.answer("hello", DATE, FRESH if way == "hit" else "Cache-Control: private")

    origin.script = script
    async with running_proxy(origin.url) as proxy, asyncio.timeout(PATIENCE):
        client = await proxy.connect()
        method = "POST" if way == "express" else "GET"
        await asked(client, "/a", method=method)
        if way != "hit":
            slowly = True
            await asked(client, "/a" if way == "express" else "/b", times=1, method=method)
        since = time.monotonic()
        assert 0.15 < await closed_after(client, since) < 5


# -- numbers and lines


def counted(text: str) -> dict[str, str]:
    """The samples that do not tell of time or memory."""
    wanted = re.compile(
        r"siding_(requests|request_bytes|response_bytes|bytes_saved|hits|store_verdicts|origin_requests|origin_errors"
        r"|collapsed_requests|request_duration_seconds|first_byte_seconds|in_flight_requests|origin_duration_seconds"
        r"|stored_responses|upstream_connections)(_total|_count)?(\{.*)?"
    )
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: value for name, value in lines if wanted.fullmatch(name) and "idle" not in name}


async def test_both_ways_count_alike(origin: Origin, tmp_path: Path) -> None:
    async def script(turn: Turn) -> None:
        fields = [DATE, JSON, "Cache-Control: private" if "private" in turn.request.target else FRESH]
        await turn.answer(TEXT, *fields, 'ETag: "a"')

    origin.script = script
    requests = [
        ("GET", "/a", ()),
        ("GET", "/a", ('If-None-Match: "a"',)),
        ("GET", "/a", ("Accept-Encoding: gzip",)),
        ("HEAD", "/a", ()),
        ("HEAD", "/a", ("Accept-Encoding: gzip",)),
        ("HEAD", "/a", ('If-None-Match: "a"',)),
        ("GET", "/by/a", ("Authorization: Bearer a",)),
        ("POST", "/by/a", ("X-Tenant: a", "Content-Length: 2\r\n\r\nab")),
        ("GET", "/private", ()),
        ("GET", "/private", ("Accept-Encoding: gzip",)),
        ("POST", "/private", ("Content-Length: 2\r\n\r\nab",)),
        ("POST", "/private", ("Accept-Encoding: br", "Content-Length: 2\r\n\r\nab")),
        ("DELETE", "/a", ()),
        ("GET", "/a", ()),
    ]
    async with both(origin, rules=RULES, directory=tmp_path) as sides:
        told = []
        for side in sides:
            for method, target, fields in requests:
                lines = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *fields])
                for _ in range(4):
                    await side.ask([lines.encode() + (b"" if "\r\n\r\n" in lines else b"\r\n\r\n")], method)
                if side is sides[0] and method == "HEAD":
                    assert hits(side.proxy) > 0
            told.append(counted((await side.proxy.worker.metrics(""))[0].decode()))
        assert isinstance(sides[0], Side)
    assert told[0] == told[1]
    saved = {name: float(value) for name, value in told[0].items() if name.startswith("siding_bytes_saved_total")}
    assert len(saved) == 2
    assert min(saved.values()) > 0


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def test_a_request_that_comes_before_aiohttp_has_begun_to_wait_is_plain_as_well(origin: Origin) -> None:
    """Its content does not end as a head does, so that none after it would be taken otherwise."""
    async with running_proxy(origin.url) as proxy:
        server, wire = proxy.worker._server, Wire()
        assert server is not None
        connection = server()
        connection.connection_made(wire)
        for number in range(1, 3):
            connection.data_received(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            assert connection._extent is None
            assert connection._task is not None or connection._passing is not None
            await until(lambda number=number: wire.written.count(b"hello") == number)  # type: ignore[misc]
        assert [request.content for request in origin.requests] == [b"abc", b"abc"]
        connection.connection_lost(None)
