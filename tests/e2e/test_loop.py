"""An UPSTREAM_URL that leads back by a name that is not known for this machine's."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from config.listen import spare_port
from tests.e2e.proxies import proxy_process
from tests.support import PATIENCE


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_comes_back_is_refused(workers: str) -> None:
    port = spare_port()
    # an address as inet_aton has it, which no setting takes for one
    async with proxy_process(f"http://0x7f000001:{port}", port=str(port), workers=workers) as proxy:
        async with aiohttp.ClientSession(proxy.url) as session, asyncio.timeout(PATIENCE):
            for method in ("GET", "POST", "GET", "POST", "POST"):
                async with session.request(method, "/a", data=b"x" if method == "POST" else None) as answer:
                    assert answer.status == 502
                    assert (await answer.json())["error"]["code"] == "loop"
        await proxy.child.line("leads back to this proxy")
