"""Who is measured against whom: Siding, nginx and Varnish in front of the same origin, one worker each."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from tests.programs import program

ROOT = Path(__file__).resolve().parents[2]
CONTENT = orjson.dumps([{"id": n, "name": f"subject {n}", "score": n * 7 % 100} for n in range(48)])
"""The 2 KB of JSON that every answer has."""
START_SECONDS = 20.0
REPORT = "/reports/generate"

COMMON = """\
{user}daemon off; worker_processes 1; error_log {folder}/error.log crit; pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log {access_log}; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  keepalive_requests 100000000;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_body_buffer_size 64k; sendfile on; default_type application/json;
"""

ORIGIN = (
    COMMON
    + """
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location /private {{ add_header Cache-Control no-store; return 200 '{content}'; }}
    location /coded {{
      gzip on; gzip_types *; gzip_min_length 0; add_header Cache-Control "public, max-age=3600"; return 200 '{content}';
    }}
    location /big {{ alias {folder}/big; add_header Cache-Control no-store; }}
    location / {{ add_header Cache-Control "public, max-age=3600"; add_header ETag '"v1"'; return 200 '{content}'; }}
  }}
}}
"""
)

NGINX = (
    COMMON
    + """
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=all:64m max_size=2g;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 100000000; }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_cache all;
  proxy_cache_key "$scheme$proxy_host$request_uri"; add_header X-Cache $upstream_cache_status;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ proxy_pass http://origin; }}
    location /big {{ proxy_pass http://origin; proxy_max_temp_file_size 0; }}
    location /coded {{ proxy_pass http://origin; gzip off; proxy_set_header Accept-Encoding gzip; }}
    location {report} {{
      proxy_pass http://origin; proxy_cache_methods GET POST; proxy_cache_valid 200 1h;
      proxy_cache_key "$request_uri|$http_authorization|$request_body";
    }}
  }}
}}
"""
)

VARNISH = """\
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{origin}"; }}
sub vcl_recv {{ unset req.http.cookie; return (hash); }}
sub vcl_backend_response {{ set beresp.do_gzip = true; }}
"""

RULES = f"""\
[[route]]
match = "{REPORT}"
methods = ["POST"]
ttl = 3600
key = ["body", "authorization"]
"""


@dataclass(frozen=True)
class Peer:
    """One server under measurement. port -- where it listens; pid -- its process."""

    name: str
    port: int
    pid: int


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Until somebody listens on `port`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port} after {START_SECONDS:.0f} s")


def pinned(cores: set[int] | None) -> list[str]:
    """The command that runs another on these cores alone; nothing where cores cannot be chosen."""
    if not cores or shutil.which("taskset") is None:
        return []
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))]


class Peers:
    """Starts servers, and stops what it started. folder -- where they may write."""

    def __init__(self, folder: Path, cores: set[int] | None) -> None:
        self._folder = folder
        self._cores = cores
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self, name: str, command: Sequence[str], port: int, environ: dict[str, str], *, cores: set[int] | None = None
    ) -> Peer:
        """Start `command`, which is to listen on `port`."""
        out = (self._folder / f"{name.replace(' ', '-')}.out").open("wb")
        process = subprocess.Popen(
            [*pinned(cores or self._cores), *command], cwd=ROOT, env=environ, stdout=out, stderr=out
        )
        self._running.append(process)
        wait_for(port)
        return Peer(name, port, process.pid)

    def _nginx(self, name: str, template: str, *, cores: set[int] | None = None, **values: object) -> Peer:
        folder, port = self._folder / name, free_port()
        folder.mkdir()
        found = program("nginx")
        config = folder / "nginx.conf"
        access_log = f"{folder}/access.log combined buffer=64k flush=1s" if template is NGINX else "off"
        # as root, workers would become someone who may not write here
        user = "user root; " if os.getuid() == 0 else ""
        config.write_text(template.format(user=user, folder=folder, port=port, access_log=access_log, **values))
        return self.start(
            name, [found.path, "-p", str(folder), "-c", str(config)], port, dict(found.environ), cores=cores
        )

    def origin(self, cores: set[int] | None) -> Peer:
        """nginx as the plainest origin there is, so that it is not what is measured."""
        big = self._folder / "origin" / "big"
        peer = self._nginx("origin", ORIGIN, cores=cores, content=CONTENT.decode())
        big.mkdir()
        with (big / "1g").open("wb") as file:
            file.truncate(1 << 30)
        return peer

    def nginx(self, origin: Peer) -> Peer:
        """nginx as a caching proxy, its access log on as it is by default."""
        return self._nginx("nginx", NGINX, origin=origin.port, report=REPORT)

    def varnish(self, origin: Peer) -> Peer:
        """Varnish, two thread pools as it comes."""
        port, found = free_port(), program("varnishd")
        vcl = self._folder / "default.vcl"
        vcl.write_text(VARNISH.format(origin=origin.port))
        work = self._folder / "varnish"
        command = [found.path, "-F", "-a", f"127.0.0.1:{port}", "-f", str(vcl), "-s", "malloc,512m", "-n", str(work)]
        return self.start("varnish", command, port, dict(found.environ))

    def siding(self, origin: Peer, name: str = "siding", *, cores: set[int] | None = None, **settings: str) -> Peer:
        """Siding with everything on that is on by default."""
        port = free_port()
        rules = self._folder / "rules.toml"
        rules.write_text(RULES)
        environ = os.environ | {
            "UPSTREAM_URL": f"http://127.0.0.1:{origin.port}",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "ADMIN_PORT": str(free_port()),
            "RULES_FILE": str(rules),
            "CACHE_MAX_BYTES": "1GiB",
            **settings,
        }
        return self.start(name, [sys.executable, "-m", "proxy"], port, environ, cores=cores)

    def stop(self) -> None:
        """Stop all, the last first."""
        for process in reversed(self._running):
            process.terminate()
        for process in reversed(self._running):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextmanager
def running(folder: Path, cores: set[int] | None) -> Iterator[Peers]:
    """Peers that are stopped at the end."""
    peers = Peers(folder, cores)
    try:
        yield peers
    finally:
        peers.stop()
