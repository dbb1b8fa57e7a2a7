"""`make bench`: Siding against nginx and Varnish in front of the same origin, in turn, in one run.

One worker each, the proxies alone on a core. Ratios are of the same round; medians are shown, with their spread.
Progress goes to standard error. A fault of any request ends the run.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import orjson

from deploy.compile import CompileError, compile_into, is_current
from tests.bench import features
from tests.bench.load import CONNECTIONS
from tests.bench.peers import CONTENT, ROOT, Peer, Peers, running
from tests.bench.processes import Cores, cores_here
from tests.bench.rows import ROWS, Field
from tests.bench.stage import Stage
from tests.bench.table import Cost, Row, document, markdown
from tests.options import tree, whole
from tests.programs import Unavailable, program

COMPILED = ROOT / "build" / "compiled"
FEATURES = "features"
NAMES = (*ROWS, FEATURES)


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(NAMES)}")
    return names


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=whole, default=5)
    parser.add_argument("--seconds", type=whole, default=2, help="of each measurement")
    parser.add_argument("--only", type=_names, default=list(NAMES), help=f"of {','.join(NAMES)}")
    parser.add_argument(
        "--features", dest="only", action="store_const", const=[FEATURES], help="the second table alone"
    )
    parser.add_argument(
        "--code", type=tree, help="where Siding lies (. is as Python); otherwise it is compiled, as in the image"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--markdown", type=Path, help="write the tables here as well")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _version(name: str, option: str) -> str:
    """The first line of what a program says of itself; it may end with a status that is not 0."""
    found = program(name)
    done = subprocess.run(
        [found.path, option], env=dict(found.environ), capture_output=True, text=True, check=False, timeout=10
    )
    return (done.stderr + done.stdout).strip().splitlines()[0]


def _model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def machine(cores: Cores, options: argparse.Namespace, varnish: Peer | None) -> dict[str, str]:
    """Where and how it was measured."""
    asked = "" if options.only == list(NAMES) else f" --only {','.join(options.only)}"
    asked += "" if options.code == COMPILED else f" --code {os.path.relpath(options.code, ROOT)}"
    programs = [_version("nginx", "-v"), _version("wrk", "-v").partition(" Copyright")[0]]
    if varnish is not None:
        programs.append(_version("varnishd", "-V"))
    return {
        "command": f'make bench BENCH_ARGS="--rounds {options.rounds} --seconds {options.seconds}{asked}"',
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_model()}, {os.cpu_count()} cores; load when it began {os.getloadavg()[0]:.1f}",
        "cores": cores.said(),
        "programs": f"Python {platform.python_version()}, uvloop {version('uvloop')}, {'; '.join(programs)}",
        "load": f"{CONNECTIONS} connections, {len(CONTENT)} bytes of JSON, twelve request fields, another id each time",
        "alike": "connections kept alive, an access log written (nginx's buffered); Siding has its defaults",
    }


def _compiled() -> Path:
    """Where a compiled copy of this tree lies; the tree itself where none can be made."""
    if not is_current(COMPILED):
        _say(f"compiling into {os.path.relpath(COMPILED)}, which takes about a minute")
        try:
            COMPILED.mkdir(parents=True, exist_ok=True)
            compile_into(COMPILED)
        except CompileError as fault:
            _say(f"it could not be compiled, and is measured as Python:\n{fault}")
            return ROOT
    return COMPILED


def _peers(peers: Peers, folder: Path, cores: Cores, options: argparse.Namespace) -> Field:
    origin = peers.origin(cores.origin)
    stage = Stage(folder, cores, peers, origin, options.rounds, options.seconds, _say)
    try:
        varnish = peers.varnish(origin) if {"hit", "304", "gzip"} & set(options.only) else None
    except Unavailable as why:
        _say(f"without Varnish: {why}")
        varnish = None
    return Field(stage, peers.siding(origin), peers.nginx(origin), varnish)


def _run(options: argparse.Namespace) -> None:
    cores, rows, costs = cores_here(), list[Row](), list[Cost]()
    told: dict[str, str] = {}
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="siding-bench-") as name,
        running(Path(name), cores.proxy, options.code) as peers,
    ):
        # Varnish reads its configuration as a user of its own
        Path(name).chmod(0o755)
        try:
            field = _peers(peers, Path(name), cores, options)
            told = machine(cores, options, field.varnish)
            for only in options.only:
                if only == FEATURES:
                    costs += features.costs(field.stage, field.siding)
                else:
                    rows += ROWS[only](field)
        except BaseException:
            if rows or costs:
                _say("ended before it was done; what is known so far:")
                print(markdown(told, rows, costs))
            raise
    told["took"] = f"{(time.monotonic() - began) / 60:.1f} minutes"
    text = markdown(told, rows, costs)
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        options.json.write_bytes(orjson.dumps(document(told, rows, costs), option=orjson.OPT_INDENT_2))


def main() -> None:
    """Run the benchmark and print its tables."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        options.code = options.code or _compiled()
        _run(options)
    except Unavailable as why:
        raise SystemExit(f"make bench: {why}") from why
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
