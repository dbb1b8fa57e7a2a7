"""What the programs that are tried with make of options that are at fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.processes import python


@pytest.mark.parametrize(
    ("program", "options", "status", "said"),
    [
        ("grading_simulator", ["--port", "70000"], 2, "'70000' is no port: a whole number from 0 to 65535"),
        ("grading_simulator", ["--latency-ms", "-5"], 2, "'-5' is no number from 0 on"),
        ("grading_simulator", ["--ms-per-token", "nan"], 2, "'nan' is no number from 0 on"),
        ("example_origin", ["--port", "-1"], 2, "'-1' is no port: a whole number from 0 to 65535"),
        ("example_origin", ["--report-seconds", "soon"], 2, "'soon' is no number from 0 on"),
        ("postgres", ["--port", "x"], 2, "'x' is no port: a whole number from 0 to 65535"),
        ("postgres", ["--sql", "/nothing"], 2, "'/nothing' cannot be read: No such file or directory"),
        ("postgres", ["--sql", "faulty.sql"], 1, 'postgres: syntax error at or near "SELEKT"'),
        ("postgres", ["--sql", "good.sql", "--notify", "none"], 1, "postgres: there is no table 'none'"),
        ("grafana.build", ["--help"], 0, "usage: python -m deploy.grafana.build"),
        ("grafana.build", ["all"], 2, "unrecognized arguments: all"),
    ],
)
async def test_options_at_fault(program: str, options: list[str], status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "faulty.sql").write_text("SELEKT 1")
    (tmp_path / "good.sql").write_text("SELECT 1")
    given = [str(tmp_path / option) if option.endswith(".sql") else option for option in options]
    async with python("-m", f"deploy.{program}", *given) as child:
        assert await child.end() == status
    assert said in child.output
    assert "Traceback" not in child.output
