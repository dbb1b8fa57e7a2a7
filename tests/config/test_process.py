"""How a process loads what it needs."""

from __future__ import annotations

import gc
from importlib import import_module

import pytest

from config.process import loading


def test_what_is_loaded_is_not_looked_through_for_garbage() -> None:
    frozen = gc.get_freeze_count()
    with loading():
        assert not gc.isenabled()
        loaded: list[list[int]] = [[] for _ in range(10)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(loaded)


def test_what_cannot_be_loaded_changes_nothing_for_the_rest() -> None:
    with pytest.raises(ImportError), loading():
        import_module("no_such_module")
    assert gc.isenabled()
