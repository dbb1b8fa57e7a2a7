"""How the services and the tool end, whenever they are told to."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.processes import environment, python
from tests.e2e.proxies import proxy_process
from tests.support import PATIENCE, Origin, Turn

pytestmark = pytest.mark.usefixtures("hung_up")

INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.parametrize(
    "command",
    [
        ("proxy",),
        ("pool_monitor",),
        ("deploy", "up"),
        ("deploy", "check", "http://127.0.0.1:1"),
        ("deploy", "rollback", "--all"),
    ],
    ids=" ".join,
)
async def test_ctrl_c_while_it_is_imported(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    environ = environment(PYTHONPATH=str(tmp_path), UPSTREAM_URL="http://127.0.0.1:1")
    async with python("-m", *command, environ=environ) as child:
        assert await child.end() == -signal.SIGINT
    assert child.lines == []


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_end_of_the_terminal_lets_requests_finish(origin: Origin, workers: str) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> None:
        asked.set()
        await go.wait()
        await turn.answer("finished")

    origin.script = script
    async with proxy_process(origin.url, workers=workers) as proxy, aiohttp.ClientSession() as session:
        async with asyncio.timeout(PATIENCE):
            request = asyncio.create_task(session.get(f"{proxy.url}/a"))
            await asked.wait()
            os.killpg(proxy.child.process.pid, signal.SIGHUP)
            await proxy.child.line("stopping")
            go.set()
            assert await (await request).text() == "finished"
            assert await proxy.child.end() == 0


async def test_the_monitor_stops_with_the_terminal_as_well() -> None:
    async with python("-m", "pool_monitor", environ=environment(HOST="127.0.0.1", PORT="0")) as child:
        address = (await child.line("pool monitor: ")).split("http://")[1].split(",")[0]
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/readyz") as answer:
            assert answer.status == 200
        child.send(signal.SIGHUP)
        assert await child.end() == 0


async def test_who_is_not_to_mind_the_terminal_does_not(origin: Origin) -> None:
    ignoring = "import runpy, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    ignoring += "runpy.run_module('proxy', run_name='__main__')"
    environ = environment(UPSTREAM_URL=origin.url, HOST="127.0.0.1", PORT="0", ADMIN_PORT="0", LOG_FORMAT="text")
    async with python("-c", ignoring, environ=environ) as child:
        url = (await child.line("in front of")).rpartition(": http://")[2].partition(",")[0]
        for _ in range(2):
            async with aiohttp.ClientSession() as session, session.get(f"http://{url}/a") as answer:
                assert answer.status == 200
            child.send(signal.SIGHUP)
        child.send(signal.SIGTERM)
        assert await child.end() == 0
