"""How a process loads what it needs."""

from __future__ import annotations

import gc
from importlib import import_module
from pathlib import Path

import pytest

from config.process import loading
from tests.deploy.processes import environment, python

LOOKING = """
import gc, sys

class Looking:
    def find_spec(self, name, path=None, target=None):
        if name in ("{package}.serving", "config.redis_client", "pool_monitor.pgbouncer"):
            print(name, gc.isenabled(), flush=True)

sys.meta_path.insert(0, Looking())
import {package}.__main__ as service
sys.exit(service.main([]))
"""


@pytest.mark.parametrize(
    ("package", "file", "needed"),
    [
        ("proxy", "RULES_FILE", ["proxy.serving", "config.redis_client"]),
        ("pool_monitor", "QUERIES_FILE", ["pool_monitor.serving", "config.redis_client", "pool_monitor.pgbouncer"]),
    ],
)
async def test_all_is_loaded_before_anything_listens_and_not_looked_through_for_garbage(
    tmp_path: Path, package: str, file: str, needed: list[str]
) -> None:
    nobody = "127.0.0.1:1"
    given = {
        "UPSTREAM_URL": f"http://{nobody}",
        "REDIS_URL": f"redis://{nobody}",
        "PGBOUNCER_ADMIN_URL": f"postgresql://a@{nobody}/pgbouncer",
        file: str(tmp_path / "there is none"),
    }
    async with python("-c", LOOKING.format(package=package), environ=environment(**given)) as child:
        assert await child.end() == 2
    assert [line for line in child.lines if line.endswith(("True", "False"))] == [f"{name} False" for name in needed]


def test_what_cannot_be_loaded_changes_nothing_for_the_rest() -> None:
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), loading():
        import_module("no_such_module")
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
