"""`make bench`: requests a second through Siding, as ratios to the origin asked directly in the same run.

One process each for origin, proxy and load. The rounds alternate, so that a machine whose speed drifts
slows all of them alike; medians are shown with their spread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

ROOT = Path(__file__).resolve().parents[2]
PAYLOAD = orjson.dumps([{"id": n, "name": f"subject {n}", "score": n * 7 % 100} for n in range(45)])
CONNECTIONS = 64


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _origin(port: int) -> None:
    """The plainest origin there is, so that it is not what is measured."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(PAYLOAD)
    private = head + b"Cache-Control: no-store\r\n\r\n" + PAYLOAD
    public = head + b'Cache-Control: public, max-age=3600\r\nETag: "v1"\r\n\r\n' + PAYLOAD

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            self.buffer = b""

        def data_received(self, data: bytes) -> None:
            self.buffer += data
            while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
                request, self.buffer = self.buffer[:end], self.buffer[end + 4 :]
                answer = public if request.startswith(b"GET /public") else private
                self.transport.write(answer)  # type: ignore[attr-defined]

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port)
    await server.serve_forever()


@dataclass(frozen=True)
class Work:
    """One row of the table. expected -- the status that every answer must have."""

    name: str
    target: str
    fields: str
    expected: int
    direct: bool


WORKS = (
    Work("direct to the origin", "/private", "", 200, direct=True),
    Work("forwarded, not cacheable", "/private", "", 200, direct=False),
    Work("hit", "/public", "", 200, direct=False),
    Work("hit answered 304", "/public", 'If-None-Match: "v1"\r\n', 304, direct=False),
    Work("hit, gzip", "/public", "Accept-Encoding: gzip\r\n", 200, direct=False),
)


async def _one_connection(port: int, work: Work, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = f"GET {work.target} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench\r\nAccept: */*\r\n{work.fields}"
    done = 0
    try:
        while time.monotonic() < until:
            writer.write(f"{start}X-Request-Id: {done:032x}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head[9:12])
            if status != work.expected:
                raise SystemExit(f"{work.name}: status {status} instead of {work.expected}")
            if status != 304:
                at = head.index(b"content-length:") + 15
                await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
            done += 1
    finally:
        writer.close()
    return done


async def _rate(port: int, work: Work, seconds: float) -> float:
    began = time.monotonic()
    counts = await asyncio.gather(*(_one_connection(port, work, began + seconds) for _ in range(CONNECTIONS)))
    return sum(counts) / (time.monotonic() - began)


async def _wait(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def _measure(origin: int, proxy: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    await _wait(origin)
    await _wait(proxy)
    rates: dict[str, list[float]] = {work.name: [] for work in WORKS}
    for number in range(rounds + 1):
        for work in WORKS:
            rate = await _rate(origin if work.direct else proxy, work, seconds)
            if number:  # the first round warms up
                rates[work.name].append(rate)
        print(f"round {number} of {rounds} done", file=sys.stderr)
    return rates


def _table(rates: dict[str, list[float]]) -> str:
    base = rates[WORKS[0].name]
    lines = [
        f"| work ({CONNECTIONS} connections, {len(PAYLOAD)} bytes of JSON) | requests/s | of direct (min - max) |",
        "| --- | --- | --- |",
    ]
    for name, values in rates.items():
        ratios = [value / direct for value, direct in zip(values, base, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        lines.append(f"| {name} | {statistics.median(values):,.0f} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--origin", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.origin:
        asyncio.run(_origin(options.origin))
        return
    origin, proxy, admin = _free_port(), _free_port(), _free_port()
    environ = os.environ | {
        "UPSTREAM_URL": f"http://127.0.0.1:{origin}",
        "HOST": "127.0.0.1",
        "PORT": str(proxy),
        "ADMIN_PORT": str(admin),
    }
    commands = (["-m", "tests.bench", "--origin", str(origin)], ["-m", "proxy"])
    parts = [
        subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        rates = asyncio.run(_measure(origin, proxy, options.rounds, options.seconds))
    finally:
        for part in parts:
            part.terminate()
        for part in parts:
            part.wait(30)
    print(_table(rates))
    if options.json:
        options.json.write_text(json.dumps(rates, indent=1))


if __name__ == "__main__":
    main()
