"""Who listens to a bulletin."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from config.bulletin import Entry, Standing

MOVED = ["moved"]


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.began_at: list[int] = []
        self.known_since: list[int] = []
        self.entries: list[Any] = []
        self.numbers: list[int] = []
        self.missings: list[bool] = []
        self.stands: dict[str, Any] = {}
        self.logs: list[tuple[int, Standing]] = []

    def began(self, number: int, since: int) -> None:
        self.began_at.append(number)
        self.known_since.append(since)

    def took(self, number: int, by: str, entry: Entry) -> None:
        if entry != MOVED:
            self.numbers.append(number)
            self.entries.append(entry[0])

    def missed(self, *, surely: bool) -> None:
        self.missings.append(surely)

    def moved(self, stands: Collection[str]) -> tuple[Sequence[Entry], Mapping[str, Any]]:
        return [MOVED], {name: value for name, value in self.stands.items() if name not in stands}

    def kept(self, kept: Mapping[str, Any], upto: int) -> None:
        self.stands = dict(kept)

    def logged(self, left: int, upto: Standing) -> None:
        self.logs.append((left, upto))
