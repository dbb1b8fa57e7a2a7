"""Route rules: the plan's report, cached by body and credential."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from tests.support import Gate, Message, Origin, Proxy, Turn, gather, running_proxy, until

RULES = """
[[route]]
match = "/api/parent-reports/generate"
methods = ["POST"]
ttl = 300
key = ["body", "authorization"]
tags = ["reports"]
invalidated_by = ["POST /api/homework/*"]
"""
REPORT = "/api/parent-reports/generate"
JSON = "Content-Type: application/json"


@pytest.fixture
def reports(origin: Origin) -> Origin:
    """An origin that numbers its reports and names the credential they were made for."""
    number = itertools.count(1)

    async def script(turn: Turn) -> None:
        if turn.request.target == REPORT:
            report = {"report": next(number), "for": turn.request.get("authorization")}
            await turn.answer(json.dumps(report), JSON)
        else:
            await turn.answer("{}", JSON, status="201 Created")

    origin.script = script
    return origin


async def ask(proxy: Proxy, token: str = "alice", body: str = '{"userId": 1, "end": "x"}', *fields: str) -> Message:
    return await proxy.request("POST", REPORT, JSON, f"Authorization: Bearer {token}", *fields, content=body.encode())


def made(report: Message) -> int:
    return int(json.loads(report.content)["report"])


async def test_the_second_report_within_the_ttl_is_the_stored_one(reports: Origin, tmp_path: Path) -> None:
    async with running_proxy(reports.url, rules=RULES, directory=tmp_path) as proxy:
        first = await ask(proxy)
        proxy.clock.now += 299
        second = await ask(proxy)
        proxy.clock.now += 2
        third = await ask(proxy)
    assert [made(first), made(second), made(third)] == [1, 1, 2]
    assert second.get("cache-status") == "siding; hit; ttl=1"


async def test_bodies_are_compared_as_json(reports: Origin, tmp_path: Path) -> None:
    async with running_proxy(reports.url, rules=RULES, directory=tmp_path) as proxy:
        await ask(proxy, body='{"userId": 1, "end": "x"}')
        same = await ask(proxy, body='{"end":"x",\n "userId":1}')
        other = await ask(proxy, body='{"end":"x", "userId":2}')
    assert [made(same), made(other)] == [1, 2]


async def test_another_credential_never_sees_it(reports: Origin, tmp_path: Path) -> None:
    async with running_proxy(reports.url, rules=RULES, directory=tmp_path) as proxy:
        alice, bob, again = await ask(proxy, "alice"), await ask(proxy, "bob"), await ask(proxy, "alice")
    assert json.loads(bob.content)["for"] == "Bearer bob"
    assert [made(alice), made(bob), made(again)] == [1, 2, 1]


async def test_credentials_are_kept_apart_in_flight_as_well(reports: Origin, tmp_path: Path) -> None:
    async with running_proxy(reports.url, rules=RULES, directory=tmp_path) as proxy:
        answers = await gather(*(ask(proxy, token) for token in ["alice", "bob"] * 10))
    seen = {json.loads(answer.content)["for"] for answer in answers[::2]}
    assert seen == {"Bearer alice"}
    assert len(reports.requests) == 2


async def test_a_cookie_that_is_not_in_the_key_takes_the_request_out_of_the_rule(
    reports: Origin, tmp_path: Path
) -> None:
    async with running_proxy(reports.url, rules=RULES, directory=tmp_path) as proxy:
        first = await ask(proxy, "alice", "{}", "Cookie: session=1")
        second = await ask(proxy, "alice", "{}", "Cookie: session=2")
    assert [made(first), made(second)] == [1, 2]


async def test_an_archived_homework_makes_the_report_fresh_again(reports: Origin, tmp_path: Path) -> None:
    async with running_proxy(reports.url, rules=RULES, directory=tmp_path) as proxy:
        await ask(proxy)
        assert (await proxy.request("POST", "/api/homework/archive", JSON, content=b"{}")).status == 201
        after = await ask(proxy)
    assert made(after) == 2


async def test_a_report_on_its_way_while_homework_is_archived_is_not_kept(origin: Origin, tmp_path: Path) -> None:
    asked, go = asyncio.Event(), asyncio.Event()
    number = itertools.count(1)

    async def script(turn: Turn) -> None:
        if turn.request.target == REPORT:
            mine = next(number)
            if mine == 1:
                asked.set()
                await go.wait()
            await turn.answer(json.dumps({"report": mine}), JSON)
        else:
            await turn.answer("{}", JSON, status="201 Created")

    origin.script = script
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path) as proxy:
        early = asyncio.create_task(ask(proxy))
        await asked.wait()
        await proxy.request("POST", "/api/homework/archive", JSON, content=b"{}")
        late = await ask(proxy)
        go.set()
        assert made(await early) == 1
        assert made(late) == 2
        assert made(await ask(proxy)) == 2


async def test_a_failed_report_is_not_stored(origin: Origin, tmp_path: Path) -> None:
    origin.respond('{"error": "quota"}', JSON, status="429 Too Many Requests")
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path) as proxy:
        assert [(await ask(proxy)).status for _ in range(2)] == [429, 429]
    assert len(origin.requests) == 2


async def test_no_store_of_the_origin_stands_above_the_rule(origin: Origin, tmp_path: Path) -> None:
    origin.respond('{"report": 1}', JSON, "Cache-Control: no-store")
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path) as proxy:
        await ask(proxy)
        await ask(proxy)
    assert len(origin.requests) == 2


async def test_a_stored_report_has_a_validator(reports: Origin, tmp_path: Path) -> None:
    async with running_proxy(reports.url, rules=RULES, directory=tmp_path) as proxy:
        first = await ask(proxy)
        tag = first.get("etag")
        assert tag is not None
        unchanged = await ask(proxy, "alice", '{"userId": 1, "end": "x"}', f"If-None-Match: {tag}")
    assert (unchanged.status, unchanged.content) == (304, b"")


async def test_a_fault_in_the_rule_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    from config.toml_file import FileError  # noqa: PLC0415 - only here

    leaky = '[[route]]\nmatch = "/api/x"\nmethods = ["POST"]\nkey = ["body"]\n'
    with pytest.raises(FileError, match="authorization"):
        async with running_proxy("http://127.0.0.1:1", rules=leaky, directory=tmp_path):
            pass


CHANGING = """
[[route]]
match = "/make/*"
methods = ["POST"]
ttl = 300
key = ["body"]
public = true
invalidated_by = ["POST /make/*"]

[[route]]
match = "/list"
ttl = 300
public = true
invalidated_by = ["POST /make/*"]
"""


@pytest.mark.parametrize(
    ("line", "status", "listed"),
    [("X: y", 200, 2), ("Cache-Control: no-store", 200, 2), ("X: y", 404, 1), (None, 502, 2)],
    ids=["stored", "not stored", "failed", "not answered"],
)
async def test_a_post_under_a_rule_invalidates_what_other_rules_have_stored(
    origin: Origin, tmp_path: Path, line: str | None, status: int, listed: int
) -> None:
    """Once the origin has had it: whether the answer is stored makes no difference. Its own rule's answers stay."""

    async def script(turn: Turn) -> None:
        if turn.request.target != "/make/b":
            await turn.answer(str(len(origin.requests)))
        elif line is None:
            turn.writer.close()
        else:
            await turn.answer("made", line, status=f"{status} X")

    async def listing() -> bytes:
        return (await proxy.get("/list")).content

    origin.script = script
    async with running_proxy(origin.url, rules=CHANGING, directory=tmp_path) as proxy:
        one = await proxy.request("POST", "/make/a", JSON, content=b"1")
        before = await listing()
        assert (await proxy.request("POST", "/make/b", JSON, content=b"1")).status == status
        assert (await listing() != before) is (listed == 2)
        # from the store: the origin has nothing to do with it
        assert (await proxy.request("POST", "/make/a", JSON, content=b"1")).content == one.content
        last = await listing()
        assert await listing() == last


async def test_a_post_under_a_rule_that_nobody_waits_for_invalidates_as_well(origin: Origin, tmp_path: Path) -> None:
    asked, answering = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        if turn.request.method == "POST":
            asked.set()
            await answering.wait()
        await turn.answer(
            str(len(origin.requests)), "Cache-Control: no-store" if turn.request.method == "POST" else "X: y"
        )

    origin.script = script
    async with running_proxy(origin.url, rules=CHANGING, directory=tmp_path) as proxy:
        before = (await proxy.get("/list")).content
        waiting = asyncio.create_task(proxy.request("POST", "/make/b", JSON, content=b"1"))
        await asked.wait()
        waiting.cancel()
        await until(lambda: proxy.worker.handler.in_flight == 0)
        answering.set()
        await until(lambda: not proxy.worker.handler.fetches.running)
        assert (await proxy.get("/list")).content != before


async def test_contents_to_be_keyed_do_not_fill_the_memory(
    origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What there is no room for passes, whole; the room is there again once its request and its fetch have ended."""
    gate = Gate(origin, JSON)
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path) as proxy:
        contents = proxy.worker.handler._shared.contents
        assert contents.limit == 64 * 1024 * 1024
        contents.limit = 700_000
        client = await proxy.connect()
        bodies = [json.dumps({"userId": number, "text": str(number) * 500_000}) for number in range(3)]
        head = f"POST {REPORT} HTTP/1.1\r\nHost: app.example\r\n{JSON}\r\nAuthorization: Bearer alice\r\n"
        await client.send(f"{head}Content-Length: {len(bodies[0])}\r\n\r\n{bodies[0]}")
        await gate.asked()
        others = asyncio.gather(*(ask(proxy, body=body) for body in bodies[1:]))
        await gate.asked(3)
        client.close()
        await until(lambda: proxy.worker.handler.in_flight == 2)
        assert len(bodies[0]) < contents.held <= contents.limit
        gate.open.set()
        for answer in await others:
            assert answer.get("cache-status") == "siding; fwd=request; fwd-status=200"
        await until(lambda: not contents.held)
        assert sorted(request.content.decode() for request in origin.requests) == bodies
        assert "stored" in ((await ask(proxy, body=bodies[1])).get("cache-status") or "")
        assert "hit" in ((await ask(proxy, body=bodies[0])).get("cache-status") or "")
        assert not contents.held
    assert caplog.messages.count("requests with 700000 bytes of content are on their way: others pass") == 1


async def test_a_lack_of_room_that_comes_and_goes_is_said_once(
    origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    origin.respond("{}", JSON)
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path) as proxy:
        proxy.worker.handler._shared.contents.limit = 100
        for size in (1, 200, 1, 200, 1, 200):
            assert (await ask(proxy, body=json.dumps({"userId": 1, "text": "x" * size}))).status == 200
    assert len([message for message in caplog.messages if message.endswith("others pass")]) == 1
