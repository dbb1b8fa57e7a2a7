"""One line for each request on standard output.

The event loop only forms the line (`log_lines`) and puts it in a bounded queue; a thread writes what has gathered.
When standard output is too slow, lines are dropped and counted: a log never makes a request wait.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

from config.logs import level_number
from proxy.observe.events import Brief, Observation
from proxy.observe.log_lines import as_json, as_text, briefs_as_json, briefs_as_text, level_for, level_of

log = logging.getLogger("siding.access_log")

CAPACITY = 50_000
"""Lines waiting to be written."""
GATHER_SECONDS = 0.1
"""How long lines gather before they are written: few wake-ups, and hardly a delay for a reader."""
RETRY_SECONDS = 0.05
"""How long to wait before writing again to a pipe that is full and does not block."""
SILENT_SECONDS = 60.0
"""That lines cannot be written is said again when it was not so for so long."""
CLOSE_SECONDS = 5.0
"""How long `close` waits for standard output to take the rest."""
WRITE_BYTES = 4096
"""Written at once: a pipe takes so much in one piece, so that lines of several workers do not mix (PIPE_BUF)."""
LARGE_BYTES = 128 * 1024
"""Written at once where lines cannot mix: after each piece the thread has to wait for its turn (the GIL's 5 ms)."""
LINE_FEED = 10

Form = Callable[[Observation], bytes]


def _is_file(fd: int) -> bool:
    """Whether it is a regular file, where each write takes its place whole."""
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


class AccessLog:
    """Writes requests of at least `level` to the file descriptor `fd`, as "json" or "text".

    level -- name of a `logging` level in any case. capacity -- lines that may wait to be written.
    alone -- no other process writes to `fd`, so that lines may go out in large pieces.
    """

    def __init__(self, level: str, format: str, fd: int = 1, capacity: int = CAPACITY, *, alone: bool = False) -> None:
        self._refused = 0
        self._lost = 0
        self._level = level_number(level)
        self._form: Form = as_text if format == "text" else as_json
        self._form_briefs = briefs_as_text if format == "text" else briefs_as_json
        self._fd = fd
        self._mixed = not (alone or _is_file(fd))
        self._capacity = capacity
        self._queue: deque[tuple[bytes, int]] = deque()
        self._queued = 0
        self._taken = 0
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self._failed = -SILENT_SECONDS
        self._broken = False
        self._writer = threading.Thread(target=self._write_all, name="siding access log", daemon=True)
        self._writer.start()

    @property
    def dropped(self) -> int:
        """Lines lost to a slow, broken or closed output so far."""
        return self._refused + self._lost

    def observe(self, seen: Observation) -> None:
        """Log one request; returns at once."""
        if level_of(seen) < self._level:
            return
        if self._takes(1):
            self._put(self._form(seen), 1)

    def observe_briefs(self, briefs: list[Brief]) -> None:
        """Log requests that were answered the short way; returns at once."""
        if self._level > logging.INFO:
            briefs = [one for one in briefs if level_for(one.kind.outcome, one.kind.status) >= self._level]
        if briefs and self._takes(len(briefs)):
            self._put(self._form_briefs(briefs), len(briefs))

    def _takes(self, number: int) -> bool:
        """Whether there is room for so many lines; if not, they are counted as refused."""
        if self._queued - self._taken + number > self._capacity or self._closing.is_set():
            self._refused += number
            return False
        return True

    def _put(self, lines: bytes, number: int) -> None:
        self._queued += number
        self._queue.append((lines, number))
        if not self._arrived.is_set():
            self._arrived.set()

    def close(self) -> None:
        """Write out what is queued and end the thread; gives up on an output stuck for `CLOSE_SECONDS`."""
        self._closing.set()
        self._arrived.set()
        self._writer.join(CLOSE_SECONDS)

    # -- in the writer's thread

    def _write_all(self) -> None:
        while not self._closing.is_set():
            self._arrived.wait()
            self._closing.wait(GATHER_SECONDS)
            self._arrived.clear()
            self._write_gathered()
        self._write_gathered()

    def _write_gathered(self) -> None:
        most = WRITE_BYTES if self._mixed else LARGE_BYTES
        piece: list[bytes] = []
        size = 0
        while self._queue:
            lines, number = self._queue.popleft()
            self._taken += number
            for octets in lines.splitlines(keepends=True) if self._mixed else [lines]:
                if piece and size + len(octets) > most:
                    self._write(piece)
                    piece, size = [], 0
                piece.append(octets)
                size += len(octets)
        self._write(piece)

    def _write(self, pieces: list[bytes]) -> None:
        """Write whole lines. A line that was broken off by a full disk does not spoil the first one after it."""
        lines = b"".join(pieces)
        rest = memoryview(b"\n" + lines if self._broken and lines else lines)
        while rest:
            try:
                written = os.write(self._fd, rest)
                self._broken = rest[written - 1] != LINE_FEED
                rest = rest[written:]
            except BlockingIOError:
                if self._closing.wait(RETRY_SECONDS):
                    self._lost += lines.count(b"\n", max(0, len(lines) - len(rest)))
                    return
            except OSError as fault:
                self._complain(fault)
                self._lost += lines.count(b"\n", max(0, len(lines) - len(rest)))
                return

    def _complain(self, fault: OSError) -> None:
        """Unless that was done for the same trouble already."""
        before, self._failed = self._failed, time.monotonic()
        if self._failed - before >= SILENT_SECONDS:
            log.error("the access log cannot be written, its lines are dropped: %s", fault)
