"""The public HTTP cache test suite (http-cache-tests, from the npm registry) run against a proxy's process.

    python -m tests.conformance.suite            run it and print the totals beside the published peers
    python -m tests.conformance.suite --update   and write what passed into the baseline

`baseline.json` holds the tests that pass, and for each of the others one line why not. A test that is in neither, or
that is lost, fails the build.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.proxies import proxy_process
from tests.node_packages import Unavailable, install

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
BASELINE = HERE / "baseline.json"
KINDS = ("required", "optimal", "check")
RUN_SECONDS = 120.0
NODE = 18
"""The least version of Node.js that is used."""


@dataclass(frozen=True)
class Result:
    """kind -- required, optimal or check. says -- what the suite says of a test that did not pass."""

    kind: str
    passed: bool
    says: str


@dataclass(frozen=True)
class Baseline:
    """passed -- tests that pass. not_passed -- the others, each with the reason."""

    passed: frozenset[str]
    not_passed: dict[str, str]

    @classmethod
    def read(cls) -> Baseline:
        """The committed one."""
        document = json.loads(BASELINE.read_text(encoding="utf-8"))
        return cls(frozenset(document["passed"]), document["not_passed"])


@contextlib.asynccontextmanager
async def _origin() -> AsyncIterator[str]:
    """The suite's own origin on a free port; gives its URL."""
    home = MODULES / "http-cache-tests"
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | {
            "npm_config_protocol": "http",
            "npm_config_port": "0",
            "npm_config_pidfile": os.path.join(folder, "pid"),
        }
        process = await asyncio.create_subprocess_exec(
            "node", "server/server.mjs", cwd=home, env=environ, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(30):
                line = (await process.stdout.readline()).decode()
            port = line.rstrip().rstrip("/").rpartition(":")[2]
            yield f"http://localhost:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _node(script: str, *arguments: str) -> dict[str, dict[str, object]]:
    process = await asyncio.create_subprocess_exec(
        "node", "--no-warnings", script, *arguments, cwd=HERE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    document: dict[str, dict[str, object]] = json.loads(output.splitlines()[-1])
    return document


async def run(tests: Sequence[str] = (), **settings: str) -> dict[str, Result]:
    """The results by the tests' identifiers. tests -- run these only. settings -- of the proxy."""
    async with _origin() as upstream, proxy_process(upstream, **settings) as proxy:
        told = await _node("run.mjs", proxy.url, *tests)
    return {name: Result(str(one["kind"]), bool(one["passed"]), str(one["says"])) for name, one in sorted(told.items())}


def totals(results: dict[str, Result]) -> dict[str, tuple[int, int]]:
    """Passed and all, by kind."""
    return {
        kind: (
            sum(one.passed for one in results.values() if one.kind == kind),
            sum(one.kind == kind for one in results.values()),
        )
        for kind in KINDS
    }


async def _table(results: dict[str, Result]) -> str:
    counted = totals(results)
    header = " | ".join(f"{kind} ({counted[kind][1]})" for kind in KINDS)
    rows = [f"| cache | {header} |", "| --- | --- | --- | --- |"]
    rows.append(f"| **Siding** | {' | '.join(f'**{counted[kind][0]}**' for kind in KINDS)} |")
    peers = await _node("peers.mjs")
    for name, of in sorted(peers.items(), key=lambda pair: -int(str(pair[1]["required"]))):
        rows.append(f"| {name} | {' | '.join(str(of[kind]) for kind in KINDS)} |")
    return "\n".join(rows)


def _update(results: dict[str, Result]) -> None:
    before = Baseline.read() if BASELINE.exists() else Baseline(frozenset(), {})
    document = {
        "passed": [name for name, one in results.items() if one.passed],
        "not_passed": {name: before.not_passed.get(name, "") for name, one in results.items() if not one.passed},
    }
    BASELINE.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


async def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.suite", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write what passed into the baseline")
    given = parser.parse_args()
    try:
        install(HERE, NODE)
    except Unavailable as reason:
        print(f"conformance: {reason}", file=sys.stderr)
        return 1
    results = await run()
    if given.update:
        _update(results)
    baseline = Baseline.read()
    for name, one in results.items():
        if not one.passed:
            print(f"{one.kind:8} {name}: {one.says}\n         {baseline.not_passed.get(name) or 'NO REASON GIVEN'}")
    print(await _table(results))
    lost = [name for name, one in results.items() if name in baseline.passed and not one.passed]
    if lost:
        print(f"lost: {', '.join(lost)}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
