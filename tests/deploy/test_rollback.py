"""`siding rollback`: orders by tables, flags on a real stack, Railway's tool by a stand-in, and the drill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from config.flags import FlagName
from deploy.asking import Answer
from deploy.rollback import around, command, drill, switches
from deploy.rollback.switches import BadOrder, Seen, expected, judged, order, undoing
from tests.deploy.processes import PATIENCE, ROOT, Child, environment, python, refused
from tests.deploy.stacks import Up, running_stack
from tests.e2e.proxies import proxy_process
from tests.redis_servers import running_redis

ROLLBACK = ("-m", "deploy", "rollback")
TOKEN = "geheim-token"  # noqa: S105 - of this test
NOBODY = "http://127.0.0.1:9"


# -- orders


@pytest.mark.parametrize(
    ("flags", "settings", "wanted"),
    [
        (["ENABLE_ETAG"], [], {"ENABLE_ETAG": False}),
        (["bypass"], [], {"BYPASS": True}),
        ([], ["ENABLE_ETAG=on", "BYPASS=off"], {"ENABLE_ETAG": True, "BYPASS": False}),
        (["ENABLE_ETAG"], ["ENABLE_ETAG=on"], {"ENABLE_ETAG": True}),
    ],
)
def test_orders(flags: list[str], settings: list[str], wanted: dict[str, bool]) -> None:
    assert order(flags, settings, everything=False) == wanted


def test_all_is_every_flag_to_its_safe_side() -> None:
    wanted = order([], [], everything=True)
    assert set(wanted) == set(FlagName)
    assert [name for name, on in wanted.items() if on] == ["BYPASS"]


@pytest.mark.parametrize(
    ("flags", "settings", "said"),
    [
        ([], [], "nothing to do"),
        (["ENABLE_ETAGS"], [], "did you mean ENABLE_ETAG"),
        ([], ["ENABLE_ETAG"], "is not NAME=on or NAME=off"),
        ([], ["ENABLE_ETAG=perhaps"], "is not NAME=on or NAME=off"),
        ([], ["NO=on"], "is no flag"),
    ],
)
def test_orders_that_cannot_be_followed(flags: list[str], settings: list[str], said: str) -> None:
    with pytest.raises(BadOrder, match=said):
        order(flags, settings, everything=False)


def test_only_what_changed_is_undone() -> None:
    before = {"ENABLE_ETAG": True, "ENABLE_DEDUP": False, "BYPASS": False}
    assert undoing(before, {"ENABLE_ETAG": False, "ENABLE_DEDUP": False, "OTHER": True}) == {"ENABLE_ETAG": True}


def test_under_bypass_nothing_comes_from_the_cache() -> None:
    assert expected({"BYPASS": True, "ENABLE_ETAG": True}) == {"ENABLE_QUERY_CACHE": False, "BYPASS": True}
    assert expected({"ENABLE_ETAG": False, "ENABLE_DEDUP": False}) == {FlagName.ENABLE_ETAG: False}
    assert expected({"ENABLE_ETAG": True}) == {FlagName.ENABLE_ETAG: True}


# -- what answers say


def answer(status: int = 200, via: str = "1.1 edge, 1.1 siding", **fields: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Answer(status, 0.0, {"Via": via, **named}, b"")


HIT, FORWARDED = answer(Cache_Status="siding; hit; ttl=5"), answer(Cache_Status="siding; fwd=uri-miss")
PASSED = answer(Cache_Status="siding; fwd=bypass; fwd-status=200")
STEPPED_AROUND = answer(Cache_Status="siding; fwd=bypass; detail=failed-open")


@pytest.mark.parametrize(
    ("name", "on", "answers", "verdict"),
    [
        ("ENABLE_QUERY_CACHE", False, [FORWARDED, FORWARDED], Seen.AS_WANTED),
        ("ENABLE_QUERY_CACHE", False, [FORWARDED, HIT], Seen.NOT),
        ("ENABLE_QUERY_CACHE", True, [FORWARDED, HIT], Seen.AS_WANTED),
        # it may not be storable
        ("ENABLE_QUERY_CACHE", True, [FORWARDED, FORWARDED], Seen.OPEN),
        ("BYPASS", True, [PASSED, PASSED], Seen.AS_WANTED),
        ("BYPASS", True, [PASSED, FORWARDED], Seen.NOT),
        ("BYPASS", True, [STEPPED_AROUND, STEPPED_AROUND], Seen.NOT),
        ("BYPASS", False, [FORWARDED, HIT], Seen.AS_WANTED),
        ("BYPASS", False, [FORWARDED, PASSED], Seen.NOT),
        ("ENABLE_ETAG", False, [answer(), answer()], Seen.AS_WANTED),
        # the origin's own is not to be taken away
        ("ENABLE_ETAG", False, [answer(ETag='"a"')] * 2, Seen.OPEN),
        # but one replica of two
        ("ENABLE_ETAG", False, [answer(ETag='"a"'), answer()], Seen.NOT),
        ("ENABLE_ETAG", True, [answer(ETag='"a"')] * 2, Seen.AS_WANTED),
        ("ENABLE_COMPRESSION", False, [answer(Content_Encoding="gzip")] * 2, Seen.OPEN),
        # another service says nothing of Siding, and one that fails is not well
        ("ENABLE_ETAG", False, [answer(via=""), answer()], Seen.NOT),
        ("BYPASS", False, [answer(via="1.1 other")] * 2, Seen.NOT),
        ("ENABLE_ETAG", False, [answer(status=502), answer()], Seen.NOT),
    ],
)
def test_what_answers_say_of_a_flag(name: str, on: bool, answers: list[Answer], verdict: Seen) -> None:
    assert judged(FlagName(name), on, answers)[0] is verdict


# -- flags


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack() -> AsyncIterator[Up]:
    async with running_stack(ADMIN_TOKEN=TOKEN) as up:
        yield up


async def rollback(*options: str, token: str | None = TOKEN, **environ: str) -> Child:
    given = {**environ, **({"ADMIN_TOKEN": token} if token else {})}
    async with python(*ROLLBACK, *options, environ=environment(**given)) as child:
        await child.end()
    assert "Traceback" not in child.output
    return child


async def flags(admin: str) -> dict[str, bool]:
    async with ClientSession() as client, client.get(f"{admin}/api/flags") as answer:
        found: dict[str, bool] = await answer.json()
        return found


def undo_of(child: Child) -> list[str]:
    (line,) = [line for line in child.lines if line.startswith("  undo: siding rollback ")]
    return line.removeprefix("  undo: siding rollback ").split()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("flag", "path", "words"),
    [
        ("ENABLE_QUERY_CACHE", "/api/subjects", "not answered from the cache"),
        ("ENABLE_COMPRESSION", "/", "has no content coding"),
        ("ENABLE_ETAG", "/", "has no ETag"),
        ("BYPASS", "/", "Cache-Status says fwd=bypass"),
    ],
)
async def test_a_flag_is_switched_off_seen_and_undone(stack: Up, flag: str, path: str, words: str) -> None:
    before = await flags(stack.admin)
    child = await rollback("--flag", flag, "--admin", stack.admin, "--url", stack.proxy, "--path", path)
    assert child.process.returncode == 0, child.output
    assert f"{stack.proxy}{path}: as wanted, {flag}: {words}" in child.output
    assert await flags(stack.admin) == {**before, flag: flag == "BYPASS"}
    undone = await rollback(*undo_of(child))
    assert undone.process.returncode == 0
    assert await flags(stack.admin) == before
    assert TOKEN not in child.output + undone.output


@pytest.mark.asyncio(loop_scope="session")
async def test_all_in_both_services_and_back(stack: Up) -> None:
    before = {admin: await flags(admin) for admin in (stack.admin, stack.monitor)}
    # the origin gives this an ETag of its own
    public = ("--url", stack.proxy, "--path", "/api/subjects")
    child = await rollback("--all", "--admin", stack.admin, "--admin", stack.monitor, *public)
    assert child.process.returncode == 0, child.output
    assert "as wanted, BYPASS" in child.output
    assert child.output.count(": in all replicas, in ") == 2
    for admin in before:
        assert {name for name, on in (await flags(admin)).items() if on} == {"BYPASS"}
    for line in [line for line in child.lines if line.startswith("  undo: ")]:
        await rollback(*line.split()[3:])
    assert {admin: await flags(admin) for admin in before} == before


@pytest.mark.asyncio(loop_scope="session")
async def test_what_stood_so_before_needs_no_undoing(stack: Up) -> None:
    child = await rollback("--set", "ENABLE_ETAG=on", "--admin", stack.admin)
    assert child.process.returncode == 0
    assert "nothing changed" in child.output


@pytest.mark.asyncio(loop_scope="session")
async def test_without_the_token_nothing_changes_and_it_is_said(stack: Up) -> None:
    before = await flags(stack.admin)
    child = await rollback("--flag", "ENABLE_ETAG", "--admin", stack.admin, token=None)
    assert child.process.returncode == 1
    assert "ADMIN_TOKEN" in child.output
    assert await flags(stack.admin) == before


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
async def test_the_token_is_read_as_the_services_read_it(stack: Up, end: str) -> None:
    """A line's end comes with it from a file, of Windows even, and is no part of it."""
    child = await rollback("--set", "ENABLE_ETAG=on", "--admin", stack.admin, token=f"{TOKEN}{end}")
    assert child.process.returncode == 0, child.output


@pytest.mark.asyncio(loop_scope="session")
async def test_a_token_that_cannot_be_sent_is_said_and_not_shown(stack: Up) -> None:
    child = await rollback("--flag", "ENABLE_ETAG", "--admin", stack.admin, token="geheim\ntoken")
    assert child.process.returncode == 2
    assert child.lines == [
        "siding rollback: ADMIN_TOKEN (not shown) is no token: it has spaces or characters beyond ASCII in it"
    ]


@pytest.mark.asyncio(loop_scope="session")
async def test_one_listener_that_is_away_does_not_keep_the_others_from_it(stack: Up) -> None:
    child = await rollback("--flag", "ENABLE_ETAG", "--admin", "http://127.0.0.1:9", "--admin", stack.admin)
    assert child.process.returncode == 1
    assert "http://127.0.0.1:9 does not answer" in child.output
    assert not (await flags(stack.admin))["ENABLE_ETAG"]
    await rollback(*undo_of(child))


@pytest.mark.asyncio(loop_scope="session")
async def test_what_is_no_admin_listener_is_said(stack: Up) -> None:
    child = await rollback("--flag", "ENABLE_ETAG", "--admin", stack.origin)
    assert child.process.returncode == 1
    assert stack.origin in child.output


@pytest.mark.asyncio(loop_scope="session")
async def test_an_address_that_does_not_lead_through_siding_is_said(stack: Up) -> None:
    child = await rollback("--set", "ENABLE_ETAG=on", "--admin", stack.admin, "--url", stack.origin)
    assert child.process.returncode == 1
    assert "NOT AS WANTED, ENABLE_ETAG: an answer has no Via of Siding's" in child.output


@pytest.mark.asyncio(loop_scope="session")
async def test_one_listener_that_hangs_does_not_hold_up_the_others(stack: Up) -> None:
    # what is never accepted is never answered
    with socket.create_server(("127.0.0.1", 0)) as server:
        hangs = f"http://127.0.0.1:{server.getsockname()[1]}"
        options = ("--flag", "ENABLE_DEDUP", "--admin", hangs, "--admin", stack.admin)
        async with python(*ROLLBACK, *options, environ=environment(ADMIN_TOKEN=TOKEN)) as child:
            await child.line("  ENABLE_DEDUP on -> off")
            assert child.process.returncode is None, "it waits for the other"
    await rollback("--set", "ENABLE_DEDUP=on", "--admin", stack.admin)


@pytest.mark.asyncio(loop_scope="session")
async def test_nobody_who_listens_keeps_nothing_from_being_done(stack: Up) -> None:
    """As with a terminal that is gone."""
    read, write = os.pipe()
    os.close(read)
    options = ("--flag", "ENABLE_DEDUP", "--admin", stack.admin, "--admin", stack.monitor)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *ROLLBACK, *options),
        cwd=ROOT,
        env=environment(ADMIN_TOKEN=TOKEN),
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(write)
    _, told = await process.communicate()
    assert (process.returncode, told) == (0, b"")
    for admin in (stack.admin, stack.monitor):
        assert not (await flags(admin))["ENABLE_DEDUP"]
        await rollback("--set", "ENABLE_DEDUP=on", "--admin", admin)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--all", "--around"], "flags and --around are different orders"),
        (["--drill", "--flag", "BYPASS"], "flags and --drill are different orders"),
        (["--drill", "--admin", "http://127.0.0.1:9"], "--admin does not belong to --drill"),
        (["--flag", "BYPASS", "--yes"], "--yes does not belong to flags"),
        (["--all", "--admin", "127.0.0.1:9090"], "is no URL like"),
        # with that another host would be asked, example.comx
        (["--all", "--url", "https://example.com", "--path", "x"], "'x' is no path: a path begins with /"),
    ],
)
def test_nothing_of_an_order_is_passed_over(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(command.main, *options) == 2
    assert said in capsys.readouterr().err


async def test_replicas_that_could_not_be_told_are_said(tmp_path: Path) -> None:
    """With Redis away, what was ordered everywhere is done in one replica alone, which is no success."""
    async with running_redis(tmp_path) as redis, contextlib.AsyncExitStack() as running:
        one, other = [
            (await running.enter_async_context(proxy_process(NOBODY, redis_url=redis.url))).admin for _ in range(2)
        ]
        redis.process.kill()
        await redis.process.wait()
        child = await rollback("--all", "--admin", one, token=None)
        assert child.process.returncode == 1, child.output
        assert f"{one}: here ALONE so far, in " in child.output
        assert "other replicas are not told yet" in child.output
        assert (await flags(one))["BYPASS"]
        assert not (await flags(other))["BYPASS"]
        # as it advises
        child = await rollback("--all", "--here", "--admin", one, "--admin", other, token=None)
        assert child.process.returncode == 0, child.output
        assert (await flags(other))["BYPASS"]


async def test_where_replicas_differ_each_gets_back_its_own_by_here_alone(tmp_path: Path) -> None:
    async with (
        running_redis(tmp_path) as redis,
        proxy_process(NOBODY, redis_url=redis.url, enable_etag="off") as one,
        proxy_process(NOBODY, redis_url=redis.url) as other,
    ):
        before = {admin: await flags(admin) for admin in (one.admin, other.admin)}
        child = await rollback("--all", "--here", *admins(one.admin, other.admin), token=None)
        assert child.process.returncode == 0, child.output
        for line in [line for line in child.lines if line.startswith("  undo: ")]:
            await rollback(*line.split()[3:], token=None)
        assert {admin: await flags(admin) for admin in before} == before
        # what is done everywhere is undone everywhere, and said to be
        child = await rollback("--all", *admins(one.admin), token=None)
        assert "(in all replicas, to what this one had; to give each back its own: --here" in child.output
        await rollback(*undo_of(child), token=None)
        assert await flags(one.admin) == before[one.admin]
        async with asyncio.timeout(PATIENCE):
            while await flags(other.admin) != before[one.admin]:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)


def admins(*urls: str) -> list[str]:
    return [word for url in urls for word in ("--admin", url)]


def test_a_flag_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(command.main, "--flag", "ENABLE_ETAGS") == 2
    assert "did you mean ENABLE_ETAG" in capsys.readouterr().err


# -- around

# what the tool of version 5 takes, and nothing else
TOOL = """\
#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in
    "variable list --json --service locked"*) echo "Unauthorized" >&2; exit 1;;
    "variable set"*"--service broken"*) echo "no such thing: $(cat)" >&2; exit 1;;
    "domain "*"--service broken"*) echo "no such thing" >&2; exit 1;;
    "variable list --json --service "*)
        echo '{"OPENAI_BASE_URL": "http://siding:8081/v1", "DATABASE_URL": "postgresql://a:it'"'"'s@pooler/db"}';;
    "variable set "*" --stdin --service "*) echo "  given: $(cat)" >> "$LOG";;
    "variable delete "*" --service "*|"domain delete "*" --service "*" --yes") ;;
    "domain "*" --service "*) echo "CNAME www abc.up.railway.app";;
    *) echo "unexpected: $*" >&2; exit 2;;
esac
"""


@pytest.fixture
def tool(tmp_path: Path) -> dict[str, str]:
    """An environment with a stand-in for Railway's tool, which writes down what it is told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "railway"
    path.write_text(TOOL)
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}


def log(tool: dict[str, str]) -> list[str]:
    path = Path(tool["LOG"])
    return path.read_text().splitlines() if path.exists() else []


async def test_around_prints_the_steps_and_takes_none(tool: dict[str, str]) -> None:
    domain = ("--domain", "api.example.com", "--from", "siding", "--to", "backend")
    child = await rollback("--around", "--variable", "ai:OPENAI_BASE_URL=https://api.openai.com/v1", *domain, **tool)
    assert child.process.returncode == 0
    assert "railway variable set OPENAI_BASE_URL=https://api.openai.com/v1 --service ai" in child.output
    gone, there = "railway domain delete api.example.com --service siding --yes", "railway domain api.example.com"
    assert child.output.index("OPENAI_BASE_URL") < child.output.index(gone) < child.output.index(there)
    assert child.output.count("undo: ") == 2
    assert log(tool) == []


def test_around_without_names_says_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--around"], {}) == 0
    told = capsys.readouterr().out
    for word in ("OPENAI_BASE_URL", "DATABASE_URL", "--domain", "frontend:API_URL"):
        assert word in told


async def test_with_yes_the_steps_are_taken_and_the_way_back_is_written_first(
    tool: dict[str, str], tmp_path: Path
) -> None:
    undo = tmp_path / "undo.sh"
    variables = (
        "ai:OPENAI_BASE_URL=https://api.openai.com/v1",
        "backend:DATABASE_URL=${{Postgres.DATABASE_URL}}",
        "backend:NEW=sk-geheim",
    )
    options = [word for one in variables for word in ("--variable", one)]
    child = await rollback("--around", *options, "--environment", "live", "--yes", "--undo-file", str(undo), **tool)
    assert child.process.returncode == 0, child.output
    assert log(tool) == [
        "variable list --json --service ai --environment live",
        "variable list --json --service backend --environment live",
        "variable list --json --service backend --environment live",
        "variable set OPENAI_BASE_URL --stdin --service ai --environment live",
        "  given: https://api.openai.com/v1",
        "variable set DATABASE_URL --stdin --service backend --environment live",
        "  given: ${{Postgres.DATABASE_URL}}",
        "variable set NEW --stdin --service backend --environment live",
        "  given: sk-geheim",
    ]
    assert "was http://siding:8081/v1" in child.output
    assert "backend, NEW: set, was not set" in child.output
    assert "it's" not in child.output
    assert "geheim" not in child.output
    assert stat.S_IMODE(undo.stat().st_mode) == 0o700
    process = await asyncio.create_subprocess_exec("sh", str(undo), env={**os.environ, **tool})
    assert await process.wait() == 0
    assert log(tool)[9:] == [
        "variable set OPENAI_BASE_URL --stdin --service ai --environment live",
        "  given: http://siding:8081/v1",
        "variable set DATABASE_URL --stdin --service backend --environment live",
        "  given: postgresql://a:it's@pooler/db",
        "variable delete NEW --service backend --environment live",
    ]


async def test_a_domain_moves_last_and_its_records_are_told(tool: dict[str, str], tmp_path: Path) -> None:
    undo = tmp_path / "undo.sh"
    domain = ("--domain", "api.example.com", "--from", "siding", "--to", "backend")
    options = ("--variable", "ai:OPENAI_BASE_URL=https://x", *domain, "--yes", "--undo-file", str(undo))
    child = await rollback("--around", *options, **tool)
    assert child.process.returncode == 0, child.output
    assert log(tool)[-2:] == [
        "domain delete api.example.com --service siding --yes",
        "domain api.example.com --service backend",
    ]
    assert "CNAME www abc.up.railway.app" in child.output
    assert undo.read_text().splitlines()[-2:] == [
        "railway domain delete api.example.com --service backend --yes || true",
        "railway domain api.example.com --service siding",
    ]


async def test_what_fails_halfway_is_said_with_the_way_back(tool: dict[str, str], tmp_path: Path) -> None:
    undo = tmp_path / "undo.sh"
    variables = ("ai:OPENAI_BASE_URL=https://x", "broken:KEY=sk-geheim", "backend:DATABASE_URL=postgresql://y")
    options = [word for one in variables for word in ("--variable", one)]
    child = await rollback("--around", *options, "--yes", "--undo-file", str(undo), **tool)
    assert child.process.returncode == 1
    assert "ai, OPENAI_BASE_URL: set" in child.output
    assert f"no such thing: ***; the steps above are taken: undo them by sh {undo}" in child.output
    assert "geheim" not in child.output
    assert not any("DATABASE_URL" in line for line in log(tool)), "it stops where it fails"


async def test_a_domain_that_has_left_and_not_arrived_is_brought_back(tool: dict[str, str], tmp_path: Path) -> None:
    undo = tmp_path / "undo.sh"
    domain = ("--domain", "api.example.com", "--from", "siding", "--to", "broken")
    child = await rollback("--around", *domain, "--yes", "--undo-file", str(undo), **tool)
    assert child.process.returncode == 1
    assert log(tool)[0] == "domain delete api.example.com --service siding --yes"
    process = await asyncio.create_subprocess_exec("sh", str(undo), env={**os.environ, **tool})
    assert await process.wait() == 0
    assert log(tool)[-1] == "domain api.example.com --service siding"


async def test_a_tool_that_fails_changes_nothing(tool: dict[str, str], tmp_path: Path) -> None:
    undo = tmp_path / "undo.sh"
    options = ("--variable", "locked:NAME=https://x", "--yes", "--undo-file", str(undo))
    child = await rollback("--around", *options, **tool)
    assert child.process.returncode == 2
    assert "railway ended with status 1: Unauthorized" in child.output
    assert len(log(tool)) == 1
    assert not undo.exists()


async def test_a_way_back_is_never_written_over(tool: dict[str, str], tmp_path: Path) -> None:
    undo = tmp_path / "undo.sh"
    undo.write_text("precious")
    options = ("--variable", "ai-engine:OPENAI_BASE_URL=https://x", "--yes", "--undo-file", str(undo))
    child = await rollback("--around", *options, **tool)
    assert child.process.returncode == 2
    assert "nothing was changed" in child.output
    assert undo.read_text() == "precious"
    assert all("variable list" in line for line in log(tool))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--variable", "no-name=x"], "is not SERVICE:NAME=VALUE"),
        (["--domain", "a.example", "--to", "backend"], "--domain, --from and --to belong together"),
        (
            ["--domain", "a.example", "--from", "siding", "--to", "backend", "--environment", "live"],
            "moves domains in the linked environment alone",
        ),
        (["--yes"], "nothing was changed"),
    ],
)
def test_steps_that_cannot_be_taken(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(command.main, "--around", *options, PATH=str(tmp_path)) == 2
    assert said in capsys.readouterr().err


def test_values_are_shown_only_where_they_are_no_secrets() -> None:
    assert around.shown_value("https://user:geheim@host/v1?key=geheim") == "https://***@host/v1?***"
    assert around.shown_value("${{Postgres.DATABASE_URL}}") == "${{Postgres.DATABASE_URL}}"
    assert around.shown_value("sk-geheim") == "***"


# -- the drill


async def test_the_drill_loses_nothing_and_flags_take_less_than_a_second() -> None:
    async with asyncio.timeout(120), python(*ROLLBACK, "--drill") as child:
        lines = child.process.stdout
        assert lines is not None
        child.lines += [raw.decode().rstrip("\n") async for raw in lines]
        status = await child.process.wait()
    assert status == 0, child.output
    rows = [line for line in child.lines if line.endswith((" met", " MISSED"))]
    assert len(rows) == 2 * (len(drill.PROXYS) + len(drill.MONITORS)) + 2
    assert all(line.endswith(" met") for line in rows)
    total = next(line for line in child.lines if " requests, " in line)
    assert re.fullmatch(r"\d+ requests, 0 lost", total)
    assert int(total.split()[0]) > 1000
    seen = [line for line in rows if " by answers " in line]
    assert len(seen) == 2 * (len(switches.PROBES) + len(drill.MONITORS)) + 2


def test_a_step_is_met_only_if_it_was_seen_in_time_and_lost_nothing() -> None:
    assert drill.Step("a", 5, 0, 0.999).met
    assert drill.Step("a", 5, 0, 9.0, None).met
    assert not drill.Step("a", 5, 1, 0.1).met
    assert not drill.Step("a", 5, 0, 1.0).met
    assert not drill.Step("a", 5, 0, None).met
