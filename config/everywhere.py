"""Flags flipped in every replica, those that are away and those that are still to come included."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from config.access import Refusal
from config.bulletin import Bulletin, Entry, Standing
from config.flags import Changes, FlagError, Flags
from config.tier import SharedTier

log = logging.getLogger("siding.flags")

FLAGS = "flags"
TELL_SECONDS = 1.0
"""How long a flip waits for the tier, before its answer says that the others will hear of it later."""

Tell = Callable[[Changes, float], Awaitable[bool]]
"""Tells flags to all replicas, None for each one's own setting; False where that takes longer than so many seconds."""


def change_of(document: object) -> tuple[dict[str, object], bool]:
    """The flags that a decoded `PATCH /api/flags` changes, and whether everywhere. Raises Refusal."""
    if not isinstance(document, dict) or not document.keys() - {"everywhere"}:
        raise Refusal(400, "bad-flags", 'give flags to change, as in {"ENABLE_QUERY_CACHE": false}')
    everywhere = document.get("everywhere", False)
    if not isinstance(everywhere, bool):
        raise Refusal(400, "bad-flags", '"everywhere" is neither true nor false')
    return {name: value for name, value in document.items() if name != "everywhere"}, everywhere


async def set_flags(
    flags: Flags, changes: Mapping[str, object], *, everywhere: bool, tell: Tell | None
) -> dict[str, bool]:
    """Flip flags, all or none. Everywhere: `everywhere` says whether all replicas have been told. Raises FlagError."""
    if everywhere and tell is None:
        raise FlagError(['"everywhere" is true, but without REDIS_URL there is nobody to tell'])
    state = flags.update(changes)
    if not everywhere or tell is None:
        return state
    told = {name: None if value is None else state[name] for name, value in changes.items()}
    return {**state, "everywhere": await tell(told, TELL_SECONDS)}


def take(flags: Flags, changes: Mapping[str, Any]) -> None:
    """Flip what another replica has flipped everywhere."""
    for name, on in changes.items():
        try:
            flags.update({name: on})
        except FlagError as fault:
            # a newer replica's flag, perhaps
            log.warning("a flag that was set everywhere cannot be set here: %s", fault)


def not_outdone(bulletin: Bulletin, number: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of another's flips, which are that entry, that nothing told here comes after: all others end as it says."""
    return {name: on for name, on in changes.items() if not bulletin.is_newer(name, number)}


def take_kept(flags: Flags, kept: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Flip what was flipped everywhere while this replica did not hear of it, and return that.

    known -- what it knew of: what was flipped here alone since stays so. A flag that was handed back to its setting is
    kept as None, which is news to who knew of a flip alone.
    """
    news = {name: on for name, on in kept.items() if known.get(name) != on}
    if set_so := {name: on for name, on in news.items() if on is not None}:
        log.warning("flags that were set everywhere, whatever this replica's settings say: %s", set_so)
    take(flags, news)
    return news


class FlagsEverywhere:
    """For a service that tells its replicas nothing else. name -- of the service.

    missed -- called when the tier may have lost something.
    """

    def __init__(self, tier: SharedTier, name: str, flags: Flags, missed: Callable[[], None] = lambda: None) -> None:
        self._flags = flags
        self._missed = missed
        self._everywhere: dict[str, Any] = {}
        self._upto = 0
        self.bulletin = Bulletin(tier, name, self)

    async def tell(self, flags: Changes, seconds: float) -> bool:
        """See Tell."""
        self._everywhere |= flags
        self.bulletin.tell([[FLAGS, dict(flags)]], keep=flags)
        return await self.bulletin.sent(seconds)

    # -- config.bulletin.Reader

    def began(self, number: int, since: int) -> None:
        """Nothing depends on it."""

    def took(self, number: int, by: str, entry: Entry) -> None:
        """Flags."""
        others = by != self.bulletin.by and number > self._upto
        if others and len(entry) > 1 and entry[0] == FLAGS and isinstance(entry[1], dict):
            changes = not_outdone(self.bulletin, number, entry[1])
            self._everywhere |= changes
            take(self._flags, changes)

    def missed(self, *, surely: bool) -> None:
        """What is kept is told anew."""
        self._missed()

    def moved(self) -> tuple[Entry, Mapping[str, Any]]:
        """None of the flags is another."""
        return [FLAGS, {}], self._everywhere

    def kept(self, kept: Mapping[str, Any], upto: int) -> None:
        """Flags that stand."""
        self._everywhere |= take_kept(self._flags, kept, self._everywhere)
        self._upto = upto

    def logged(self, left: int, upto: Standing) -> None:
        """Nothing depends on it."""
