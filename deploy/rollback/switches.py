"""Which flags an order changes, what shows that they are changed, and how to undo it; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from config.flags import FlagName
from config.kinds import read_switch
from config.words import did_you_mean
from deploy.asking import Answer

SAFE: Mapping[FlagName, bool] = {name: name is FlagName.BYPASS for name in FlagName}
"""Where each flag stands when Siding does nothing: everything off, and the master switch on."""


class BadOrder(Exception):
    """An order that cannot be followed. Its text says what is allowed."""


def _name(text: str) -> FlagName:
    try:
        return FlagName(text.upper())
    except ValueError:
        allowed = ", ".join(FlagName)
        raise BadOrder(f"{text!r} is no flag{did_you_mean(text.upper(), list(FlagName))}; allowed: {allowed}") from None


def order(flags: Sequence[str], settings: Sequence[str], *, everything: bool) -> dict[str, bool]:
    """What is to be set. flags -- to their safe side; settings -- as NAME=on or NAME=off. Raises BadOrder."""
    wanted = {name.value: SAFE[name] for name in (tuple(FlagName) if everything else tuple(map(_name, flags)))}
    for text in settings:
        name, separator, value = text.partition("=")
        if not separator:
            raise BadOrder(f"{text!r} is not NAME=on or NAME=off")
        try:
            wanted[_name(name).value] = read_switch(value)
        except ValueError as fault:
            raise BadOrder(f"{text!r} is not NAME=on or NAME=off") from fault
    if not wanted:
        raise BadOrder("nothing to do: give --flag NAME, --all, --set NAME=on, --around or --drill")
    return wanted


def undoing(before: Mapping[str, bool], wanted: Mapping[str, bool]) -> dict[str, bool]:
    """The flags that are changed, as they were."""
    return {name: before[name] for name, on in wanted.items() if name in before and before[name] != on}


def undo_words(changes: Mapping[str, bool], admins: Sequence[str], *, here: bool) -> list[str]:
    """The command that sets them back."""
    sets = [word for name, on in changes.items() for word in ("--set", f"{name}={'on' if on else 'off'}")]
    places = [word for admin in admins for word in ("--admin", admin)]
    return ["siding", "rollback", *places, *sets, *(["--here"] if here else [])]


# -- what shows it


@dataclass(frozen=True, slots=True)
class Probe:
    """A request by which a flag is seen. fields -- sent with it. shows -- whether the flag is on, by an answer.

    path -- where the drill sends it; an operator says another.
    """

    path: str
    fields: Mapping[str, str]
    shows: Callable[[Answer], bool]
    on: str
    off: str


def _coded(answer: Answer) -> bool:
    return "Content-Encoding" in answer.fields


def _tagged(answer: Answer) -> bool:
    return "ETag" in answer.fields


def _bypassed(answer: Answer) -> bool:
    return "fwd=bypass" in answer.fields.get("Cache-Status", "")


PROBES: Mapping[FlagName, Probe] = {
    FlagName.ENABLE_QUERY_CACHE: Probe(
        "/api/subjects", {}, lambda answer: answer.hit, "answered from the cache", "not answered from the cache"
    ),
    FlagName.ENABLE_ETAG: Probe("/", {}, _tagged, "has an ETag", "has no ETag"),
    FlagName.ENABLE_COMPRESSION: Probe(
        "/", {"Accept-Encoding": "gzip"}, _coded, "has a content coding", "has no content coding"
    ),
    FlagName.BYPASS: Probe("/", {}, _bypassed, "Cache-Status says fwd=bypass", "Cache-Status does not say fwd=bypass"),
}
"""Flags that one answer on the public listener shows; the others are seen in `GET /api/flags` alone."""


def expected(wanted: Mapping[str, bool]) -> dict[FlagName, bool]:
    """What the probes have to see. Under BYPASS nothing else of Siding's may show, whatever the flags are."""
    asked = {FlagName(name): on for name, on in wanted.items()}
    if asked.get(FlagName.BYPASS):
        return {name: name is FlagName.BYPASS for name in PROBES}
    # a flag that is on shows only where there is something to show, which is the origin's affair
    return {name: on for name, on in asked.items() if name in PROBES and not on}
