"""`make bench BENCH=grading`: tokens before and after, what the wrapper adds, and what it makes faster.

Tokens are counted with the vendor's vocabulary. Times are of processes on this machine, with the simulator in place of
the upstream, in alternating rounds; the simulator's answers come at once unless a latency is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import toktok

from config.listen import address_of, open_socket
from deploy.grading_sheets import NAMED, Sheet, drawn, in_full, in_rows, printed
from pool_monitor.grading import sse
from pool_monitor.grading.answers import compact
from pool_monitor.grading.template_files import load_templates
from pool_monitor.pool_stats import percentile
from tests.bench.part import run

[TEMPLATE] = load_templates()
ROUNDS, REQUESTS = 7, 200
SAMPLES: dict[str, Sheet] = {
    "ten questions": NAMED["ten-questions"],
    "sub-parts": NAMED["sub-parts"],
    "LaTeX": NAMED["latex"],
    "Arabic and Japanese": NAMED["unicode"],
    "nothing on the page": NAMED["empty-sheet"],
    "200 questions": NAMED["two-hundred"],
}


def tokens(text: str) -> int:
    [count] = toktok.batch_count([text], encoding="o200k_base")
    return int(count)


def token_table() -> None:
    before, after = tokens(TEMPLATE.original), tokens(TEMPLATE.compact)
    print(f"prompt template: {before} tokens -> {after} ({100 * (1 - after / before):.1f} % fewer)\n")
    print(f"{'answer':22} {'pretty':>7} {'minified':>9} {'rows':>6} {'of minified':>12} {'of pretty':>10}")
    for name, sheet in SAMPLES.items():
        full = in_full(sheet)
        assert compact(TEMPLATE.shape, full) == in_rows(sheet)
        counts = [tokens(printed(full, compact=small)) for small in (False, True)]
        rows = tokens(printed(in_rows(sheet), compact=True))
        shares = [f"{100 * (1 - rows / count):.1f} % less" for count in reversed(counts)]
        print(f"{name:22} {counts[0]:7} {counts[1]:9} {rows:6} {shares[0]:>12} {shares[1]:>10}")
    full_counts = [(tokens(printed(in_full(one), compact=True)), in_rows(one)) for one in map(drawn, range(200))]
    whole = sum(count for count, _ in full_counts)
    rows = sum(tokens(printed(one, compact=True)) for _, one in full_counts)
    print(f"{'200 drawn sheets':22} {'':7} {whole:9} {rows:6} {100 * (1 - rows / whole):.1f} % less\n")


# -- processes


@contextlib.asynccontextmanager
async def process(module: str, *options: str, **environ: str) -> AsyncIterator[str]:
    """A module that serves on a free port; gives HOST:PORT."""
    with open_socket("127.0.0.1", 0) as sock:
        address = address_of(sock)
    port = address.rpartition(":")[2]
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, "--port", port, "--host", "127.0.0.1", *options),
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://{address}/healthz"):
                        break
                await asyncio.sleep(0.05)
        yield address
    finally:
        running.terminate()
        await running.wait()


def body(prompt: str, number: int, **more: Any) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 40_000}", "detail": "high"}}
    parts = [{"type": "text", "text": f"sheet: ten-questions, asked {number}"}, image]
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": parts}]
    return {"model": "gpt-4o-mini", "messages": messages, **more}


FIELDS = {"Authorization": "Bearer sk-bench", "Accept-Encoding": "identity"}


async def ask(session: aiohttp.ClientSession, address: str, path: str, given: dict[str, Any]) -> float:
    began = time.perf_counter()
    async with session.post(f"http://{address}/v1{path}", json=given, headers=FIELDS) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    return time.perf_counter() - began


async def added_latency(direct: str, through: str) -> None:
    """One request after the other, direct and through the wrapper in turn."""
    kinds: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
        "passed on (embeddings)": ("/embeddings", lambda number: {"model": "m", "input": f"text {number}"}),
        "passed on (other prompt, 40 KB image)": ("/chat/completions", lambda number: body("Describe it.", number)),
        "expanded (against the original)": ("/chat/completions", lambda number: body(TEMPLATE.original, number)),
    }
    print(f"{'added latency, ms':40} {'direct p50':>10} {'p50':>7} {'p99':>7} {'added p50':>10}")
    async with aiohttp.ClientSession() as session:
        number = 0
        for name, (path, made) in kinds.items():
            one: list[float] = []
            other: list[float] = []
            for _ in range(ROUNDS):
                for address, times in ((direct, one), (through, other)):
                    for _ in range(REQUESTS):
                        number += 1
                        times.append(1000 * await ask(session, address, path, made(number)))
            added = statistics.median(other) - statistics.median(one)
            figures = statistics.median(one), statistics.median(other), percentile(sorted(other), 0.99), added
            print(f"{name:40} {figures[0]:10.2f} {figures[1]:7.2f} {figures[2]:7.2f} {figures[3]:10.2f}")
    print()


async def equal_requests(through: str, simulator: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.delete(f"http://{simulator}/simulate"):
            pass
        given = body(TEMPLATE.original, -1)
        await asyncio.gather(*(ask(session, through, "/chat/completions", given) for _ in range(100)))
        async with session.get(f"http://{simulator}/simulate") as answer:
            told = await answer.json()
    print(f"100 equal requests at once: {sum(told['forms'].values())} reached the upstream\n")


async def first_question(through: str, direct: str) -> None:
    """Seconds until the first question of a streamed answer is whole."""

    async def seconds(address: str) -> tuple[float, float]:
        began, first, text, decoder = time.perf_counter(), 0.0, "", sse.Decoder()
        given = body(TEMPLATE.original, -2, stream=True)
        url = f"http://{address}/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=given, headers=FIELDS) as answer:
            async for piece in answer.content.iter_any():
                chunks = [event.document or {} for event in decoder.feed(piece)]
                text += "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks if one.get("choices"))
                if not first and '"sub_parts": []' in text:
                    first = time.perf_counter() - began
        return first, time.perf_counter() - began

    for name, address in (("direct", direct), ("through the wrapper", through)):
        first, whole = await seconds(address)
        print(f"stream, {name:20} first question after {first:.2f} s, whole after {whole:.2f} s")
    print()


async def batches(through: str, count: int = 20) -> None:
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        for number in range(count):
            await ask(session, through, "/chat/completions", body(TEMPLATE.original, number))
        alone = time.perf_counter() - began
        items = [body(TEMPLATE.original, 1000 + number) for number in range(count)]
        together = await _timed(lambda: ask(session, through, "/batch/chat/completions", items))  # type: ignore[arg-type]
    print(f"{count} homeworks: one by one {alone:.2f} s, as a batch {together:.2f} s")
    print(f"({100 * (1 - together / alone):.0f} % less wall time)")


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def main() -> None:
    token_table()
    at_once = ("--latency-ms", "0", "--ms-per-token", "0")
    async with (
        process("deploy.grading_simulator", *at_once) as simulator,
        process("pool_monitor", GRADING_UPSTREAM_URL=f"http://{simulator}/v1") as monitor,
    ):
        await added_latency(simulator, monitor)
        await equal_requests(monitor, simulator)
    lively = ("--latency-ms", "300", "--ms-per-token", "2")
    async with (
        process("deploy.grading_simulator", *lively) as simulator,
        process("pool_monitor", GRADING_UPSTREAM_URL=f"http://{simulator}/v1") as monitor,
    ):
        await first_question(monitor, simulator)
        await batches(monitor)


if __name__ == "__main__":
    run("grading", __doc__, main)
