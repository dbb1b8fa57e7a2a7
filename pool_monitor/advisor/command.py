"""`siding-monitor advise`: find COUNT(*) used as an existence check, and prove what EXISTS would save."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from config.load import BAD_SETTINGS, load
from config.output import say
from config.settings import MonitorSettings
from pool_monitor.advisor import advise, sources
from pool_monitor.faults import FAULTS, describe
from pool_monitor.pool import connected_once

FAILED = 1
PROG = "siding-monitor"


async def _advise(url: str | None, source: Path | None) -> tuple[list[dict[str, Any]], str]:
    """The advice, and what could not be looked at."""
    connection = None
    if url is not None:
        connection = await connected_once(url)
    try:
        if source is not None:
            return await advise.from_sources(sources.scan(source), connection), ""
        told = await advise.from_server(connection)
        return cast("list[dict[str, Any]]", told["advice"]), str(told.get("why", ""))
    finally:
        if connection is not None:
            await connection.close()


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns the exit status: 0 whether there is advice or not, 1 it could not be looked for, 2 not understood."""
    parser = argparse.ArgumentParser(
        prog=f"{PROG} advise",
        description="Find COUNT(*) used as an existence check, in pg_stat_statements of the database that DATABASE_URL "
        "names or in source code, and prove what EXISTS would save.",
    )
    parser.add_argument("--source", type=Path, help="a folder with JavaScript, TypeScript or Python")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args(argv)
    url = load(MonitorSettings, [], environ, prog=PROG).database_url
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
