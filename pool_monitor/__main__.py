"""`python -m pool_monitor`: serve until SIGTERM, SIGHUP or Ctrl-C; `triggers`, `advise`, `doctor` and `evaluate` do
one thing and end."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import asyncpg

import config.interrupted  # noqa: F401 - before what takes its time
from config.descriptors import raise_limit, say_once_that_none_is_left
from config.flags import Flags
from config.listen import ListenError, address_of, open_socket
from config.load import BAD_SETTINGS, load, misspelt
from config.logs import configure_logging
from config.output import say
from config.process import INTERRUPTED, open_standard_streams, until_stopped
from config.settings import MonitorSettings
from config.words import counted, did_you_mean, quoted
from pool_monitor import app, changes, doctor
from pool_monitor.advisor import advise, sources
from pool_monitor.faults import FAULTS, describe
from pool_monitor.grading import evaluate
from pool_monitor.grading.batch_files import FolderError
from pool_monitor.grading.models import ModelsError, load_models
from pool_monitor.grading.template_files import TemplatesError, load_templates
from pool_monitor.pool import APPLICATION
from pool_monitor.queries import QueriesError, Query, load_queries

log = logging.getLogger("siding")

FAILED = 1
PROG = "siding-monitor"
ACTIONS = ("install", "remove", "show")
USAGE = f"usage: {PROG} triggers install TABLE … | remove | show   (DATABASE_URL names the database)"


async def _connected(url: str) -> Any:
    """Without prepared statements: a PgBouncer would find them again for whoever has the connection next."""
    settings = {"application_name": APPLICATION}
    return await asyncpg.connect(url, timeout=10, statement_cache_size=0, server_settings=settings)


async def _triggers(url: str, action: str, tables: list[str]) -> str:
    connection = await _connected(url)
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


def triggers(argv: list[str]) -> int:
    """`siding-monitor triggers …`."""
    if {"--help", "-h"} & set(argv):
        return 0 if say(USAGE) else FAILED
    action, tables = (argv[0], argv[1:]) if argv else ("", [])
    fault = _fault_of(action, tables)
    if fault:
        print(f"{PROG} triggers: {fault}\n{USAGE}", file=sys.stderr)
        return BAD_SETTINGS
    url = load(MonitorSettings, [], os.environ, prog=PROG).database_url
    if url is None:
        print(f"{PROG}: DATABASE_URL is not set", file=sys.stderr)
        return BAD_SETTINGS
    try:
        told = say(asyncio.run(_triggers(url, action, tables)))
    except changes.TableError as fault:
        print(f"{PROG}: {fault}", file=sys.stderr)
        return FAILED
    except FAULTS as fault:
        print(f"{PROG} triggers: the database: {describe(fault, url)}", file=sys.stderr)
        return FAILED
    return 0 if told else FAILED


async def _advise(url: str | None, source: Path | None) -> tuple[list[dict[str, Any]], str]:
    """The advice, and what could not be looked at."""
    connection = None
    if url is not None:
        connection = await _connected(url)
    try:
        if source is not None:
            return await advise.from_sources(sources.scan(source), connection), ""
        told = await advise.from_server(connection)
        return cast("list[dict[str, Any]]", told["advice"]), str(told.get("why", ""))
    finally:
        if connection is not None:
            await connection.close()


def give_advice(argv: list[str]) -> int:
    """`siding-monitor advise [--source DIR] [--json]`: 0 whether there is advice or not."""
    parser = argparse.ArgumentParser(
        prog=f"{PROG} advise",
        description="Find COUNT(*) used as an existence check, in pg_stat_statements of the database that DATABASE_URL "
        "names or in source code, and prove what EXISTS would save.",
    )
    parser.add_argument("--source", type=Path, help="a folder with JavaScript, TypeScript or Python")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args(argv)
    url = load(MonitorSettings, [], os.environ, prog=PROG).database_url
    if given.source is not None and not given.source.is_dir():
        print(f"{PROG}: {given.source} is no folder", file=sys.stderr)
        return BAD_SETTINGS
    if url is None and given.source is None:
        print(f"{PROG}: set DATABASE_URL, or give --source DIR", file=sys.stderr)
        return BAD_SETTINGS
    try:
        found, why = asyncio.run(_advise(url, given.source))
    except FAULTS as fault:
        print(f"{PROG} advise: the database: {describe(fault, url or '')}", file=sys.stderr)
        return FAILED
    if why:
        print(why, file=sys.stderr)
    if given.json:
        told = json.dumps(found, indent=2, ensure_ascii=False)
    else:
        nothing = "no COUNT is used as an existence check, as far as can be seen"
        told = "\n\n".join(map(advise.as_text, found)) or nothing
    return 0 if say(told) else FAILED


def see_the_doctor(argv: list[str]) -> int:
    """`siding-monitor doctor`: 1 when something is at fault."""
    settings = load(MonitorSettings, argv, os.environ, prog=f"{PROG} doctor")
    checks = asyncio.run(doctor.examine(settings))
    told = say(doctor.as_text(checks))
    return 0 if told and all(check.grade is not doctor.Grade.FAULT for check in checks) else FAILED


COMMANDS: Mapping[str, tuple[str, Callable[[list[str]], int]]] = {
    "advise": ("find COUNT(*) used as an existence check, and prove what EXISTS would save", give_advice),
    "doctor": ("look for the known traps between a pool, a PgBouncer and a server", see_the_doctor),
    "evaluate": (
        "compare the grades of both prompts on labelled homework",
        lambda argv: evaluate.main(argv, os.environ),
    ),
    "triggers": ("have tables tell of their changes, so that the query cache is fresh", triggers),
}
"""What each does, and the function that is given what follows it."""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0 stopped as asked, 1 cannot listen or write temporary files, 2 a bad setting."""
    open_standard_streams()
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in COMMANDS:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return COMMANDS[given[0]][1](given[1:])
        except KeyboardInterrupt:
            print(f"{PROG} {given[0]}: stopped", file=sys.stderr)
            return INTERRUPTED
    commands = {name: about for name, (about, _) in COMMANDS.items()}
    settings = load(MonitorSettings, given, os.environ, prog=PROG, commands=commands)
    queries: dict[str, Query] = {}
    try:
        if settings.queries_file is not None:
            queries = load_queries(settings.queries_file)
        templates = load_templates(settings.grading_templates)
        models = load_models(settings.grading_models_file)
    except (QueriesError, TemplatesError, ModelsError) as fault:
        print(fault, file=sys.stderr)
        return BAD_SETTINGS
    configure_logging(settings.log_level, settings.log_format)
    raise_limit(
        settings.db_pool_max + app.DESCRIPTORS, "the connections of the pool, callers, and the grading upstream"
    )
    try:
        sock = open_socket(settings.host, settings.port)
    except ListenError as fault:
        print(fault.strerror, file=sys.stderr)
        return FAILED
    # a line for each call to the grading upstream would be too much
    logging.getLogger("httpx2").setLevel(max(logging.WARNING, logging.getLogger().level))
    log.info("pool monitor: http://%s, %d named queries", address_of(sock), len(queries))
    tier = "no shared tier" if settings.redis_url is None else "a shared tier"
    log.info("%s, %s, %s", counted(len(templates), "grading template"), tier, Flags.from_settings(settings).unusual())
    for doubt in misspelt(MonitorSettings, os.environ):
        log.warning("%s", doubt)
    try:
        with sock, asyncio.Runner() as runner:
            say_once_that_none_is_left(runner.get_loop())
            runner.run(app.serve(settings, queries, sock, until_stopped, templates, models))
    except FolderError as fault:
        print(fault.strerror, file=sys.stderr)
        return FAILED
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
