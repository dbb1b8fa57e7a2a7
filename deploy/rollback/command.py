"""The command line of `siding rollback`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from config.words import masked
from deploy.asking import Way
from deploy.rollback import around, switches
from deploy.rollback.act import Failed, flip, shown

DONE, FELL_SHORT, BAD = 0, 1, 2
ADMIN = "http://127.0.0.1:9090"
ANSWER_SECONDS = 30.0
OPTIONS: Mapping[str, Mapping[str, tuple[str | None, bool, str]]] = {
    "flags, effective at once": {
        "flag": ("NAME", True, "switch it off (BYPASS: on)"),
        "all": (None, False, "every optimisation off, and BYPASS on"),
        "set": ("NAME=on", True, "any flag on or off"),
        "admin": ("URL", True, f"admin listener of a proxy, or a pool monitor ({ADMIN})"),
        "here": (None, False, "only there, not in the replicas that share its Redis"),
        "url": ("URL", False, "the public address, to see that it shows"),
        "path": ("PATH", False, "what to GET there (/)"),
    },
    "around Siding, on Railway": {
        "around": (None, False, "print the steps"),
        "variable": ("SERVICE:NAME=VALUE", True, "a variable that names Siding, and its value without"),
        "domain": ("NAME", False, "a public domain that leads to Siding"),
        "to": ("SERVICE", False, "the service that it is to lead to"),
        "environment": ("NAME", False, "Railway's environment; else the linked one"),
        "yes": (None, False, f"take the steps of --variable, with {around.TOOL}'s command line tool"),
        "undo-file": ("FILE", False, "where to write what sets the variables back"),
    },
    "drill": {"drill": (None, False, "all of it on a stack of this machine's own, under load")},
}
"""By name: the word for its value or None for a switch, whether it may be repeated, and its meaning."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="siding rollback",
        allow_abbrev=False,
        description="Switch optimisations off, or route around Siding. Every step says how to undo it. "
        "What is marked (*) may be given several times.",
        epilog="The environment's ADMIN_TOKEN is sent where it is set. "
        "Exit status: 0 done and seen, 1 not (all of it), 2 an order that cannot be followed.",
    )
    for title, options in OPTIONS.items():
        group = made.add_argument_group(title)
        for name, (metavar, repeatable, meaning) in options.items():
            if metavar is None:
                group.add_argument(f"--{name}", action="store_true", help=meaning)
            elif repeatable:
                group.add_argument(f"--{name}", metavar=metavar, action="append", default=[], help=f"{meaning} (*)")
            else:
                group.add_argument(f"--{name}", metavar=metavar, help=meaning)
    return made


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit status: 0 done and seen, 1 not (all of it), 2 an order that cannot be followed."""
    options = parser().parse_args(list(argv))
    try:
        if options.drill:
            return _drill(environ)
        if options.around:
            return _around(options, environ)
        wanted = switches.order(options.flag, options.set, everything=options.all)
        return asyncio.run(_flags(options, wanted, environ.get("ADMIN_TOKEN") or None))
    except (switches.BadOrder, around.BadStep) as fault:
        print(f"siding rollback: {fault}", file=sys.stderr)
        return BAD
    except KeyboardInterrupt:
        print("siding rollback: stopped; what was done so far stays done", file=sys.stderr)
        return FELL_SHORT


# -- flags


async def _flags(options: argparse.Namespace, wanted: Mapping[str, bool], token: str | None) -> int:
    status = DONE
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as client:
        for admin in options.admin or [ADMIN]:
            began = time.monotonic()
            try:
                done = await flip(client, admin, wanted, token, here=options.here)
            except Failed as fault:
                print(f"siding rollback: {fault}", file=sys.stderr)
                status = FELL_SHORT
                continue
            where = "in all replicas" if done.everywhere else "here"
            print(f"{masked(admin)}: {where}, in {1000 * (time.monotonic() - began):.0f} ms")
            for name in wanted:
                if name in done.after:
                    print(f"  {name} {_word(done.before[name])} -> {_word(done.after[name])}")
            undo = switches.undoing(done.before, wanted)
            if undo:
                print(f"  undo: {shlex.join(switches.undo_words(undo, [masked(admin)], here=options.here))}")
            else:
                print("  nothing changed: they stood so before")
        if options.url:
            status = max(status, await _shown(client, options, wanted))
        elif status == DONE:
            print("give --url and --path to see it in an answer, too")
    return status


async def _shown(client: aiohttp.ClientSession, options: argparse.Namespace, wanted: Mapping[str, bool]) -> int:
    path = options.path or "/"
    try:
        seen = await shown(Way(options.url.rstrip("/"), client), path, wanted)
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        why = str(fault) or type(fault).__name__
        print(f"siding rollback: {masked(options.url)} does not answer: {why}", file=sys.stderr)
        return FELL_SHORT
    for name, good, words in seen:
        print(f"{masked(options.url)}{path}: {'as wanted' if good else 'NOT AS WANTED'}, {name}: {words}")
    if not seen:
        print(f"no answer shows whether these are off: {', '.join(wanted)}; the listeners say so")
    return DONE if all(good for _, good, _ in seen) else FELL_SHORT


def _word(on: bool) -> str:
    return "on" if on else "off"


# -- around


def _around(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    variables = [around.parse(text) for text in options.variable]
    if bool(options.domain) != bool(options.to):
        raise around.BadStep("--domain and --to belong together")
    tool = around.present(environ)
    if options.yes and tool is None:
        raise around.BadStep(
            f"--yes needs {around.TOOL}'s command line tool, which is not in PATH; nothing was changed"
        )
    if options.yes and not variables:
        raise around.BadStep("--yes takes the steps of --variable, and there is none; nothing was changed")
    if options.yes and tool is not None:
        _perform(variables, options, tool)
    else:
        _print(variables, options.environment)
    if options.domain:
        print(f"{options.domain} by hand:")
        for step in around.domain_steps(options.domain, options.to):
            print(f"  {step}")
    if not variables and not options.domain:
        print("Say what names Siding, one option each, and the steps are printed (with --yes: taken):")
        for hint in around.HINTS:
            print(f"  {hint}")
    return DONE


def _print(variables: Sequence[around.Variable], environment: str | None) -> None:
    for one in variables:
        print(f"{one.service}, {one.name}:")
        print(f"  {shlex.join(one.command(around.shown_value(one.value), environment))}")
        print("  undo: the same with the value of now, which --yes writes to a file before it changes it")


def _perform(variables: Sequence[around.Variable], options: argparse.Namespace, tool: str) -> None:
    before = [around.value_before(one, options.environment, tool) for one in variables]
    file = Path(options.undo_file or f"siding-undo-{time.strftime('%Y%m%d-%H%M%S')}.sh")
    pairs = list(zip(variables, before, strict=True))
    around.write_undo(file, [one.command(value, options.environment) for one, value in pairs if value is not None])
    print(f"undo: sh {shlex.quote(str(file))} (it holds the values of now: keep it secret)")
    for one, value in pairs:
        around.perform(one, options.environment, tool)
        if value is None:
            print(f"{one.service}, {one.name}: set (it was not set: remove it to undo)")
            continue
        print(f"{one.service}, {one.name}: set, was {around.shown_value(value)}")
        if "${{" in one.value:
            print("  the file has the value that a reference gave, not the reference")


# -- drill


def _drill(environ: Mapping[str, str]) -> int:
    from deploy.local import PortTaken  # noqa: PLC0415 - at 3 a.m. flags do not wait for these imports
    from deploy.rollback.drill import Drill, DrillFailed, table  # noqa: PLC0415

    drill = Drill(lambda text: print(f"drill: {text}", file=sys.stderr, flush=True))
    try:
        asyncio.run(drill.run(environ))
    except (DrillFailed, Failed, PortTaken) as fault:
        print(f"siding rollback: {fault}", file=sys.stderr)
        return FELL_SHORT
    print(table(drill.steps))
    lost = sum(step.lost for step in drill.steps)
    print(f"\n{drill.sent} requests, {len(drill.faults)} lost", *sorted(set(drill.faults))[:10], sep="\n  ")
    return DONE if all(step.met for step in drill.steps) and not drill.faults and not lost else FELL_SHORT
