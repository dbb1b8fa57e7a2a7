"""`python -m deploy.example_origin`: serve until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import sys

from config.listen import ListenError, address_of, open_socket
from deploy.example_origin.app import REPORT_SECONDS, make_app
from deploy.options import amount, port
from deploy.serving import CANNOT_LISTEN, serve_until_stopped


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.example_origin", description="A small origin to try Siding with."
    )
    parser.add_argument("--host", default="::", help="address to listen on (default ::, IPv4 as well)")
    parser.add_argument("--port", type=port, default=3000, help="port to listen on, 0 for any free one (default 3000)")
    parser.add_argument(
        "--report-seconds",
        type=amount,
        default=REPORT_SECONDS,
        help=f"how long making a parent report takes (default {REPORT_SECONDS:g})",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0 stopped as asked, 1 cannot listen. Bad options exit with 2."""
    options = _options(argv)
    try:
        sock = open_socket(options.host, options.port, "--port")
    except ListenError as fault:
        print(f"example origin: {fault.strerror}", file=sys.stderr)
        return CANNOT_LISTEN
    said = f"example origin: http://{address_of(sock)}"
    asyncio.run(serve_until_stopped(make_app(options.report_seconds), sock, said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
