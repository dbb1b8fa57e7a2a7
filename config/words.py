"""What messages to an operator have in common: values shown safely, and a guess at what was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

LONGEST = 100
"""Characters of a given value that a message repeats."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_AFTER_PATH = re.compile(r"[?#].*", re.DOTALL)


def masked(text: str) -> str:
    """`text` without what may be secret in a URL: user name and password, query and fragment.

    A malformed URL is masked as well, so everything before the last @ goes, whatever it is.
    """
    found = _SCHEME.match(text)
    scheme = found[0] if found else ""
    _, at, rest = text.removeprefix(scheme).rpartition("@")
    rest = _AFTER_PATH.sub(lambda end: f"{end[0][0]}***", rest)
    return f"{scheme}***@{rest}" if at else scheme + rest


def quoted(value: object) -> str:
    """A given value as a message repeats it: quoted, on one line, not endless."""
    return _cut(_written(value))


def shown(value: object) -> str:
    """`quoted`, for values that may be URLs with secrets in them."""
    return _cut(repr(masked(value)) if isinstance(value, str) else masked(_written(value)))


def _written(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or tables in tables
        return f"{type(value).__name__}, too long to be shown,"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing where no known name is near. Case is no difference."""
    near = {one.lower(): one for one in known}
    guesses = difflib.get_close_matches(name.lower(), near, n=1, cutoff=0.6)
    return f"; did you mean {near[guesses[0]]}?" if guesses else ""


def meant(name: str, known: Collection[str]) -> str:
    """`did_you_mean`, or `; allowed: ...` where no known name is near."""
    return did_you_mean(name, known) or f"; allowed: {', '.join(known) or 'none'}"


def counted(number: int, thing: str) -> str:
    """`1 fault`, `2 faults`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
