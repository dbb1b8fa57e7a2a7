"""A part of the benchmark that is a command of its own: `make bench BENCH=pool`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from tests.programs import Unavailable


def run(part: str, about: str | None, measure: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Measure it all; there is nothing to choose. about -- what `--help` says."""
    prog = f"make bench BENCH={part}"
    argparse.ArgumentParser(prog=prog, description=about, allow_abbrev=False).parse_args()
    try:
        asyncio.run(measure())
    except Unavailable as why:
        raise SystemExit(f"{prog}: {why}") from why
    except KeyboardInterrupt:
        sys.exit(130)
