"""Both services, where whoever collects their log does not take it."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest

from config.listen import spare_port
from tests.deploy.processes import Child, environment, python
from tests.e2e.waiting import until_ready
from tests.logs import COLLECTORS, Collector
from tests.support import PATIENCE, Origin


async def _kill_a_worker(child: Child) -> None:
    killed = await asyncio.create_subprocess_exec("pkill", "-KILL", "-n", "-P", str(child.process.pid))
    assert await killed.wait() == 0


@pytest.mark.parametrize("collector", COLLECTORS)
async def test_workers_are_replaced_and_all_end(origin: Origin, collector: Collector) -> None:
    admin = f"http://127.0.0.1:{spare_port()}"
    settings = {"HOST": "127.0.0.1", "PORT": str(spare_port()), "ADMIN_PORT": admin.rpartition(":")[2], "WORKERS": "2"}
    with collector() as stderr:
        environ = environment(UPSTREAM_URL=origin.url, DRAIN_SECONDS="1", **settings)
        async with python("-m", "proxy", environ=environ, stderr=stderr) as child:
            await until_ready(admin)
            await _kill_a_worker(child)
            async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
                while (await session.get(f"{admin}/readyz")).status != 503:
                    pass
            await until_ready(admin)
            child.send(signal.SIGTERM)
            assert await child.end() == 0


@pytest.mark.parametrize("collector", COLLECTORS)
async def test_the_monitor_ends(collector: Collector) -> None:
    port = str(spare_port())
    with collector() as stderr:
        environ = environment(HOST="127.0.0.1", PORT=port, DRAIN_SECONDS="1")
        async with python("-m", "pool_monitor", environ=environ, stderr=stderr) as child:
            await until_ready(f"http://127.0.0.1:{port}")
            child.send(signal.SIGTERM)
            assert await child.end() == 0
