"""A compiled copy and its tests, beside all the others: there are two cores, and those leave one of them room."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.deploy.processes import ROOT, environment

RUNNING = pytest.StashKey[tuple[Path, subprocess.Popen[bytes]]]()
SECONDS = 600
"""The longest wait for it."""


def _wanted(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "compiled_copy" in item.fixturenames


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # by the time that it is asked for, it is there
    items.sort(key=_wanted)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly or not any(map(_wanted, session.items)):
        return
    folder = Path(tempfile.mkdtemp(prefix="siding-compiled-"))
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.compiled", str(folder / "copy"), "--effort", "0", "--while-open"],
            cwd=ROOT,
            env=environment(TMPDIR=str(folder)),
            # it ends with this process, however that ends
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    session.config.stash[RUNNING] = folder, process


def pytest_sessionfinish(session: pytest.Session) -> None:
    if RUNNING in session.config.stash:
        folder, process = session.config.stash[RUNNING]
        if process.poll() is None:
            # all that it has started with it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdin is not None
        process.stdin.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def compiled_copy(request: pytest.FixtureRequest) -> str:
    """What was said of the tests of a compiled copy, once all of them have passed."""
    folder, process = request.config.stash[RUNNING]
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS)
    said = (folder / "output").read_text(encoding="utf-8", errors="replace")
    assert process.returncode == 0, said[-8000:]
    return said
