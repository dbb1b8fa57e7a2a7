"""A compiled copy, begun as soon as it is known to be wanted: by the time a test asks for it, it is there."""

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

COMPILE = """\
import os, sys
from pathlib import Path
from deploy.compile import compile_into
os.nice(19)
compile_into(Path(sys.argv[1]), effort=0)
"""
COMPILING = pytest.StashKey[tuple[Path, subprocess.Popen[str]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly or not any(
        "compiled" in item.fixturenames for item in session.items if isinstance(item, pytest.Function)
    ):
        return
    folder = Path(tempfile.mkdtemp(prefix="siding-compiled-"))
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILE, str(folder)],
        cwd=ROOT,
        env=environment(TMPDIR=str(folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    session.config.stash[COMPILING] = folder, process


def pytest_sessionfinish(session: pytest.Session) -> None:
    if COMPILING in session.config.stash:
        folder, process = session.config.stash[COMPILING]
        if process.poll() is None:
            # the C compiler with it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> Path:
    """A folder with the packages, all of what is meant to be compiled of them."""
    folder, process = request.config.stash[COMPILING]
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return folder
