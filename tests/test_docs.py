"""The README says what the code does: settings, commands, flags."""

from __future__ import annotations

import re
from pathlib import Path

from config.describe import TABLES, settings_table, with_tables
from config.flags import FlagName
from config.rule import PARTS
from config.version import VERSION
from proxy.errors import SidingError
from proxy.policy.decisions import Forward, Outcome

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "deploy/README.md", "deploy/prometheus/RUNBOOK.md")]
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


def test_every_outcome_reason_and_error_is_explained() -> None:
    assert [name for name in Outcome if f"`{name}`" not in README] == []
    assert [name for name in Forward if f"`fwd={name}" not in README] == []
    faults: list[type[SidingError]] = [SidingError]
    for fault in faults:
        faults += fault.__subclasses__()
    told = [fault.code for fault in faults if not fault.__subclasses__()]
    assert [code for code in told if f"`{code}`" not in README] == []


def test_every_link_leads_somewhere() -> None:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for file, heading in re.findall(r"\]\(([^():#\s]*)(?:#([^)\s]*))?\)", text):
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), f"{path.name}: {file}"
            assert not heading or heading in headings(there.read_text(encoding="utf-8")), f"{path.name}: #{heading}"


def headings(text: str) -> set[str]:
    """The names that the headings of a document have in links, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_changelog_has_this_version() -> None:
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_runs_the_command_of_the_readme() -> None:
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test"
