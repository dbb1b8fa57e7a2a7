"""Commands whose standard output cannot be written."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import pytest

from tests.deploy.processes import ROOT, environment

FULL = "/dev/full"
SAID = [
    ("deploy", "--help"),
    ("deploy", "--version"),
    ("pool_monitor", "triggers", "--help"),
    ("pool_monitor", "advise", "--source", "tests/policy", "--json"),
]
"""What such commands say is all they are for."""
ARGPARSES = [("deploy", "up", "--help"), ("deploy", "check", "--help"), ("proxy", "--help"), ("proxy", "--version")]
"""These are argparse's own words, of which it does not care whether they arrive."""


async def _ended(command: Sequence[str], out: int, *, unbuffered: bool) -> tuple[int | None, str]:
    """Exit status and standard error."""
    environ = environment(**({"PYTHONUNBUFFERED": "1"} if unbuffered else {}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command), cwd=ROOT, env=environ, stdout=out, stderr=asyncio.subprocess.PIPE
    )
    os.close(out)
    _, told = await process.communicate()
    return process.returncode, told.decode()


@pytest.mark.skipif(not os.path.exists(FULL), reason=f"there is no {FULL}")
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("command", SAID, ids=" ".join)
async def test_a_full_disk_is_said_in_one_line(command: Sequence[str], unbuffered: bool) -> None:
    ended = await _ended(command, os.open(FULL, os.O_WRONLY), unbuffered=unbuffered)
    assert ended == (1, "standard output cannot be written: No space left on device\n")


@pytest.mark.skipif(not os.path.exists(FULL), reason=f"there is no {FULL}")
@pytest.mark.parametrize("command", ARGPARSES, ids=" ".join)
async def test_a_full_disk_is_no_traceback_of_argparses_either(command: Sequence[str]) -> None:
    """What is more than the buffer takes fails at once, and later Pythons keep that to themselves."""
    status, told = await _ended(command, os.open(FULL, os.O_WRONLY), unbuffered=False)
    assert status == 0
    assert told in {"", "standard output cannot be written: No space left on device\n"}


@pytest.mark.parametrize("command", [*SAID, *ARGPARSES], ids=" ".join)
async def test_a_reader_that_leaves_is_no_fault(command: Sequence[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    assert await _ended(command, write, unbuffered=False) == (0, "")
