"""Flags flipped in every replica, those that are away and those that are still to come included."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from config.access import Refusal
from config.bulletin import Bulletin, Entry, Standing
from config.flags import Changes, FlagError, FlagName, Flags
from config.tier import SharedTier

log = logging.getLogger("siding.flags")

FLAGS = "flags"
TELL_SECONDS = 1.0
"""How long a flip waits for the tier, before its answer says that the others will hear of it later."""
UNTOLD = "Redis does not answer: until it does it is so in this replica alone, and lost if that ends before"

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
) -> dict[str, object]:
    """Flip flags, all or none. Everywhere: `everywhere` says whether all replicas have been told. Raises FlagError."""
    if everywhere and tell is None:
        raise FlagError(['"everywhere" is true, but without REDIS_URL there is nobody to tell'])
    state = flags.update(changes)
    if not everywhere or tell is None:
        return {**state}
    told = {name: None if value is None else state[name] for name, value in changes.items()}
    if await tell(told, TELL_SECONDS):
        return {**state, "everywhere": True}
    return {**state, "everywhere": False, "untold": told, "note": UNTOLD}


def take(flags: Flags, changes: Mapping[str, Any]) -> None:
    """Flip what another replica has flipped everywhere."""
    for name, on in changes.items():
        try:
            flags.update({name: on})
        except FlagError as fault:
            # a newer replica's flag, perhaps
            log.warning("a flag that was set everywhere cannot be set here: %s", fault)


class Pins:
    """Flags that were set in all replicas, as the log says: what is told last there, stands.

    Who has told a flag himself takes nothing that the log has before that; and while he does not know yet where it
    stands there, he waits with what others have told.
    """

    def __init__(self, flags: Flags, bulletin: Bulletin) -> None:
        self._flags = flags
        self._bulletin = bulletin
        # None: handed back to the settings of each
        self._stand: dict[str, Any] = {}
        self._telling: dict[str, Any] = {}
        self._upto = 0
        self._undecided: dict[str, tuple[int, Any]] = {}

    @property
    def pinned(self) -> dict[str, bool]:
        """Those that do not stand as the settings of each replica say, as far as the log has been heard of."""
        return {name: on for name, on in self._stand.items() if name in FlagName.__members__ and isinstance(on, bool)}

    @property
    def known(self) -> bool:
        """Whether the log has been read at all."""
        return bool(self._bulletin.read.log)

    @property
    def telling(self) -> dict[str, bool | None]:
        """What was told here and the log may not have yet: it is lost with this process."""
        return dict(self._telling)

    @property
    def untold(self) -> list[Entry]:
        """All of that, for where too much waits to be told."""
        return [[FLAGS, dict(self._telling), False]] if self._telling else []

    async def tell(self, flags: Changes, seconds: float) -> bool:
        """See Tell."""
        self._telling |= flags
        self._bulletin.tell([[FLAGS, dict(flags), False]], keep=flags)
        return await self._bulletin.sent(seconds, flags)

    def took(self, number: int, by: str, changes: object, *, again: bool) -> None:
        """An entry; one's own says nothing new. again -- as they stood in another log, see `missing_in`."""
        if (again or by != self._bulletin.by) and number > self._upto and isinstance(changes, dict):
            taken = self._not_outdone(number, changes)
            self._take(self._news(taken) if again else taken)

    def missing_in(self, stands: Collection[str]) -> dict[str, Any]:
        """What a log is to be told again that has lost all but `stands`: who came to it first has not heard of it."""
        return {name: on for name, on in (self._stand | self._telling).items() if name not in stands}

    def kept(self, kept: Mapping[str, Any], upto: int) -> None:
        """What stands by the entries up to that number, not all of which may have been heard.

        What was flipped here alone, after all of them were, stays so. That a flag was handed back to its setting is
        news to who knew of a flip alone.
        """
        news = self._news(self._not_outdone(upto, kept))
        if set_so := {name: on for name, on in news.items() if on is not None}:
            log.warning("flags that were set everywhere, whatever this replica's settings say: %s", set_so)
        self._upto = upto
        self._take(news)

    def logged(self) -> None:
        """Where some of what was told here stands is known now."""
        there = [name for name in self._telling if not self._bulletin.is_telling(name)]
        self._stand |= {name: self._telling.pop(name) for name in there}
        undecided, self._undecided = self._undecided, {}
        for name, (number, on) in undecided.items():
            self._take(self._news(self._not_outdone(number, {name: on})))

    def _take(self, changes: dict[str, Any]) -> None:
        self._stand |= changes
        take(self._flags, changes)

    def _news(self, changes: dict[str, Any]) -> dict[str, Any]:
        return {name: on for name, on in changes.items() if self._stand.get(name) != on}

    def _not_outdone(self, number: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Those that nothing told here comes after, as far as it is known."""
        self._undecided |= {name: (number, on) for name, on in changes.items() if self._bulletin.is_telling(name)}
        return {name: on for name, on in changes.items() if not self._bulletin.is_newer(name, number)}


def behind(flags: Flags, pins: Pins | None) -> dict[str, object]:
    """Why flags stand as they do: as settings say, or as they were set in all replicas.

    `pinned` is None while that is not known. pins -- None where there is one replica.
    """
    pinned, untold = ({}, {}) if pins is None else (pins.pinned if pins.known else None, pins.telling)
    return {"settings": flags.settings, "pinned": pinned, "untold": untold}


class FlagsEverywhere:
    """For who tells the replicas, or hears of them, nothing else. name -- of the log.

    missed -- called when the tier may have lost something.
    """

    def __init__(self, tier: SharedTier, name: str, flags: Flags, missed: Callable[[], None] = lambda: None) -> None:
        self._missed = missed
        self.bulletin = Bulletin(tier, name, self)
        self.pins = Pins(flags, self.bulletin)

    # -- config.bulletin.Reader

    def began(self, number: int, since: int) -> None:
        """Nothing depends on it."""

    def took(self, number: int, by: str, entry: Entry) -> None:
        """Flags."""
        if len(entry) > 1 and entry[0] == FLAGS:
            self.pins.took(number, by, entry[1], again=entry[2:] == [True])

    def missed(self, *, surely: bool) -> None:
        """What is kept is told anew."""
        self._missed()

    def moved(self, stands: Collection[str]) -> tuple[Sequence[Entry], Mapping[str, Any]]:
        """Flags."""
        missing = self.pins.missing_in(stands)
        return [[FLAGS, missing, True]], missing

    def kept(self, kept: Mapping[str, Any], upto: int) -> None:
        """Flags that stand."""
        self.pins.kept(kept, upto)

    def logged(self, left: int, upto: Standing) -> None:
        """What was told here is in the log."""
        self.pins.logged()
