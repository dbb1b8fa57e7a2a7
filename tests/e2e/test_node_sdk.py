"""The vendor's SDK for Node cannot tell the wrapper from the upstream."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from deploy.grading_sheets import NAMED, in_full
from tests.grading_simulators import running_simulator
from tests.node_packages import Unavailable, install
from tests.pool_monitor.grading.upstreams import ORIGINAL
from tests.pool_monitor.support import running_monitor
from tests.support import PATIENCE

HERE = Path(__file__).parent / "node"
NODE = 20


@pytest.fixture(scope="module")
def sdk() -> None:
    try:
        install(HERE, NODE)
    except Unavailable as reason:
        pytest.skip(str(reason))


async def told(url: str, prompt: Path) -> dict[str, Any]:
    environ = os.environ | {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-test"}
    process = await asyncio.create_subprocess_exec(
        "node", "grade.mjs", str(prompt), cwd=HERE, env=environ, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode == 0
    lines = map(json.loads, output.decode().strip().split("\n"))
    return {line["what"]: line["value"] for line in lines}


@pytest.mark.usefixtures("sdk")
async def test_through_the_wrapper_as_without_it(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(ORIGINAL)
    async with running_simulator() as simulator, running_monitor(None, grading_upstream_url=simulator.url) as monitor:
        through = await told(f"{monitor.session._base_url}/v1", prompt)
        assert simulator.state.forms == {"compact": 4}
        assert through == await told(simulator.url, prompt)
    assert through["whole"] == in_full(NAMED["sub-parts"])
    assert through["stream"] == in_full(NAMED["latex"])
    assert through["error"] == {"status": 429, "code": "insufficient_quota", "kind": "RateLimitError", "request": True}
