"""`python -m deploy.compile FOLDER`: what every request runs through, as machine code.

FOLDER gets a copy of the packages, and beside the modules that matter most their like, compiled by mypyc
(https://mypyc.readthedocs.io) from the same source; Python takes those first. To take them away is to be where one was.
It needs a C compiler, mypy and setuptools; the services need none of them.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from config.output import say

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("config", "deploy", "pool_monitor", "proxy")
MODULES = (
    "proxy/observe/access_log.py",
    "proxy/observe/briefs.py",
    "proxy/observe/events.py",
    "proxy/observe/log_lines.py",
    "proxy/observe/metrics.py",
    "proxy/observe/tallies.py",
    "proxy/origin/client.py",
    "proxy/origin/collapse.py",
    "proxy/origin/connection.py",
    *(f"proxy/policy/{path.name}" for path in sorted((ROOT / "proxy" / "policy").glob("[!_]*.py"))),
    "proxy/server/express.py",
    "proxy/server/fast_path.py",
    "proxy/server/in_flight.py",
    "proxy/store/invalidations.py",
    "proxy/store/memory.py",
)
"""All of the policy, and the short ways with what they tell, store and ask. What inherits from aiohttp cannot be."""

SETUP = """\
from mypyc.build import mypycify
from setuptools import setup

modules = mypycify({arguments!r}, opt_level={effort!r}, debug_level="0")
for module in modules:
    # to warn of a line that is indented oddly gcc reads the file from its start: most of its time
    module.extra_compile_args = [*module.extra_compile_args, "-Wno-misleading-indentation"]
setup(name="siding", packages=[], ext_modules=modules)
"""
FAILED = 1


class CompileError(Exception):
    """It cannot be compiled; says why."""


def compile_into(folder: Path, python: str = sys.executable, modules: Sequence[str] = MODULES, effort: int = 3) -> None:
    """Put the packages into `folder`, and `modules` of them compiled.

    python -- the interpreter that has what Siding depends on, of the version that runs this. effort -- the C
    compiler's, 0 to 3. Raises CompileError, and then `folder` is as it was.
    """
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    with tempfile.TemporaryDirectory() as made:
        # in a folder of its own: the tools write beside the sources, and read whatever settings lie there
        work = Path(made)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, work / package, ignore=ignored)
        # of what is not compiled nothing is said: some of it is for packages that need not be installed
        checks = ["--strict", "--ignore-missing-imports", "--follow-imports=silent"]
        arguments = [*checks, f"--python-executable={python}", *modules]
        (work / "setup.py").write_text(SETUP.format(arguments=arguments, effort=str(effort)), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=work,
            env={name: value for name, value in os.environ.items() if name != "MYPYPATH"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CompileError(f"{done.stdout}\n{done.stderr}".strip()[-4000:])
        # what was compiled of another source would go before this one
        for old in folder.glob("proxy/**/*.so"):
            old.unlink()
        # first what the others cannot be imported without
        for shared in work.glob("*.so"):
            shutil.copy2(shared, folder)
        for package in PACKAGES:
            shutil.copytree(
                work / package, folder / package, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
            # what is there is of another file; whoever may not write there would compile it at each start
            compileall.compile_dir(folder / package, quiet=2, force=True)


def is_current(folder: Path, modules: Sequence[str] = MODULES) -> bool:
    """Whether `folder` has of `modules` what `compile_into` would put there now, for the Python that runs this."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if not all((folder / name).with_suffix(suffix).is_file() for name in modules):
        return False
    sources = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return all(_content(folder / source) == _content(ROOT / source) for source in sources)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 it could not be compiled."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.compile",
        allow_abbrev=False,
        description="Copy Siding's packages into FOLDER and compile there what every request runs through. "
        "It then runs from there: PYTHONPATH=FOLDER python -m proxy. Needs a C compiler, mypy and setuptools.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="made if it is not there; may be site-packages")
    parser.add_argument("--python", default=sys.executable, metavar="PATH", help="one that has Siding's dependencies")
    given = parser.parse_args(argv)
    try:
        given.folder.mkdir(parents=True, exist_ok=True)
        compile_into(given.folder, given.python)
    except OSError as fault:
        print(f"{given.folder} cannot be written: {fault.strerror}", file=sys.stderr)
        return FAILED
    except CompileError as fault:
        print(f"Siding could not be compiled, and runs as it is:\n{fault}", file=sys.stderr)
        return FAILED
    say(f"compiled into {given.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
