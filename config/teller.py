"""Text for whoever reads a stream, written in a thread: who stops reading holds nobody up, and misses lines."""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from io import UnsupportedOperation
from typing import TextIO

CLOSE_SECONDS = 1.0
"""How long the last lines may take."""
RETRY_SECONDS = 0.05
"""How long to wait before writing again to a pipe that is full and does not block."""


class Teller:
    """Lines for `stream`, of which `most` wait; further ones are dropped.

    It writes to the descriptor, beside the stream's buffer: a thread that waits there would hold its lock, which the
    end of the process and the start of another take as well, and what cannot be written would stay in it for them.
    """

    def __init__(self, stream: TextIO | None, most: int) -> None:
        self._stream = stream
        self._untold: queue.Queue[str | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._tell, name="siding teller", daemon=True)
        self._thread.start()

    def tell(self, text: str) -> None:
        """Soon, as a line."""
        with suppress(queue.Full):
            self._untold.put_nowait(text)

    def close(self) -> None:
        """Write what waits, for a moment."""
        with suppress(queue.Full):
            self._untold.put_nowait(None)
        self._thread.join(CLOSE_SECONDS)

    def _tell(self) -> None:
        while (text := self._untold.get()) is not None:
            if self._stream is not None:
                with suppress(OSError, ValueError):
                    _write(self._stream, f"{text}\n")


def _write(stream: TextIO, line: str) -> None:
    try:
        fd = stream.fileno()
    except UnsupportedOperation:
        stream.write(line)
        return
    rest = line.encode("utf-8", "backslashreplace")
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            time.sleep(RETRY_SECONDS)
