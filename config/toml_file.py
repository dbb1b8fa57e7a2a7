"""A TOML file read whole, or the reason why it cannot be; and files that are tables of one kind, with every fault."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from config.words import counted, did_you_mean, quoted

T = TypeVar("T")


class TomlError(ValueError):
    """A file that is none. Its text says why, behind what it is called."""


class FileError(Exception):
    """A setting's file that cannot be used. Its text lists every fault."""

    def __init__(self, setting: str, path: str | os.PathLike[str], faults: Sequence[str]) -> None:
        words = counted(len(faults), "fault")
        super().__init__("\n  ".join([f"{setting} {os.fspath(path)}: {words}:", *faults]))
        self.faults = tuple(faults)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document; an editor may have put a byte order mark before it. Raises TomlError."""
    try:
        return tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as fault:
        raise TomlError(f"cannot be read: {fault.strerror or fault}") from fault
    except UnicodeDecodeError as fault:
        raise TomlError("is not TOML: it is not UTF-8 text") from fault
    except RecursionError:
        raise TomlError("is not TOML: brackets are nested too deep in it") from None
    except ValueError as fault:
        raise TomlError(f"is not TOML: {fault}") from fault


def read_tables(
    setting: str,
    path: str | os.PathLike[str],
    *,
    kind: str,
    what: str,
    called: str,
    read: Callable[[Mapping[str, Any], Sequence[T]], tuple[T, list[str]]],
) -> list[T]:
    """What the tables of a setting's file say, which all are `[[kind]]`. Raises FileError.

    what -- what one of them is. called -- its key that names it. read -- makes that of a table, given those before it,
    and says what is wrong with it.
    """
    try:
        document = read_toml(path)
    except TomlError as fault:
        raise FileError(setting, path, [f"it {fault}"]) from fault
    faults = [f"{name}: this key is not known{did_you_mean(name, [kind])}" for name in document if name != kind]
    tables = document.get(kind, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FileError(setting, path, [*faults, f"{kind}: each {what} begins with [[{kind}]], in double brackets"])
    made: list[T] = []
    for number, table in enumerate(tables, 1):
        one, found = read(table, made)
        where = f"{kind} {number} ({quoted(table[called])})" if called in table else f"{kind} {number}"
        faults += [f"{where}: {fault}" for fault in found]
        made.append(one)
    if faults:
        raise FileError(setting, path, faults)
    return made


class TableReader:
    """Reads a table key by key and collects what is wrong in `faults`."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table
        self.faults: list[str] = []

    def fault(self, key: str, words: str) -> None:
        """What is wrong with a key."""
        self.faults.append(f"{key}: {words}")

    def unknown_keys(self, known: Collection[str]) -> None:
        """A fault for every key that means nothing."""
        for key in self.table:
            if key not in known:
                self.fault(key, f"this key is not known{did_you_mean(key, known)}")

    def switch(self, key: str) -> bool:
        """A declaration of the operator's."""
        given = self.table.get(key, False)
        if not isinstance(given, bool):
            self.fault(key, f"{quoted(given)} is neither true nor false")
        return given is True
