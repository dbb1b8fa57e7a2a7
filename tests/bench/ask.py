"""One request at a time: what a peer answers, what its origin has counted, and Siding's admin listener."""

from __future__ import annotations

import gzip
import http.client
import io
import re
import socket
from dataclasses import dataclass

import orjson

from tests.bench.peers import CONTENT, Peer
from tests.bench.works import Work, head

PATIENCE = 10.0


@dataclass(frozen=True)
class Answer:
    """octets -- of the whole response as it was sent. content -- without its coding."""

    status: int
    coding: str
    content: bytes
    octets: int


def ask(port: int, work: Work) -> Answer:
    """Send what `work` sends, once."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(head(work, "0" * 32).replace(b"Connection: keep-alive", b"Connection: close"))
        whole = b""
        while data := connection.recv(2**16):
            whole += data
    try:
        return _read(whole)
    except (http.client.HTTPException, OSError, EOFError) as fault:
        raise SystemExit(f"port {port} answered {work.target} by what is no response: {whole[:300]!r}") from fault


class _Heard:
    """What http.client takes for a socket."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._octets)


def _read(whole: bytes) -> Answer:
    response = http.client.HTTPResponse(_Heard(whole))  # type: ignore[arg-type]
    response.begin()
    coding, content = response.getheader("Content-Encoding", "identity"), response.read()
    return Answer(response.status, coding, gzip.decompress(content) if coding == "gzip" else content, len(whole))


def check(peer: Peer, work: Work) -> Answer:
    """Ask once. Ends the benchmark unless the answer is what `work` expects."""
    answer = ask(peer.port, work)
    expected = b"" if work.status == 304 else CONTENT
    if answer.status != work.status or answer.content != expected:
        said = f"{answer.status} with {len(answer.content)} bytes: {answer.content[:80]!r}"
        raise SystemExit(f"{peer.name}, {work.method} {work.target}: {said}; expected {work.status}")
    if work.status != 304 and work.coding != answer.coding:
        raise SystemExit(f"{peer.name}, {work.target}: content coding {answer.coding}, expected {work.coding}")
    return answer


def asked(origin: Peer) -> int:
    """Requests that the origin had, before this one."""
    return int(_get(origin.port, "/requests").split()[9]) - 1


def metric(peer: Peer, name: str) -> float:
    """A metric of Siding's without labels."""
    found = re.search(rf"^{name} (\S+)$", _get(peer.admin, "/metrics").decode(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{peer.name} has no metric {name}")
    return float(found[1])


def flip(peer: Peer, flag: str, *, on: bool) -> None:
    """Change a flag of Siding's while it runs."""
    _request("PATCH", peer.admin, "/api/flags", orjson.dumps({flag: on}))


def _get(port: int, target: str) -> bytes:
    return _request("GET", port, target, None)


def _request(method: str, port: int, target: str, content: bytes | None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, target, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise SystemExit(f"{method} {target} on port {port}: {answer.status} {said[:200]!r}")
    return said
