"""`python -m tests.compiled FOLDER`: compile a copy there, and hold it to the tests of what every request runs through.

FOLDER is made anew: it must not be there, or be an earlier copy. The exit status is 0 only if all that is meant to be
compiled is, and passes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from deploy.compile import MODULES, ROOT, CompileError, compile_into

TESTS = ("policy", "store", "observe", "origin", "fast", "server", "scenarios")
NOT = (
    # watches Python objects being read
    "fast/test_nothing_overlooked.py",
    # the depth of Python's own stack
    "policy/test_cache_key.py::test_json_nested_too_deep_to_be_written_is_compared_octet_for_octet",
    # that objects take up as much as Python's: compiled ones take up less, which shows where there is no content
    "store/test_weight.py::test_the_store_counts_what_is_really_taken[0-3]",
    "store/test_weight.py::test_the_store_counts_what_is_really_taken[0-11]",
)
LOOK = """\
import sys
from importlib import import_module
sys.path.insert(0, sys.argv[1])
found = {name: import_module(name[:-3].replace("/", ".")).__file__ for name in sys.argv[2:]}
sys.exit("\\n".join(f"{name} is {file}" for name, file in found.items() if not file.endswith(".so")) or 0)
"""


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.compiled", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--effort", type=int, choices=range(4), default=3, help="the C compiler's")
    parser.add_argument("--while-open", action="store_true", help="until standard input ends: with whoever holds it")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not list(folder.glob("*__mypyc*.so")):
        parser.error(f"{given.folder} is there, and no compiled copy")
    if given.while_open:
        threading.Thread(target=_end_with_input, daemon=True).start()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        compile_into(folder, effort=given.effort)
    except CompileError as fault:
        print(f"it could not be compiled:\n{fault}", file=sys.stderr)
        return 1
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("node_modules"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    look = [sys.executable, "-c", LOOK, str(folder), *MODULES]
    looked = subprocess.run(look, cwd=folder, stdin=subprocess.DEVNULL, check=False)
    if looked.returncode:
        return looked.returncode
    options = ["-q", "-p", "no:cacheprovider", "--show-capture=no", *(f"--deselect=tests/{name}" for name in NOT)]
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{name}" for name in TESTS)]
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, check=False).returncode


def _end_with_input() -> None:
    """The whole group of processes: compiler and tests are not to outlive whoever waits for them."""
    # not through `sys.stdin`, whose lock a thread that waits would hold at the end
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
