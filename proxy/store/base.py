"""What a store must do. It keeps and finds; whether a response may be used is decided in `proxy.policy`."""

from __future__ import annotations

import builtins
from typing import Protocol

from proxy.policy.messages import StoredResponse
from proxy.policy.prepared import Prepared


class Slot(Protocol):
    """What is held under one cache key."""

    @property
    def variants(self) -> tuple[StoredResponse, ...]:
        """Every stored response, latest put last."""
        ...

    @property
    def form(self) -> Prepared | None:
        """What was prepared of the only variant."""
        ...

    def use(self) -> None:
        """Count a use."""
        ...


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

    def find(self, key: str) -> Slot | None:
        """What is held under `key`, without counting it as a use."""
        ...

    def keys(self) -> list[str]:
        """Under which something is held."""
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

    def add_prepared(self, stored: StoredResponse, form: Prepared) -> None:
        """Keep a prepared answer with `stored`, if that is still there and there is room."""
        ...
