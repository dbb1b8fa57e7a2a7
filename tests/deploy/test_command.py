"""`siding`: its commands, and `up` with parts replaced by real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession

from deploy.options import this_tool
from deploy.postgres import running
from tests.deploy.processes import PATIENCE, ROOT, environment, listens, python
from tests.deploy.stacks import ALONE, ANYWHERE, address
from tests.redis_servers import running_redis
from tests.support import holds

SIDING = ("-m", "deploy")


async def test_help_names_every_command() -> None:
    async with python(*SIDING) as child:
        assert await child.end() == 0
    for command in ("up", "check", "rollback"):
        assert f"siding {command}" in child.output
        async with python(*SIDING, command, "--help") as told:
            assert await told.end() == 0
        assert f"usage: siding {command}" in told.output


async def test_a_command_that_is_not_there_is_said_in_one_line() -> None:
    async with python(*SIDING, "chekc") as child:
        assert await child.end() == 2
    assert child.lines == ["siding: there is no command 'chekc': allowed are up, check and rollback (siding --help)"]


async def test_parts_are_told_as_they_start_and_all_are_gone_afterwards() -> None:
    async with python(*SIDING, "up", environ=environment(**ANYWHERE)) as child:
        await child.line(" check http")
        started = [line for line in child.lines if " is ready (" in line]
        assert [line.removeprefix("siding: ").partition(" is ")[0] for line in started] == [
            "Redis",
            "PostgreSQL",
            "the grading simulator",
            "the pool monitor",
            "the example origin",
            "the proxy",
        ]
        redis = address(child, "redis").removeprefix("redis://").removesuffix("/0")
        assert listens(redis)
        admin = f"http://{address(child, 'admin')}/metrics"
        async with ClientSession() as client, client.get(admin) as answer:
            assert 'siding_shared_tier{state="closed"} 1.0' in await answer.text()
        child.press_ctrl_c()
        assert await child.end() == 0
    assert not listens(redis)
    assert "Traceback" not in child.output


async def test_parts_are_replaced_by_real_ones(tmp_path: Path) -> None:
    async with (
        python("-m", "deploy.example_origin", "--host", "127.0.0.1", "--port", "0") as origin,
        running_redis(tmp_path) as redis,
        running() as postgres,
    ):
        url = (await origin.line("example origin: ")).split()[-1]
        options = ("--upstream", url, "--database-url", postgres.url(), "--redis-url", redis.url)
        async with python(*SIDING, "up", *options, environ=environment(**ANYWHERE)) as child:
            await child.line(" check http")
            started = [line for line in child.lines if " is ready (" in line]
            assert [line.removeprefix("siding: ").partition(" is ")[0] for line in started] == [
                "the grading simulator",
                "the pool monitor",
                "the proxy",
            ]
            async with ClientSession() as client:
                async with client.get(f"http://{address(child, 'monitor')}/readyz") as answer:
                    assert answer.status == 200
                async with client.get(f"http://{address(child, 'proxy')}/api/subjects") as answer:
                    assert answer.status == 200
            child.press_ctrl_c()
            assert await child.end() == 0


async def test_a_bad_value_is_said_to_be_where_it_was_given() -> None:
    options = ("--upstream", "nope", "--grading-upstream-url", "no", "--log-level", "loud")
    async with python(*SIDING, "up", *options, environ=environment(**ANYWHERE, REDIS_URL="x")) as child:
        assert await child.end() == 2
    assert child.lines[0] == "siding up: 4 faults in the settings:"
    for told in (
        "UPSTREAM_URL is 'nope' (command line, --upstream); ",
        "GRADING_UPSTREAM_URL is 'no' (command line, --grading-upstream-url); ",
        "LOG_LEVEL is 'loud' (command line, --log-level); ",
        "REDIS_URL is 'x' (environment); ",
    ):
        assert f"\n  {told}" in child.output


async def test_what_is_named_and_does_not_answer_is_said() -> None:
    options = ("--upstream", "http://127.0.0.1:9", "--database-url", "postgresql://u:geheim@127.0.0.1:9/x")
    async with python(*SIDING, "up", *options, environ=environment(**ANYWHERE, ENABLE_REDIS_CACHE="off")) as child:
        await child.line(" check http")
        for name in ("UPSTREAM_URL", "DATABASE_URL"):
            assert f"port 9, which {name} names" in await child.line(
                f"nobody answers at 127.0.0.1 port 9, which {name}"
            )
        child.press_ctrl_c()
        assert await child.end() == 0
    assert "geheim" not in child.output
    assert "Traceback" not in child.output


@pytest.fixture
def reachable() -> Iterator[str]:
    """A folder for what is made meanwhile, whoever PostgreSQL runs as."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - the server's own folder within it is closed
        yield folder


async def test_a_database_that_dies_stops_the_stack_and_one_that_is_killed_leaves_nothing_behind(
    reachable: str,
) -> None:
    async with python("-m", "deploy.postgres") as child:
        url = (await child.line("postgres: ")).split()[-1]
        (postmaster,) = children_of(child.process.pid)
        os.kill(postmaster, signal.SIGKILL)
        assert await child.end() == 1
        assert "postgres: the server has ended" in child.output
    async with python("-m", "deploy.postgres", environ=environment(TMPDIR=reachable)) as child:
        url = (await child.line("postgres: ")).split()[-1]
        # as the stack does when it is told twice to stop
        os.killpg(child.process.pid, signal.SIGKILL)
        await child.end()
    # its other processes notice that the first is gone
    await holds(lambda: not listens(urlsplit(url).netloc.rpartition("@")[2]), PATIENCE)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_database_may_lie_deeper_than_the_path_of_a_socket_may_be_long(reachable: str) -> None:
    deep = os.path.join(reachable, *["twenty characters or so"] * 5)
    os.makedirs(deep)
    async with python("-m", "deploy.postgres", environ=environment(TMPDIR=deep)) as child:
        await child.line("postgres: postgresql://")
        child.press_ctrl_c()
        assert await child.end() == 0


async def test_a_second_ctrl_c_leaves_no_database_behind() -> None:
    async with python(*SIDING, "up", environ=environment(**ALONE | {"DATABASE_URL": ""})) as child:
        await child.line(" check http")
        (part,) = [pid for pid in children_of(child.process.pid) if "deploy.postgres" in command_of(pid)]
        (postmaster,) = children_of(part)
        command = command_of(postmaster)
        folder = Path(command[command.index("-D") + 1]).parents[1]
        assert folder.is_dir()
        child.press_ctrl_c()
        await child.line("Ctrl-C again stops at once")
        child.press_ctrl_c()
        assert await child.end() == 0
    assert not folder.exists()


def command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def test_all_parts_of_a_stack_that_is_killed_stop() -> None:
    async with python(*SIDING, "up", environ=environment(**ANYWHERE)) as child:
        await child.line(" check http")
        redis = address(child, "redis").removeprefix("redis://").removesuffix("/0")
        child.send(signal.SIGKILL)
        # all who write to its output are gone
        assert await child.end(2 * PATIENCE) == -signal.SIGKILL
    assert not listens(redis)


async def test_a_reader_that_leaves_does_not_stop_the_stack() -> None:
    """As in `siding up | head -1`."""
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *SIDING, "up"),
        cwd=ROOT,
        env=environment(**ANYWHERE),
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    os.close(write)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(2 * PATIENCE):
            assert os.read(read, 1)
            os.close(read)
            told = ""
            while "siding: in front of" not in told:
                told = (await process.stderr.readline()).decode()
                assert told, "it has ended"
                assert "Traceback" not in told
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def test_the_command_is_in_the_makefile() -> None:
    assert "-m deploy up" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_a_printed_command_is_one_that_can_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In PATH, as in the image; installed, as with systemd; or from the tree."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "here" / "python"))
    assert this_tool() == [os.path.relpath(tmp_path / "here" / "python"), "-m", "deploy"]
    for folder, words in (("here", [str(tmp_path / "here" / "siding")]), (".", ["siding"])):
        script = tmp_path / folder / "siding"
        script.parent.mkdir(exist_ok=True)
        script.touch(0o755)
        assert this_tool() == words
