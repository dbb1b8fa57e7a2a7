"""Standard output of a command: its disk may be full, or nobody may read it any more. Neither is worth a traceback.

Whoever has left (`siding check URL | head -1`) wants no more; anything else is said on standard error.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator


def say(text: str) -> bool:
    """Tell whoever started this. False where it cannot be written; then, as when nobody reads, no more is."""
    try:
        print(text, flush=True)
    except OSError as fault:
        return _gone(fault)
    return True


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Around argparse: before Python 3.11.3 a long help that cannot be written raises."""
    try:
        yield
    except OSError as fault:
        _gone(fault)
        raise SystemExit(0) from None


def tell_the_rest() -> None:
    """When the process ends, write what is left in the buffer (argparse's help, say)."""
    # registering it once more would do it once more
    atexit.unregister(_flush)
    atexit.register(_flush)


def _flush() -> None:
    # it may be closed, or not have been there at all
    with contextlib.suppress(ValueError, AttributeError):
        try:
            sys.stdout.flush()
        except OSError as fault:
            _gone(fault)


def _gone(fault: OSError) -> bool:
    """Whether it is for want of a reader. What is left in the buffer would fail again when the process ends."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    nobody = isinstance(fault, BrokenPipeError)
    if not nobody:
        with contextlib.suppress(OSError):
            print(f"standard output cannot be written: {fault.strerror}", file=sys.stderr)
    return nobody
