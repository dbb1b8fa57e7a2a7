"""A table of plain answers; validators, variants, cookies and ranges."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping

import pytest
from aiohttp import ClientSession

from deploy.example_origin.app import ROUTES
from tests.deploy.example_origin.support import REPORT, bearer

# -- one answer each

ABSENT = None
Expected = Mapping[str, str | None]
PLAIN: list[tuple[str, str, int, Expected]] = [
    ("GET", "/", 200, {"Content-Type": "text/html; charset=utf-8"}),
    ("GET", "/healthz", 200, {"Content-Type": "application/json; charset=utf-8"}),
    (
        "GET",
        "/api/subjects",
        200,
        {"Cache-Control": "public, max-age=60", "Last-Modified": "Mon, 01 Sep 2025 08:00:00 GMT"},
    ),
    ("HEAD", "/api/subjects", 200, {"Cache-Control": "public, max-age=60"}),
    ("GET", "/api/announcements", 200, {"Cache-Control": ABSENT, "ETag": ABSENT, "Last-Modified": ABSENT}),
    (
        "GET",
        "/api/leaderboard",
        200,
        {"Cache-Control": "s-maxage=5, stale-while-revalidate=30", "Vary": "Accept-Language", "Content-Language": "en"},
    ),
    ("GET", "/api/time", 200, {"Cache-Control": "no-store"}),
    ("GET", "/api/slow?seconds=0", 200, {}),
    ("GET", "/api/slow?seconds=-1", 400, {}),
    ("GET", "/api/slow?seconds=nan", 400, {}),
    ("GET", "/api/slow?seconds=soon", 400, {}),
    ("GET", "/api/me", 401, {"WWW-Authenticate": 'Bearer realm="example"'}),
    ("GET", "/api/homework", 401, {}),
    ("POST", "/api/homework/archive", 401, {}),
    ("POST", REPORT, 401, {}),
    ("GET", REPORT, 405, {"Allow": "POST"}),
    ("GET", "/status/200", 200, {}),
    ("DELETE", "/status/204", 204, {"Content-Type": ABSENT}),
    ("GET", "/status/304", 304, {}),
    ("POST", "/status/503", 503, {}),
    ("GET", "/status/599", 599, {}),
    ("GET", "/status/199", 400, {}),
    ("GET", "/status/600", 400, {}),
    ("GET", "/redirect", 302, {"Location": "/api/subjects"}),
    ("GET", "/redirect?to=/api/time", 302, {"Location": "/api/time"}),
    ("GET", "/redirect?to=//elsewhere.example", 400, {"Location": ABSENT}),
    ("GET", "/redirect?to=https://elsewhere.example", 400, {"Location": ABSENT}),
    ("GET", "/images/logo.png", 200, {"Cache-Control": "public, max-age=3600", "Content-Type": "image/png"}),
    ("GET", "/events?count=0", 200, {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}),
    ("GET", "/stream?count=0", 200, {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}),
    ("GET", "/download?bytes=0", 200, {"Content-Length": "0"}),
    ("HEAD", "/download?bytes=123456789", 200, {"Content-Length": "123456789"}),
    ("GET", "/download?bytes=many", 400, {}),
    ("GET", "/ws", 426, {"Upgrade": "websocket"}),
    ("GET", "/nowhere", 404, {"Content-Type": "application/json; charset=utf-8"}),
]


@pytest.mark.parametrize(("method", "target", "status", "fields"), PLAIN, ids=lambda value: str(value)[:40])
async def test_plain_answers(client: ClientSession, method: str, target: str, status: int, fields: Expected) -> None:
    async with client.request(method, target, allow_redirects=False) as answer:
        content = await answer.read()
    assert answer.status == status
    assert {name: answer.headers.get(name) for name in fields} == fields
    if status >= 400 and not target.startswith("/status/5"):
        assert json.loads(content)["statusCode"] == status


async def test_the_page_lists_every_route(client: ClientSession) -> None:
    async with client.get("/") as answer:
        page = await answer.text()
    listed = re.findall(r"<tr><td>(\S+)<td><code>(.+?)</code><td>(.+?)(?=<tr>|</table>)", page)
    assert [(method, path) for method, path, _ in listed] == [(method, path) for method, path, _ in ROUTES]


# -- validators, variants, cookies


@pytest.mark.parametrize(
    ("target", "fields"),
    [("/api/subjects", {}), ("/api/homework", bearer("rosa")), ("/api/homework/hw-3", bearer("rosa"))],
)
async def test_entity_tags(client: ClientSession, target: str, fields: dict[str, str]) -> None:
    async with client.get(target, headers=fields) as answer:
        etag, control = answer.headers["ETag"], answer.headers["Cache-Control"]
    assert etag.startswith("W/") == target.startswith("/api/homework")
    for candidates, status in ((etag, 304), (f'"other", {etag}', 304), ("*", 304), ('"other"', 200)):
        async with client.get(target, headers={**fields, "If-None-Match": candidates}) as answer:
            assert answer.status == status
            assert (answer.headers["ETag"], answer.headers["Cache-Control"]) == (etag, control)
            assert bool(await answer.read()) == (status == 200)


async def test_a_changed_list_has_another_entity_tag(client: ClientSession) -> None:
    async with client.get("/api/homework", headers=bearer("sam")) as answer:
        etag = answer.headers["ETag"]
    async with client.delete("/api/homework/hw-5", headers=bearer("sam")):
        pass
    async with client.get("/api/homework", headers={**bearer("sam"), "If-None-Match": etag}) as answer:
        assert answer.status == 200
        assert answer.headers["ETag"] != etag


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"If-Modified-Since": "Mon, 01 Sep 2025 08:00:00 GMT"}, 304),
        ({"If-Modified-Since": "Mon, 01 Sep 2025 07:59:59 GMT"}, 200),
        ({"If-Modified-Since": "Mon, 01 Sep 2025 08:00:00 GMT", "If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": "some time"}, 200),
    ],
)
async def test_modification_dates(client: ClientSession, fields: dict[str, str], status: int) -> None:
    async with client.get("/api/subjects", headers=fields) as answer:
        assert answer.status == status
        assert answer.headers["Last-Modified"] == "Mon, 01 Sep 2025 08:00:00 GMT"


async def test_announcements_change_only_when_posted_to(client: ClientSession) -> None:
    async def listed() -> bytes:
        async with client.get("/api/announcements") as answer:
            return await answer.read()

    before = await listed()
    assert await listed() == before
    async with client.post("/api/announcements", json={"text": "School trip"}) as answer:
        assert answer.status == 201
    assert json.loads(await listed())["announcements"][-1]["text"] == "School trip"
    async with client.post("/api/announcements", json={"text": ""}) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    ("accepted", "language", "title"),
    [
        ("de", "de", "Bestenliste"),
        ("de-AT, en;q=0.5", "de", "Bestenliste"),
        ("fr, en", "en", "Leaderboard"),
        ("fr", "en", "Leaderboard"),
    ],
)
async def test_the_leaderboard_has_two_languages(
    client: ClientSession, accepted: str, language: str, title: str
) -> None:
    async with client.get("/api/leaderboard", headers={"Accept-Language": accepted}) as answer:
        assert answer.headers["Content-Language"] == language
        assert (await answer.json())["title"] == title


async def test_me_is_whose_token_it_is(client: ClientSession) -> None:
    async with client.get("/api/me", headers=bearer("tom")) as answer:
        assert (await answer.json())["userId"] == "tom"
        assert answer.headers["Cache-Control"] == "private, max-age=60"


async def test_cookies_are_two_fields(client: ClientSession) -> None:
    async with client.get("/set-cookie") as answer:
        names = [value.partition("=")[0] for value in answer.headers.getall("Set-Cookie")]
    assert names == ["session", "theme"]


# -- the image


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(kind + data),)
        yield kind, data
        at += 12 + length


async def test_the_logo_is_a_whole_png(client: ClientSession) -> None:
    async with client.get("/images/logo.png") as answer:
        png = await answer.read()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert 15_000 < len(png) < 25_000
    parts = dict(chunks(png))
    assert list(parts) == [b"IHDR", b"IDAT", b"IEND"]
    width, height = struct.unpack_from(">II", parts[b"IHDR"])
    assert len(zlib.decompress(parts[b"IDAT"])) == height * (1 + 3 * width)


async def test_the_logo_has_ranges_and_validators(client: ClientSession) -> None:
    async with client.get("/images/logo.png") as answer:
        png, etag, modified = await answer.read(), answer.headers["ETag"], answer.headers["Last-Modified"]
    ranges: list[tuple[dict[str, str], int, bytes]] = [
        ({"Range": "bytes=0-99"}, 206, png[:100]),
        ({"Range": "bytes=-10"}, 206, png[-10:]),
        ({"Range": "bytes=1000-", "If-Range": modified}, 206, png[1000:]),
        ({"Range": "bytes=1000-", "If-Range": "Mon, 01 Sep 2003 08:00:00 GMT"}, 200, png),
        ({"If-None-Match": etag}, 304, b""),
        ({"If-Modified-Since": modified}, 304, b""),
    ]
    for fields, status, content in ranges:
        async with client.get("/images/logo.png", headers=fields) as answer:
            assert (answer.status, await answer.read()) == (status, content), fields
    async with client.get("/images/logo.png", headers={"Range": f"bytes={len(png)}-"}) as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(png)}")
