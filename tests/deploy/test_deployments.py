"""What the deployment's files lead to: real processes with the environment of Railway, PgBouncer, the wheel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from config.listen import spare_port
from deploy.docker import healthy
from deploy.postgres import UNPRIVILEGED, Postgres, running
from tests.deploy.deployment import DEPLOY, compose, on_railway
from tests.deploy.processes import ROOT, Child, environment, python
from tests.e2e.proxies import Running, proxy_process
from tests.pool_monitor.support import running_monitor
from tests.programs import program
from tests.support import PATIENCE, Origin

HEALTH_CHECK = {"Host": "healthcheck.railway.app"}
"""Railway's own: https://docs.railway.com/deployments/healthchecks#healthcheck-hostname"""
PACKAGES = ("config", "deploy", "pool_monitor", "proxy")
SECONDS = 50.0
"""For what fetches from the package index."""


# -- Railway


@contextlib.asynccontextmanager
async def proxy_on_railway(upstream: str, **changes: str) -> AsyncIterator[Running]:
    """The proxy with the variables of the template, on free ports, without a Redis."""
    given = {name.lower(): value for name, value in on_railway("proxy").items()}
    for not_here in ("upstream_url", "redis_url"):
        given.pop(not_here)
    given["rules_file"] = given["rules_file"].replace("/etc/siding", str(DEPLOY / "site"))
    async with proxy_process(
        upstream, **{**given, "port": "0", "admin_port": "0", "log_format": "text", **changes}
    ) as proxy:
        yield Running(proxy.child, over_ipv6(proxy.url), over_ipv6(proxy.admin))


def over_ipv6(url: str) -> str:
    """Where :: is dual stack, as on Railway's private network."""
    assert "localhost" in url
    return url.replace("localhost", "[::1]")


@pytest.mark.parametrize("bypass", ["false", "true"])
async def test_a_deployment_is_healthy_though_its_origin_is_away(bypass: str) -> None:
    nobody = f"http://127.0.0.1:{spare_port()}"
    async with proxy_on_railway(nobody, bypass=bypass) as proxy, aiohttp.ClientSession() as session:
        async with session.get(f"{proxy.url}/api/metrics/report-cache", headers=HEALTH_CHECK) as answer:
            assert answer.status == 200
            assert (await answer.json())["cacheHits"] == 0
        # nothing of the admin listener is on the public port: this was the origin's to answer
        async with session.get(f"{proxy.url}/healthz", headers=HEALTH_CHECK) as answer:
            assert answer.status == 502
        proxy.child.send(signal.SIGTERM)
        assert await proxy.child.end() == 0


async def test_a_health_path_of_the_origin_is_asked_through_the_proxy(origin: Origin) -> None:
    origin.respond("well")
    async with (
        proxy_on_railway(origin.url, public_metrics="false") as proxy,
        aiohttp.ClientSession() as session,
        session.get(f"{proxy.url}/health", headers=HEALTH_CHECK) as answer,
    ):
        assert (answer.status, await answer.text()) == (200, "well")
    assert [request.get("Host") for request in origin.requests] == ["healthcheck.railway.app"]


async def test_an_origin_that_listens_on_ipv6_alone_is_reached() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "::1", 0) as backend:
        port = backend.sockets[0].getsockname()[1]
        async with (
            proxy_on_railway(f"http://[::1]:{port}") as proxy,
            aiohttp.ClientSession() as session,
            session.get(f"{proxy.url}/") as through,
        ):
            assert (through.status, await through.text()) == (200, "well")


async def test_the_admin_listener_is_reached_over_the_private_network_and_guarded(origin: Origin) -> None:
    token = on_railway("proxy")["ADMIN_TOKEN"]
    flip = {"BYPASS": True}
    async with proxy_on_railway(origin.url) as proxy, aiohttp.ClientSession() as session:
        async with session.get(f"{proxy.admin}/metrics") as answer:
            assert answer.status == 200
        async with session.patch(f"{proxy.admin}/api/flags", json=flip) as answer:
            assert answer.status == 401
        fields = {"Authorization": f"Bearer {token}"}
        async with session.patch(f"{proxy.admin}/api/flags", json=flip, headers=fields) as answer:
            assert answer.status == 200
        # what an operator runs at 3 a.m. in the container, where ADMIN_TOKEN is set
        environ = environment(ADMIN_TOKEN=token)
        rollback = ("-m", "deploy", "rollback", "--all", "--admin", proxy.admin, "--url", proxy.url)
        async with python(*rollback, environ=environ) as child:
            assert await child.end() == 0
        assert "as wanted, BYPASS" in child.output


# -- the image's health check


async def asked(child: Child, monkeypatch: pytest.MonkeyPatch, **environ: str) -> int:
    """As in a container whose main process is `child`."""
    monkeypatch.setattr(healthy, "MAIN_PROCESS", Path(f"/proc/{child.process.pid}/cmdline"))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return await asyncio.to_thread(healthy.main)


async def test_the_health_check_of_the_proxy(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy_process(origin.url) as proxy:
        port = proxy.admin.rpartition(":")[2]
        assert await asked(proxy.child, monkeypatch, ADMIN_PORT=port, HTTP_PROXY="http://127.0.0.1:1") == 0
        assert await asked(proxy.child, monkeypatch, ADMIN_PORT=str(spare_port())) == 1


async def test_the_health_check_of_the_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = environment(HOST="127.0.0.1", PORT="0", LOG_FORMAT="text")
    async with python("-m", "pool_monitor", environ=environ) as child:
        port = (await child.line("pool monitor: ")).split("http://")[1].split(",")[0].rpartition(":")[2]
        assert await asked(child, monkeypatch, PORT=port) == 0
        assert await asked(child, monkeypatch, PORT=str(spare_port())) == 1


# -- PgBouncer


@contextlib.asynccontextmanager
async def bouncer(server: Postgres, place: str, secret: str, folder: Path) -> AsyncIterator[int]:
    """The committed siding.ini, at `place`, of which addresses and folders are other ones. Gives the port."""
    bin_ = program("pgbouncer")
    port = spare_port()
    committed = DEPLOY / "pgbouncer"
    moved = {
        r"/etc/(pgbouncer|siding)/": f"{folder}/",
        r"= 6432": f"= {port}",
        r"host=\S+ port=5432 dbname=siding": f"host=127.0.0.1 port={server.port} dbname=postgres",
    }
    for here, there in moved.items():
        place, changes = re.subn(here, there, place)
        assert changes
    files = {
        "pgbouncer.ini": place,
        "siding.ini": (committed / "siding.ini").read_text(encoding="utf-8"),
        "userlist.txt": f'"siding" "{secret}"\n',
    }
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    user = ["-u", UNPRIVILEGED] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        bin_.path, *user, str(folder / "pgbouncer.ini"), env=dict(bin_.environ), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            said = ""
            while "process up" not in said:
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        assert "WARNING" not in said, said
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


PLACES = {
    "its own": (DEPLOY / "pgbouncer" / "pgbouncer.ini").read_text(encoding="utf-8"),
    "compose": str(compose()["configs"]["pgbouncer.ini"]["content"]),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
async def test_the_monitor_works_through_pgbouncer_as_committed(place: str, open_folder: Path, tmp_path: Path) -> None:
    queries = """
[[query]]
name = "timeout"
sql = "SELECT current_setting('statement_timeout') AS t, $1::text AS echo"
parameters = ["echo: text"]
ttl = 0
"""
    async with running() as server:
        direct = await asyncpg.connect(server.url())
        await direct.execute("ALTER ROLE siding PASSWORD 'a-password'")
        secret = await direct.fetchval("SELECT passwd FROM pg_shadow WHERE usename = 'siding'")
        await direct.close()
        async with bouncer(server, place, secret, open_folder) as port:
            url = f"postgresql://siding:a-password@127.0.0.1:{port}/siding"
            console = f"postgresql://siding:a-password@127.0.0.1:{port}/pgbouncer"
            # as node-postgres does, with the plan's own pool
            node = await asyncpg.connect(url, server_settings={"statement_timeout": "5"}, statement_cache_size=0)
            assert await node.fetchval("SHOW statement_timeout") == "10s"
            await node.close()
            async with running_monitor(
                url, queries, tmp_path, db_pgbouncer="yes", pgbouncer_admin_url=console
            ) as client:
                answers = await asyncio.gather(*(client.query("timeout", echo=str(n)) for n in range(60)))
                assert {answer.status for answer in answers} == {200}
                assert [answer.document["rows"][0] for answer in answers] == [
                    {"t": "10s", "echo": str(n)} for n in range(60)
                ]
                async with asyncio.timeout(PATIENCE):
                    while not (told := (await client.get("/api/metrics/database-pool")).document)["pgbouncer"]:
                        pass
                (pool,) = told["pgbouncer"]
                assert (pool["database"], pool["mode"], pool["maxConnections"]) == ("siding", "transaction", 20)
                assert pool["totalCount"] <= 20
                assert told["maxConnections"] == 20
            with pytest.raises(asyncpg.PostgresError, match="SASL authentication failed"):
                await asyncpg.connect(url.replace("a-password", "another"), statement_cache_size=0)


# -- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tree, as in the image."""
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("siding_proxy-*.whl")
    return path


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.startswith("siding_proxy-")}
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    mine = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts and path.name != ".env"}
    assert packed == mine


def test_the_commands_start_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target))
    subprocess.run([*install, str(wheel)], check=True, timeout=SECONDS, capture_output=True)
    environ = environment(PYTHONPATH=str(target))
    for words in (
        ("siding-proxy", "--help"),
        ("siding-monitor", "--help"),
        ("siding", "up", "--help"),
        ("siding", "check", "--help"),
        ("siding", "rollback", "--help"),
    ):
        command = [str(target / "bin" / words[0]), *words[1:]]
        done = subprocess.run(
            command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0, done.stderr
        assert "usage: " in done.stdout
