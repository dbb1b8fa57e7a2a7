"""Requests that were answered the short way, told in batches: that must cost less than the answers themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from proxy.observe.events import Brief, BriefKind

if TYPE_CHECKING:
    from proxy.policy.messages import StoredResponse
    from proxy.policy.plain import Plain
    from proxy.policy.prepared import Prepared

log = logging.getLogger("siding.briefs")

GATHER_SECONDS = 0.05
"""How long briefs gather before they are told."""
MOST = 2000
"""Told at once when there are so many: a bound on memory, and on how long telling takes in one go."""

Raw = tuple["Plain", "StoredResponse", "Prepared", str, float, float]
"""The request, what answered it and in which form, the client's address, when it began, and how long it took."""


_new = tuple.__new__


class Briefs:
    """Gathers briefs and gives them to `readers`. For the event loop's thread."""

    def __init__(self, readers: Sequence[Callable[[Sequence[Brief]], None]]) -> None:
        self._readers = readers
        self._gathered: list[Raw | Brief] = []
        self._due: asyncio.TimerHandle | None = None

    def add(self, raw: Raw | Brief) -> None:
        """One more."""
        self._gathered.append(raw)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHER_SECONDS, self.tell)
        elif len(self._gathered) >= MOST:
            self.tell()

    def tell(self) -> None:
        """Give what has gathered to the readers, now."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        briefs = [raw if isinstance(raw, Brief) else _of_hit(*raw) for raw in gathered]
        for reader in self._readers:
            try:
                reader(briefs)
            except Exception:
                # law 6: a client is never failed by what merely watches
                log.exception("briefs could not be recorded")


def _of_hit(
    plain: Plain, stored: StoredResponse, form: Prepared, client: str, started: float, duration: float
) -> Brief:
    # as `Brief(...)` does it, without the time that its keywords take
    return _new(
        Brief,
        (
            cast("BriefKind", form.told),
            plain.start.target,
            client,
            plain.request_id,
            plain.traceparent,
            plain.length,
            len(form.content),
            len(stored.content),
            stored.origin_seconds,
            started,
            duration,
        ),
    )
