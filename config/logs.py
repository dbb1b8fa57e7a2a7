"""The application's own log on standard error, as JSON or as text; both services write it alike."""

from __future__ import annotations

import atexit
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from config.teller import Teller

MOST_WAITING = 10_000
"""Lines that wait for whoever reads them; further ones are dropped."""


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
    """Leaves the writing to a teller, so that nobody waits for it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._teller = Teller(stream, MOST_WAITING)
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._teller.tell(self.format(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, for a moment."""
        atexit.unregister(self.close)
        self._teller.close()
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
