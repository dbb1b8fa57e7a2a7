"""Values in memory within a budget of bytes: what was used least of late makes room."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Weighed(Protocol):
    """What takes up memory."""

    @property
    def weight(self) -> int:
        """In bytes, overhead counted."""
        ...


K = TypeVar("K")
V = TypeVar("V", bound=Weighed)


class Kept(Generic[K, V]):
    """Values by key, of which all together weigh `max_bytes` at most. bytes -- what they weigh."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[K, V] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def find(self, key: K) -> V | None:
        """The value, which counts as a use of it."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def keep(self, key: K, value: V) -> None:
        """In place of what was there."""
        self.drop(key)
        self._values[key] = value
        self.bytes += value.weight
        while self.bytes > self._max_bytes:
            self.drop(next(iter(self._values)))

    def drop(self, key: K) -> None:
        """If it is there."""
        value = self._values.pop(key, None)
        if value is not None:
            self.bytes -= value.weight

    def clear(self) -> None:
        """Drop everything."""
        self._values.clear()
        self.bytes = 0
