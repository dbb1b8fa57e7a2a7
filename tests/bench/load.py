"""Load by wrk: 64 connections that are kept alive, each sending its next request when the last is answered."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import pinned
from tests.bench.works import Work, parts
from tests.programs import program

CONNECTIONS = 64

SCRIPT = """\
local count = %(first)d
local before = %(before)s
local after = %(after)s
local targets = %(targets)d
local seed = os.time()
request = function()
  count = count + 1
  local target = ""
  if targets > 1 then target = "?n=" .. (count * %(stride)d %% targets) end
  return before[1] .. target .. before[2] .. string.format("%%016x%%016x", seed, count) .. after
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nRESULT %%d %%d %%d %%d\\n", summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk did. seconds -- that it took. octets -- received."""

    requests: int
    seconds: float
    octets: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def script(work: Work) -> str:
    """What wrk runs for each request, in Lua."""
    start, rest, after = parts(work)
    return SCRIPT % {
        "before": f"{{{_lua(start)}, {_lua(rest)}}}",
        "after": _lua(after),
        "targets": work.targets,
        "stride": work.stride,
        # one request is made only to look at it
        "first": work.first - 1,
    }


def _lua(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
    return f'"{escaped}"'


def run(port: int, work: Work, seconds: int, folder: Path, cores: frozenset[int] | None) -> Load:
    """Ask for whole seconds. Ends the benchmark if a request failed."""
    file = folder / "load.lua"
    file.write_text(script(work))
    found = program("wrk")
    command = [*pinned(cores), found.path, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(file)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"],
        env=dict(found.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
    )
    return read(done.stdout + done.stderr, work)


def read(said: str, work: Work) -> Load:
    """What wrk reports. Ends the benchmark if that is not understood, or tells of faults."""
    result = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", said)
    if result is None:
        raise SystemExit(f"wrk said nothing that is understood:\n{said}")
    requests, microseconds, octets, faults = map(int, result.groups())
    if faults or not requests:
        raise SystemExit(f"{faults} of {requests} requests to {work.target} failed:\n{said}")
    return Load(requests, microseconds / 1e6, octets)
