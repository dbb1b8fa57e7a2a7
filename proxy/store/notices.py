"""What this replica invalidates, the others hear of; and what they invalidate is invalid here.

Every invalidation has its number in the log that all replicas read (`config.bulletin`). A shared record says up to
which number there were any when its origin was asked, so it is spoilt by any later one, whoever reads it and whenever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from config.bulletin import Bulletin, Entry
from config.everywhere import FLAGS, take, take_kept
from config.flags import Flags
from config.tier import SharedTier
from proxy.store.invalidations import Invalidations, Validity

ALL = "all"
Notice = tuple[str, str, bool]
"""What (`uri`, `tag`, `prefix` or `all`), its name, and whether softly."""


def note(invalidations: Invalidations, notice: Notice) -> None:
    """Take a notice into account."""
    what, name, soft = notice
    match what:
        case "uri":
            invalidations.purge_uri(name, soft)
        case "tag":
            invalidations.purge_tag(name, soft)
        case "prefix":
            invalidations.purge_prefix(name, soft)
        case _:
            # whatever a newer replica may mean by another word
            invalidations.purge_all(soft)


class Notices:
    """See the module. name -- of the log. by -- of this replica, or of all workers that tell each other anyway.

    here, flags -- of this process. flipped -- called with flags that others have flipped.
    """

    def __init__(
        self,
        tier: SharedTier,
        name: str,
        by: str,
        here: Invalidations,
        flags: Flags,
        flipped: Callable[[Mapping[str, bool]], None],
    ) -> None:
        self.bulletin = Bulletin(tier, name, self, by)
        self._here = here
        self._flags = flags
        self._flipped = flipped
        self._everywhere = Invalidations()
        self._told = Invalidations()

    # -- telling

    def tell(self, notices: Sequence[Notice]) -> None:
        """Let the others know, in the background, of what was invalidated here."""
        for notice in notices:
            note(self._told, notice)
        self.bulletin.tell([list(notice) for notice in notices], instead=[ALL, "", False])

    async def tell_flags(self, flags: Mapping[str, bool], seconds: float) -> bool:
        """Set flags in every replica, now and later; False where that may take longer than so many seconds."""
        self.bulletin.tell([[FLAGS, dict(flags), False]], keep=flags)
        return await self.bulletin.sent(seconds)

    # -- judging

    @property
    def number(self) -> int:
        """Up to which number invalidations are known to have been before now."""
        return max(self.bulletin.position, self.bulletin.published)

    def state(self, uri: str, tags: tuple[str, ...], number: int) -> Validity:
        """Whether a shared record may be used, whose origin knew of the invalidations up to `number`."""
        if number < self._everywhere.epoch:
            found = self._everywhere.state(uri, tags, number)
            if found is not Validity.VALID:
                return found
        if self._told.epoch:
            if self.bulletin.settled:
                self._told = Invalidations()
            elif self.bulletin.pending or number < self.bulletin.published:
                return self._told.state(uri, tags, 0)
        return Validity.VALID

    # -- hearing (`config.bulletin.Reader`)

    def began(self, number: int) -> None:
        """What was invalidated up to `number` is not known, so everything older is."""
        self._everywhere = Invalidations(begin=number)

    def took(self, number: int, by: str, entry: Entry) -> None:
        """An invalidation, or flags."""
        # what a newer replica may mean by a longer one is not known
        what, name, soft = entry if len(entry) == 3 else (ALL, "", False)
        if what == FLAGS:
            # numbers have no gaps
            self._everywhere.epoch = number
            if by != self.bulletin.by and isinstance(name, dict):
                take(self._flags, name)
                self._flipped(name)
            return
        notice = (str(what), str(name), bool(soft))
        note(self._everywhere, notice)
        if by != self.bulletin.by:
            note(self._here, notice)

    def missed(self, *, surely: bool) -> None:
        """Entries were lost: nothing stored here is sure to be valid. Softly where it is only possible."""
        self._here.purge_all(soft=not surely)

    def kept(self, kept: Mapping[str, Any]) -> None:
        """Flags that stand."""
        take_kept(self._flags, kept)
        self._flipped(kept)
