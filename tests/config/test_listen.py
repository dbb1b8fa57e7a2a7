"""Ports for processes that are started later, and what comes while nobody accepts it."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from config import listen
from config.listen import SPARE, ListenError, open_spare, spare_port
from tests.pool_monitor.support import running_monitor
from tests.support import Origin, running_proxy

GOING_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_spare_ports_differ_and_are_none_that_a_connection_going_out_is_given() -> None:
    ports = [spare_port() for _ in range(100)]
    assert len(set(ports)) == 100
    first = int(GOING_OUT.read_text().split()[0]) if GOING_OUT.exists() else 49_152
    assert max(ports) < first


def test_a_port_that_somebody_has_is_not_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_spare("127.0.0.1") as held:
        taken = held.getsockname()[1]
        monkeypatch.setattr(listen, "_spare", itertools.cycle([taken, taken + 1, taken + 2]))
        assert spare_port() in {taken + 1, taken + 2}


def test_a_port_that_one_process_has_chosen_no_other_chooses() -> None:
    taken = spare_port()
    command = (
        "from config import listen\n"
        "free = listen.spare_port()\n"
        f"listen._spare = iter([{taken}, free + 1, free + 2, free + 3])\n"
        f"assert listen.spare_port() not in {{free, {taken}}}, 'it was chosen again'"
    )
    subprocess.run([sys.executable, "-c", command], check=True)


def test_few_claims_are_kept() -> None:
    for _ in range(2 * listen.CLAIMS):
        spare_port()
    assert len(listen._claims) == listen.CLAIMS


def test_with_none_left_it_is_any(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_spare("127.0.0.1") as held:
        monkeypatch.setattr(listen, "_spare", itertools.cycle([held.getsockname()[1]]))
        monkeypatch.setattr(listen, "SPARE", range(1))
        assert spare_port() not in SPARE


def test_an_address_of_another_machine_is_refused_with_what_was_asked_for() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1 port 0:"):
        open_spare("192.0.2.1")


def test_a_spare_port_can_be_listened_on_at_once() -> None:
    with socket.create_server(("127.0.0.1", spare_port())) as server:
        assert server.getsockname()[1] in SPARE


@pytest.mark.parametrize("host", ["999.1.1.1", "1.2.3.4.5", "fe80::1%no-such-zone", "nobody.invalid", "a" * 64])
def test_what_is_no_address_here_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(ListenError) as caught:
        listen.open_socket(host, 0)
    assert "cannot listen on" in str(caught.value.strerror)
    assert not re.search("Unknown error|Success|None", str(caught.value.strerror))


def _come_at_once(port: int) -> None:
    """Many clients, while the event loop has no turn."""
    with contextlib.ExitStack() as clients:
        for _ in range(300):
            clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=2))


async def test_clients_of_the_proxy_that_come_at_once_are_not_turned_away(origin: Origin) -> None:
    async with running_proxy(origin.url) as proxy:
        _come_at_once(proxy.port)


async def test_clients_of_the_monitor_that_come_at_once_are_not_turned_away() -> None:
    async with running_monitor(None) as client:
        _come_at_once(client.port)
        # who comes behind them is answered when all of them have been accepted
        assert (await client.get("/healthz")).status == 200
