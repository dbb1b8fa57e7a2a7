"""The locks: complete, hashed, agreeing with pyproject.toml and with each other, and naming no host."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("config", "deploy", "pool_monitor", "proxy")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STANDARD = sys.stdlib_module_names | {"compression"}
"""Modules of Python itself; the last is new in 3.14."""
RUN, LOCAL, OTEL, DEV = (ROOT / f"requirements{kind}.lock" for kind in ("", "-local", "-otel", "-dev"))


def locked(path: Path) -> dict[str, tuple[Requirement, frozenset[str]]]:
    """Requirements with their hashes by canonical name."""
    text = re.sub(r"^ *#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, tuple[Requirement, frozenset[str]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement = Requirement(line.split(" --hash=")[0].strip())
        found[canonicalize_name(requirement.name)] = requirement, frozenset(re.findall(r"sha256:[0-9a-f]{64}", line))
    return found


def pinned(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("path", [RUN, LOCAL, OTEL, DEV], ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_hashed(path: Path) -> None:
    requirements = locked(path)
    assert len(requirements) > 10
    for requirement, hashes in requirements.values():
        assert pinned(requirement)
        assert hashes, requirement.name


@pytest.mark.parametrize("path", [RUN, LOCAL, OTEL, DEV], ids=lambda path: path.name)
def test_a_lock_names_no_host_and_no_path(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find-links|trusted)", text)
    assert not re.search(r"(^|\s)/[a-z]", text)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (RUN, PROJECT["dependencies"]),
        (DEV, PROJECT["dependencies"]),
        (DEV, PROJECT["optional-dependencies"]["test"]),
        (LOCAL, PROJECT["optional-dependencies"]["local"]),
        (OTEL, PROJECT["optional-dependencies"]["otel"]),
        (DEV, [one for one in PROJECT["optional-dependencies"]["dev"] if "[" not in one]),
    ],
)
def test_the_locks_hold_what_the_project_asks_for(path: Path, wanted: list[str]) -> None:
    lock = locked(path)
    for requirement in map(Requirement, wanted):
        found, _ = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned(found)), f"{requirement}: run `make lock`"


def test_what_is_tested_is_what_runs() -> None:
    tested = locked(DEV)
    for name, (requirement, hashes) in {**locked(RUN), **locked(LOCAL), **locked(OTEL)}.items():
        assert (str(tested[name][0]), tested[name][1]) == (str(requirement), hashes)


def test_what_is_asked_for_with_extras_is_locked_with_them() -> None:
    """Older installers do not see that the pin of a name is one of the name with extras as well."""
    lock = locked(DEV)
    for name in lock:
        try:
            asked = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for requirement in map(Requirement, asked):
            if requirement.extras and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                assert requirement.extras <= lock[canonicalize_name(requirement.name)][0].extras, name


def test_every_import_is_a_declared_dependency() -> None:
    """What only comes along with another dependency may be gone with its next release. What makes files is not run."""
    local = PROJECT["optional-dependencies"]["local"]
    declared = {canonicalize_name(Requirement(one).name) for one in [*PROJECT["dependencies"], *local]}
    extras = {
        path: {canonicalize_name(Requirement(one).name) for one in PROJECT["optional-dependencies"][extra]}
        for path, extra in (("build.py", "test"), ("otel.py", "otel"))
    }
    providers = importlib.metadata.packages_distributions()
    undeclared = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.partition(".")[0] for name in names} - STANDARD - set(PACKAGES):
                allowed = declared | extras.get(path.name, set())
                if not {canonicalize_name(one) for one in providers.get(top, [])} & allowed:
                    undeclared[top] = str(path.relative_to(ROOT))
    assert undeclared == {}


def test_the_packages_and_the_command_are_those_of_the_tree() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert tuple(config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES
    assert PROJECT["scripts"] == {
        "siding": "deploy.__main__:main",
        "siding-proxy": "proxy.__main__:main",
        "siding-monitor": "pool_monitor.__main__:main",
    }
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("package", ["proxy", "pool_monitor", "deploy"])
def test_help_and_bad_settings_do_not_wait_for_what_serving_needs(package: str) -> None:
    heavy = {"aiohttp", "asyncpg", "openai", "prometheus_client", "redis", "sqlglot"}
    code = (
        f"import sys\nfrom {package}.__main__ import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    )
    code += f"print(sorted({heavy!r} & sys.modules.keys()), file=sys.stderr)"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: " in told.stdout
    assert told.stderr.strip() == "[]"
