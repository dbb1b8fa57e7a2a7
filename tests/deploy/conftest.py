"""A compiled copy and its tests, beside all the others: there are two cores, and those leave one of them room."""

from __future__ import annotations

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
            [sys.executable, "-m", "tests.compiled", str(folder / "copy"), "--effort", "0"],
            cwd=ROOT,
            env=environment(TMPDIR=str(folder)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    session.config.stash[RUNNING] = folder, process


def pytest_sessionfinish(session: pytest.Session) -> None:
    if RUNNING in session.config.stash:
        folder, process = session.config.stash[RUNNING]
        if process.poll() is None:
            # the C compiler with it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def compiled_copy(request: pytest.FixtureRequest) -> str:
    """What was said of the tests of a compiled copy, once all of them have passed."""
    folder, process = request.config.stash[RUNNING]
    status = process.wait(SECONDS)
    said = (folder / "output").read_text(encoding="utf-8", errors="replace")
    assert status == 0, said[-8000:]
    return said
