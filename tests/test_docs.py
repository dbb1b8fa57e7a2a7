"""The README says what the code does: settings, commands, flags."""

from __future__ import annotations

import re
from pathlib import Path

from config.describe import TABLES, settings_table, with_tables
from config.flags import FlagName
from config.rule import PARTS
from config.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_readme_has_every_table_of_settings_as_it_is_today() -> None:
    for name, model in TABLES.items():
        table = f"<!-- settings:{name} -->\n{settings_table(model)}\n<!-- /settings:{name} -->"
        assert table in README, "run `make docs`"
    assert with_tables(README) == README


def test_the_first_two_commands_of_the_readme_are_run_and_test() -> None:
    commands = [line.split("#")[0].strip() for line in re.findall(r"^make .*$", README, re.MULTILINE)]
    assert commands[:2] == ["make run", "make test"]


def test_every_make_command_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert named <= targets
    assert named >= {"run", "test", "check"}


def test_every_flag_and_every_part_of_a_key_is_explained() -> None:
    assert [name for name in FlagName if f"`{name}`" not in README] == []
    assert [part for part in PARTS if f"`{part}`" not in README] == []


def test_the_changelog_has_this_version() -> None:
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_runs_the_command_of_the_readme() -> None:
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test"
