"""What a store must do. It keeps and finds; whether a response may be used is decided in `proxy.policy`."""

from __future__ import annotations

import builtins
from typing import Protocol

from proxy.policy.messages import StoredResponse


class Store(Protocol):
    """Stored responses by cache key: one for each secondary key (RFC 9111 4.1). For one thread."""

    @property
    def bytes(self) -> int:
        """What is kept, in bytes of memory, all overhead counted."""
        ...

    @property
    def max_bytes(self) -> int:
        """The budget that `bytes` never exceeds."""
        ...

    @property
    def responses(self) -> int:
        """How many stored responses there are."""
        ...

    @property
    def evictions(self) -> int:
        """How many were dropped for want of room since the start."""
        ...

    def get(self, key: str) -> tuple[StoredResponse, ...]:
        """Every stored response under `key`, latest put last; counts as a use of all of them."""
        ...

    def put(self, stored: StoredResponse) -> bool:
        """Keep `stored` in place of the one with an equal secondary key.

        False when it cannot fit; the one it would have replaced is gone all the same, because it has
        been superseded.
        """
        ...

    def remove(self, stored: StoredResponse) -> None:
        """Drop exactly this stored response, if it is still there."""
        ...

    def add_coding(self, stored: StoredResponse, coding: str, content: builtins.bytes) -> bool:
        """Keep `content`, which is that of `stored` in `coding`, with it.

        False, and nothing is changed, when `stored` is no longer there or the two cannot fit.
        """
        ...

    def clear(self) -> None:
        """Drop everything."""
        ...
