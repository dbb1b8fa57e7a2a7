"""What the kernel says of a process and its descendants: processor time and memory (proc(5)), and cores to run on."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Cores:
    """Who runs where; None: anywhere. two -- for what uses two cores at once, its load on `beside`."""

    proxy: frozenset[int] | None
    client: frozenset[int] | None
    origin: frozenset[int] | None
    two: frozenset[int] | None
    beside: frozenset[int] | None

    def said(self) -> str:
        """In words."""
        if self.proxy is None:
            return "nothing was pinned: there is one core only, or no taskset"
        where = (f"{name} {_numbers(cores)}" for name, cores in (("client", self.client), ("origin", self.origin)))
        two = f"WORKERS=2: proxy {_numbers(self.two)}, client {_numbers(self.beside)}"
        return f"pinned to cores: proxies {_numbers(self.proxy)}, {', '.join(where)}; {two}"


def _numbers(cores: frozenset[int] | None) -> str:
    return "+".join(map(str, sorted(cores or ())))


def chosen(available: Sequence[int]) -> Cores:
    """The proxies alone on a core; client and origin on another, or on one each where there are enough."""
    cores = sorted(available)
    if len(cores) < 2:
        return Cores(None, None, None, None, None)
    client = frozenset({cores[1]})
    origin = frozenset({cores[2]}) if len(cores) > 2 else client
    beside = frozenset(cores[2:]) if len(cores) > 2 else frozenset(cores)
    return Cores(frozenset({cores[0]}), client, origin, frozenset(cores[:2]), beside)


def cores_here() -> Cores:
    """Of the cores that this process may use."""
    return chosen(sorted(os.sched_getaffinity(0)) if shutil.which("taskset") else [])


def pinned(cores: frozenset[int] | None) -> list[str]:
    """The command that runs another on these cores alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))] if cores else []


def family(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a family so far, of the user's code and the kernel's."""
    ticks = sum(int(fields[11]) + int(fields[12]) for one in family(pid) if (fields := _stat(one)))
    return float(ticks / os.sysconf("SC_CLK_TCK"))


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) from the third on; none if the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def memory(pid: int, name: str = "VmRSS") -> int:
    """Bytes that a family has in memory: VmRSS now, VmHWM at most since `forget_peak`."""
    total = 0
    for one in family(pid):
        try:
            status = (PROC / str(one) / "status").read_text()
        except OSError:
            continue
        if found := re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE):
            total += 1024 * int(found[1])
    return total


def forget_peak(pid: int) -> None:
    """VmHWM counts from now on."""
    for one in family(pid):
        (PROC / str(one) / "clear_refs").write_text("5")
