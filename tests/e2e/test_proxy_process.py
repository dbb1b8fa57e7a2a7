"""The process: settings, signals, workers, memory. Seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.deploy.processes import environment, python, with_few_descriptors
from tests.e2e.proxies import Running, proxy_process
from tests.support import PATIENCE, Gate, Origin, Turn, answered_after_all, answering_at_once

FRESH = "Cache-Control: max-age=60"


async def newest_worker(proxy: Running) -> int:
    """The process of one of its workers."""
    found = await asyncio.create_subprocess_exec(
        "pgrep", "-n", "-P", str(proxy.child.process.pid), stdout=asyncio.subprocess.PIPE
    )
    return int((await found.communicate())[0])


@contextlib.contextmanager
def hanging(process: int) -> Iterator[None]:
    """It does nothing meanwhile."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_bad_setting_ends_with_status_2_and_says_everything() -> None:
    environ = environment(UPSTREAM_URL="ftp://nowhere", PORT="x", ENABLE_ETAG="perhaps", ADMIN_TOKEN="")
    async with python("-m", "proxy", "--workers", "0", environ=environ) as child:
        assert await child.end() == 2
    for name in ("UPSTREAM_URL", "PORT", "ENABLE_ETAG", "--workers"):
        assert name in child.output
    assert "Traceback" not in child.output


async def test_a_variable_that_is_misspelt_is_named_beside_the_one_that_is_missing() -> None:
    async with python("-m", "proxy", environ=environment(UPSTREAM_URI="http://localhost:3000")) as child:
        assert await child.end() == 2
    assert "UPSTREAM_URL is not set" in child.output
    assert "the environment has UPSTREAM_URI, which is no setting; was UPSTREAM_URL meant?" in child.output


async def test_the_start_says_what_is_in_force(origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[route]]\nmatch = "/a"\nttl = 9\n')
    async with proxy_process(origin.url, rules_file=str(path), bypass="true", enable_etag="false") as proxy:
        await proxy.child.line("1 route rule, no shared tier, ENABLE_ETAG is off, BYPASS is on")


async def test_a_bad_rules_file_ends_with_status_2(origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[route]]\nmatch = "/a"\nmethods = ["POST"]\nkey = ["body"]\n[[route]]\nmatch = "b"\n')
    async with python("-m", "proxy", environ=environment(UPSTREAM_URL=origin.url, RULES_FILE=str(path))) as child:
        assert await child.end() == 2
    assert "public" in child.output
    assert "Traceback" not in child.output


DEEP = "[" * 3000
LARGE = f"0x{'f' * 20_000}"


@pytest.mark.parametrize(
    ("setting", "text", "words"),
    [
        ("RULES_FILE", f"route = {DEEP}", "nested too deep"),
        ("SIDING_CONFIG", f"port = {DEEP}", "nested too deep"),
        ("RULES_FILE", f'[[route]]\nmatch = "/a"\nttl = {LARGE}', "ttl: int, too long to be shown,"),
        ("SIDING_CONFIG", f"port = {LARGE}", "PORT is int, too long to be shown,"),
        (
            "RULES_FILE",
            f'[[route]]\nmatch = "/a"\n{".".join(["ttl"] * 3000)} = 1',
            r"ttl: (dict, too long|\{'ttl.* characters\))",
        ),
        ("SIDING_CONFIG", f"{'.'.join(['port'] * 3000)} = 1", r"PORT is (dict, too long|\{'port.* characters\))"),
    ],
)
async def test_an_unlikely_file_is_a_fault(origin: Origin, tmp_path: Path, setting: str, text: str, words: str) -> None:
    path = tmp_path / "file.toml"
    path.write_text(text)
    async with python("-m", "proxy", environ=environment(**{"UPSTREAM_URL": origin.url, setting: str(path)})) as child:
        assert await child.end() == 2
    # newer Pythons can show more of it
    assert re.search(words, child.output)
    assert len(child.output) < 1000
    assert "Traceback" not in child.output


async def test_files_with_a_byte_order_mark_are_taken(origin: Origin, tmp_path: Path) -> None:
    rules, settings = tmp_path / "rules.toml", tmp_path / "siding.toml"
    rules.write_text('[[route]]\nmatch = "/a"\n', encoding="utf-8-sig")
    settings.write_text("bypass = true\n", encoding="utf-8-sig")
    async with proxy_process(origin.url, rules_file=str(rules), siding_config=str(settings)) as proxy:
        await proxy.child.line("1 route rule, no shared tier, BYPASS is on")


@pytest.mark.parametrize(("variable", "workers"), [("PORT", "1"), ("PORT", "2"), ("ADMIN_PORT", "1")])
async def test_a_taken_port_is_said_plainly(origin: Origin, variable: str, workers: str) -> None:
    """Also one that whoever has it would share, as the workers of another proxy do."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"PORT": "0", "ADMIN_PORT": "0", variable: str(taken.getsockname()[1])}
        environ = environment(UPSTREAM_URL=origin.url, HOST="127.0.0.1", WORKERS=workers, **ports)
        async with python("-m", "proxy", environ=environ) as child:
            assert await child.end() == 1
    assert f"another process has it (set {variable} to a free one)" in child.output
    assert "Traceback" not in child.output


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        *((name, "a" * 64, 2) for name in ("HOST", "ADMIN_HOST")),
        *((name, f"http://{'a' * 64}", 2) for name in ("UPSTREAM_URL", "POOL_MONITOR_URL")),
        ("UPSTREAM_URL", "http://[fe80::1%25eth9]:80", 2),
        *(("HOST", host, 1) for host in ("999.1.1.1", "1.2.3.4.5", "fe80::1%eth9")),
    ],
)
async def test_a_host_that_is_none_is_said_plainly(origin: Origin, name: str, value: str, status: int) -> None:
    environ = environment(**{"UPSTREAM_URL": origin.url, "PORT": "0", "ADMIN_PORT": "0", name: value})
    async with python("-m", "proxy", environ=environ) as child:
        assert await child.end() == status
    assert (value in child.output, "Traceback" in child.output, "Unknown" in child.output) == (True, False, False)


async def test_it_takes_the_file_descriptors_that_it_may_have(origin: Origin) -> None:
    environ = environment(UPSTREAM_URL=origin.url, PORT="0", ADMIN_PORT="0")
    async with python(*with_few_descriptors("proxy"), environ=environ) as child:
        assert "200 file descriptors are allowed, and 2148 may be needed" in await child.line("file descriptors")
        await child.line("in front of")


async def test_who_uploads_where_descriptors_run_out_is_answered() -> None:
    """Each sends all that it has before it reads, and it is more than the kernel holds."""
    content = b"x" * 5_000_000
    # fewer are told than may be at once: none is cut for another, however long this machine lets it wait
    many, go, statuses = 76, asyncio.Event(), list[int]()

    async def one(port: int) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
        statuses.append((await answered_after_all(port, head, content)).status)
        if len(statuses) == many - 64:
            go.set()

    async with answering_at_once(go, b"HTTP/1.1 204 No Content\r\n\r\n") as url:
        environ = environment(UPSTREAM_URL=url, HOST="127.0.0.1", PORT="0", ADMIN_PORT="0", LOG_FORMAT="text")
        async with python(*with_few_descriptors("proxy"), environ=environ) as child:
            port = int(re.findall(r"http://[\w.]+:(\d+)(?=,)", await child.line("in front of"))[-2])
            async with asyncio.timeout(4 * PATIENCE):
                await asyncio.gather(*[one(port) for _ in range(many)])
            child.send(signal.SIGTERM)
            assert await child.end() == 0
    assert Counter(statuses) == {503: many - 64, 204: 64}
    assert "Too many open files" not in child.output


async def test_sigterm_lets_requests_finish(origin: Origin) -> None:
    gate = Gate(origin, content=b"finished")
    async with proxy_process(origin.url) as proxy, aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE):
        request = asyncio.create_task(session.get(f"{proxy.url}/a"))
        await gate.asked()
        proxy.child.send(signal.SIGTERM)
        await proxy.child.line("stopping")
        with pytest.raises(aiohttp.ClientConnectorError):
            async with aiohttp.ClientSession() as other:
                await other.get(f"{proxy.url}/a")
        gate.open.set()
        assert await (await request).text() == "finished"
        assert await proxy.child.end() == 0
    assert "Traceback" not in proxy.child.output


async def test_workers_share_the_port_flags_and_invalidations(origin: Origin) -> None:
    origin.respond("one", FRESH)
    async with proxy_process(origin.url, workers="2") as proxy, aiohttp.ClientSession() as session:

        async def ask(method: str = "GET") -> str:
            async with aiohttp.ClientSession() as fresh, fresh.request(method, f"{proxy.url}/a") as answer:
                return answer.headers["Cache-Status"]

        async def report() -> dict[str, object]:
            async with session.get(f"{proxy.admin}/api/metrics/report-cache") as answer:
                document: dict[str, object] = await answer.json()
                return document

        async with asyncio.timeout(PATIENCE):
            while (await report())["storedResponses"] != 2:
                await ask()
        assert len(origin.requests) == 2
        assert "; hit" in await ask()

        async with session.post(f"{proxy.admin}/api/purge", json={"all": True}) as answer:
            assert answer.status == 200
        assert "hit" not in await ask()

        async with asyncio.timeout(PATIENCE):
            while (await report())["storedResponses"] != 2:
                await ask()
        await ask("POST")
        asked = len(origin.requests)
        async with asyncio.timeout(PATIENCE):
            while len(origin.requests) < asked + 2:
                await ask()

        async with session.patch(f"{proxy.admin}/api/flags", json={"BYPASS": True}) as answer:
            assert answer.status == 200
        assert {await ask() for _ in range(10)} == {"siding; fwd=bypass; fwd-status=200"}
        async with session.get(f"{proxy.admin}/metrics") as answer:
            text = await answer.text()
        assert 'siding_flag{flag="BYPASS",worker="0"} 1.0' in text
        assert 'worker="1"' in text
    assert "Traceback" not in proxy.child.output


async def test_the_metrics_of_several_workers_are_openmetrics_where_asked_for(origin: Origin) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0; q=0.9, text/plain; q=0.5"}
    async with proxy_process(origin.url, workers="2") as proxy, aiohttp.ClientSession() as session:
        async with session.get(f"{proxy.url}/a") as answer:
            assert answer.status == 200
        async with session.get(f"{proxy.admin}/metrics", headers=accept) as answer:
            assert answer.content_type == "application/openmetrics-text"
            text = await answer.text()
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    counted = families["siding_requests"]
    assert counted.type == "counter"
    assert {sample.name for sample in counted.samples} == {"siding_requests_total"}
    assert {sample.labels["worker"] for sample in families["siding_flag"].samples} == {"0", "1"}


async def test_what_one_worker_has_answered_no_other_contradicts(origin: Origin) -> None:
    """Whichever of them a client's next request comes to, it sees what the last has changed."""
    state = 0

    async def script(turn: Turn) -> None:
        nonlocal state
        state += turn.request.method == "POST"
        await turn.answer(str(state), FRESH)

    origin.script = script
    async with proxy_process(origin.url, workers="2") as proxy:

        async def seen(client: aiohttp.ClientSession, method: str = "GET") -> int:
            async with client.request(method, f"{proxy.url}/a") as answer:
                return int(await answer.text())

        async with contextlib.AsyncExitStack() as held:
            clients = [await held.enter_async_context(aiohttp.ClientSession()) for _ in range(8)]
            for turn in range(200):
                # all of them have it, before it is changed
                await asyncio.gather(*map(seen, clients))
                assert await seen(clients[turn % 8], "POST") == turn + 1
                assert await asyncio.gather(*map(seen, clients)) == [turn + 1] * 8


async def test_a_worker_that_hangs_holds_no_answer_up(origin: Origin) -> None:
    async with proxy_process(origin.url, workers="2") as proxy:

        async def change() -> int:
            async with aiohttp.ClientSession() as fresh, fresh.post(f"{proxy.url}/a") as answer:
                return answer.status

        with hanging(await newest_worker(proxy)):
            # those of connections that are the other's come when it goes on
            answers = [asyncio.create_task(change()) for _ in range(16)]
            done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            assert {answer.result() for answer in done} == {200}
            await proxy.child.line("no answer waits for it")
        assert await asyncio.gather(*answers) == [200] * 16


async def test_a_worker_that_dies_is_replaced(origin: Origin) -> None:
    async with proxy_process(origin.url, workers="2") as proxy, aiohttp.ClientSession() as session:
        async with session.get(f"{proxy.admin}/metrics") as answer:
            assert answer.status == 200
        children = await asyncio.create_subprocess_exec(
            "pkill", "-KILL", "-n", "-P", str(proxy.child.process.pid), stdout=asyncio.subprocess.DEVNULL
        )
        assert await children.wait() == 0
        await proxy.child.line("is replaced")
        # flipped while it starts: it must know before its first client
        async with session.patch(f"{proxy.admin}/api/flags", json={"BYPASS": True}) as answer:
            assert answer.status == 200
        async with asyncio.timeout(PATIENCE):
            while True:
                async with session.get(f"{proxy.admin}/readyz") as ready:
                    if ready.status == 200:
                        break
        async with aiohttp.ClientSession() as fresh, fresh.get(f"{proxy.url}/a") as answer:
            assert await answer.text() == "hello"
        async with session.get(f"{proxy.admin}/metrics") as answer:
            text = await answer.text()
        assert [f'siding_flag{{flag="BYPASS",worker="{number}"}} 1.0' in text for number in (0, 1)] == [True, True]


async def test_a_worker_that_hangs_does_not_count_as_serving(origin: Origin) -> None:
    async with proxy_process(origin.url, workers="2") as proxy, aiohttp.ClientSession() as session:
        with hanging(await newest_worker(proxy)):
            async with session.get(f"{proxy.admin}/readyz") as answer:
                assert answer.status == 503
                assert (await answer.json())["reason"] == "1 of 2 workers serve"
        async with asyncio.timeout(PATIENCE):
            while True:
                async with session.get(f"{proxy.admin}/readyz") as answer:
                    if answer.status == 200:
                        break
