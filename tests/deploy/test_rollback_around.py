"""`siding rollback --around`, with a stand-in for Railway's tool, and the drill."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import sys
from pathlib import Path

import pytest

from deploy.rollback import around, command, drill, switches
from tests.deploy.processes import ROOT, python, refused
from tests.deploy.rollbacks import ROLLBACK, rollback

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
    assert "without ports" in child.output
    assert "--port" not in child.output.replace("--from SERVICE:PORT", "")
    assert log(tool) == []


@pytest.mark.parametrize(("out", "status", "undo"), [("/dev/full", 1, 0), ("/dev/full", 0, 1), ("/dev/null", 0, 0)])
async def test_steps_that_nobody_can_read_are_said_to_be(
    tool: dict[str, str], tmp_path: Path, out: str, status: int, undo: int
) -> None:
    """Where it takes them, the file that undoes them is named all the same."""
    taken = ["--yes", "--undo-file", str(tmp_path / "undo.sh")] if status == 0 else []
    options = ("--around", "--variable", "ai:OPENAI_BASE_URL=https://x", *taken)
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" > {out}', "sh", sys.executable, *ROLLBACK, *options),
        env={**os.environ, **tool},
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == status
    assert told.decode().count("standard output cannot be written") == (out == "/dev/full")
    assert told.decode().count(f"siding rollback: undo: sh {tmp_path / 'undo.sh'} (it holds") == undo


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
    domain = ("--domain", "api.example.com", "--from", "siding:8080", "--to", "backend:3000")
    options = ("--variable", "ai:OPENAI_BASE_URL=https://x", *domain, "--yes", "--undo-file", str(undo))
    child = await rollback("--around", *options, **tool)
    assert child.process.returncode == 0, child.output
    assert log(tool)[-2:] == [
        "domain delete api.example.com --service siding --yes",
        "domain api.example.com --service backend --port 3000",
    ]
    assert "CNAME www abc.up.railway.app" in child.output
    assert undo.read_text().splitlines()[-2:] == [
        "railway domain delete api.example.com --service backend --yes || true",
        "railway domain api.example.com --service siding --port 8080",
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
        *(
            (["--domain", "a.example", "--from", "siding:8080", "--to", end], "is not SERVICE:PORT")
            for end in ("backend:", ":3000", "backend:0", "backend:65536", "backend:+30", "backend:٣", "a:b:3000")
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
