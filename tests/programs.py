"""Programs for tests that no package index has: this machine's own, or the distribution's, fetched without root.

They go into .venv, beside everything else that tests install, and `make clean` removes them.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.parts import redis_server

FOLDER = Path(sys.prefix) / "programs"
FETCH_SECONDS = 300.0
PLACES = ("usr/bin", "usr/sbin", "usr/lib/chromium")
"""Where packages have their programs; of a browser the last is the program, the first a script that knows one place."""
PACKAGES = {
    "chromium-headless-shell": ("chromium-headless-shell", "chromium-common"),
    "nginx": ("nginx-light",),
    "pgbouncer": ("pgbouncer",),
    "prometheus": ("prometheus",),
    "promtool": ("prometheus",),
    "redis-server": ("redis-server", "redis-tools"),
    "systemd-analyze": ("systemd",),
    "varnishd": ("varnish",),
    "wrk": ("wrk",),
}
"""Debian's and Ubuntu's package of each, and those that must lie in the same folder: they are fetched although they
may be installed."""


class Unavailable(Exception):
    """The program is not here and cannot be fetched. Its text says how to get it."""


@dataclass(frozen=True, slots=True)
class Program:
    """path -- what to start. environ -- of this process, and what the program needs."""

    path: str
    environ: Mapping[str, str]


@functools.cache
def redis_program() -> Program:
    """What `make run` would start, or the distribution's. Raises Unavailable."""
    here = redis_server()
    return program("redis-server") if here is None else Program(str(here), os.environ)


@functools.cache
def program(name: str) -> Program:
    """One of PACKAGES. Raises Unavailable."""
    here = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if here is not None:
        return Program(here, os.environ)
    package, *beside = PACKAGES[name]
    folder = FOLDER / package
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(package, beside, folder)
    found = [path for place in PLACES if os.access(path := folder / place / name, os.X_OK)]
    if not found:
        raise Unavailable(f"the package {package} of this distribution has no {name}")
    libraries = sorted({str(path.parent) for path in folder.glob("usr/lib/*-linux-*/**/*.so*")})
    return Program(str(found[-1]), {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)})


def _fetch(package: str, beside: Sequence[str], folder: Path) -> None:
    """Unpack `package` and `beside`, and what they need that is not installed, into `folder`. Raises Unavailable."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable(f"there is no {package} here, and no apt-get that could fetch it: install it")
    apt = FOLDER / "apt"
    for below in ("lists", "archives"):
        (apt / below / "partial").mkdir(parents=True, exist_ok=True)
    # all that apt writes lies in `apt`, which needs no root; what is installed it reads where it always is
    options = {
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt,
        "Dir::Cache::archives": apt / "archives",
        "Dir::Log": apt,
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
    }
    command = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run([*command, "update"], package)
    wanted = ["--yes", "--no-install-recommends", "--reinstall", "--download-only", "install", package, *beside]
    _run([*command, *wanted], package)
    building = folder.with_suffix(".building")
    shutil.rmtree(building, ignore_errors=True)
    for archive in sorted((apt / "archives").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(archive), str(building)], package)
    shutil.rmtree(apt)
    building.rename(folder)


def _run(command: list[str], package: str) -> None:
    environ = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": str(FOLDER)}
    try:
        done = subprocess.run(
            command,
            env=environ,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise Unavailable(f"{package} could not be fetched ({fault}): install it") from fault
    if done.returncode:
        raise Unavailable(f"{package} could not be fetched: install it ({done.stderr.strip()[-300:]})")
