"""The event loop that each process of the proxy runs on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

from config.descriptors import say_once_that_none_is_left

GARBAGE_EVERY = 20_000
"""Objects made and not yet dropped before the youngest are looked through for cycles."""


def new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it installs; the standard loop works too."""
    try:
        import uvloop  # noqa: PLC0415 - optional: not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on the best loop there is."""
    # what is loaded by now stays; and cycles are few, so looking for them after every 700 objects is time lost
    gc.freeze()
    gc.set_threshold(GARBAGE_EVERY, 20, 50)
    with asyncio.Runner(loop_factory=new_loop()) as runner:
        say_once_that_none_is_left(runner.get_loop())
        runner.run(main)
