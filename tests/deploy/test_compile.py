"""Compiling: the tool itself, and a copy that is all compiled, held to the tests of where the octets are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import compile as tool
from tests.deploy.processes import environment

LOOK = """\
import sys
sys.path.insert(0, sys.argv[1])
from importlib import import_module
for name in sys.argv[2:]:
    found = import_module(name[:-3].replace("/", ".")).__file__
    if not found.startswith(sys.argv[1]) or not found.endswith(".so"):
        print(name, "is", found)
"""
# where the octets are; `make compiled` holds a copy to more, and says why these are left out
TESTS = ("fast", "store/test_memory.py", "policy/test_passing.py", "policy/test_plain.py", "policy/test_prepared.py")
NOT = ("fast/test_nothing_overlooked.py",)


@pytest.mark.timeout(400)
def test_what_is_meant_to_be_is_compiled(compiled: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(compiled), *tool.MODULES],
        cwd=compiled,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.timeout(400)
def test_what_is_compiled_passes_the_tests(compiled: Path) -> None:
    shutil.copytree(
        tool.ROOT / "tests", compiled / "tests", ignore=shutil.ignore_patterns("__pycache__", "node_modules")
    )
    shutil.copy(tool.ROOT / "pyproject.toml", compiled)
    command = [*(f"tests/{name}" for name in TESTS), *(f"--deselect=tests/{name}" for name in NOT)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *command],
        cwd=compiled,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr


def test_what_was_compiled_of_another_source_goes(tmp_path: Path) -> None:
    stale = tmp_path / "proxy" / "policy" / "freshness.cpython-311-x86_64-linux-gnu.so"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another source")
    tool.compile_into(tmp_path, modules=["proxy/errors.py"], effort=0)
    assert not stale.exists()


def test_what_cannot_be_compiled_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(tool.CompileError, match="no_such_module"):
        tool.compile_into(tmp_path, modules=["proxy/policy/no_such_module.py"], effort=0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert tool.main([str(tmp_path / "file" / "folder")]) == tool.FAILED
    assert "cannot be written" in capsys.readouterr().err


def test_what_is_to_be_compiled_is_there() -> None:
    assert [name for name in tool.MODULES if not (tool.ROOT / name).is_file()] == []
