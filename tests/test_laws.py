"""The architecture, held by the imports: they point one way, and what decides is pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool_monitor.grading import wire
from proxy.policy.forwarding import HOP_BY_HOP

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("config", "deploy", "pool_monitor", "proxy")

PURE = frozenset(
    {
        "__future__",
        "base64",
        "binascii",
        "bisect",
        "calendar",
        "collections",
        "dataclasses",
        "datetime",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "http_sf",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "string",
        "types",
        "typing",
        "urllib",
    }
)
"""What `proxy.policy` may take from elsewhere: the standard library without what reads a clock, a socket or the
environment, and the parser of structured fields."""

_DECIDES = "shapes answers scanning expanding templates health accounting sse care calls jsons outcomes"
PURE_IN_GRADING = frozenset(f"pool_monitor.grading.{name}" for name in _DECIDES.split())
"""What decides in the grading wrapper; these import each other, what is pure, and what is pure but not in `PURE`.
`models` is data, of which the table's type is imported."""
PURE_BESIDE = frozenset({"orjson", "email", "hmac", "config.words", "pool_monitor.grading.models"})

LAYERS = {"proxy.policy": 0, "proxy.origin": 1, "proxy.store": 1, "proxy.observe": 1, "proxy.server": 2}
"""app -> server -> {origin, store, observe} -> policy; what is not listed is composed of these and stands above."""
TOP = 3
BELOW_ALL = frozenset({"proxy.errors"})

MAPS = {"proxy.origin": "proxy", "proxy.server": "proxy"}
"""Where the map of a package is, if not in its own `__init__.py`."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(source: str) -> Iterator[str]:
    """Dotted names that are imported, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else module for name in names)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def layer(module: str) -> int:
    if module in BELOW_ALL or module == "proxy":
        return 0
    return next((rank for package, rank in LAYERS.items() if within(module, package)), TOP)


def faults_of(module: str, source: str) -> list[str]:
    """The laws that a module's imports break."""
    found = []
    for name in imports(source):
        if within(name, "tests") or (within(name, "deploy") and not within(module, "deploy")):
            found.append(f"{name}: nobody imports it")
        if within(module, "config") and within(name, "proxy", "pool_monitor"):
            found.append(f"{name}: config imports neither service")
        if within(module, "proxy") and within(name, "pool_monitor"):
            found.append(f"{name}: the services never import each other")
        if within(module, "pool_monitor") and within(name, "proxy"):
            found.append(f"{name}: the services never import each other")
        if within(module, "proxy.policy") and not within(name, "proxy.policy") and name.split(".")[0] not in PURE:
            found.append(f"{name}: proxy.policy imports only itself and what is pure")
        allowed = name.split(".")[0] in PURE | PURE_BESIDE or within(name, *PURE_IN_GRADING, *PURE_BESIDE)
        if module in PURE_IN_GRADING and not allowed:
            found.append(f"{name}: {module} decides, and imports only what is pure")
        if within(module, "proxy") and within(name, "proxy") and layer(name) > layer(module):
            found.append(f"{name}: imports point down, from app to policy")
    return found


@pytest.mark.parametrize("module", FILES)
def test_imports_keep_the_laws(module: str) -> None:
    assert faults_of(module, FILES[module].read_text(encoding="utf-8")) == []


def test_no_test_module_imports_another() -> None:
    """What several use is no test, and stands in a module that says what it is."""
    names = {path: imports(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "tests").rglob("*.py"))}
    assert len(names) > 100
    found = [(path.name, name) for path, its in names.items() for name in its if within(name, "tests")]
    assert [(path, name) for path, name in found if ".test_" in name] == []


def test_both_services_take_the_same_fields_for_those_of_one_hop() -> None:
    """Neither may import the other, nor the policy what both have in common."""
    assert wire.OF_ONE_HOP == HOP_BY_HOP


@pytest.mark.parametrize("package", [module for module, path in FILES.items() if path.name == "__init__.py"])
def test_the_map_of_a_package_names_all_its_modules(package: str) -> None:
    words = set(re.findall(r"\w+", FILES[MAPS.get(package, package)].read_text(encoding="utf-8")))
    modules = {path.stem for path in FILES[package].parent.glob("[!_]*.py")}
    assert modules - words == set()


def test_there_is_something_to_hold() -> None:
    assert {"config.settings", "proxy.app", "proxy.policy.freshness"} | PURE_IN_GRADING <= set(FILES)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("config.load", "import proxy.app"),
        ("config.load", "from pool_monitor import app"),
        ("proxy.server.handler", "from pool_monitor.pool import Pool"),
        ("pool_monitor.app", "import proxy"),
        ("proxy.app", "from deploy import local"),
        ("proxy.app", "import tests.support"),
        ("proxy.policy.freshness", "import time"),
        ("proxy.policy.freshness", "from os import environ"),
        ("proxy.policy.freshness", "import multidict"),
        ("proxy.policy.freshness", "def f():\n    import asyncio"),
        ("proxy.policy.freshness", "from proxy import store"),
        ("proxy.policy.freshness", "from config.rules import Rule"),
        ("proxy.store.memory", "from proxy.server import handler"),
        ("proxy.server.handler", "from proxy import app"),
        ("proxy.origin.client", "from proxy.app import Worker"),
        ("pool_monitor.grading.templates", "import asyncio"),
        ("pool_monitor.grading.answers", "from pool_monitor.grading.upstream import Upstream"),
        ("pool_monitor.grading.health", "import time"),
    ],
)
def test_a_breach_is_seen(module: str, source: str) -> None:
    assert faults_of(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("proxy.policy.freshness", "import re\nfrom urllib.parse import urljoin\nfrom proxy.policy import fields"),
        ("proxy.store.memory", "from proxy import errors\nfrom proxy.policy.messages import Fields"),
        ("proxy.server.handler", "from proxy.store import base\nfrom config.rules import Rule\nimport asyncio"),
        ("proxy.app", "from proxy.server import handler"),
        ("deploy.local", "from config.load import load\nfrom config.listen import open_socket"),
    ],
)
def test_what_the_laws_allow(module: str, source: str) -> None:
    assert faults_of(module, source) == []
