"""The image's health check: whether the service of this container says that it is ready. Exit status 0 or 1."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

SECONDS = 2.5


def url() -> str:
    """Of the service that process 1 runs."""
    command = Path("/proc/1/cmdline").read_bytes().decode(errors="replace")
    if os.environ.get("SIDING_SERVICE", command).find("pool_monitor") >= 0:
        return f"http://127.0.0.1:{os.environ.get('PORT', '8081')}/healthz"
    return f"http://127.0.0.1:{os.environ.get('ADMIN_PORT', '9090')}/readyz"


def main() -> int:
    """Ask it."""
    try:
        with urllib.request.urlopen(url(), timeout=SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError):
        return 1


if __name__ == "__main__":
    sys.exit(main())
