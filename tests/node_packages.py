"""Packages of the npm registry that tests use: installed once, by a lock file, next to what uses them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

INSTALL_SECONDS = 120.0


class Unavailable(Exception):
    """There is no Node.js here, or its packages cannot be had. Its text says which."""


def install(folder: Path, least: int) -> None:
    """Install what the lock file in `folder` names. least -- Node.js's version. Raises Unavailable."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Unavailable("there is no node with npm here")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found[1]) < least:
        raise Unavailable(f"node is {version.strip()}; {least} is needed")
    lock, installed = folder / "package-lock.json", folder / "node_modules" / "locked.json"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"npm did not install the packages within {INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        raise Unavailable(f"npm could not install the packages: {done.stderr.strip()[-500:]}")
    installed.write_bytes(lock.read_bytes())
