"""Which requests wait for which fetch, and which keys are not worth waiting for.

The fetch belongs to nobody's connection: clients come and go, the fetch ends when it is done or when
nobody has any use for it (see `fetch`).
"""

from __future__ import annotations

from collections import OrderedDict

from proxy.origin.fetch import Fetch

MAX_FOLLOWERS = 10_000
"""Clients that may wait for one fetch; the next one goes to the origin on its own."""
MAX_REMEMBERED = 10_000
REMEMBER_SECONDS = 120.0
"""How long an unshareable answer lets its key's requests go in parallel (Varnish: hit-for-miss)."""


class Collapse:
    """Fetches that may be joined, by collapse key; and keys whose last answer could not be shared."""

    def __init__(self) -> None:
        self._fetches: dict[str, Fetch] = {}
        self._unshareable: OrderedDict[int, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Collapse fetches={len(self._fetches)} unshareable={len(self._unshareable)}>"

    def __len__(self) -> int:
        return len(self._fetches)

    @property
    def remembers(self) -> bool:
        """Whether there is a key that is not worth waiting for."""
        return bool(self._unshareable)

    def joinable(self, key: str) -> Fetch | None:
        """The fetch that a request for `key` may wait for."""
        fetch = self._fetches.get(key)
        return fetch if fetch is not None and fetch.open and fetch.followers < MAX_FOLLOWERS else None

    def lead(self, key: str, fetch: Fetch) -> None:
        """Let others join `fetch` until it closes."""
        self._fetches[key] = fetch
        fetch.on_closed(lambda: self._leave(key, fetch))

    def _leave(self, key: str, fetch: Fetch) -> None:
        if self._fetches.get(key) is fetch:
            del self._fetches[key]

    def worth_waiting(self, key: str, now: float) -> bool:
        """False while the last answer for `key` was not shareable. `now` in seconds, any clock."""
        until = self._unshareable.get(_short(key)) if self._unshareable else None
        if until is None:
            return True
        if until <= now:
            del self._unshareable[_short(key)]
            return True
        return False

    def remember_unshareable(self, key: str, now: float) -> None:
        """Requests for `key` need not wait for each other for a while."""
        short = _short(key)
        self._unshareable[short] = now + REMEMBER_SECONDS
        self._unshareable.move_to_end(short)
        if len(self._unshareable) > MAX_REMEMBERED:
            self._unshareable.popitem(last=False)

    def forget_unshareable(self, key: str) -> None:
        """A shareable answer came: waiting pays again."""
        if self._unshareable:
            self._unshareable.pop(_short(key), None)


def _short(key: str) -> int:
    """A key as it is remembered: clients choose how long keys are, not how much is remembered.

    Its hash is another in each process. Two keys with the same only do not wait for each other.
    """
    return hash(key)
