"""The benchmark's parts: what it sends, starts and reads. How fast anything is, no test says."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import latency, load
from tests.bench.__main__ import NAMES, _options
from tests.bench.ask import asked, check
from tests.bench.peers import CONTENT, NGINX, ORIGIN, Peers, nginx_config, running
from tests.bench.processes import Cores, chosen, cpu_seconds, family, memory
from tests.bench.stage import fault_of
from tests.bench.works import (
    FIELDS,
    FORWARD,
    GZIP,
    HIT,
    MANY,
    NOT_MODIFIED,
    POST,
    REPORT,
    RULE,
    STORED_GZIP,
    Work,
    head,
)
from tests.programs import Program, Unavailable, program

WORKS = (HIT, NOT_MODIFIED, GZIP, FORWARD, POST, RULE, MANY)


def _program(name: str) -> Program:
    try:
        return program(name)
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("part", ["pool", "shared", "grading"])
@pytest.mark.parametrize(
    ("option", "status", "said"),
    [("--help", 0, "usage: make bench BENCH="), ("--only", 2, "unrecognized arguments: --only")],
)
def test_a_part_says_what_it_is_and_takes_no_options(part: str, option: str, status: int, said: str) -> None:
    """And does not set out to measure for minutes."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{part}", option], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == status
    assert said in done.stdout + done.stderr


def test_a_part_that_is_none_is_said() -> None:
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run([make, "-n", "bench", "BENCH=pol"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "BENCH is pol; allowed: pool, shared or grading" in done.stderr


@pytest.mark.parametrize("work", WORKS)
def test_a_request_is_well_formed(work: Work) -> None:
    start, _, content = head(work, "f" * 32).partition(b"\r\n\r\n")
    line, *fields = start.decode().split("\r\n")
    named = dict(field.split(": ", 1) for field in fields)
    assert line.split(" ")[0] == work.method
    assert line.split(" ")[1].partition("?")[0] == work.target
    assert len(named) == len(fields)
    assert len(fields) >= len(FIELDS) + 2 == 12
    assert named["X-Request-Id"] == "f" * 32
    assert int(named.get("Content-Length", 0)) == len(content)


def test_the_script_asks_for_every_target() -> None:
    assert "local targets = 100000\n" in load.script(MANY)
    asked_for = {head(replace(MANY, targets=100, first=n, stride=17), "") for n in range(100)}
    assert len(asked_for) == 100


def test_what_wrk_says_is_read() -> None:
    said = "Running 1s test\nRESULT 100 2000000 5000 0\n"
    assert load.read(said, HIT) == load.Load(100, 2.0, 5000)
    assert load.read(said, HIT).rate == 50
    for bad, why in (("RESULT 100 2000000 5000 1\n", "1 of 100"), ("unable to connect", "unable to connect")):
        with pytest.raises(SystemExit, match=why):
            load.read(bad, HIT)


def test_the_proxies_have_a_core_to_themselves_where_there_are_two() -> None:
    assert chosen([3]).proxy is None
    two, four = chosen([4, 2]), chosen([0, 1, 2, 3])
    one, both = frozenset({4}), frozenset({2, 4})
    assert two == Cores(proxy=frozenset({2}), client=one, origin=one, two=both, beside=both)
    alone = [frozenset({core}) for core in range(3)]
    assert four == Cores(alone[0], alone[1], alone[2], two=frozenset({0, 1}), beside=frozenset({2, 3}))
    assert "proxies 2, client 4" in two.said()
    assert "nothing" in chosen([3]).said()


def test_a_family_is_a_process_and_what_it_started() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert len(family(child.pid)) == 2
        assert set(family(child.pid)) < set(family(os.getpid()))
        assert memory(child.pid) > 2 * 2**20
        assert memory(child.pid, "VmHWM") >= memory(child.pid)
        assert cpu_seconds(child.pid) < 60
        child.communicate(b"\n")
    assert cpu_seconds(child.pid) == 0


def test_options_are_read() -> None:
    assert _options([]).only == list(NAMES)
    assert _options(["--features"]).only == ["features"]
    assert _options(["--only", "hit,many", "--rounds", "7"]).only == ["hit", "many"]
    for bad in (["--only", "speed"], ["--rounds", "0"], ["--seconds", "x"]):
        with pytest.raises(SystemExit):
            _options(bad)


@pytest.mark.parametrize("template", [ORIGIN, NGINX], ids=["origin", "proxy"])
def test_nginx_takes_its_configuration(template: str, tmp_path: Path) -> None:
    found = _program("nginx")
    values = {"content": CONTENT.decode(), "origin": 1, "report": REPORT}
    config = nginx_config(template, tmp_path, 1024, **values)
    command = [found.path, "-t", "-p", str(tmp_path), "-c", str(config)]
    done = subprocess.run(command, env=dict(found.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    _program("nginx")
    with running(tmp_path, None) as peers:
        yield peers


def test_the_peers_answer_as_is_expected(peers: Peers) -> None:
    origin = peers.origin(None)
    nginx, siding = peers.nginx(origin), peers.siding(origin)
    for peer in (origin, nginx, siding):
        for work in (HIT, FORWARD, POST, STORED_GZIP):
            check(peer, work)
    before = asked(origin)
    for peer in (nginx, siding):
        for work in (HIT, NOT_MODIFIED, STORED_GZIP):
            check(peer, work)
    check(siding, RULE)
    check(siding, RULE)
    check(nginx, RULE)
    check(nginx, RULE)
    assert asked(origin) - before - 1 == 2, "the two answers to the rule's POST that were not stored yet"
    with pytest.raises(SystemExit, match="expected 304"):
        check(origin, replace(FORWARD, status=304))


def test_a_second_of_load_counts(peers: Peers, tmp_path: Path) -> None:
    _program("wrk")
    origin = peers.origin(None)
    octets, before = check(origin, POST).octets, asked(origin)
    done = load.run(origin.port, POST, 1, tmp_path, None)
    assert fault_of(done, POST, reached=asked(origin) - before - 1, octets=octets) == ""


class _Stalls(socketserver.StreamRequestHandler):
    """Answers one request at a time, one of them after a while."""

    turn = threading.Lock()
    seen = 0
    STALL = 0.3

    def handle(self) -> None:
        while self.rfile.readline():
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            with self.turn:
                _Stalls.seen += 1
                if _Stalls.seen == 70:
                    time.sleep(self.STALL)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


def test_latency_counts_all_that_were_due_while_the_server_stalled() -> None:
    _Stalls.seen = 0
    with _Server(("127.0.0.1", 0), _Stalls) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            # of 50 that count, 30 were due meanwhile, more than there are connections
            times = latency.run(server.server_address[1], 100, 0.5)
        finally:
            server.shutdown()
            thread.join()
    assert times.p99 > _Stalls.STALL / 2
    assert 0 < times.p50 <= times.p99
