"""`python -m pool_monitor` as an operator starts it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import aiohttp
import asyncpg
import orjson
import pytest

from config.listen import spare_port
from config.settings import MonitorSettings
from pool_monitor import app
from tests.deploy.processes import PATIENCE, environment, python, with_few_descriptors
from tests.support import answered_after_all, answering_at_once

MONITOR = ("-m", "pool_monitor")


async def test_bad_settings_end_with_status_2_and_say_everything() -> None:
    environ = environment(DATABASE_URL="mysql://secret@host/db", DB_POOL_MAX="1", DB_POOL_MIN="5", PORT="x")
    async with python(*MONITOR, environ=environ) as child:
        assert await child.end() == 2
    for name in ("DATABASE_URL", "DB_POOL_MIN", "PORT"):
        assert name in child.output
    assert "secret" not in child.output
    assert "Traceback" not in child.output


async def test_a_bad_queries_file_ends_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "queries.toml"
    path.write_text('[[query]]\nname = "a"\n')
    async with python(*MONITOR, environ=environment(QUERIES_FILE=str(path))) as child:
        assert await child.end() == 2
    assert "sql: it is missing" in child.output
    assert "Traceback" not in child.output


@pytest.mark.parametrize("text", [f"query = {'[' * 3000}", f'[[query]]\nname = "a"\nttl = 0x{"f" * 20_000}'])
async def test_an_unlikely_queries_file_is_a_fault(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queries.toml"
    path.write_text(text)
    async with python(*MONITOR, environ=environment(QUERIES_FILE=str(path))) as child:
        assert await child.end() == 2
    assert re.search("nested too deep|too long to be shown", child.output)
    assert "Traceback" not in child.output


LIMITED = """
import sys, threading
from pool_monitor.__main__ import main
start = threading.Thread.start

def start_one(thread):
    if threading.active_count() >= {most}:
        raise RuntimeError("none left")
    start(thread)

threading.Thread.start = start_one
sys.exit(main([]))
"""
"""Root may have as many threads as it likes. The first runs it all, the second is the log's."""


@pytest.mark.parametrize("most", [1, 2, 1 + app.THREADS, 2 + app.THREADS])
async def test_with_too_few_threads_it_ends_with_status_1_and_one_line(most: int) -> None:
    environ = environment(HOST="127.0.0.1", PORT="0", LOG_LEVEL="error")
    async with python("-c", LIMITED.format(most=most), environ=environ) as child:
        assert await child.end() == 1
    [line] = child.lines
    assert line.startswith(f"{app.THREADS + 2} threads are needed: none left; raise the limit")


async def test_with_just_enough_threads_it_serves_and_stops() -> None:
    async with python(
        "-c", LIMITED.format(most=3 + app.THREADS), environ=environment(HOST="127.0.0.1", PORT="0", LOG_FORMAT="text")
    ) as child:
        url = (await child.line("pool monitor: ")).split("http://")[1].split(",")[0]
        async with aiohttp.ClientSession() as session, session.get(f"http://{url}/healthz") as answer:
            assert answer.status == 200
        child.send(signal.SIGTERM)
        assert await child.end() == 0, child.output
    assert "Traceback" not in child.output


async def test_without_a_place_for_temporary_files_it_ends_with_status_1_and_one_line() -> None:
    # a limit of 0 octets for files is what a full disk is
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    limited += "from pool_monitor.__main__ import main; sys.exit(main([]))"
    async with python("-c", limited, environ=environment(HOST="127.0.0.1", PORT="0", LOG_LEVEL="error")) as child:
        assert await child.end() == 1
    [line] = child.lines
    assert line.startswith("no folder for files of batches can be made: No usable temporary directory")
    assert "TMPDIR" in line


async def test_what_was_loaded_is_not_looked_through_for_garbage_while_it_serves() -> None:
    script = """
import gc, sys
from pool_monitor import app
from pool_monitor.__main__ import main

async def serve(*_):
    print("left", len(gc.get_objects()))

app.serve = serve
sys.exit(main([]))
"""
    async with python("-c", script, environ=environment(HOST="127.0.0.1", PORT="0", LOG_LEVEL="error")) as child:
        assert await child.end() == 0
    [line] = child.lines
    assert int(line.removeprefix("left ")) < 1000


async def test_it_serves_until_sigterm(database: str) -> None:
    environ = environment(DATABASE_URL=database, HOST="127.0.0.1", PORT="0", LOG_FORMAT="text")
    async with python(*MONITOR, environ=environ) as child:
        url = (await child.line("pool monitor: ")).split("http://")[1].split(",")[0]
        await child.line("connection opened")
        async with aiohttp.ClientSession() as session, session.get(f"http://{url}/readyz") as answer:
            assert answer.status == 200
        child.send(signal.SIGTERM)
        assert await child.end() == 0
    assert "Traceback" not in child.output


async def test_it_takes_the_file_descriptors_that_it_may_have() -> None:
    async with python(*with_few_descriptors("pool_monitor"), environ=environment(PORT="0", DB_POOL_MAX="30")) as child:
        assert "200 file descriptors are allowed, and 542 may be needed" in await child.line("file descriptors")
        await child.line("pool monitor: ")


async def test_a_grading_upstream_that_is_the_monitor_itself_is_refused_at_the_start() -> None:
    environ = environment(PORT="8081", GRADING_UPSTREAM_URL="http://localhost:8081/v1")
    async with python(*MONITOR, environ=environ) as child:
        assert await child.end() == 2
    assert "leads to the monitor itself" in child.output


@pytest.mark.parametrize("content", [b'{"model":"m"}', b'{"model":"m","temperature":0,"messages":[]}'])
async def test_what_comes_back_by_another_name_of_this_machine_is_refused(content: bytes) -> None:
    port = spare_port()
    # an address as inet_aton has it, which no setting takes for one
    upstream = f"http://0x7f000001:{port}/v1"
    environ = environment(HOST="0.0.0.0", PORT=str(port), GRADING_UPSTREAM_URL=upstream, LOG_FORMAT="text")  # noqa: S104
    async with python(*MONITOR, environ=environ) as child:
        await child.line("pool monitor: ")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            for target in ("/v1/chat/completions", "/v1/files", "/v1/batches", "/v1/chat/completions"):
                async with session.post(target, data=content, headers={"CDN-Loop": "another"}) as answer:
                    assert answer.status == 502
                    assert (await answer.json(content_type=None))["error"]["code"] == "loop"
        child.send(signal.SIGTERM)
        assert await child.end() == 0
    assert child.output.count("leads back to this monitor") == 1


async def test_a_taken_port_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with python(*MONITOR, environ=environment(HOST="127.0.0.1", PORT=port)) as child:
            assert await child.end() == 1
    assert child.output.endswith("another process has it (set PORT to a free one)")


async def test_out_of_file_descriptors_it_says_so_once_and_answers() -> None:
    environ = environment(HOST="127.0.0.1", PORT="0", LOG_FORMAT="text")
    async with python(*with_few_descriptors("pool_monitor"), environ=environ) as child:
        address = (await child.line("pool monitor: ")).split("http://")[1].split(",")[0]
        host, _, port = address.partition(":")
        with contextlib.ExitStack() as held:
            for _ in range(250):
                held.enter_context(socket.create_connection((host, int(port))))
            await child.line("file descriptors allow no more")
            async with aiohttp.ClientSession() as session, session.get(f"http://{address}/metrics") as answer:
                assert answer.status == 200
        child.send(signal.SIGTERM)
        assert await child.end() == 0
    assert child.output.count("file descriptors allow no more") == 1
    # where they come faster than others go
    assert child.output.count("Too many open files") <= 1
    assert "Traceback" not in child.output


async def test_of_many_who_come_at_once_all_are_answered() -> None:
    """Each sends all that it has before it reads, and it is more than the kernel holds."""
    content = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 5_000_000}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    go, refused = asyncio.Event(), 0

    async def status_of_one(port: int) -> int:
        nonlocal refused
        answer = await answered_after_all(port, head.encode(), content)
        refused += answer.status == 503
        if refused == 66:
            go.set()
        return answer.status

    teapot = b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with answering_at_once(go, teapot) as upstream:
        environ = environment(HOST="127.0.0.1", PORT="0", LOG_FORMAT="text", GRADING_UPSTREAM_URL=f"{upstream}/v1")
        async with python(*with_few_descriptors("pool_monitor"), environ=environ) as child:
            port = int((await child.line("pool monitor: ")).split("http://")[1].split(",")[0].rpartition(":")[2])
            async with asyncio.timeout(4 * PATIENCE):
                statuses = await asyncio.gather(*[status_of_one(port) for _ in range(100)])
            child.send(signal.SIGTERM)
            assert await child.end() == 0
    assert Counter(statuses) == {503: 66, 418: 34}
    assert "Too many open files" not in child.output


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://nobody.invalid/db", "the host nobody.invalid cannot be found: "),
        ("postgresql:///db?host=nobody.invalid", "the host nobody.invalid cannot be found: "),
        ("postgresql://127.0.0.1/db?sslmode=verify-ca&sslrootcert=/nope", "No such file or directory: the socket"),
        ("postgresql:///db?host=/nope", "the socket where the host is a path, or the file of sslrootcert"),
        (
            f"postgresql://127.0.0.1/db?sslmode=require&sslcert={quote(__file__)}",
            "TLS with the database failed; look at ssl",
        ),
    ],
)
@pytest.mark.parametrize("command", ["advise", "doctor"])
async def test_what_cannot_be_connected_to_is_told_by_name(command: str, url: str, words: str) -> None:
    async with python(*MONITOR, command, environ=environment(DATABASE_URL=url)) as child:
        assert await child.end() == 1
    assert words in child.output


async def test_it_may_be_stopped_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    heeded = asyncio.Event()

    async def stop() -> None:
        heeded.set()

    async def start(_: app.Monitor, __: socket.socket) -> None:
        async with asyncio.timeout(PATIENCE):
            await heeded.wait()

    monkeypatch.setattr(app.Monitor, "start", start)
    with socket.socket() as sock:
        await app.serve(MonitorSettings(), {}, sock, stop)


async def test_the_log_names_a_host_that_is_not_found() -> None:
    environ = environment(DATABASE_URL="postgresql://u:geheim@nobody.invalid/db", HOST="127.0.0.1", PORT="0")
    async with python(*MONITOR, environ=environ) as child:
        await child.line("cannot connect to the database: the host nobody.invalid cannot be found: ")
        child.send(signal.SIGTERM)
        assert await child.end() == 0
    assert "geheim" not in child.output


async def test_help_names_the_commands() -> None:
    async with python(*MONITOR, "--help", environ=environment()) as child:
        assert await child.end() == 0
    for command in ("advise", "doctor", "evaluate", "triggers"):
        assert f"  siding-monitor {command} " in child.output
        async with python(*MONITOR, command, "--help", environ=environment()) as other:
            assert (await other.end(), "usage" in other.output) == (0, True)


async def test_a_command_that_is_none() -> None:
    async with python(*MONITOR, "doktor", environ=environment()) as child:
        assert await child.end() == 2
    known = "'doktor' (command line) belongs to no option, and is no command: advise, doctor, evaluate, triggers"
    assert f"{known}; did you mean doctor?" in child.output


@pytest.mark.parametrize("command", [("doctor",), ("triggers", "show"), ("advise",)])
async def test_ctrl_c_ends_a_command_with_one_line(command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        environ = environment(DATABASE_URL=f"postgresql://127.0.0.1:{silent.getsockname()[1]}/db")
        async with python(*MONITOR, *command, environ=environ) as child:
            with (await asyncio.to_thread(silent.accept))[0] as connection:
                # it is connected, and waits for an answer
                assert await asyncio.to_thread(connection.recv, 1)
                child.press_ctrl_c()
                assert await child.end() == 130
    assert child.lines == [f"siding-monitor {command[0]}: stopped"]


async def test_triggers(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute('CREATE TABLE "Odd Name" (i int); CREATE TABLE t (i int)')
    await connection.close()
    environ = environment(DATABASE_URL=database)

    async def triggers(*arguments: str) -> tuple[int, str]:
        async with python(*MONITOR, "triggers", *arguments, environ=environ) as child:
            async with asyncio.timeout(20):
                return await child.end(), child.output

    assert await triggers("install", "t", '"Odd Name"') == (
        0,
        "these tables notify of their changes now: public.t, public.Odd Name",
    )
    assert "public.Odd Name, public.t" in (await triggers("show"))[1]
    assert (await triggers("install", "nothing"))[0] == 1
    assert (await triggers())[0] == 2
    assert (await triggers("remove"))[0] == 0
    assert (await triggers("show"))[1].endswith("none")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("install", "--help"), 0, "usage: siding-monitor triggers install TABLE"),
        ((), 2, "triggers: what is to be done?; allowed: install, remove, show"),
        (("instal", "t"), 2, "there is no 'instal'; did you mean install?; allowed: install, remove, show"),
        (("install",), 2, "install needs the names of tables"),
        (("show", "t"), 2, "show is for all tables that have triggers: 't' is too much"),
        (("install", "--json"), 2, "there is no option '--json'"),
        (("install", "t"), 1, "siding-monitor triggers: the database: "),
    ],
)
async def test_what_is_wrong_with_an_order_for_triggers_is_said(
    arguments: tuple[str, ...], status: int, said: str
) -> None:
    environ = environment(DATABASE_URL="postgresql://127.0.0.1:9/db")
    async with python(*MONITOR, "triggers", *arguments, environ=environ) as child:
        assert await child.end() == status
    assert said in child.output
