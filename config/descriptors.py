"""File descriptors: each connection takes one, and a process may have as many as the system lets it have.

The soft limit that a process is started with (1,024, or 256) is there for programs that use select(), which Siding does
not.
"""

from __future__ import annotations

import contextlib
import logging
import sys

if sys.platform != "win32":  # which has no such limit
    import resource

log = logging.getLogger("siding")


def raise_limit(needed: int, why: str) -> None:
    """Raise the soft limit to the hard one, and warn where `needed` is more, for the reason `why`."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS has no hard limit, and does not let the soft one be none
    for wanted in (hard, needed):
        if not _suffices(soft, wanted):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                soft = wanted
    if not _suffices(soft, needed):
        log.warning(
            "%d file descriptors are allowed, and %d may be needed: %s; raise the hard limit (ulimit -Hn, LimitNOFILE)",
            soft,
            needed,
            why,
        )


def _suffices(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or (limit >= wanted != resource.RLIM_INFINITY)
