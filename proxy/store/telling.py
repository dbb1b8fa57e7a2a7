"""What one process tells the log of the replicas, until it can be read there. Pure.

What it invalidates counts at once, for itself and for the other workers of its proxy, who hear of it directly. In the
log it gets its number a moment later, or much later where the tier is away; until then a shared record's number says
nothing of it. So whatever is not yet in the log spoils every shared record that it concerns; and what is there, though
it has not been read here, spoils those of an earlier number.
"""

from __future__ import annotations

from collections import deque

from proxy.store.invalidations import Invalidations, Validity

ALL = "all"
Notice = tuple[str, str, bool]
"""What (`uri`, `tag`, `prefix` or `all`), its name, and whether softly."""
MOST_WAITING = 10_000


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


class Telling:
    """See the module. begin -- how many notices there were before.

    position -- in the methods: up to which number the log has been read here.
    """

    def __init__(self, begin: int = 0) -> None:
        self._marks = Invalidations(begin=begin)
        self._read = begin
        self._steps: deque[tuple[int, int]] = deque()
        self._waiting: deque[tuple[int, Notice]] = deque()

    @property
    def count(self) -> int:
        """How many notices there have been."""
        return self._marks.epoch

    def skip(self, count: int) -> None:
        """Something else was told in between, so that there have been `count` in all."""
        self._marks.epoch = max(self._marks.epoch, count)

    def note(self, notice: Notice, position: int) -> None:
        """One more."""
        self._settle(position)
        note(self._marks, notice)
        self._waiting.append((self.count, notice))
        if len(self._waiting) > MOST_WAITING:
            self._waiting = deque([(self.count, (ALL, "", False))])

    def logged(self, count: int, number: int) -> None:
        """The first `count` are in the log, up to `number`."""
        self._steps.append((count, number))

    def began(self, number: int) -> None:
        """What is in the log will never be read here beyond `number`, unless it is told from now on."""
        self._steps = deque([(count, min(number, its)) for count, its in self._steps])

    def state(self, uri: str, tags: tuple[str, ...], number: int, position: int) -> Validity:
        """What notices say of a shared record whose origin knew of the log up to `number`."""
        self._settle(position)
        count = self._read
        if count >= self.count:
            return Validity.VALID
        for upto, its in self._steps:
            if its > number:
                break
            count = max(count, upto)
        return self._marks.state(uri, tags, count)

    def waiting(self, position: int) -> list[Notice]:
        """Those that cannot be read in the log yet."""
        self._settle(position)
        return [notice for _, notice in self._waiting]

    def _settle(self, position: int) -> None:
        while self._steps and self._steps[0][1] <= position:
            self._read = max(self._read, self._steps.popleft()[0])
        while self._waiting and self._waiting[0][0] <= self._read:
            self._waiting.popleft()
