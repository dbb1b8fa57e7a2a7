"""The command line of `siding check`."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from config.words import masked
from deploy.check import criteria, measure, report, requests
from deploy.check.criteria import Result, Verdict

MET, FELL_SHORT, FAILED = 0, 1, 2

ADDRESSES = {
    "direct": "the origin itself, to compare with",
    "monitor": "the pool monitor, for the pool and the tokens",
}
ADMIN = "the proxy's admin listener, for the hit rate; once for each URL, in their order"
GRADE = f"grade {measure.GRADINGS} small homeworks through the monitor; the upstream asks money for it"
SECONDS = {
    "wait": (10.0, "longest wait for a stored answer to expire"),
    "seconds": (5.0, "of load on each way"),
    "timeout": (130.0, "longest wait for one answer"),
}


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{masked(text)!r} is no URL like https://service.example.com")
    return text


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError("allowed are more than 0 and at most 3600")
    return number


def _clients(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError("allowed are 1 to 256")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="siding check",
        allow_abbrev=False,
        description="Measure the plan's success criteria against a live deployment, and say how each stands. "
        "Nothing is sent but GET and HEAD, unless the file of requests says which others are safe.",
        epilog="Exit status: 0 nothing falls short, 1 something does, 2 it could not be measured.",
    )
    made.add_argument("urls", metavar="URL", nargs="+", type=_url, help="the proxy's public address; one a replica")
    for option, meaning in ADDRESSES.items():
        made.add_argument(f"--{option}", metavar="URL", type=_url, help=meaning)
    made.add_argument("--admin", metavar="URL", type=_url, action="append", default=[], help=ADMIN)
    made.add_argument("--requests", metavar="FILE", help="what to send (TOML); `example` is the example origin's")
    made.add_argument("--get", metavar="PATH", action="append", default=[], help="a path to GET, repeatable (/)")
    made.add_argument("--grade", action="store_true", help=GRADE)
    for option, (usual, meaning) in SECONDS.items():
        made.add_argument(f"--{option}", metavar="S", type=_positive, default=usual, help=f"{meaning} (%(default)g s)")
    made.add_argument("--clients", metavar="N", type=_clients, default=8, help="at once under load (%(default)s)")
    shape = made.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="for programs")
    shape.add_argument("--markdown", action="store_true", help="for an issue or a runbook")
    return made


def _tell(text: str) -> None:
    print(f"measuring: {text}", file=sys.stderr, flush=True)


def results_of(made: measure.Measured, wait: float) -> list[Result]:
    """What one URL is judged by."""
    return [
        *criteria.repeats(made.pairs),
        *([criteria.everybody(made.statuses, made.statuses_of)] if made.statuses else []),
        criteria.isolated(made.isolations),
        criteria.renewed(made.renewal, wait, made.shortest),
        criteria.hit_rate(*made.counts),
        criteria.collapsed(made.crowds),
        criteria.coded(made.coded),
        criteria.validated(made.validated, measure.POLLS),
        *criteria.loads(made.through, made.direct),
    ]


async def check(options: argparse.Namespace, asked: requests.Requests) -> list[Result]:
    """Measure everything. Raises measure.Unreachable."""
    plan = measure.Plan(asked, options.wait, options.seconds, options.clients)
    results: list[Result] = []
    async with measure.ways([options.direct, options.monitor], options.timeout) as (direct, monitor):
        async with measure.pool_watched(monitor) as samples:
            for url, admin in itertools.zip_longest(options.urls, options.admin):
                async with measure.ways([url, admin], options.timeout) as (through, own):
                    assert through is not None
                    if len(options.urls) > 1:
                        _tell(f"-- {url}")
                    made = await measure.deployment(plan, through, direct, own, _tell)
                found = results_of(made, options.wait)
                several = len(options.urls) > 1
                results += [replace(one, name=f"{one.name} ({url})") for one in found] if several else found
        results += criteria.pool(measure.most(samples))
        graded = measure.Graded()
        if monitor is not None:
            if options.grade:
                _tell(f"{measure.GRADINGS} gradings")
                graded = await measure.grade(monitor)
            else:
                graded = await measure.graded(monitor)
        results.append(
            criteria.tokens(
                graded.before, graded.after, graded.requests, monitored=monitor is not None, own=options.grade
            )
        )
    return results


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit status: 0 nothing falls short, 1 something does, 2 it could not be measured."""
    options = parser().parse_args(list(argv))
    try:
        if len(options.admin) > len(options.urls):
            raise requests.BadRequests("--admin is given more often than there are URLs")
        if options.requests is not None:
            file = requests.EXAMPLE if options.requests == "example" else Path(options.requests)
            asked = requests.read(file, environ)
        else:
            asked = requests.of_paths(options.get or ["/"])
        results = asyncio.run(check(options, asked))
    except (requests.BadRequests, measure.Unreachable) as fault:
        print(f"siding check: {fault}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("siding check: stopped", file=sys.stderr)
        return FAILED
    show = report.as_json if options.json else report.markdown if options.markdown else report.table
    print(show(results))
    verdicts = {one.verdict for one in results}
    if verdicts == {Verdict.UNMEASURED}:
        return FAILED
    return FELL_SHORT if Verdict.MISSED in verdicts else MET
