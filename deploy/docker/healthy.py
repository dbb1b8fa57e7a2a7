"""The image's health check: asks the service of this container. Exit status 0 if it is well, 1 if it is not.

It knows the environment alone: who sets ports by command line or file gives the image another check.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

MAIN_PROCESS = Path("/proc/1/cmdline")
SECONDS = 2.5
EVERYWHERE = {"", "::", "0.0.0.0"}  # noqa: S104 - compared, not bound


def url(command: str, environ: Mapping[str, str]) -> str:
    """What to ask. command -- of the container's main process.

    The proxy's admin listener says whether clients are served. The monitor is well while it lives: that its database
    is away is told by its /readyz, and starting it again would not bring the database back.
    """
    monitor = "siding-monitor" in command or "pool_monitor" in command
    variable, port, path = ("", "8081", "/healthz") if monitor else ("ADMIN_", "9090", "/readyz")
    host = environ.get(f"{variable}HOST", "")
    at = "127.0.0.1" if host in EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{at}:{environ.get(f'{variable}PORT') or port}{path}"


def main() -> int:
    """Ask it."""
    command = MAIN_PROCESS.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    try:
        # a proxy for the way out (HTTP_PROXY) has no business here
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url(command, os.environ), timeout=SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as fault:
        print(fault, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
