"""The command line of `siding check`."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from config.flags import Flags
from config.output import say
from deploy.asking import FLAGS, Unreachable, Way, stand_in, ways, word
from deploy.check import criteria, measure, report, requests
from deploy.check.criteria import Result, Verdict
from deploy.check.monitor import GRADINGS, POOL, Graded, grade, pool_watched
from deploy.check.monitor import graded as graded_so_far
from deploy.options import address, positive

MET, FELL_SHORT, FAILED = 0, 1, 2

ADDRESSES = {
    "direct": "the origin itself, to compare with",
    "monitor": "the pool monitor, for the pool and the tokens",
}
ADMIN = "the proxy's admin listener, for the hit rate; once for each URL, in their order"
GRADE = f"grade {GRADINGS} small homeworks through the monitor; the upstream asks money for it"
SECONDS = {
    "wait": (10.0, "longest wait for a stored answer to expire"),
    "seconds": (5.0, "of load on each way"),
    "timeout": (130.0, "longest wait for one answer"),
}


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
    made.add_argument("urls", metavar="URL", nargs="+", type=address, help="the proxy's public address; one a replica")
    for option, meaning in ADDRESSES.items():
        made.add_argument(f"--{option}", metavar="URL", type=address, help=meaning)
    made.add_argument("--admin", metavar="URL", type=address, action="append", default=[], help=ADMIN)
    asked = made.add_mutually_exclusive_group()
    asked.add_argument("--requests", metavar="FILE", help="what to send (TOML); `example` is the example origin's")
    asked.add_argument("--get", metavar="PATH", action="append", default=[], help="a path to GET, repeatable (/)")
    made.add_argument("--grade", action="store_true", help=GRADE)
    for option, (usual, meaning) in SECONDS.items():
        made.add_argument(f"--{option}", metavar="S", type=positive, default=usual, help=f"{meaning} (%(default)g s)")
    made.add_argument("--clients", metavar="N", type=_clients, default=8, help="at once under load (%(default)s)")
    made.add_argument("--strict", action="store_true", help="what is not measured falls short, too")
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
        criteria.hit_rate(made.before, made.after),
        criteria.collapsed(made.crowds),
        criteria.coded(made.coded),
        criteria.validated(made.validated, measure.POLLS),
        *criteria.loads(made.through, made.direct),
    ]


async def check(options: argparse.Namespace, asked: requests.Requests) -> list[Result]:
    """Measure everything. Raises Unreachable."""
    plan = measure.Plan(asked, options.wait, options.seconds, options.clients)
    results: list[Result] = []
    async with ways([options.direct, options.monitor, *options.admin], options.timeout) as (direct, monitor, *admins):
        for way, path in [(monitor, POOL), *((one, measure.LOOKUPS) for one in admins)]:
            if way is not None:
                await way.answers(path)
        for listener in (*admins, monitor):
            if listener is not None and (words := flags_in_words(await listener.document(FLAGS))):
                print(f"note: {listener.url}: {words}", file=sys.stderr, flush=True)
        for url, admin in itertools.zip_longest(options.urls, admins):
            async with ways([url], options.timeout) as (through,):
                assert through is not None
                if len(options.urls) > 1:
                    _tell(f"-- {url}")
                made = await measure.deployment(plan, through, direct, admin, _tell)
            found = results_of(made, options.wait)
            several = len(options.urls) > 1
            results += [replace(one, name=f"{one.name} ({url})") for one in found] if several else found
        results += await _pool(plan, monitor)
        results.append(await _tokens(monitor, own=options.grade))
    return results


def flags_in_words(document: Any) -> str:
    """Of `GET /api/flags`: what a figure may be owed to that nobody would think of."""
    stand, usual = stand_in(document), Flags().as_dict()
    switched = [f"{name} is {word(on)}" for name, on in stand.flags.items() if on is not usual.get(name, on)]
    return "; ".join([*switched, *stand.words])


async def _pool(plan: measure.Plan, monitor: Way | None) -> list[Result]:
    """The pool while named queries are asked; without any, while whatever goes on goes on."""
    if monitor is None:
        return list(criteria.pool(None, monitored=False))
    _tell(f"the pool, {plan.seconds:g} s")
    async with pool_watched(monitor) as most:
        fault = await plan.query(monitor)
    return list(criteria.pool(most(), monitored=True, fault=fault))


async def _tokens(monitor: Way | None, *, own: bool) -> Result:
    graded = Graded()
    if monitor is not None and own:
        _tell(f"{GRADINGS} gradings")
        graded = await grade(monitor)
    elif monitor is not None:
        graded = await graded_so_far(monitor)
    return criteria.tokens(graded.before, graded.after, graded.requests, monitored=monitor is not None, own=own)


def _asked(options: argparse.Namespace, environ: Mapping[str, str]) -> requests.Requests:
    """Raises BadRequests."""
    if len(options.admin) > len(options.urls):
        raise requests.BadRequests("--admin is given more often than there are URLs")
    if options.grade and options.monitor is None:
        raise requests.BadRequests("--grade needs --monitor, through which it grades")
    if options.requests is None:
        return requests.of_paths(options.get or ["/"])
    file = requests.EXAMPLE if options.requests == "example" else Path(options.requests)
    return requests.read(file, environ)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit status: 0 nothing falls short, 1 something does, 2 it could not be measured."""
    options = parser().parse_args(list(argv))
    try:
        results = asyncio.run(check(options, _asked(options, environ)))
    except (requests.BadRequests, Unreachable) as fault:
        print(f"siding check: {fault}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("siding check: stopped", file=sys.stderr)
        return FAILED
    show = report.as_json if options.json else report.markdown if options.markdown else report.table
    told = say(show(results))
    return status_of({one.verdict for one in results}, strict=options.strict) if told else FAILED


def status_of(verdicts: Set[Verdict], *, strict: bool) -> int:
    """The exit status. strict -- what is not measured falls short, too."""
    if verdicts == {Verdict.UNMEASURED}:
        return FAILED
    short = {Verdict.MISSED, Verdict.UNMEASURED} if strict else {Verdict.MISSED}
    return FELL_SHORT if verdicts & short else MET
