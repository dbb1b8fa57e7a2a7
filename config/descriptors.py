"""File descriptors: each connection takes one, and a process may have as many as the system lets it have.

The soft limit that a process is started with (1,024, or 256) is there for programs that use select(), which Siding does
not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import sys
from collections.abc import Callable
from typing import Any

if sys.platform != "win32":  # which has no such limit
    import resource

log = logging.getLogger("siding")


SILENT_SECONDS = 60.0
"""That no connection can be accepted is said again after it was not the case for so long."""
LEAST = 64
"""What a process has open though it serves nobody, and some for those who look after it."""
_NOTHING_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def say_once_that_none_is_left(
    loop: asyncio.AbstractEventLoop, is_nothing: Callable[[dict[str, Any]], bool] = lambda _: False
) -> None:
    """Where asyncio has no descriptor for a client it says so with a traceback, hundreds of times a second.

    is_nothing -- whether what the loop would tell the log, in its context, is no fault at all.
    """
    last = -SILENT_SECONDS

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal last
        fault = context.get("exception")
        if is_nothing(context):
            return
        if not (isinstance(fault, OSError) and fault.errno in _NOTHING_LEFT and "socket" in context):
            loop.default_exception_handler(context)
            return
        before, last = last, loop.time()
        if last - before >= SILENT_SECONDS:
            log.error(
                "no connection can be accepted until others end: %s; raise the hard limit (ulimit -Hn, LimitNOFILE)",
                fault.strerror,
            )

    loop.set_exception_handler(handle)


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


def most_clients(others: int) -> int:
    """How many clients may be connected so that `others` descriptors are left; half of what there is, if more."""
    if sys.platform == "win32":
        return sys.maxsize
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(limit - others, (limit - LEAST) // 2, 1)


def _suffices(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or (limit >= wanted != resource.RLIM_INFINITY)
