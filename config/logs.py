"""The application's own log on standard error, as JSON or as text; both services write it alike."""

from __future__ import annotations

import atexit
import json
import logging
import os
import queue
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from io import UnsupportedOperation
from typing import TextIO

MOST_WAITING = 10_000
"""Lines that wait for whoever reads them; further ones are dropped."""
CLOSE_SECONDS = 1.0
RETRY_SECONDS = 0.05
"""How long to wait before writing again to a pipe that is full and does not block."""


def instant(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _JsonFormatter(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": instant(record.created),
            "level": record.levelname.lower(),
            "type": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _TextFormatter(logging.Formatter):
    """A record as words on a line, its exception below it."""

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name}: {message}", style="{")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return instant(record.created)


class _Handler(logging.Handler):
    """Writes in a thread: who stops reading the log holds nobody up, and misses lines.

    It writes to the descriptor, beside the stream's buffer: a thread that waits there would hold its lock, which the
    end of the process and the start of another take as well, and what cannot be written would stay in it for them.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._write, name="siding log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(self.format(record))
        except queue.Full:
            return
        except Exception:
            self.handleError(record)

    def _write(self) -> None:
        while (text := self._waiting.get()) is not None:
            with suppress(OSError, ValueError):
                self._write_line(f"{text}\n")

    def _write_line(self, line: str) -> None:
        try:
            fd = self._stream.fileno()
        except UnsupportedOperation:
            self._stream.write(line)
            return
        rest = line.encode("utf-8", "backslashreplace")
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Write what waits, for a moment."""
        atexit.unregister(self.close)
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(CLOSE_SECONDS)
        super().close()


def configure_logging(level: str, format: str) -> None:
    """Send log records of at least `level` to standard error, as "json" or "text". May be called again."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_TextFormatter() if format == "text" else _JsonFormatter())
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level_number(level))


def level_number(name: str) -> int:
    """The number of a `logging` level, from its name in any case."""
    return logging.getLevelNamesMapping()[name.upper()]
