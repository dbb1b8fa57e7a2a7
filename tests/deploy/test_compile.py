"""Compiling: the tool itself, and a compiled copy that is held to the tests of what every request runs through."""

from __future__ import annotations

import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import sysconfig
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

import pytest

from deploy import compile as tool
from tests.deploy.processes import ROOT, environment

SECONDS = 600
"""The longest wait for a copy and its tests."""


@pytest.mark.first
@pytest.mark.timeout(SECONDS + 30)
def test_what_is_compiled_passes_the_tests(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-m", "tests.compiled", str(tmp_path / "copy"), "--effort", "0", "--while-open"],
            cwd=ROOT,
            env=environment(TMPDIR=str(tmp_path)),
            # it ends with this process, however that ends
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        ) as process,
    ):
        try:
            status = process.wait(SECONDS)
        finally:
            if process.returncode is None:
                # all that it has started with it
                os.killpg(process.pid, signal.SIGKILL)
    said = output.read_text(encoding="utf-8", errors="replace")
    assert status == 0, said[-8000:]
    passed = re.search(r"^(\d+) passed", said, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 2000


def test_what_was_compiled_of_another_source_goes_and_a_copy_of_this_one_is_known(tmp_path: Path) -> None:
    modules = ["proxy/errors.py"]
    stale = tmp_path / "proxy" / "policy" / "freshness.cpython-311-x86_64-linux-gnu.so"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another source")
    assert not tool.is_current(tmp_path, modules)
    bytecode = Path(cache_from_source(str(tmp_path / "proxy" / "app.py")))
    bytecode.parent.mkdir()
    original = (ROOT / "proxy" / "app.py").stat()
    # as its header would be (importlib): a magic number, flags, when the source was changed, how long that is
    header = MAGIC_NUMBER + struct.pack("<III", 0, int(original.st_mtime), original.st_size)
    bytecode.write_bytes(header + b"of another source of that second and length")
    tool.compile_into(tmp_path, modules=modules, effort=0)
    assert not stale.exists()
    assert bytecode.read_bytes().startswith(header)
    assert b"of another source" not in bytecode.read_bytes()
    assert tool.is_current(tmp_path, modules)
    assert not tool.is_current(tmp_path), "of the other modules nothing is compiled"
    for name in ("proxy/app.py", "proxy/errors.py"):
        file = tmp_path / name
        octets = file.read_bytes()
        file.write_bytes(octets + b"\n")
        assert not tool.is_current(tmp_path, modules)
        file.unlink()
        assert not tool.is_current(tmp_path, modules)
        file.write_bytes(octets)
    assert tool.is_current(tmp_path, modules)


def test_it_is_compiled_as_the_interpreter_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it wants its integers to overflow, and without its assertions, which end a process."""
    compiler, given, copy = tmp_path / "cc", tmp_path / "given", tmp_path / "copy"
    cc = sysconfig.get_config_var("CC")
    compiler.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> "{given}"\nexec {cc} "$@"\n')
    compiler.chmod(0o755)
    copy.mkdir()
    monkeypatch.setenv("CC", str(compiler))
    tool.compile_into(copy, modules=["proxy/errors.py"])
    assert set(shlex.split(sysconfig.get_config_var("CFLAGS"))) <= set(given.read_text().splitlines())
    compiled = [*copy.rglob("*.so")]
    assert compiled
    assert not [path for path in compiled if b"__assert_fail" in path.read_bytes()]


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
