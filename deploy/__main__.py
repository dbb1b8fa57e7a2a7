"""`siding`, which is `python -m deploy`: the whole on this machine, the plan's criteria measured, and the way back."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

import config.interrupted  # noqa: F401 - before what takes its time
from config.output import say
from config.process import loading, open_standard_streams
from config.version import VERSION

ABOUT = """\
usage: siding COMMAND [OPTIONS]

  siding up            the whole on this machine: database, Redis, example origin, grading simulator, monitor, proxy
  siding check URL...  measure the plan's success criteria against a live deployment
  siding rollback      switch optimisations off, or route around Siding

siding COMMAND --help says more. The services themselves: siding-proxy --help, siding-monitor --help.
"""
FAILED = 1
BAD_USAGE = 2

REPLACED = {
    "upstream": ("UPSTREAM_URL", "the service to stand in front of, in place of the example origin"),
    "database-url": ("DATABASE_URL", "in place of a PostgreSQL of this machine's own"),
    "redis-url": ("REDIS_URL", "in place of a Redis of this machine's own"),
    "grading-upstream-url": ("GRADING_UPSTREAM_URL", "in place of the grading simulator"),
}
"""Options of `up`, and the settings they stand for in every part."""


def up(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the local stack until it is told to stop. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="siding up",
        allow_abbrev=False,
        description="Start everything on this machine and stop it on Ctrl-C, or when one part ends.",
        epilog="Every option of siding-proxy may be given as well, as in: siding up --port 0 --log-level debug. "
        "Exit status: 0 stopped as asked, 1 a port is taken, 2 a bad setting, or that of the part that ended.",
    )
    for option, (variable, meaning) in REPLACED.items():
        parser.add_argument(f"--{option}", metavar="URL", help=f"{meaning} ({variable})")
    known, rest = parser.parse_known_args(list(argv))
    chosen = {variable: getattr(known, option.replace("-", "_")) for option, (variable, _) in REPLACED.items()}
    given = {variable: value for variable, value in chosen.items() if value is not None}
    with loading():
        from deploy import local  # noqa: PLC0415 - each command imports what it needs, and nothing else

    named = {variable: f"--{option}" for option, (variable, _) in REPLACED.items() if variable in given}
    return local.main(rest, {**environ, **given}, "siding up", named)


def _told_of_ctrl_c(command: Callable[[Sequence[str], Mapping[str, str]], int], argv: Sequence[str]) -> int:
    """Run what says itself that it was stopped; `up` takes the signal once there is something to stop."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return command(argv, os.environ)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: that of the command, 2 where there is no such command."""
    open_standard_streams()
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    match command:
        case "up":
            return up(rest, os.environ)
        case "check":
            with loading():
                from deploy.check import command as check  # noqa: PLC0415

            return _told_of_ctrl_c(check.main, rest)
        case "rollback":
            with loading():
                from deploy.rollback import command as rollback  # noqa: PLC0415

            return _told_of_ctrl_c(rollback.main, rest)
        case "-h" | "--help":
            return 0 if say(ABOUT.rstrip()) else FAILED
        case "--version":
            return 0 if say(f"siding {VERSION}") else FAILED
    print(
        f"siding: there is no command {command!r}: allowed are up, check and rollback (siding --help)", file=sys.stderr
    )
    return BAD_USAGE


if __name__ == "__main__":
    sys.exit(main())
