"""Standard output of a command: its disk may be full, or nobody may read it any more. Neither is worth a traceback.

Whoever has left (`siding check URL | head -1`) wants no more; anything else is said on standard error.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO
from weakref import WeakSet

_in_vain: WeakSet[TextIO] = WeakSet()
"""Standard outputs where what is said reaches nobody."""


def say(text: str, otherwise: str = "") -> bool:
    """Tell whoever started this. False where it cannot be written; then, as when nobody reads, no more is.

    otherwise -- what must not be lost: said on standard error where `text` reaches nobody.
    """
    told = True
    try:
        print(text, flush=True)
    except OSError as fault:
        told = _gone(fault)
    if otherwise and sys.stdout in _in_vain:
        _complain(otherwise)
    return told


def in_vain() -> None:
    """From now on what is said on standard output reaches nobody."""
    _in_vain.add(sys.stdout)


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
    _lead_nowhere(sys.stdout)
    in_vain()
    nobody = isinstance(fault, BrokenPipeError)
    if not nobody:
        _complain(f"standard output cannot be written: {fault.strerror}")
    return nobody


def _complain(text: str) -> None:
    """On standard error, which a terminal that is gone has taken with it."""
    try:
        print(text, file=sys.stderr)
    except OSError:
        _lead_nowhere(sys.stderr)


def _lead_nowhere(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
