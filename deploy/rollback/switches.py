"""Which flags an order changes, what shows that they are changed, and how to undo it; pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from config.flags import Changes, FlagName
from config.kinds import read_switch
from config.words import did_you_mean
from deploy.asking import SETTING, Answer, Stand, word

SAFE: Mapping[FlagName, bool] = {name: name is FlagName.BYPASS for name in FlagName}
"""Where each flag stands when Siding does nothing: everything off, and the master switch on."""

ALLOWED = f"NAME=on, NAME=off or NAME={SETTING}"


class BadOrder(Exception):
    """An order that cannot be followed. Its text says what is allowed."""


def _name(text: str) -> FlagName:
    try:
        return FlagName(text.upper())
    except ValueError:
        allowed = ", ".join(FlagName)
        raise BadOrder(f"{text!r} is no flag{did_you_mean(text.upper(), list(FlagName))}; allowed: {allowed}") from None


def order(
    flags: Sequence[str], settings: Sequence[str], *, everything: bool = False, back: bool = False
) -> dict[str, bool | None]:
    """What is to be set. flags -- to their safe side, all of them where `everything`; settings -- as NAME=on, off or
    setting. back -- what is not named, to its setting. Raises BadOrder."""
    wanted: dict[str, bool | None] = {name.value: None for name in FlagName if back}
    wanted |= {name.value: SAFE[name] for name in (tuple(FlagName) if everything else tuple(map(_name, flags)))}
    for text in settings:
        name, separator, value = text.partition("=")
        if not separator:
            raise BadOrder(f"{text!r} is not {ALLOWED}")
        try:
            wanted[_name(name).value] = None if value.lower() == SETTING else read_switch(value)
        except ValueError as fault:
            raise BadOrder(f"{text!r} is not {ALLOWED}") from fault
    if not wanted:
        raise BadOrder("nothing to do: give --flag NAME, --all, --set NAME=on, --settings, --around or --drill")
    return wanted


@dataclass(frozen=True, slots=True)
class Undo:
    """What leads back to how the flags of a listener stood: first in all replicas, then in this one alone.

    guessed -- the former, which leads to the settings of each.
    """

    everywhere: Changes
    alone: Changes
    guessed: bool = False

    @property
    def steps(self) -> list[tuple[Changes, bool]]:
        """What to set, and whether in this one alone."""
        return [(changes, here) for changes, here in ((self.everywhere, False), (self.alone, True)) if changes]


def undoing(before: Stand, wanted: Changes, *, here: bool) -> Undo:
    """here -- it was done in this one alone."""
    asked = {name: on for name, on in wanted.items() if name in before.flags}
    everywhere = {} if here else {name: before.pins.get(name) for name, on in asked.items()}
    # how they stand in this one then
    left = {name: before.settings.get(name) if on is None else on for name, on in (asked | everywhere).items()}
    changed = {name: on for name, on in everywhere.items() if on != asked[name]}
    alone = {name: before.flags[name] for name, on in left.items() if on is not None and on != before.flags[name]}
    return Undo(changed, alone, guessed=not before.known and bool(changed.keys() - before.untold.keys()))


def in_order(undos: Mapping[str, Undo]) -> list[tuple[str, Changes, bool]]:
    """By admin listener -> whom to tell what, and whether that one alone.

    They may be replicas: what one sets in all of them would take what another has for itself alone, and what is guessed
    at one would take what is known at another.
    """
    steps = [(admin, *step) for admin, undo in undos.items() for step in undo.steps]
    return sorted(steps, key=lambda step: (step[2], not undos[step[0]].guessed))


def undo_line(tool: Sequence[str], undos: Mapping[str, Undo]) -> str:
    """For the shell; empty where there is nothing to undo."""
    return "; ".join(
        shlex.join(undo_words(tool, changes, admin, here=here)) for admin, changes, here in in_order(undos)
    )


def undo_words(tool: Sequence[str], changes: Changes, admin: str, *, here: bool) -> list[str]:
    """The command that sets them so. tool -- the words that start it."""
    back = ["--settings"] if None in changes.values() and set(changes) == set(FlagName) and not here else []
    named = {name: on for name, on in changes.items() if not back or on is not None}
    sets = [words for name, on in named.items() for words in ("--set", f"{name}={SETTING if on is None else word(on)}")]
    return [*tool, "rollback", "--admin", admin, *back, *sets, *(["--here"] if here else [])]


# -- what shows it


class Seen(StrEnum):
    """What answers say of a flag."""

    AS_WANTED = "as wanted"
    NOT = "NOT AS WANTED"
    OPEN = "cannot be told"


@dataclass(frozen=True, slots=True)
class Probe:
    """A request by which a flag is seen. fields -- sent with it. shows -- whether the flag is on, by an answer.

    path -- where the drill sends it; an operator says another. origins -- whether the origin may do the same by itself.
    """

    path: str
    fields: Mapping[str, str]
    shows: Callable[[Answer], bool]
    on: str
    off: str
    origins: bool = False


def _coded(answer: Answer) -> bool:
    return "Content-Encoding" in answer.fields


def _tagged(answer: Answer) -> bool:
    return "ETag" in answer.fields


PROBES: Mapping[FlagName, Probe] = {
    FlagName.ENABLE_QUERY_CACHE: Probe(
        "/api/subjects", {}, lambda answer: answer.hit, "answered from the cache", "not answered from the cache"
    ),
    FlagName.ENABLE_ETAG: Probe("/", {}, _tagged, "has an ETag", "has no ETag", origins=True),
    FlagName.ENABLE_COMPRESSION: Probe(
        "/", {"Accept-Encoding": "gzip"}, _coded, "has a content coding", "has no content coding", origins=True
    ),
    FlagName.BYPASS: Probe(
        "/", {}, lambda answer: answer.bypassed, "Cache-Status says fwd=bypass", "Cache-Status does not say fwd=bypass"
    ),
}
"""Flags that one answer on the public listener shows; the others are seen in `GET /api/flags` alone."""


def expected(wanted: Changes) -> dict[FlagName, bool]:
    """What the probes have to see. Under BYPASS nothing is answered from the cache, whatever the flags are.

    What is handed back to its setting may stand otherwise in each replica.
    """
    asked = {FlagName(name): on for name, on in wanted.items() if on is not None}
    if asked.get(FlagName.BYPASS):
        return {FlagName.ENABLE_QUERY_CACHE: False, FlagName.BYPASS: True}
    return {name: on for name, on in asked.items() if name in PROBES}


def judged(name: FlagName, on: bool, answers: Sequence[Answer]) -> tuple[Seen, str]:
    """What `answers`, of whichever replicas, say of a flag that is to be `on`, and in words."""
    probe, worst = PROBES[name], max(answer.status for answer in answers)
    if worst >= 500:
        return Seen.NOT, f"answered with {worst}"
    if not all(answer.by_siding for answer in answers):
        return Seen.NOT, "an answer has no Via of Siding's: it is another service's"
    showing = sum(map(probe.shows, answers))
    words = probe.on if showing else probe.off
    if name is FlagName.BYPASS:
        good = showing == len(answers) if on else showing == 0
        return (Seen.AS_WANTED if good else Seen.NOT), _share(words, showing, len(answers))
    if on:
        # it shows only where there is something to show, which is the origin's affair
        return (Seen.AS_WANTED, words) if showing else (Seen.OPEN, f"{words}, which may be the origin's doing")
    if showing == 0:
        return Seen.AS_WANTED, words
    if probe.origins and showing == len(answers):
        return Seen.OPEN, f"{words}, which may be the origin's own"
    return Seen.NOT, _share(words, showing, len(answers))


def _share(words: str, showing: int, total: int) -> str:
    return words if showing in {0, total} else f"{words}, {showing} of {total}: have all replicas heard?"
