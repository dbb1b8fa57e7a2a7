"""How both services end, whenever they are told to."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.deploy.processes import environment, python

INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.parametrize("service", ["proxy", "pool_monitor"])
async def test_ctrl_c_while_it_is_imported(tmp_path: Path, service: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    async with python("-m", service, environ=environment(PYTHONPATH=str(tmp_path))) as child:
        assert await child.end() == -signal.SIGINT
    assert child.lines == []
