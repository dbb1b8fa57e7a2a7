"""Latency at a steady rate, counted from when each request was due: a server that stalls does not stop the clock.

As a program it measures one port and prints the figures as JSON. It waits by select(2), to the microsecond; the
timers of event loops, uvloop's too, are of whole milliseconds.
"""

from __future__ import annotations

import argparse
import gc
import re
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass

import orjson

from pool_monitor.pool_stats import percentile
from tests.bench.works import FORWARD, head

CONNECTIONS = 16
WARM_SECONDS = 0.5
PATIENCE = 10.0
"""Seconds after the last request was due for all to be answered."""


@dataclass(frozen=True)
class Times:
    """Seconds. late -- 99 % of requests were sent not later than this after they were due: the client's own share."""

    p50: float
    p99: float
    late: float


class Connection:
    """A connection with at most one request on its way. due -- when that was to be sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self._got = b""

    def fileno(self) -> int:
        """For select."""
        return self.socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        """A request that fits into the socket's buffer."""
        self.due, self._got = due, b""
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Read what is there. Whether the response is whole. Ends the benchmark if it is not as it should be."""
        data = self.socket.recv(2**16)
        self._got += data
        start, end, content = self._got.partition(b"\r\n\r\n")
        length = re.search(rb"\ncontent-length: *(\d+)", start, re.IGNORECASE)
        if not data or (end and not (start.startswith(b"HTTP/1.1 200 ") and length)):
            raise SystemExit(f"no response of status 200 with a length: {start[:200]!r}")
        return bool(end) and length is not None and len(content) == int(length[1])


def run(port: int, rate: float, seconds: float) -> Times:
    """Forwarded requests, `rate` a second, the first not counted."""
    connections = [Connection(port) for _ in range(CONNECTIONS)]
    try:
        return _run(connections, rate, seconds)
    finally:
        for connection in connections:
            connection.socket.close()


def _run(connections: list[Connection], rate: float, seconds: float) -> Times:
    idle, busy, waiting = deque(connections), set[Connection](), deque[float]()
    latencies: list[float] = []
    lateness: list[float] = []
    clock = time.perf_counter
    total, number = int(rate * (WARM_SECONDS + seconds)), 0
    began = clock() + 0.01
    while len(latencies) < total:
        now = clock()
        while number < total and began + number / rate <= now:
            waiting.append(began + number / rate)
            number += 1
        while waiting and idle:
            connection, due = idle.popleft(), waiting.popleft()
            connection.send(head(FORWARD, f"{number:032x}"), due)
            lateness.append(clock() - due)
            busy.add(connection)
        following = began + number / rate if number < total else began + total / rate + PATIENCE
        if number == total and now > following:
            raise SystemExit(f"{total - len(latencies)} requests were not answered within {PATIENCE:.0f} s")
        for connection in select.select(list(busy), [], [], max(0.0, following - clock()))[0]:
            if connection.receive():
                latencies.append(clock() - connection.due)
                busy.discard(connection)
                idle.append(connection)
    warm = int(rate * WARM_SECONDS)
    counted = latencies[warm:]
    return Times(percentile(counted, 0.5), percentile(counted, 0.99), percentile(lateness[warm:], 0.99))


def main() -> None:
    """Measure one port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    gc.disable()
    sys.stdout.write(orjson.dumps(asdict(run(options.port, options.rate, options.seconds))).decode())


if __name__ == "__main__":
    main()
