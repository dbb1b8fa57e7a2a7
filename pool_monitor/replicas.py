"""Answers of queries shared with other monitors that ask the same database as the same role, by way of the shared tier.

Each table has a counter there, which every monitor counts up when it hears of a change. An answer carries the
counters as they stood before its query began, and holds only while they stand so. A monitor reads nothing from the
tier between hearing of a change and having counted it: nobody is given what was read before a change he heard of. A
counter that stands lower than it did here is that of a server which has lost its end, and is brought up to that first.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

from config.tasks import end
from config.tier import SharedTier

VERSION = 2
EVERYTHING = "*"
RETRY_SECONDS = 0.5
_ON_THE_WAY = ("password", "passfile", "ssl", "krbsrvname", "gsslib", "connect_timeout", "application_name")
"""What options of a URL begin with that change how the database is reached, and nothing of its answers."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the tier has under a key. content -- None where there is nothing that holds. left -- seconds."""

    key: str
    counters: list[int]
    content: bytes | None
    left: float


def reader_of(url: str, user: str) -> str:
    """As whom a URL has the database asked: what policies, the search path and other settings of a session hang on.

    user -- who it is where the URL names nobody.
    """
    parts = urlsplit(url)
    options = sorted((name, value) for name, value in parse_qsl(parts.query, True) if not name.startswith(_ON_THE_WAY))
    return repr([unquote(parts.username or user), options])


class Replicas:
    """See the module. on -- the flag.

    url -- of the database, of which place, user and options stand (hashed) in keys. user -- where it has none.
    """

    def __init__(self, tier: SharedTier, url: str, user: str, on: Callable[[], bool]) -> None:
        self._tier = tier
        self._on = on
        self._reader = reader_of(url, user)
        # there may be several hosts
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition('@')[2].lower()}{parts.path}"
        self._prefix = f"siding:{hashlib.blake2b(place.encode(), digest_size=8).hexdigest()}"
        # by how much, and since when, so that a change heard of meanwhile is counted for itself
        self.uncounted: dict[str, tuple[int, int]] = {}
        self._heard = 0
        self._least: dict[str, int] = {}
        self._counting: asyncio.Task[None] | None = None

    def _counter(self, name: str) -> str:
        return f"{self._prefix}:changes:{name}"

    async def look(self, key: str, tables: Iterable[str]) -> Look | None:
        """What is there for `key`; None where the tier cannot be had or must not be read now."""
        if not self._on() or self.uncounted:
            return None
        asked = f"{self._reader}\n{key}"
        where = f"{self._prefix}:answer:{hashlib.blake2b(asked.encode(), digest_size=20).hexdigest()}"
        names = (EVERYTHING, *sorted(tables))
        found = await self._tier.read(where, [self._counter(name) for name in names])
        if found is None or self.uncounted:
            return None
        value, left, counters = found
        short = {name: self._least.get(name, 0) - count for name, count in zip(names, counters, strict=True)}
        lost = {name: by + 1 for name, by in short.items() if by > 0}
        if lost:
            self._count_up(lost)
            return None
        content = _unpacked(value, where, counters) if value is not None and left > 0 else None
        return Look(where, counters, content, left)

    async def tell(self, look: Look, content: bytes, ttl: float) -> None:
        """Let the others have an answer whose query began after `look`."""
        header = orjson.dumps([VERSION, look.key, look.counters])
        await self._tier.write(look.key, header + b"\n" + content, ttl)

    def spoil(self, names: Iterable[str]) -> None:
        """Count a change of these tables; until that is done nothing is read from the tier."""
        self._count_up(dict.fromkeys(names, 1))

    def _count_up(self, amounts: Mapping[str, int]) -> None:
        self._heard += 1
        for name, amount in amounts.items():
            before, _ = self.uncounted.get(name, (0, 0))
            self.uncounted[name] = max(before, amount), self._heard
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count())

    async def _count(self) -> None:
        while self.uncounted:
            counting = dict(sorted(self.uncounted.items()))
            counts = await self._tier.count_up({self._counter(name): by for name, (by, _) in counting.items()})
            if counts is None:
                # what was missed meanwhile is not known: everything counts as changed
                self.uncounted.setdefault(EVERYTHING, (1, self._heard))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for (name, told), count in zip(counting.items(), counts, strict=True):
                self._least[name] = max(count, self._least.get(name, 0))
                if self.uncounted[name] == told:
                    del self.uncounted[name]

    async def close(self) -> None:
        """Stop."""
        await end([self._counting])


def _unpacked(value: bytes, key: str, counters: list[int]) -> bytes | None:
    """The content of a value that is of this version, for this key, and unchanged since; None for any other."""
    header, newline, content = value.partition(b"\n")
    try:
        known = orjson.loads(header)
    except orjson.JSONDecodeError:
        return None
    return content if newline and known == [VERSION, key, counters] else None
