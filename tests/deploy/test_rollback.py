"""`siding rollback`: orders by tables, flags on a real stack, Railway's tool by a stand-in, and the drill."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from config.flags import FlagName
from deploy.rollback import around, drill, switches
from deploy.rollback.switches import BadOrder, expected, order, undoing
from tests.deploy.processes import Child, environment, python
from tests.deploy.stacks import Up, running_stack

ROLLBACK = ("-m", "deploy", "rollback")
TOKEN = "geheim-token"  # noqa: S105 - of this test


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


def test_under_bypass_nothing_else_may_show() -> None:
    assert expected({"BYPASS": True, "ENABLE_ETAG": True}) == {name: name == "BYPASS" for name in switches.PROBES}
    assert expected({"ENABLE_ETAG": False, "ENABLE_DEDUP": False}) == {FlagName.ENABLE_ETAG: False}
    assert expected({"ENABLE_ETAG": True}) == {}


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
    child = await rollback("--all", "--admin", stack.admin, "--admin", stack.monitor, "--url", stack.proxy)
    assert child.process.returncode == 0, child.output
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


async def test_a_flag_that_is_none_is_said() -> None:
    child = await rollback("--flag", "ENABLE_ETAGS")
    assert child.process.returncode == 2
    assert "did you mean ENABLE_ETAG" in child.output


# -- around

TOOL = """\
#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in
    *broken*--json*) echo "Unauthorized" >&2; exit 1;;
    *--json*) echo '{"OPENAI_BASE_URL": "http://siding:8081/v1", "DATABASE_URL": "postgresql://a:geheim@pooler/db"}';;
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
    options = ("--variable", "ai-engine:OPENAI_BASE_URL=https://api.openai.com/v1", "--domain", "api.example.com")
    child = await rollback("--around", *options, "--to", "backend", **tool)
    assert child.process.returncode == 0
    assert "railway variables --service ai-engine --set OPENAI_BASE_URL=https://api.openai.com/v1" in child.output
    assert "railway domain api.example.com --service backend" in child.output
    assert child.output.count("undo: ") == 2
    assert log(tool) == []


async def test_around_without_names_says_what_to_name() -> None:
    child = await rollback("--around")
    assert child.process.returncode == 0
    for word in ("OPENAI_BASE_URL", "DATABASE_URL", "--domain", "frontend:API_URL"):
        assert word in child.output


async def test_with_yes_the_steps_are_taken_and_the_way_back_is_written_first(
    tool: dict[str, str], tmp_path: Path
) -> None:
    undo = tmp_path / "undo.sh"
    variables = (
        "ai-engine:OPENAI_BASE_URL=https://api.openai.com/v1",
        "backend:DATABASE_URL=${{Postgres.DATABASE_URL}}",
    )
    options = [word for one in variables for word in ("--variable", one)]
    child = await rollback(
        "--around", *options, "--environment", "production", "--yes", "--undo-file", str(undo), **tool
    )
    assert child.process.returncode == 0, child.output
    assert log(tool) == [
        "variables --service ai-engine --environment production --json",
        "variables --service backend --environment production --json",
        "variables --service ai-engine --environment production --set OPENAI_BASE_URL=https://api.openai.com/v1",
        "variables --service backend --environment production --set DATABASE_URL=${{Postgres.DATABASE_URL}}",
    ]
    assert "was http://siding:8081/v1" in child.output
    assert "geheim" not in child.output
    assert stat.S_IMODE(undo.stat().st_mode) == 0o700
    process = await asyncio.create_subprocess_exec("sh", str(undo), env={**os.environ, **tool})
    assert await process.wait() == 0
    assert log(tool)[4:] == [
        "variables --service ai-engine --environment production --set OPENAI_BASE_URL=http://siding:8081/v1",
        "variables --service backend --environment production --set DATABASE_URL=postgresql://a:geheim@pooler/db",
    ]


async def test_a_tool_that_fails_changes_nothing(tool: dict[str, str], tmp_path: Path) -> None:
    undo = tmp_path / "undo.sh"
    options = ("--variable", "broken:NAME=https://x", "--yes", "--undo-file", str(undo))
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
    assert all("--set" not in line for line in log(tool))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--variable", "no-name=x"], "is not SERVICE:NAME=VALUE"),
        (["--domain", "a.example"], "--domain and --to belong together"),
        (["--yes"], "nothing was changed"),
    ],
)
async def test_steps_that_cannot_be_taken(options: list[str], said: str, tmp_path: Path) -> None:
    child = await rollback("--around", *options, PATH=str(tmp_path))
    assert child.process.returncode == 2
    assert said in child.output


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


def test_a_step_is_met_only_if_it_was_seen_in_time_and_lost_nothing() -> None:
    assert drill.Step("a", 5, 0, 0.999).met
    assert drill.Step("a", 5, 0, 9.0, None).met
    assert not drill.Step("a", 5, 1, 0.1).met
    assert not drill.Step("a", 5, 0, 1.0).met
    assert not drill.Step("a", 5, 0, None).met
