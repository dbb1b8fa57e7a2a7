"""`siding-monitor triggers`: have tables tell of their changes, so that the query cache is fresh."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence

from config.load import BAD_SETTINGS, load
from config.output import say
from config.settings import MonitorSettings
from config.words import did_you_mean, quoted
from pool_monitor import changes
from pool_monitor.faults import FAULTS, describe
from pool_monitor.pool import connected_once

FAILED = 1
PROG = "siding-monitor"
ACTIONS = ("install", "remove", "show")
USAGE = f"usage: {PROG} triggers install TABLE … | remove | show   (DATABASE_URL names the database)"


async def act(url: str, action: str, tables: list[str]) -> str:
    """Install, remove or show them, and what was done. Raises TableError, and what a database may."""
    connection = await connected_once(url)
    try:
        match action:
            case "install":
                names = await changes.install(connection, tables)
                doubts = await changes.doubts(connection)
                return f"these tables notify of their changes now: {', '.join(names)}" + (doubts and f"\n{doubts}")
            case "remove":
                names = await changes.remove(connection)
                return f"these tables do not notify any more: {', '.join(names) or 'none did'}"
        names = await changes.installed(connection)
        return f"these tables notify of their changes: {', '.join(names) or 'none'}"
    finally:
        await connection.close()


def _fault_of(action: str, tables: list[str]) -> str:
    """What is wrong with an order, or nothing."""
    if action not in ACTIONS:
        fault = f"there is no {quoted(action)}{did_you_mean(action, ACTIONS)}" if action else "what is to be done?"
        return f"{fault}; allowed: {', '.join(ACTIONS)}"
    if action == "install" and not tables:
        return "install needs the names of tables"
    if action != "install" and tables:
        return f"{action} is for all tables that have triggers: {quoted(tables[0])} is too much"
    # a name that begins so is quoted in SQL, and here
    options = [name for name in tables if name.startswith("-")]
    return f"there is no option {quoted(options[0])}" if options else ""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit status: 0 done, 1 it could not be, 2 not understood."""
    if {"--help", "-h"} & set(argv):
        return 0 if say(USAGE) else FAILED
    action, tables = (argv[0], list(argv[1:])) if argv else ("", [])
    fault = _fault_of(action, tables)
    if fault:
        print(f"{PROG} triggers: {fault}\n{USAGE}", file=sys.stderr)
        return BAD_SETTINGS
    url = load(MonitorSettings, [], environ, prog=PROG).database_url
    if url is None:
        print(f"{PROG}: DATABASE_URL is not set", file=sys.stderr)
        return BAD_SETTINGS
    try:
        told = say(asyncio.run(act(url, action, tables)))
    except changes.TableError as fault:
        print(f"{PROG}: {fault}", file=sys.stderr)
        return FAILED
    except FAULTS as fault:
        print(f"{PROG} triggers: the database: {describe(fault, url)}", file=sys.stderr)
        return FAILED
    return 0 if told else FAILED
