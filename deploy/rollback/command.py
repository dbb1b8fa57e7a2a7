"""The command line of `siding rollback`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp

from config.flags import Changes
from config.output import say
from deploy.asking import Stand, Way, why, word
from deploy.options import address, path, this_tool, token
from deploy.rollback import around, switches
from deploy.rollback.act import Failed, Told, flip, shown, standing

DONE, FELL_SHORT, BAD = 0, 1, 2
ADMIN = "http://127.0.0.1:9090"
ANSWER_SECONDS = 10.0
TOGETHER_SECONDS = 0.5
"""Until all have said how their flags stand, which is not to be what another has been told; one that hangs is left."""
NOT_YET = (
    "  Redis is away, and the other replicas are not told yet: "
    "until it answers, --here, and one --admin for each replica"
)
GUESSED = "its undo leads to the settings of each replica: what had been set in all is not known there"
UNDO_FILE = "siding-undo-%Y%m%d-%H%M%S.sh"
OPTIONS: Mapping[str, Mapping[str, tuple[str | None, bool, str]]] = {
    "flags, effective at once": {
        "flag": ("NAME", True, f"switch it off (BYPASS: on); of {', '.join(switches.SAFE)}"),
        "all": (None, False, "every optimisation off, and BYPASS on"),
        "set": ("NAME=on", True, "any flag on or off; NAME=setting: to what its setting says, in each replica its own"),
        "settings": (None, False, "every flag to what its setting says, as before any was set; --set goes before"),
        "admin": ("URL", True, f"admin listener of a proxy, or a pool monitor ({ADMIN})"),
        "here": (None, False, "only there, not in the replicas that share its Redis"),
        "url": ("URL", False, "the public address, to see that it shows"),
        "path": ("PATH", False, "what to GET there (/)"),
    },
    "around Siding, on Railway": {
        "around": (None, False, "print the steps"),
        "variable": ("SERVICE:NAME=VALUE", True, "a variable that names Siding, and its value without"),
        "domain": ("NAME", False, "a public domain that leads to Siding"),
        "from": ("SERVICE:PORT", False, "Siding's service, which has it now, and its PORT"),
        "to": ("SERVICE:PORT", False, "the service that it is to lead to, and the port where that listens"),
        "environment": ("NAME", False, "Railway's environment; else the linked one"),
        "yes": (None, False, f"take the steps, with {around.TOOL}'s command line tool"),
        "undo-file": ("FILE", False, "where to write what undoes it (siding-undo-TIME.sh)"),
    },
    "drill": {"drill": (None, False, "all of it on a stack of this machine's own, under load")},
}
"""By name: the word for its value or None for a switch, whether it may be repeated, and its meaning."""
KINDS: Mapping[str, Callable[[str], str]] = {"URL": address, "PATH": path}
"""How a value is read, by the word for it."""


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
            kind = KINDS.get(metavar or "", str)
            if metavar is None:
                group.add_argument(f"--{name}", action="store_true", help=meaning)
            elif repeatable:
                group.add_argument(
                    f"--{name}", metavar=metavar, type=kind, action="append", default=[], help=f"{meaning} (*)"
                )
            else:
                group.add_argument(f"--{name}", metavar=metavar, type=kind, help=meaning)
    return made


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit status: 0 done and seen, 1 not (all of it), 2 an order that cannot be followed."""
    options = parser().parse_args(list(argv))
    try:
        _one_order(options)
        if options.drill:
            return _drill(environ)
        if options.around:
            return _around(options, environ)
        wanted = switches.order(options.flag, options.set, everything=options.all, back=options.settings)
        return asyncio.run(_flags(options, wanted, _token(environ)))
    except (switches.BadOrder, around.BadStep) as fault:
        print(f"siding rollback: {fault}", file=sys.stderr)
        return BAD
    except KeyboardInterrupt:
        print("siding rollback: stopped; what was done so far stays done", file=sys.stderr)
        return FELL_SHORT


def _one_order(options: argparse.Namespace) -> None:
    """What would be passed over in silence is refused. Raises BadOrder."""
    flags = options.flag or options.all or options.set or options.settings
    orders = {"flags": flags, "--around": options.around, "--drill": options.drill}
    given = [name for name, there in orders.items() if there]
    if len(given) > 1:
        raise switches.BadOrder(f"one after the other, please: {' and '.join(given)} are different orders")
    place = {"flags": "flags, effective at once", "--around": "around Siding, on Railway", "--drill": "drill"}
    for order, title in place.items():
        stray = [name for name in OPTIONS[title] if getattr(options, name.replace("-", "_"))]
        if given and order not in given and stray:
            raise switches.BadOrder(f"--{stray[0]} does not belong to {given[0]}")
    if options.all and options.settings:
        raise switches.BadOrder("one after the other, please: --all and --settings are different orders")
    if options.path and not options.url:
        raise switches.BadOrder("--path is asked for at --url, which is not given")


# -- flags


def _token(environ: Mapping[str, str]) -> str | None:
    try:
        return token(environ)
    except ValueError as fault:
        raise switches.BadOrder(str(fault)) from fault


async def _flags(options: argparse.Namespace, wanted: Changes, secret: str | None) -> int:
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as client:
        admins = options.admin or [ADMIN]
        # all at once: one that hangs does not hold up the others
        stands = [asyncio.create_task(standing(client, one)) for one in admins]
        await asyncio.wait(stands, timeout=TOGETHER_SECONDS)
        flips = zip(admins, stands, strict=True)
        undos: dict[str, switches.Undo] = {}
        try:
            status = max(
                await asyncio.gather(*(_flip(client, *one, wanted, secret, undos, here=options.here) for one in flips))
            )
        finally:
            # also of what was done before Ctrl-C
            if undo := switches.undo_line(this_tool(), {one: undos[one] for one in admins if one in undos}):
                say(f"undo: {undo}", otherwise=f"siding rollback: undo: {undo}")
        if options.url:
            return max(status, await _shown(client, options.url, options.path or "/", wanted))
        if status == DONE:
            say("give --url and --path to see it in an answer, too")
        return status


async def _flip(
    client: aiohttp.ClientSession,
    admin: str,
    before: asyncio.Task[Stand],
    wanted: Changes,
    secret: str | None,
    undos: dict[str, switches.Undo],
    *,
    here: bool,
) -> int:
    """undos -- gets what leads back, by listener."""
    began = time.monotonic()
    try:
        done = await flip(client, admin, await before, wanted, secret, here=here)
    except Failed as fault:
        told = [str(fault)]
        if fault.before is not None:
            undos[admin] = undo = switches.undoing(fault.before, wanted, here=here)
            told += ["it may be done all the same"] if undo.steps else []
            told += [GUESSED] if undo.guessed else []
        print("\n".join(f"siding rollback: {line}" for line in told), file=sys.stderr)
        return FELL_SHORT
    except asyncio.CancelledError:
        # it may be done all the same
        if before.done() and not before.cancelled() and before.exception() is None:
            undos[admin] = switches.undoing(before.result(), wanted, here=here)
        raise
    undos[admin] = undo = switches.undoing(done.before, wanted, here=here or done.told is Told.HERE)
    was, after = done.before.flags, done.after.flags
    told = [
        f"{admin}: {done.told}, in {1000 * (time.monotonic() - began):.0f} ms",
        *(
            f"  {name} {word(was[name])} -> {word(after[name])}{' (its setting)' if on is None else ''}"
            for name, on in wanted.items()
            if name in after
        ),
        *([] if undo.steps else ["  nothing changed: they stood so before"]),
        *([f"  {GUESSED}"] if undo.guessed else []),
        *([f"  only {done.done_by} have answered: the others do it once they go on"] if done.done_by else []),
        *([NOT_YET] if done.told is Told.NOT_YET else []),
        *(f"  {words}" for words in done.after.words),
    ]
    say("\n".join(told))
    return FELL_SHORT if done.told is Told.NOT_YET or done.done_by else DONE


async def _shown(client: aiohttp.ClientSession, url: str, target: str, wanted: Changes) -> int:
    try:
        seen = await shown(Way(url, client), target, wanted)
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        print(f"siding rollback: {url} does not answer: {why(fault)}", file=sys.stderr)
        return FELL_SHORT
    for name, verdict, words in seen:
        say(f"{url}{target}: {verdict}, {name}: {words}")
    if not seen:
        say(f"no answer shows how these stand: {', '.join(wanted)}; the listeners say so")
    return FELL_SHORT if any(verdict is switches.Seen.NOT for _, verdict, _ in seen) else DONE


# -- around


def _around(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    variables = [around.parse(text, options.environment) for text in options.variable]
    name, *ends = (options.domain, getattr(options, "from"), options.to)
    if any((name, *ends)) and not all((name, *ends)):
        raise around.BadStep("--domain, --from and --to belong together")
    domain = around.Domain(name, *map(around.place, ends)) if name else None
    if domain is not None and options.environment:
        raise around.BadStep(
            f"{around.TOOL} moves domains in the linked environment alone: link {options.environment} first "
            f"({around.TOOL} environment {options.environment}), and leave --environment out"
        )
    if not options.yes:
        return DONE if say("\n".join(_steps(variables, domain))) else FELL_SHORT
    tool = around.present(environ)
    if tool is None:
        raise around.BadStep(
            f"--yes needs {around.TOOL}'s command line tool, which is not in PATH; nothing was changed"
        )
    if not variables and domain is None:
        raise around.BadStep("--yes takes the steps of --variable and --domain: there is none; nothing was changed")
    return _perform(variables, domain, Path(options.undo_file or time.strftime(UNDO_FILE)), tool)


def _steps(variables: Sequence[around.Variable], domain: around.Domain | None) -> Iterator[str]:
    for one in variables:
        yield f"{one.service}, {one.name}:"
        yield f"  {shlex.join(one.command('set', f'{one.name}={around.shown_value(one.value)}'))}"
        yield "  undo: the same with the value of now, which --yes writes to a file before it changes it"
    if domain is not None:
        yield (
            f"{domain.name} (last: while it moves it leads nowhere; --flag BYPASS is better as long as Siding answers):"
        )
        for step in domain.steps:
            yield f"  {shlex.join(step)}"
        if None in {domain.old.port, domain.new.port}:
            yield "  without ports (--from SERVICE:PORT --to SERVICE:PORT) Railway decides where in it the domain leads"
        yield "  where the DNS records that this prints differ from yours, change yours"
        yield f"  undo: {'; '.join(domain.undo)}, and the DNS records that this prints"
    if not variables and domain is None:
        yield "Say what names Siding, one option each, and the steps are printed (with --yes: taken):"
        yield from (f"  {hint}" for hint in around.HINTS)


def _perform(variables: Sequence[around.Variable], domain: around.Domain | None, file: Path, tool: str) -> int:
    before = [around.value_before(one, tool) for one in variables]
    pairs = list(zip(variables, before, strict=True))
    moved = [] if domain is None else domain.undo
    around.write_undo(file, [*(one.undo(value) for one, value in pairs), *moved])
    undo = f"sh {shlex.quote(str(file))}"
    line = f"undo: {undo} (it holds the values of now: keep it secret)"
    say(line, otherwise=f"siding rollback: {line}")
    say("  where a value came from a reference (${{...}}), it has what that came to, and not the reference")
    try:
        for one, value in pairs:
            around.perform(one, tool)
            was = "was not set" if value is None else f"was {around.shown_value(value)}"
            say(f"{one.service}, {one.name}: set, {was}")
        if domain is not None:
            for step in domain.steps:
                said = around.run(tool, step)
                say(f"{shlex.join(step)}: done\n{said}".rstrip())
    except around.BadStep as fault:
        print(f"siding rollback: {fault}; the steps above are taken: undo them by {undo}", file=sys.stderr)
        return FELL_SHORT
    return DONE


# -- drill


def _drill(environ: Mapping[str, str]) -> int:
    from deploy.addresses import PortTaken  # noqa: PLC0415 - at 3 a.m. flags do not wait for these imports
    from deploy.rollback.drill import Drill, DrillFailed, table  # noqa: PLC0415

    drill = Drill(lambda text: print(f"drill: {text}", file=sys.stderr, flush=True))
    try:
        asyncio.run(drill.run(environ))
    except (DrillFailed, Failed, PortTaken) as fault:
        print(f"siding rollback: {fault}", file=sys.stderr)
        return FELL_SHORT
    lost = sum(step.lost for step in drill.steps)
    counts = [f"{drill.sent} requests, {len(drill.faults)} lost", *sorted(set(drill.faults))[:10]]
    told = say("\n\n".join([table(drill.steps), "\n  ".join(counts)]))
    met = all(step.met for step in drill.steps) and not drill.faults and not lost
    return DONE if met and told else FELL_SHORT
