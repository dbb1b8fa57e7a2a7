"""Fetches /big/1g and counts: as a program it prints the seconds that this took."""

from __future__ import annotations

import re
import socket
import sys
import time

from tests.bench.peers import BIG_BYTES
from tests.bench.works import Work, head

PATIENCE = 60.0


def download(port: int) -> float:
    """Seconds. Ends the benchmark if a byte is missing."""
    buffer = bytearray(1 << 20)
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(head(Work(target="/big/1g"), "0" * 32))
        got = b""
        while b"\r\n\r\n" not in got:
            data = connection.recv(2**16)
            if not data:
                raise SystemExit(f"no response: {got[:200]!r}")
            got += data
        start, _, content = got.partition(b"\r\n\r\n")
        length = re.search(rb"\ncontent-length: *(\d+)", start, re.IGNORECASE)
        if not start.startswith(b"HTTP/1.1 200 ") or length is None or int(length[1]) != BIG_BYTES:
            raise SystemExit(f"not what was asked for: {start[:400]!r}")
        missing = BIG_BYTES - len(content)
        while missing > 0:
            size = connection.recv_into(buffer)
            if not size:
                raise SystemExit(f"{missing} of {BIG_BYTES} bytes are missing")
            missing -= size
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.stdout.write(repr(download(int(sys.argv[1]))))
