"""A real PgBouncer for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from config.listen import spare_port
from deploy.postgres import Postgres
from tests.programs import program
from tests.support import PATIENCE


@dataclass
class Running:
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://siding@127.0.0.1:{self.port}/{database}"


@contextlib.asynccontextmanager
async def pgbouncer_for(server: Postgres, folder: Path, wait: str = "0") -> AsyncIterator[Running]:
    """In transaction mode, in front of a server. folder -- that another user can read."""
    pgbouncer = program("pgbouncer")
    told = await asyncio.to_thread(
        subprocess.run, [pgbouncer.path, "--version"], env=pgbouncer.environ, capture_output=True, text=True, check=True
    )
    version = tuple(map(int, told.stdout.split()[1].split(".")))
    # known from 1.21 on, and 200 when not said from 1.24 on
    none_kept = "max_prepared_statements = 0\n" if version >= (1, 21) else ""
    port = spare_port()
    ini = folder / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=siding\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 5\nunix_socket_dir =\n"
        f"query_wait_timeout = {wait}\n{none_kept}"
    )
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        pgbouncer.path,
        *user,
        str(ini),
        env=dict(pgbouncer.environ),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield Running(port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
