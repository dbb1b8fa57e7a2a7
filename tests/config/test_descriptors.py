"""The limit of file descriptors, in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from config.descriptors import most_clients, raise_limit

ROOT = Path(__file__).resolve().parents[2]
CODE = """\
import logging, resource, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from config.descriptors import raise_limit
soft, hard, needed = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
raise_limit(needed, "so many come")
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
WARNING = (
    "128 file descriptors are allowed, and 129 may be needed: so many come; "
    "raise the hard limit (ulimit -Hn, LimitNOFILE)\n"
)


@pytest.mark.parametrize(
    ("soft", "needed", "said"), [(64, 32, ""), (64, 100, ""), (128, 128, ""), (64, 129, WARNING), (128, 129, WARNING)]
)
def test_it_is_raised_as_far_as_may_be_and_what_is_too_little_is_said(soft: int, needed: int, said: str) -> None:
    command = [sys.executable, "-c", CODE, str(soft), "128", str(needed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{said}128 128\n"


def test_where_the_system_does_not_let_it_be_unlimited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = [256, resource.RLIM_INFINITY]

    def set_to(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", set_to)
    raise_limit(2000, "so many come")
    assert limits == [2000, resource.RLIM_INFINITY]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("limit", "most"),
    [(10_000, 9000), (2000, 1000), (1024, 480), (128, 32), (8, 1), (resource.RLIM_INFINITY, sys.maxsize)],
)
def test_clients_leave_descriptors_to_others(monkeypatch: pytest.MonkeyPatch, limit: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    assert most_clients(1000) == most
