"""A stack of real processes comes up in order, goes down in reverse, and tells which part failed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
import pytest

from config.listen import spare_port
from deploy.stack import voice
from tests.deploy.processes import PATIENCE, ROOT, Child, environment, is_alive, listens, python, reserved_ports
from tests.support import holds

STACK = ("-m", "tests.deploy.stack_of")


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Two ports that nobody uses, and nobody is given while a test uses them."""
    with reserved_ports(2) as (first, second):
        yield first, second


def pids(child: Child) -> list[int]:
    return [int(line.rpartition(" ")[2]) for line in child.lines if " has pid " in line]


def said(child: Child, *among: str) -> list[str]:
    """The lines that are exactly one of `among`, in the order they were said."""
    return [line for line in child.lines if line in among]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("hung_up")
async def test_a_signal_stops_the_parts_in_reverse_order(ports: tuple[int, int], number: signal.Signals) -> None:
    async with python(*STACK, f"one {ports[0]} --listen {ports[0]}", f"two {ports[1]} --listen {ports[1]}") as child:
        await child.line("all are ready")
        child.send(number)
        assert await child.end() == 0
    steps = ["two was asked to stop", "two has stopped", "one was asked to stop", "one has stopped"]
    assert said(child, *steps) == steps
    assert not any(map(is_alive, pids(child)))


async def test_ctrl_c_reaches_the_parts_only_through_the_stack(ports: tuple[int, int]) -> None:
    async with python(*STACK, f"one {ports[0]} --listen {ports[0]}") as child:
        await child.line("all are ready")
        child.press_ctrl_c()
        assert await child.end() == 0
    assert "one has stopped" in child.lines
    assert "one got a Ctrl-C" not in child.lines
    assert "Traceback" not in child.output


async def test_a_second_ctrl_c_ends_what_does_not_stop(ports: tuple[int, int]) -> None:
    environ = environment(STOP_SECONDS="3600")
    async with python(*STACK, f"one {ports[0]} --listen {ports[0]} --deaf", environ=environ) as child:
        await child.line("all are ready")
        child.press_ctrl_c()
        await child.line("one was asked to stop")
        child.press_ctrl_c()
        assert await child.end() == 0
    assert not any(map(is_alive, pids(child)))


async def test_the_parts_of_a_stack_that_is_killed_stop(ports: tuple[int, int]) -> None:
    async with python(*STACK, f"one {ports[0]} --listen {ports[0]}", f"two {ports[1]} --listen {ports[1]}") as child:
        await child.line("all are ready")
        child.send(signal.SIGKILL)
        assert await child.end() == -signal.SIGKILL
    assert {"one has stopped", "two has stopped"} <= set(child.lines)


async def test_a_part_that_does_not_stop_in_time_is_killed(ports: tuple[int, int]) -> None:
    parts = (f"one {ports[0]} --listen {ports[0]}", f"two {ports[1]} --listen {ports[1]} --deaf")
    async with python(*STACK, *parts, environ=environment(STOP_SECONDS="0.5")) as child:
        await child.line("all are ready")
        child.send(signal.SIGTERM)
        assert await child.end() == 0
    assert "siding: two did not stop in 0.5 seconds and is killed" in child.lines
    assert "one has stopped" in child.lines
    assert not any(map(is_alive, pids(child)))


@dataclass
class Unread:
    read: int
    write: int

    def fill(self) -> None:
        # a description of its own, or the process would not wait for room either
        full = os.open(f"/proc/self/fd/{self.write}", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(full, b"x")
        os.close(full)

    async def status_of(self, process: asyncio.subprocess.Process) -> int:
        """Of a process that is asked to stop."""
        process.terminate()
        try:
            async with asyncio.timeout(PATIENCE):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
def unread() -> Iterator[Unread]:
    """As the output of a process: a pipe that is full, and that nobody reads any more, as of a pager."""
    read, write = os.pipe()
    yield Unread(read, write)
    os.close(read)
    os.close(write)


async def test_a_stack_that_nobody_reads_stops_as_well(ports: tuple[int, int], unread: Unread) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *STACK, f"one {ports[0]} --listen {ports[0]}"),
        cwd=ROOT,
        env=environment(STOP_SECONDS="0.5"),
        stdout=unread.write,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        told = b""
        while b"all are ready" not in told:
            told += await asyncio.to_thread(os.read, unread.read, 4096)
    unread.fill()
    assert await unread.status_of(process) == 0
    assert process.stderr is not None
    assert await process.stderr.read() == b""


def test_what_a_full_pipe_does_not_take_at_once_is_told_later(unread: Unread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else has the pipe may have made it one that does not block."""
    os.set_blocking(unread.write, False)
    unread.fill()
    told = []
    monkeypatch.setattr(time, "sleep", lambda seconds: told.append(os.read(unread.read, 1 << 20)))
    with os.fdopen(unread.write, "w", closefd=False) as out:
        monkeypatch.setattr(sys, "stdout", out)
        with voice() as say:
            say("all are ready")
    assert told, "it did not wait for room"
    assert os.read(unread.read, 1 << 20) == b"all are ready\n"


async def serves(part: str, port: int) -> bool:
    """Whether it does, and so stops when it is asked to: those that speak HTTP listen a little earlier."""
    if part == "postgres" or not listens(f"127.0.0.1:{port}"):
        return listens(f"127.0.0.1:{port}")
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
        return answer.status > 0


@pytest.mark.parametrize("part", ["example_origin", "grading_simulator", "postgres"])
async def test_a_part_that_nobody_reads_stops_as_well(part: str, unread: Unread) -> None:
    port = spare_port()
    unread.fill()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"deploy.{part}", "--port", str(port)),
        cwd=ROOT,
        env=environment(),
        stdout=unread.write,
        stderr=asyncio.subprocess.PIPE,
    )
    await holds(lambda: serves(part, port), PATIENCE)
    assert await unread.status_of(process) == 0
    assert process.stderr is not None
    assert await process.stderr.read() == b""


@pytest.mark.parametrize("victim", [0, 1])
async def test_when_one_part_dies_the_rest_is_stopped(ports: tuple[int, int], victim: int) -> None:
    async with python(*STACK, f"one {ports[0]} --listen {ports[0]}", f"two {ports[1]} --listen {ports[1]}") as child:
        await child.line("all are ready")
        os.kill(pids(child)[victim], signal.SIGKILL)
        assert await child.end() == 128 + signal.SIGKILL
    name, other = ("one", "two") if victim == 0 else ("two", "one")
    assert f"siding: {name} was ended by SIGKILL; stopping the rest" in child.lines
    assert f"{other} has stopped" in child.lines


async def test_a_part_that_ends_at_the_start_gives_its_status_and_the_next_is_not_started(
    ports: tuple[int, int],
) -> None:
    parts = (f"one {ports[0]} --listen {ports[0]}", f"two {ports[1]} --exit 7", f"three {ports[1]}")
    async with python(*STACK, *parts) as child:
        assert await child.end() == 7
    assert "siding: two ended with status 7; stopping the rest" in child.lines
    assert "one has stopped" in child.lines
    assert "three" not in child.output
    assert "all are ready" not in child.lines


async def test_a_part_that_is_never_ready_is_given_up(ports: tuple[int, int]) -> None:
    async with python(*STACK, f"one {ports[0]}", environ=environment(READY_SECONDS="0.5")) as child:
        assert await child.end() == 1
    assert "siding: one was not ready within 0.5 seconds; stopping" in child.lines
    assert "all are ready" not in child.lines
    assert not any(map(is_alive, pids(child)))


async def test_a_command_that_is_not_there_is_said_plainly(ports: tuple[int, int]) -> None:
    async with python(*STACK, f"one {ports[0]} --listen {ports[0]}", f"! {ports[1]}") as child:
        assert await child.end() == 1
    assert "siding: ! cannot be started: /there/is/no/such/command: No such file or directory" in child.lines
    assert "one has stopped" in child.lines
    assert "Traceback" not in child.output


async def test_a_signal_while_a_part_is_starting_stops_as_well(ports: tuple[int, int]) -> None:
    async with python(*STACK, f"one {ports[0]}", environ=environment(READY_SECONDS="3600")) as child:
        await child.line("one has pid")
        child.send(signal.SIGTERM)
        assert await child.end() == 0
    assert "all are ready" not in child.lines
    assert not any(map(is_alive, pids(child)))
