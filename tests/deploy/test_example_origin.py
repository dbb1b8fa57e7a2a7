"""The example origin, in a process of its own, behaves as it says: a table of plain answers, then scenarios."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout, WSMsgType, web

from deploy.example_origin import make_app
from deploy.example_origin.app import ROUTES
from tests.deploy.processes import PATIENCE, ROOT, environment, python

ORIGIN = ("-m", "deploy.example_origin", "--host", "127.0.0.1")
REPORT = "/api/parent-reports/generate"
SEPTEMBER = {"startDate": "2025-09-01", "endDate": "2025-10-01"}


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """HOST:PORT of an origin whose reports are made at once."""
    command = [sys.executable, "-W", "error", *ORIGIN, "--port", "0", "--report-seconds", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition("http://")[2]
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.fixture
async def client(origin: str) -> AsyncIterator[ClientSession]:
    """A client of that origin which takes answers as they come."""
    timeout = ClientTimeout(total=PATIENCE)
    async with ClientSession(f"http://{origin}", timeout=timeout, auto_decompress=False) as session:
        yield session


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}"}


async def exchange(origin: str, request: bytes) -> bytes:
    """Everything the origin sends on a connection that `request` is the last on."""
    host, _, port = origin.rpartition(":")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()


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


# -- reports and homework


async def report(client: ClientSession, user: str, **more: object) -> tuple[int, Mapping[str, str], dict[str, Any]]:
    asked = {"userId": user.partition(".")[0], **SEPTEMBER, **more}
    async with client.post(REPORT, json=asked, headers=bearer(user)) as answer:
        return answer.status, answer.headers, await answer.json()


async def test_a_report_is_a_few_kilobytes_without_any_word_on_caching(client: ClientSession) -> None:
    status, fields, document = await report(client, "rita")
    assert status == 200
    assert 2000 < int(fields["Content-Length"]) < 10_000
    assert not {"Cache-Control", "ETag", "Last-Modified", "Expires"} & set(fields)
    assert document["summary"]["homeworkCount"] == len(document["homework"]) == 12
    assert document["summary"]["questionsAnswered"] == 120
    correct = sum(piece["correct"] for piece in document["homework"])
    assert document["summary"]["accuracy"] == round(correct / 120, 4)


async def test_every_report_is_made_anew(client: ClientSession) -> None:
    (_, _, first), (_, _, second) = await report(client, "rita"), await report(client, "rita")
    assert second["generation"] > first["generation"]
    assert second["homework"] == first["homework"]


async def test_a_report_covers_the_days_asked_for(client: ClientSession) -> None:
    _, _, document = await report(client, "rita", startDate="2025-09-03", endDate="2025-09-07")
    assert [piece["day"] for piece in document["homework"]] == ["2025-09-03", "2025-09-05", "2025-09-07"]


async def test_a_report_follows_the_homework(client: ClientSession) -> None:
    async with client.post(
        "/api/homework/archive",
        json={"subject": "Latin", "title": "Ablatives", "day": "2025-09-30", "questions": 4, "correct": 3},
        headers=bearer("leo"),
    ) as answer:
        added = await answer.json()
        assert (answer.status, answer.headers["Location"]) == (201, f"/api/homework/{added['id']}")
    _, _, document = await report(client, "leo")
    latin = next(subject for subject in document["subjects"] if subject["name"] == "Latin")
    assert (latin["questions"], latin["correct"], latin["accuracy"]) == (4, 3, 0.75)
    assert document["summary"]["homeworkCount"] == 13


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"", 400),
        (b"\xff", 400),
        (b'{"userId": null, "startDate": "2025-09-01", "endDate": "2025-10-01"}', 400),
        (b'{"userId": "rita", "startDate": "yesterday", "endDate": "2025-10-01"}', 400),
        (b'{"userId": "rita", "startDate": "2025-09-31", "endDate": "2025-10-01"}', 400),
        (b'{"userId": "rita", "startDate": 20250901, "endDate": "2025-10-01"}', 400),
        (b'{"userId": "someone else", "startDate": "2025-09-01", "endDate": "2025-10-01"}', 403),
        (b" " * (8 * 1024 * 1024 + 1), 413),
    ],
)
async def test_reports_that_are_refused(client: ClientSession, content: bytes, status: int) -> None:
    async with client.post(REPORT, data=io.BytesIO(content), headers=bearer("rita")) as answer:
        assert (answer.status, (await answer.json())["statusCode"]) == (status, status)


async def test_the_plans_curl_line_declares_a_form_and_is_understood(client: ClientSession) -> None:
    content = json.dumps({"userId": "test_user", **SEPTEMBER})
    fields = {**bearer("test_user"), "Content-Type": "application/x-www-form-urlencoded"}
    async with client.post(REPORT, data=content, headers=fields) as answer:
        assert answer.status == 200


async def test_a_token_shows_its_users_data_only(client: ClientSession) -> None:
    async with client.post("/api/homework/archive", json={"title": "Secret"}, headers=bearer("mia")) as answer:
        path = answer.headers["Location"]
    seen = {}
    for user in ("mia", "mia.phone", "noah"):
        async with client.get("/api/homework", headers=bearer(user)) as answer:
            listed = "Secret" in await answer.text()
        async with client.get(path, headers=bearer(user)) as answer:
            seen[user] = (listed, answer.status)
    assert seen == {"mia": (True, 200), "mia.phone": (True, 200), "noah": (False, 404)}
    for method in ("PUT", "DELETE"):
        async with client.request(method, path, json={}, headers=bearer("noah")) as answer:
            assert answer.status == 404


async def test_homework_is_changed_and_removed(client: ClientSession) -> None:
    async with client.put("/api/homework/hw-1", json={"title": "Again"}, headers=bearer("omar")) as answer:
        assert (answer.status, (await answer.json())["title"]) == (200, "Again")
    async with client.get("/api/homework/hw-1", headers=bearer("omar")) as answer:
        assert (await answer.json())["title"] == "Again"
    async with client.delete("/api/homework/hw-1", headers=bearer("omar")) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
    async with client.get("/api/homework/hw-1", headers=bearer("omar")) as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    "described",
    [{"title": 5}, {"questions": -1}, {"questions": 3, "correct": 4}, {"day": "1 May"}, {"subject": "x" * 101}],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/homework/archive"), ("PUT", "/api/homework/hw-2")])
async def test_bad_homework_changes_nothing(
    client: ClientSession, method: str, path: str, described: dict[str, object]
) -> None:
    async with client.get("/api/homework", headers=bearer("pia")) as answer:
        before = await answer.read()
    async with client.request(method, path, json=described, headers=bearer("pia")) as answer:
        assert answer.status == 400
    async with client.get("/api/homework", headers=bearer("pia")) as answer:
        assert await answer.read() == before


async def test_text_without_utf8_comes_back_as_json(client: ClientSession) -> None:
    content = b'{"title": "half a pair: \\ud83d"}'
    async with client.post("/api/homework/archive", data=content, headers=bearer("quentin")) as answer:
        assert (answer.status, json.loads(await answer.read())["title"]) == (201, "half a pair: \ud83d")


async def test_grading_marks_what_was_answered(client: ClientSession) -> None:
    async with client.post("/api/homework/grade", json={"answers": ["36", "0", "", 50]}) as answer:
        content = await answer.read()
        assert "Content-Encoding" not in answer.headers
    document = json.loads(content)
    grades = [question["grade"] for question in document["questions"]]
    assert grades == ["CORRECT", "INCORRECT", "EMPTY", "INCORRECT"] + ["EMPTY"] * 6
    assert document["performance_summary"]["accuracy_rate"] == 0.1
    assert document["total_questions_found"] == 10
    assert len(content) > 2000
    assert len(zlib.compress(content)) < len(content) / 4
    async with client.post("/api/homework/grade", json={"answers": "36"}) as answer:
        assert answer.status == 400


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


# -- content in motion


async def test_events_come_one_by_one(client: ClientSession) -> None:
    async with client.get("/events?interval=0&count=3") as answer:
        events = (await answer.text()).removesuffix("\n\n").split("\n\n")
    assert [event.split("\n")[:2] for event in events] == [[f"id: {number}", "event: tick"] for number in (1, 2, 3)]
    assert json.loads(events[2].split("data: ")[1])["number"] == 3


async def test_an_event_is_sent_before_the_next_is_due(client: ClientSession) -> None:
    async with client.get("/events?interval=600") as answer:
        assert await answer.content.readline() == b"id: 1\n"


async def test_lines_are_chunks(origin: str) -> None:
    answer = await exchange(
        origin, b"GET /stream?count=2&interval=0 HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n"
    )
    first, second = b'{"line":1,"of":2}\n', b'{"line":2,"of":2}\n'
    assert answer.partition(b"\r\n\r\n")[2] == b"12\r\n" + first + b"\r\n12\r\n" + second + b"\r\n0\r\n\r\n"


async def test_a_download_is_as_long_as_asked(client: ClientSession) -> None:
    async with client.get("/download?bytes=1000003") as answer:
        content = await answer.read()
        assert answer.headers["Content-Length"] == "1000003"
    assert content == (bytes(range(251)) * 4000)[:1000003]


async def test_an_upload_is_counted_and_digested(client: ClientSession) -> None:
    sent = bytes(range(256)) * 40_000

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(sent), 1_000_000):
            yield sent[at : at + 1_000_000]

    async with client.post("/upload", data=pieces()) as answer:
        assert await answer.json() == {"bytes": len(sent), "sha256": hashlib.sha256(sent).hexdigest()}


@pytest.mark.parametrize("length", ["5", None])
async def test_an_echo_has_the_contents_type_and_framing(origin: str, length: str | None) -> None:
    framing, content = (
        (b"Content-Length: 5", b"hello") if length else (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")
    )
    answer = await exchange(
        origin,
        b"POST /echo HTTP/1.1\r\nHost: origin\r\nContent-Type: x/y\r\nConnection: close\r\n"
        + framing
        + b"\r\n\r\n"
        + content,
    )
    head, _, echoed = answer.partition(b"\r\n\r\n")
    assert framing in head
    assert b"Content-Type: x/y" in head
    assert echoed == content


async def test_an_echo_does_not_wait_for_the_end(origin: str) -> None:
    host, _, port = origin.rpartition(":")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /echo HTTP/1.1\r\nHost: origin\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await reader.readuntil(b"\r\n\r\n5\r\nfirst\r\n")
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
        await reader.readuntil(b"6\r\nsecond\r\n0\r\n\r\n")
        writer.close()


async def test_fields_are_told_as_they_came(origin: str) -> None:
    sent = [
        ["Host", "origin"],
        ["X-b", "2"],
        ["x-A", "1"],
        ["X-b", "1, 3"],
        ["X-Latin", "caf\xe9"],
        ["Connection", "close"],
    ]
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent)
    answer = await exchange(origin, f"GET /headers HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == sent


@pytest.mark.parametrize(
    "target", ["/echo/", "/echo/a%2Fb/../c//d?x=%20y&x=+&&", "/echo/%7Euser;v=1,2", "/echo/%zz", "/echo/a?b#c"]
)
async def test_targets_are_told_as_they_came(origin: str, target: str) -> None:
    answer = await exchange(origin, f"PURGE {target} HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"method": "PURGE", "target": target}


async def test_early_hints_come_before_the_answer(origin: str) -> None:
    answer = await exchange(origin, b"GET /early-hints HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n")
    hints, final, page = answer.split(b"\r\n\r\n", 2)
    assert hints == b"HTTP/1.1 103 Early Hints\r\nLink: </images/logo.png>; rel=preload; as=image"
    assert final.startswith(b"HTTP/1.1 200 OK\r\n")
    assert page.startswith(b"<!doctype html>")
    old = await exchange(origin, b"GET /early-hints HTTP/1.0\r\nHost: origin\r\n\r\n")
    assert old.startswith(b"HTTP/1.0 200 OK\r\n")


@pytest.mark.parametrize("compress", [0, 15])
async def test_a_websocket_echoes(client: ClientSession, compress: int) -> None:
    async with client.ws_connect("/ws", protocols=("other", "echo"), compress=compress) as socket:
        await socket.send_str("gr\xfc\xdf dich")
        await socket.send_bytes(b"\x00\xff" * 1000)
        assert await socket.receive_str() == "gr\xfc\xdf dich"
        assert await socket.receive_bytes() == b"\x00\xff" * 1000
        assert (socket.protocol, bool(socket.compress)) == ("echo", bool(compress))


# -- counts, and the process


async def served(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    return runner, f"http://{host}:{port}"


async def in_progress(client: ClientSession, number: int) -> None:
    """Ask the origin until that many requests are under way."""
    under_way = None
    async with asyncio.timeout(PATIENCE):
        while under_way != number:
            async with client.get("/stats") as answer:
                under_way = (await answer.json())["inProgress"]


async def test_requests_are_counted_by_route() -> None:
    runner, base = await served(make_app(report_seconds=0))
    async with ClientSession(base, timeout=ClientTimeout(total=PATIENCE)) as client:
        await report(client, "uma")
        async with client.get("/api/subjects") as answer:
            etag = answer.headers["ETag"]
        for method, path in [
            ("GET", "/api/subjects"),
            ("HEAD", "/api/subjects"),
            ("GET", "/echo/one"),
            ("GET", "/echo/two"),
            ("MKCOL", "/echo/three"),
            ("GET", "/made/up"),
            ("GET", "/healthz"),
        ]:
            async with client.request(method, path, headers={"If-None-Match": etag}):
                pass
        async with client.get("/stats") as answer:
            counted = await answer.json()
        async with client.post("/stats/reset") as answer:
            assert answer.status == 204
        async with client.get("/stats") as answer:
            emptied = await answer.json()
    await runner.cleanup()
    assert counted == {
        "requests": {
            "GET /api/subjects": 2,
            "GET /echo/{tail}": 2,
            "HEAD /api/subjects": 1,
            "POST /api/parent-reports/generate": 1,
            "other": 1,
            "other /echo/{tail}": 1,
        },
        "reportsGenerated": 1,
        "notModified": 2,
        "inProgress": 0,
    }
    assert emptied == {"requests": {}, "reportsGenerated": 0, "notModified": 0, "inProgress": 0}


async def test_two_origins_share_nothing() -> None:
    (one, first), (two, second) = await served(make_app(0)), await served(make_app(0))
    async with ClientSession(timeout=ClientTimeout(total=PATIENCE)) as client:
        async with client.post(f"{first}/api/announcements", json={"text": "here"}):
            pass
        async with client.get(f"{second}/api/announcements") as answer:
            assert await answer.json() == {"announcements": []}
    await one.cleanup()
    await two.cleanup()


async def test_stopping_ends_what_would_go_on_for_long() -> None:
    async with python(*ORIGIN, "--port", "0", "--report-seconds", "3600") as process:
        base = "http://" + (await process.line("example origin: http://")).rpartition("http://")[2]
        async with ClientSession(base, timeout=ClientTimeout(total=PATIENCE)) as client:
            made = asyncio.create_task(report(client, "vera"))
            async with client.ws_connect("/ws") as socket, client.get("/events?interval=600") as events:
                assert await events.content.readline() == b"id: 1\n"
                await in_progress(client, 3)
                process.send(signal.SIGTERM)
                assert (await socket.receive()).type is WSMsgType.CLOSE
                assert (await events.content.read()).endswith(b"\n\n")
            status, _, document = await made
        assert (status, document["message"]) == (503, "the origin is stopping")
        assert await process.end() == 0
    assert "Traceback" not in process.output


async def test_a_report_nobody_waits_for_is_given_up() -> None:
    async with python(*ORIGIN, "--port", "0", "--report-seconds", "3600") as process:
        base = "http://" + (await process.line("example origin: http://")).rpartition("http://")[2]
        async with ClientSession(base, timeout=ClientTimeout(total=PATIENCE)) as client:
            made = asyncio.create_task(report(client, "will"))
            await in_progress(client, 1)
            made.cancel()
            await in_progress(client, 0)
        process.send(signal.SIGINT)
        assert await process.end() == 0
    assert "Traceback" not in process.output


async def test_a_taken_port_is_said_plainly(origin: str) -> None:
    port = origin.rpartition(":")[2]
    async with python(*ORIGIN, "--port", port) as process:
        assert await process.end() == 1
    assert len(process.lines) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in process.output
    assert process.output.endswith("(set --port to a free one)")


@pytest.mark.parametrize("option", ["--port=70000", "--port=many", "--report-seconds=-1", "--report-seconds=inf"])
async def test_bad_options_are_refused(option: str) -> None:
    async with python(*ORIGIN, option) as process:
        assert await process.end() == 2
    assert option.partition("=")[0] in process.output
    assert "Traceback" not in process.output
