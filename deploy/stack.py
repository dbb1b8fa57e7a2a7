"""Parts and how they live: `Part` is one process of a whole, `Stack` starts and stops any list of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from config.teller import Teller

Ready = Callable[[], Awaitable[bool]]
"""Whether something serves by now; asked until it does."""

FAILED = 1
POLL_SECONDS = 0.05
PROBE_SECONDS = 2.0
STOP_GRACE_SECONDS = 10.0
MOST_UNTOLD = 1_000
"""Texts that wait for whoever reads them; further ones are dropped."""
GUARD = ("/bin/sh", "-c", 'while read -r pid; do parts="$pid $parts"; done; kill -s TERM $parts')
"""Reads the process IDs of parts, and asks them to stop once its input ends: then whoever writes it is gone."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def voice() -> Iterator[Callable[[str], None]]:
    """Lines on standard output, by a thread: whoever stops reading holds nothing up, and misses what does not fit."""
    teller = Teller(sys.stdout, MOST_UNTOLD)
    try:
        yield teller.tell
    finally:
        teller.close()


@dataclass(frozen=True, slots=True)
class Part:
    """One process.

    name -- as it is called in a sentence. environ -- its whole environment. ready -- whether it serves by now;
    asked until it does. ready_seconds, stop_seconds -- how long starting and stopping (after SIGTERM) may take.
    tidies -- it has something to remove when it stops, so that it is asked to before it is killed.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    ready: Ready
    ready_seconds: float = 30.0
    stop_seconds: float = STOP_GRACE_SECONDS
    tidies: bool = False


async def text_of(url: str) -> str | None:
    """What a GET gives; None where that is no 200."""
    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as client, client.get(url) as answer:
            return await answer.text() if answer.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None


def answers(url: str) -> Ready:
    """A ready check: GET `url` gives 200."""

    async def ready() -> bool:
        return await text_of(url) is not None

    return ready


def listens(address: str) -> Ready:
    """A ready check: HOST:PORT accepts connections, as Redis does once it serves."""
    host, _, port = address.rpartition(":")

    async def ready() -> bool:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), PROBE_SECONDS)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    return ready


@dataclass(slots=True)
class _Running:
    part: Part
    process: asyncio.subprocess.Process
    ended: asyncio.Task[None]
    hurried: bool = False

    def ask(self) -> None:
        """To stop."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    def hurry(self) -> None:
        """End it at once, but for what it has to remove; the second time without."""
        if self.part.tidies and not self.hurried:
            self.hurried = True
            self.ask()
        else:
            self.kill()

    def kill(self) -> None:
        """End it and every process it started: it leads a group of its own."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def _guard() -> AsyncIterator[Callable[[int], None]]:
    """A process that asks others to stop if this one ends without having done so, killed for instance.

    What is given is to be called with their process IDs.
    """
    process = await asyncio.create_subprocess_exec(
        *GUARD,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    pipe = process.stdin
    assert pipe is not None
    try:
        yield lambda pid: pipe.write(f"{pid}\n".encode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass(slots=True)
class Stack:
    """Starts parts one after another, watches over them, and stops them in the reverse order.

    attended -- somebody watches: parts write to this process's output, progress is told, signals stop the whole.
    """

    parts: Sequence[Part]
    attended: bool = True
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """All are ready."""
    _running: list[_Running] = field(default_factory=list)
    _verdict: asyncio.Future[int] = field(init=False)
    _say: Callable[[str], None] = field(init=False, default=lambda text: None)

    async def run(self, welcome: str) -> int:
        """Say `welcome` once all are ready; return the exit status once all have stopped.

        0 after SIGINT, SIGTERM or SIGHUP; otherwise the status of the part that ended first.
        """
        with contextlib.ExitStack() as until_all_have:
            if self.attended:
                self._say = until_all_have.enter_context(voice())
            return await self._run(welcome)

    async def _run(self, welcome: str) -> int:
        loop = asyncio.get_running_loop()
        self._verdict = loop.create_future()
        for number in STOPPING if self.attended else ():
            # nohup has a hang-up ignored
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._asked_to_stop)
        async with _guard() as guarded:
            try:
                for part in self.parts:
                    await self._bring_up(part, guarded)
                    if self._verdict.done():
                        break
                else:
                    self.up.set()
                    self._say(welcome)
                return await self._verdict
            finally:
                await self._stop()

    def stop(self) -> None:
        """As asked: `run` returns 0 once all have stopped."""
        if not self._verdict.done():
            self._verdict.set_result(0)

    def _conclude(self, status: int, why: str) -> None:
        """The first reason to stop is the one that counts."""
        if not self._verdict.done():
            self._say(why)
            self._verdict.set_result(status)

    def _asked_to_stop(self) -> None:
        if self._verdict.done():
            for running in self._running:
                running.hurry()
        self._conclude(0, "\nsiding: stopping, requests on their way may finish; Ctrl-C again stops at once")

    async def _bring_up(self, part: Part, guarded: Callable[[int], None]) -> None:
        """Start `part` and wait until it is ready, or there is a reason to stop. guarded -- is told its process ID."""
        began = time.monotonic()
        try:
            # in a session of its own, Ctrl-C does not reach it: the stack decides who stops when
            process = await asyncio.create_subprocess_exec(
                *part.command,
                env=part.environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=None if self.attended else asyncio.subprocess.DEVNULL,
                stderr=None if self.attended else asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as fault:
            self._conclude(FAILED, f"siding: {part.name} cannot be started: {part.command[0]}: {fault.strerror}")
            return
        guarded(process.pid)
        self._running.append(_Running(part, process, asyncio.create_task(self._watch(part, process))))
        ready = asyncio.create_task(self._until_ready(part))
        first: set[asyncio.Future[Any]] = {ready, self._verdict}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not self._verdict.done():
            self._say(f"siding: {part.name} is ready ({time.monotonic() - began:.1f} s)")
        ready.cancel()

    async def _watch(self, part: Part, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        how = f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
        # as a shell reports it: 128 and the signal's number
        self._conclude(status if status >= 0 else 128 - status, f"siding: {part.name} {how}; stopping the rest")

    async def _until_ready(self, part: Part) -> None:
        try:
            async with asyncio.timeout(part.ready_seconds):
                while not await part.ready():  # noqa: ASYNC110 - another process has no event to wait for
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            why = f"siding: {part.name} was not ready within {part.ready_seconds:g} seconds; stopping"
            self._conclude(FAILED, why)

    async def _stop(self) -> None:
        """Last started, first stopped: what the proxy has under way may still need the origin."""
        for running in reversed(self._running):
            running.ask()
            try:
                async with asyncio.timeout(running.part.stop_seconds):
                    await asyncio.shield(running.ended)
            except TimeoutError:
                self._say(
                    f"siding: {running.part.name} did not stop in {running.part.stop_seconds:g} seconds and is killed"
                )
                running.kill()
                await running.ended
