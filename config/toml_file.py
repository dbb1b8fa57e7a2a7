"""A TOML file read whole, or the reason why it cannot be."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any


class TomlError(ValueError):
    """A file that is none. Its text says why, behind what it is called."""


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
