"""Feature flags: read on every request, flipped while running, observed by metrics and log.

Reading is a plain attribute: `flags.etag`. Under `bypass` the others keep their own values, to come back to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import StrEnum

from config.kinds import SWITCH_WORDS, read_switch
from config.settings import FlagSettings
from config.words import counted, meant, shown

log = logging.getLogger("siding.flags")

Subscriber = Callable[[str, bool], None]
Changes = Mapping[str, bool | None]
"""How flags are to stand, by name. None: as their settings say, in each replica its own."""


class FlagName(StrEnum):
    """Every flag, called as its environment variable."""

    ENABLE_QUERY_CACHE = "ENABLE_QUERY_CACHE"
    ENABLE_ETAG = "ENABLE_ETAG"
    ENABLE_DEDUP = "ENABLE_DEDUP"
    ENABLE_COMPRESSION = "ENABLE_COMPRESSION"
    ENABLE_REDIS_CACHE = "ENABLE_REDIS_CACHE"
    USE_OPTIMIZED_PROMPTS = "USE_OPTIMIZED_PROMPTS"
    ENABLE_COMPLETION_CACHE = "ENABLE_COMPLETION_CACHE"
    BYPASS = "BYPASS"

    @property
    def attribute(self) -> str:
        """Where `Flags` and observers of it keep the value: `etag` for ENABLE_ETAG."""
        return self.value.removeprefix("ENABLE_").removeprefix("USE_").lower()


class FlagError(ValueError):
    """A change that was refused. Its text lists every unknown flag and every value that is no switch."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(f"{counted(len(faults), 'fault')}, nothing was changed: {', and '.join(faults)}")
        self.faults = tuple(faults)


class Flags:
    """The flags as they stand now."""

    __slots__ = (
        "_settings",
        "_subscribers",
        "bypass",
        "completion_cache",
        "compression",
        "dedup",
        "etag",
        "optimized_prompts",
        "query_cache",
        "redis_cache",
    )

    def __init__(self, initial: FlagSettings | None = None) -> None:
        """initial -- the settings of a service, which say how they stand at the start; None: at their defaults."""
        start = initial if initial is not None else FlagSettings()
        self.query_cache = start.enable_query_cache
        self.etag = start.enable_etag
        self.dedup = start.enable_dedup
        self.compression = start.enable_compression
        self.redis_cache = start.enable_redis_cache
        self.optimized_prompts = start.use_optimized_prompts
        self.completion_cache = start.enable_completion_cache
        self.bypass = start.bypass
        self._settings = self.as_dict()
        self._subscribers: list[Subscriber] = []

    def __repr__(self) -> str:
        return f"Flags({', '.join(name for name, on in self.as_dict().items() if on)})"

    @property
    def settings(self) -> dict[str, bool]:
        """Every flag as its setting says."""
        return dict(self._settings)

    def on(self, name: FlagName) -> bool:
        """Whether a flag's own value is true, whatever `bypass` says."""
        return bool(getattr(self, name.attribute))

    def as_dict(self) -> dict[str, bool]:
        """Every flag by name."""
        return {name.value: self.on(name) for name in FlagName}

    def unusual(self) -> str:
        """For a log: those that do not stand as they do by default, and how they stand."""
        usual = Flags().as_dict()
        switched = [f"{name} is {_word(on)}" for name, on in self.as_dict().items() if on is not usual[name]]
        return ", ".join(switched) or "all flags at their defaults"

    def update(self, changes: Mapping[str, object]) -> dict[str, bool]:
        """Change flags, all or none, and return every flag.

        Values are booleans or any of true/false/1/0/yes/no/on/off; None is what the setting says. Subscribers hear of
        what is different now, after all of it is changed. Raises FlagError.
        """
        wanted: dict[FlagName, bool] = {}
        faults: list[str] = []
        for name, value in changes.items():
            if name not in FlagName.__members__:
                faults.append(f"{shown(name)} is no flag{meant(str(name), FlagName.__members__)}")
                continue
            try:
                wanted[FlagName(name)] = self._settings[name] if value is None else read_switch(value)
            except ValueError:
                faults.append(f"{name} is {shown(value)}; allowed: {SWITCH_WORDS}, or null: as its setting says")
        if faults:
            raise FlagError(faults)
        for name in wanted:
            if changes[name] is None:
                log.warning("%s was handed back to its setting, which is %s", name.value, _word(self._settings[name]))
        different = {name: on for name, on in wanted.items() if on != self.on(name)}
        for name, on in different.items():
            setattr(self, name.attribute, on)
            log.warning("%s was switched %s", name.value, _word(on))
        for subscriber in self._subscribers:
            for name, on in different.items():
                subscriber(name.value, on)
        return self.as_dict()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber(name, value)` for every flag that changes from now on. It must not raise."""
        self._subscribers.append(subscriber)


def _word(on: bool) -> str:
    return "on" if on else "off"
