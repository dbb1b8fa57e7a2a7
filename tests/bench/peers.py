"""Who is measured against whom: Siding, nginx and Varnish in front of the same origin, one worker each."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from config.listen import spare_port
from tests.bench.processes import pinned
from tests.bench.works import REPORT
from tests.programs import Unavailable, program, redis_program

ROOT = Path(__file__).resolve().parents[2]
CONTENT = orjson.dumps([{"id": n, "name": f"subject {n}", "score": n * 7 % 100} for n in range(48)])
"""The 2 KB of JSON that every answer has."""
START_SECONDS = 20.0
STOP_SECONDS = 10.0
BIG_BYTES = 1 << 30
"""Of the file that is downloaded; it is all zeros, and takes no room on the disk."""
INHERITED = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")
"""Of this process's environment, what Siding is given; a setting that stands there would spoil the comparison."""

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
      alias {folder}/coded; add_header Content-Encoding gzip; add_header Cache-Control "public, max-age=3600";
    }}
    location /big {{ alias {folder}/big; add_header Cache-Control no-store; }}
    location /untagged {{ add_header Cache-Control "public, max-age=3600"; return 200 '{content}'; }}
    location /v1/traces {{ client_max_body_size 64m; return 200; }}
    location /requests {{ stub_status; }}
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
    """One server under measurement. port -- where it listens; pid -- its process; admin -- Siding's other port."""

    name: str
    port: int
    pid: int
    admin: int = 0


class Peers:
    """Starts servers, and stops what it started.

    folder -- where they may write; cores -- where they run; code -- where Siding's packages lie.
    """

    def __init__(self, folder: Path, cores: frozenset[int] | None, code: Path = ROOT) -> None:
        self._folder = folder
        self._cores = cores
        self._code = code
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def _start(
        self, name: str, command: Sequence[str], port: int, environ: Mapping[str, str], cores: frozenset[int] | None
    ) -> Peer:
        """Start `command`, which is to listen on `port`."""
        log = self._folder / f"{name}.log"
        with log.open("ab") as out:
            # in a group of its own, so that Ctrl-C is heard here alone, and all is stopped in order
            process = subprocess.Popen(
                [*pinned(cores), *command],
                cwd=self._code,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                process_group=0,
            )
        self._running[process.pid] = process
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return Peer(name, port, process.pid)
            time.sleep(0.05)
        why = f"ended with status {process.returncode}" if process.returncode is not None else "does not listen"
        raise Unavailable(f"{name} {why}: {log.read_text(errors='replace')[-600:].strip()}")

    def _nginx(self, name: str, template: str, cores: frozenset[int] | None, **values: object) -> Peer:
        folder, port = self._folder / name, spare_port()
        folder.mkdir()
        found = program("nginx")
        config = nginx_config(template, folder, port, **values)
        return self._start(name, [found.path, "-p", str(folder), "-c", str(config)], port, found.environ, cores)

    def origin(self, cores: frozenset[int] | None) -> Peer:
        """nginx as the plainest origin there is, so that it is not what is measured."""
        peer = self._nginx("origin", ORIGIN, cores, content=CONTENT.decode())
        (self._folder / "origin" / "coded").write_bytes(gzip.compress(CONTENT, 6))
        big = self._folder / "origin" / "big"
        big.mkdir()
        with (big / "1g").open("wb") as file:
            file.truncate(BIG_BYTES)
        return peer

    def nginx(self, origin: Peer) -> Peer:
        """nginx as a caching proxy, its access log on as it is by default (and buffered, as Siding's is)."""
        return self._nginx("nginx", NGINX, self._cores, origin=origin.port, report=REPORT)

    def varnish(self, origin: Peer) -> Peer:
        """Varnish, its thread pools as they come. It needs a C compiler. Raises Unavailable."""
        port, found = spare_port(), program("varnishd")
        vcl = self._folder / "default.vcl"
        vcl.write_text(VARNISH.format(origin=origin.port))
        work = self._folder / "varnish"
        command = [found.path, "-F", "-a", f"127.0.0.1:{port}", "-f", str(vcl), "-s", "malloc,512m", "-n", str(work)]
        return self._start("varnish", command, port, found.environ, self._cores)

    def siding(
        self,
        origin: Peer,
        name: str = "siding",
        *,
        cores: frozenset[int] | None = None,
        settings: Mapping[str, str] = {},
    ) -> Peer:
        """Siding with everything on that is on by default, whatever this process's environment says."""
        port, admin = spare_port(), spare_port()
        rules = self._folder / "rules.toml"
        rules.write_text(RULES)
        environ = {
            **{key: os.environ[key] for key in INHERITED if key in os.environ},
            "UPSTREAM_URL": f"http://127.0.0.1:{origin.port}",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "ADMIN_PORT": str(admin),
            "RULES_FILE": str(rules),
            "CACHE_MAX_BYTES": "1GiB",
            "DRAIN_SECONDS": "1",
            **settings,
        }
        peer = self._start(name, [sys.executable, "-m", "proxy"], port, environ, cores or self._cores)
        return replace(peer, admin=admin)

    def redis(self, cores: frozenset[int] | None) -> Peer:
        """A Redis which forgets."""
        port = spare_port()
        server = redis_program()
        command = [server.path, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        return self._start("redis", [*command, "--dir", str(self._folder)], port, server.environ, cores)

    def trim(self) -> None:
        """Empty the logs, which grow by megabytes a second."""
        for log in (*self._folder.glob("*.log"), *self._folder.glob("*/access.log")):
            os.truncate(log, 0)

    def stop(self, peer: Peer) -> None:
        """Stop one."""
        _stop([self._running.pop(peer.pid)])

    def stop_all(self) -> None:
        """Stop all, the last first."""
        _stop([process for _, process in reversed(self._running.items())])
        self._running.clear()


def nginx_config(template: str, folder: Path, port: int, **values: object) -> Path:
    """Write the configuration of an nginx that keeps to `folder`."""
    config = folder / "nginx.conf"
    access_log = "off" if template is ORIGIN else f"{folder}/access.log combined buffer=64k flush=1s"
    # as root, workers would become someone who may not write here
    user = "user root; " if os.getuid() == 0 else ""
    config.write_text(template.format(user=user, folder=folder, port=port, access_log=access_log, **values))
    return config


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)


@contextmanager
def running(folder: Path, cores: frozenset[int] | None, code: Path = ROOT) -> Iterator[Peers]:
    """Peers that are stopped at the end. code -- where Siding's packages lie."""
    peers = Peers(folder, cores, code)
    try:
        yield peers
    finally:
        peers.stop_all()
