"""Both services, started without some or all of the standard streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from config.listen import spare_port
from tests.deploy.processes import PATIENCE, ROOT, environment
from tests.e2e.waiting import until_ready
from tests.support import Origin

CLOSED = [("<&-",), (">&-",), ("2>&-",), ("<&-", ">&-", "2>&-")]


def without(streams: Iterable[str], service: str, **settings: str) -> subprocess.Popen[bytes]:
    command = f'exec "$0" -m {service} {" ".join(streams)}'
    return subprocess.Popen(
        ["/bin/sh", "-c", command, sys.executable],
        cwd=ROOT,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def leads_to(process: int, fd: int) -> str:
    return os.readlink(f"/proc/{process}/fd/{fd}")


def workers(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it looks at what descriptors lead to")
@pytest.mark.parametrize("streams", CLOSED)
@pytest.mark.parametrize("number", ["1", "2"])
async def test_the_proxy(origin: Origin, streams: tuple[str, ...], number: str) -> None:
    port, admin = spare_port(), spare_port()
    settings = {"PORT": str(port), "ADMIN_PORT": str(admin), "HOST": "127.0.0.1", "WORKERS": number}
    with without(streams, "proxy", UPSTREAM_URL=origin.url, DRAIN_SECONDS="1", **settings) as process:
        try:
            await until_ready(f"http://127.0.0.1:{admin}")
            for one in (process.pid, *workers(process.pid)):
                assert [leads_to(one, fd) for fd in range(3) if "socket" in leads_to(one, fd)] == []
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("streams", CLOSED)
async def test_the_monitor(streams: tuple[str, ...]) -> None:
    port = spare_port()
    with without(streams, "pool_monitor", PORT=str(port), HOST="127.0.0.1", DRAIN_SECONDS="1") as process:
        try:
            await until_ready(f"http://127.0.0.1:{port}")
            assert [leads_to(process.pid, fd) for fd in range(3) if "socket" in leads_to(process.pid, fd)] == []
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
