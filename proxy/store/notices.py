"""What this replica invalidates, the others hear of; and what they invalidate is invalid here.

Every invalidation has its number in the log that all replicas read (`config.bulletin`). A shared record says up to
which number of which log there were any when its origin was asked, so it is spoilt by any later one, whoever reads it
and whenever; and by what cannot be compared, which is another log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from config.bulletin import Bulletin, Entry, Standing
from config.everywhere import FLAGS, Pins
from config.flags import Changes, Flags
from config.tier import SharedTier
from proxy.store.invalidations import Invalidations, Validity
from proxy.store.telling import ALL, Notice, Telling, note


class Notices:
    """See the module. name -- of the log. by -- of this replica, or of all workers that tell each other anyway.

    here, flags -- of this process; None where somebody else minds the flags. logged -- called with how many of the
    notices told here are in a log, and up to where.
    """

    def __init__(
        self,
        tier: SharedTier,
        name: str,
        by: str,
        here: Invalidations,
        flags: Flags | None,
        logged: Callable[[int, Standing], None] = lambda _, __: None,
    ) -> None:
        self.bulletin = Bulletin(tier, name, self, by)
        self.pins = Pins(flags, self.bulletin) if flags is not None else None
        self._here = here
        self._logged = logged
        self._everywhere = Invalidations()
        self._since = 0
        self._own = Telling()
        self._siblings: dict[int, Telling] = {}
        self._before: dict[int, int] = {}
        self._own_before = 0

    # -- telling

    def tell(self, notices: Sequence[Notice]) -> int:
        """Let the others know, in the background, of what was invalidated here. How many notices that makes."""
        for notice in notices:
            self._own.note(notice, self.bulletin.read)
        untold = self.pins.untold if self.pins is not None else []
        self.bulletin.tell([list(notice) for notice in notices], instead=[*untold, [ALL, "", False]])
        return self._own.count

    async def tell_flags(self, flags: Changes, seconds: float) -> bool:
        """Set flags in every replica, now and later; False where that may take longer than so many seconds."""
        assert self.pins is not None
        self._own.skip(self._own.count + 1)
        return await self.pins.tell(flags, seconds)

    # -- what the other workers of this proxy tell, heard from themselves

    def sibling_told(self, who: int, count: int, notices: Sequence[Notice]) -> None:
        """The last of `count` notices."""
        telling = self._siblings.setdefault(who, Telling(count - len(notices)))
        telling.skip(count - len(notices))
        for notice in notices:
            telling.note(notice, self.bulletin.read)

    def sibling_logged(self, who: int, count: int, upto: Standing) -> None:
        """The first `count` of them are in a log, up to there."""
        self._siblings.setdefault(who, Telling(count)).logged(count, upto)

    def sibling_gone(self, who: int) -> None:
        """It tells nothing any more: what may not be in the log is told from here."""
        telling = self._siblings.pop(who, None)
        if telling is not None and (notices := telling.take_waiting(self.bulletin.read)):
            self.tell(notices)

    def sibling_joined(self) -> tuple[str, list[Notice]]:
        """The log that is read here; and what the other has not heard, and cannot read there yet; to be told again."""
        read = self.bulletin.read
        return read.log, self._own.take_waiting(read)

    # -- judging

    @property
    def standing(self) -> Standing:
        """Up to where invalidations are known to have been before now."""
        return self.bulletin.known

    def state(self, uri: str, tags: tuple[str, ...], at: Standing) -> Validity:
        """Whether a shared record may be used, whose origin was asked when the log stood `at`."""
        read = self.bulletin.read
        if at.log != read.log or at.number < self._since:
            return Validity.GONE
        found = self._everywhere.state(uri, tags, at.number)
        for telling in (self._own, *self._siblings.values()):
            if found is Validity.GONE:
                break
            untold = telling.state(uri, tags, at, read)
            found = found if untold is Validity.VALID else untold
        return found

    # -- hearing (`config.bulletin.Reader`)

    def began(self, number: int, since: int) -> None:
        """What was invalidated up to `number`, or told elsewhere before `since`, is not known: all that is older is."""
        self._everywhere = Invalidations(begin=number)
        self._since = since
        log = self.bulletin.read.log
        if since > number:
            for who, telling in self._siblings.items():
                telling.give_up(self._before.get(who, 0))
            # that everything may be stale says it of what was told before as well
            self._logged(self._own_before, Standing(log, since))
        if lost := self._own.lost(log):
            self.tell(lost)

    def took(self, number: int, by: str, entry: Entry) -> None:
        """An invalidation, or flags."""
        # what a newer replica may mean by a longer one is not known
        what, name, soft = entry if len(entry) == 3 else (ALL, "", False)
        if what == FLAGS:
            # numbers have no gaps
            self._everywhere.epoch = number
            if self.pins is not None:
                self.pins.took(number, by, name, again=bool(soft))
            return
        notice = (str(what), str(name), bool(soft))
        note(self._everywhere, notice)
        if by != self.bulletin.by:
            note(self._here, notice)

    def missed(self, *, surely: bool) -> None:
        """Entries were lost: nothing stored here is sure to be valid. Softly where it is only possible."""
        self._here.purge_all(soft=not surely)

    def moved(self, stands: Collection[str]) -> tuple[Sequence[Entry], Mapping[str, Any]]:
        """Anything may have been invalidated meanwhile; and flags."""
        # records that are asked for later are of what there is with all that was told until now
        self._before = {who: telling.count for who, telling in self._siblings.items()}
        self._own_before = self._own.count
        missing = self.pins.missing_in(stands) if self.pins is not None else {}
        return [[FLAGS, missing, True], [ALL, "", True]], missing

    def kept(self, kept: Mapping[str, Any], upto: int) -> None:
        """Flags that stand."""
        if self.pins is not None:
            self.pins.kept(kept, upto)

    def logged(self, left: int, upto: Standing) -> None:
        """All but the last `left` of what was told here."""
        self._own.logged(self._own.count - left, upto)
        self._logged(self._own.count - left, upto)
        if self.pins is not None:
            self.pins.logged()
