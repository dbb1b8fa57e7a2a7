"""Compiling: the tool itself, on the smallest part that has a short way's core; all of it is `make compiled`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy import compile as tool

LOOK = """\
import sys
sys.path.insert(0, sys.argv[1])
from proxy.policy import plain
found = plain.parse(b"GET /a?b HTTP/1.1\\r\\nHost: a\\r\\nX-Request-Id: 7\\r\\n\\r\\n", plain.Lexicon())
print(plain.__file__.endswith(".so"), found.start.target, found.host, found.request_id, found.fields().get("host"))
"""


def test_what_is_compiled_is_taken_and_says_the_same(tmp_path: Path) -> None:
    stale = tmp_path / "proxy" / "policy" / "freshness.cpython-311-x86_64-linux-gnu.so"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another source")
    tool.compile_into(tmp_path, modules=["proxy/policy/lines.py", "proxy/policy/plain.py"], effort=0)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("True /a?b a 7 a\n", "")
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
