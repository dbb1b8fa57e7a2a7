"""What one process tells the log of the replicas, until it can be read there. Pure.

What it invalidates counts at once, for itself and for the other workers of its proxy, who hear of it directly. In the
log it gets its number a moment later, or much later where the tier is away; until then a shared record's number says
nothing of it. So whatever is not yet in the log spoils every shared record that it concerns; and what is there, though
it has not been read here, spoils those of an earlier number. While two servers believe to be the master, what is told
may be in another log than the one that is read: such places cannot be compared, and what is told there counts as not
told yet. Who comes to this log tells it that everything may be stale, which is before all that he tells it then.
"""

from __future__ import annotations

from collections import deque

from config.bulletin import Standing
from proxy.store.invalidations import Invalidations, Validity

ALL = "all"
Notice = tuple[str, str, bool]
"""What (`uri`, `tag`, `prefix` or `all`), its name, and whether softly."""
MOST_WAITING = 10_000
MOST_STEPS = 1_000
"""Without the oldest, what they speak of counts as not told a little longer."""


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

    read -- in the methods: up to where the log has been read here.
    """

    def __init__(self, begin: int = 0) -> None:
        self._marks = Invalidations(begin=begin)
        self._settled = begin
        self._steps: deque[tuple[int, Standing]] = deque(maxlen=MOST_STEPS)
        self._waiting: deque[tuple[int, Notice]] = deque()

    @property
    def count(self) -> int:
        """How many notices there have been."""
        return self._marks.epoch

    def skip(self, count: int) -> None:
        """Something else was told in between, so that there have been `count` in all."""
        self._marks.epoch = max(self._marks.epoch, count)

    def note(self, notice: Notice, read: Standing) -> None:
        """One more."""
        self._settle(read)
        note(self._marks, notice)
        self._waiting.append((self.count, notice))
        if len(self._waiting) > MOST_WAITING:
            self._waiting = deque([(self.count, (ALL, "", False))])

    def logged(self, count: int, upto: Standing) -> None:
        """The first `count` are in a log, up to there."""
        self._steps.append((count, upto))

    def lost(self, log: str) -> list[Notice]:
        """Another log is read from now on: what was told to others, and was not read before, is to be told again."""
        upto = max((count for count, its in self._steps if its.log != log), default=0)
        self._steps = deque([(count, its) for count, its in self._steps if its.log == log], MOST_STEPS)
        lost = [notice for count, notice in self._waiting if count <= upto]
        self._waiting = deque([(count, notice) for count, notice in self._waiting if count > upto])
        return lost

    def give_up(self, count: int) -> None:
        """The first `count` concern no record that may be used."""
        self._settled = max(self._settled, count)

    def state(self, uri: str, tags: tuple[str, ...], at: Standing, read: Standing) -> Validity:
        """What notices say of a shared record whose origin was asked when the log stood `at`."""
        self._settle(read)
        count = self._settled
        if count >= self.count:
            return Validity.VALID
        for upto, its in self._steps:
            if its.log == at.log and its.number <= at.number:
                count = max(count, upto)
        return self._marks.state(uri, tags, count)

    def take_waiting(self, read: Standing) -> list[Notice]:
        """Those that cannot be read in the log yet, for somebody to tell them again. They count on here."""
        self._settle(read)
        waiting = [notice for _, notice in self._waiting]
        self._waiting.clear()
        return waiting

    def _settle(self, read: Standing) -> None:
        there = [count for count, its in self._steps if its.log == read.log and its.number <= read.number]
        if there:
            self._settled = max(self._settled, *there)
            # what was told to other logs before came to this one with whoever told it
            while self._steps and self._steps[0][0] <= self._settled:
                self._steps.popleft()
        while self._waiting and self._waiting[0][0] <= self._settled:
            self._waiting.popleft()
