"""Load by wrk, with request heads as browsers behind an edge send them: twelve fields, another request id each time."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers import pinned
from tests.programs import program

CONNECTIONS = 64
FIELDS = (
    "Host: app.example",
    "Connection: keep-alive",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    "Accept: application/json, text/plain, */*",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Referer: https://app.example/dashboard",
    "Sec-Fetch-Mode: cors",
    "X-Real-IP: 203.0.113.7",
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Proto: https",
)
"""Ten; Accept-Encoding and X-Request-Id come with each request."""

SCRIPT = """\
local count = 0
local before = %(before)s
local after = %(after)s
local targets = %(targets)d
request = function()
  count = count + 1
  local target = ""
  if targets > 1 then target = "?n=" .. (count %% targets) end
  return before[1] .. target .. before[2] .. string.format("%%016x%%016x", os.time(), count) .. after
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nRESULT %%d %%d %%d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Work:
    """What is asked. targets -- how many different URLs are asked for in turn."""

    method: str = "GET"
    target: str = "/private"
    fields: tuple[str, ...] = ()
    accept_encoding: str = "identity"
    content: str = ""
    targets: int = 1


def _script(work: Work) -> str:
    fields = [*FIELDS, *work.fields, f"Accept-Encoding: {work.accept_encoding}"]
    if work.content:
        fields += ["Content-Type: application/json", f"Content-Length: {len(work.content)}"]
    line = f" HTTP/1.1\r\n{chr(13) + chr(10)}".replace("\r\n\r\n", "\r\n")
    before = [f"{work.method} {work.target}", line + "".join(f"{field}\r\n" for field in fields) + "X-Request-Id: "]
    return SCRIPT % {
        "before": "{" + ", ".join(_lua(text) for text in before) + "}",
        "after": _lua("\r\n\r\n" + work.content),
        "targets": work.targets,
    }


def _lua(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
    return f'"{escaped}"'


def rate(port: int, work: Work, seconds: int, folder: Path, cores: set[int] | None) -> float:
    """Requests a second that were answered well. Ends the benchmark if any was not."""
    script = folder / "load.lua"
    script.write_text(_script(work))
    found = program("wrk")
    command = [
        *pinned(cores),
        found.path,
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}",
    ]
    done = subprocess.run(command, env=dict(found.environ), capture_output=True, text=True, check=True)
    result = re.search(r"RESULT (\d+) (\d+) (\d+)", done.stdout)
    if result is None:
        raise SystemExit(f"wrk said nothing that is understood:\n{done.stdout}{done.stderr}")
    requests, microseconds, faults = map(int, result.groups())
    if faults or not requests:
        raise SystemExit(f"{faults} of {requests} requests to {work.target} failed:\n{done.stdout}")
    return requests * 1e6 / microseconds
