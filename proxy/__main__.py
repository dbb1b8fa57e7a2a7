"""`python -m proxy`: read the settings, open the listeners, serve until SIGTERM, SIGHUP or Ctrl-C."""

from __future__ import annotations

import os
import sys

import config.interrupted  # noqa: F401 - before what takes its time
from config.load import load
from config.process import loading, open_standard_streams
from config.settings import ProxySettings


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0 stopped as asked, 1 cannot listen, 2 a bad setting."""
    open_standard_streams()
    settings = load(ProxySettings, sys.argv[1:] if argv is None else argv, os.environ, prog="siding-proxy")
    with loading():
        from proxy.serving import serve  # noqa: PLC0415 - it takes its time, which --help and a bad setting do not

        if settings.redis_url is not None:
            import config.redis_client  # noqa: F401, PLC0415 - before anything listens
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
