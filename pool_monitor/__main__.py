"""`python -m pool_monitor`: serve until SIGTERM, SIGHUP or Ctrl-C; `triggers`, `advise`, `doctor` and `evaluate` do
one thing and end.

Each imports what it needs when it is asked for: what serving needs takes a second or more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import config.interrupted  # noqa: F401 - before what takes its time
from config.load import load
from config.process import INTERRUPTED, loading, open_standard_streams
from config.settings import MonitorSettings

PROG = "siding-monitor"
COMMANDS = {
    "advise": "find COUNT(*) used as an existence check, and prove what EXISTS would save",
    "doctor": "look for the known traps between a pool, a PgBouncer and a server",
    "evaluate": "compare the grades of both prompts on labelled homework",
    "triggers": "have tables tell of their changes, so that the query cache is fresh",
}


def _carry_out(command: str, argv: Sequence[str]) -> int:
    match command:
        case "advise":
            from pool_monitor.advisor.command import main  # noqa: PLC0415 - see above
        case "doctor":
            from pool_monitor.doctor import main  # noqa: PLC0415
        case "evaluate":
            from pool_monitor.grading.evaluate import main  # noqa: PLC0415
        case _:
            from pool_monitor.triggers import main  # noqa: PLC0415
    return main(argv, os.environ)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0 stopped as asked, 1 cannot listen, write temporary files or start threads,
    2 a bad setting."""
    open_standard_streams()
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in COMMANDS:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return _carry_out(given[0], given[1:])
        except KeyboardInterrupt:
            print(f"{PROG} {given[0]}: stopped", file=sys.stderr)
            return INTERRUPTED
    settings = load(MonitorSettings, given, os.environ, prog=PROG, commands=COMMANDS)
    with loading():
        from pool_monitor.serving import serve  # noqa: PLC0415

        # before anything listens
        if settings.redis_url is not None:
            import config.redis_client  # noqa: F401, PLC0415
        if settings.pgbouncer_admin_url is not None:
            import pool_monitor.pgbouncer  # noqa: F401, PLC0415
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
