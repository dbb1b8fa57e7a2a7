"""What the service has, and what no caller of a proxy may be told any more once a change has been answered there."""

from __future__ import annotations

import json
import random
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

ITEMS = 60
SIZES = (60, 400, 2_000, 9_000, 70_000)


def content_of(kind: str, name: str, version: int, user: str = "") -> bytes:
    """What a version of a thing looks like; another's, or half of it, does not look so."""
    dice = random.Random(f"{kind} {name} {version} {user}")  # noqa: S311 - it is made again to compare
    filler = dice.choice("abcdefgh") * SIZES[zlib.crc32(f"{kind} {name}".encode()) % len(SIZES)]
    return json.dumps({"kind": kind, "name": name, "version": version, "user": user, "filler": filler}).encode()


def is_sound(content: bytes, kind: str, name: str, user: str = "") -> int | None:
    """The version that `content` is of; None if it is not what such a thing looks like."""
    try:
        document: Mapping[str, Any] = json.loads(content)
        version = int(document["version"])
    except (ValueError, KeyError, TypeError):
        return None
    return version if content == content_of(kind, name, version, user) else None


class Truth:
    """versions -- of each thing, by its name. told -- those of them that a caller was told to be there.

    floors -- the least version that a proxy may tell, by proxy and name. happening -- what is being broken.
    """

    def __init__(self) -> None:
        self.versions: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.floors: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.faults: list[str] = []
        self.happening = "start"
        self._began = time.monotonic()

    def change(self, name: str) -> int:
        """A new version, as the service has it from now on."""
        self.versions[name] += 1
        return self.versions[name]

    def answered(self, proxy: str, name: str, version: int) -> None:
        """A change was answered by way of `proxy`, which may not tell anything older from now on."""
        for known in (self.floors[proxy], self.told):
            known[name] = max(known[name], version)

    def forget(self, proxy: str) -> None:
        """It is another process now."""
        self.floors.pop(proxy, None)

    def fault(self, text: str) -> None:
        """What no caller may see was seen."""
        self.faults.append(f"{time.monotonic() - self._began:.2f} s ({self.happening}): {text}")
