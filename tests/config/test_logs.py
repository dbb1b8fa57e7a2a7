"""The application's log, where nobody reads it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.deploy.processes import PATIENCE, ROOT, python
from tests.logs import COLLECTORS, Collector

SAYS_MUCH = """
import logging, sys
from config.logs import configure_logging
configure_logging("info", "text")
for number in range(200_000):
    logging.info("line %d", number)
sys.stdout.write("said it all")
sys.stdout.flush()
"""
SAYS_LITTLE = """
import logging
from config.logs import configure_logging
configure_logging("info", "json")
configure_logging("info", "text")
for number in range(300):
    logging.info("line %d", number)
"""


async def test_who_does_not_read_the_log_holds_nobody_up() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SAYS_MUCH),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readexactly(11) == b"said it all"
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("collector", COLLECTORS)
async def test_who_does_not_take_the_log_holds_no_end_up(collector: Collector) -> None:
    with collector() as stderr:
        async with python("-c", SAYS_LITTLE, stderr=stderr) as child:
            assert await child.end() == 0


async def test_everything_is_written_before_the_end() -> None:
    async with python("-c", SAYS_LITTLE) as child:
        assert await child.end() == 0
    assert [line.rpartition(" ")[2] for line in child.lines] == [str(number) for number in range(300)]
