"""Ctrl-C while a service or the tool is still being imported ends it as it ends any program, without a traceback.

Imported before all that takes its time, for what it does: nothing where somebody else imports the modules.
Once the event loop runs, Ctrl-C is the loop's (see `process`).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

_PROGRAMS = frozenset({"proxy", "pool_monitor", "deploy", "siding-proxy", "siding-monitor", "siding"})


def _started() -> str:
    """What this process was started as: a package, or a script."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return str(spec.name).partition(".")[0] if spec is not None else Path(getattr(main, "__file__", None) or "").name


if _started() in _PROGRAMS:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
