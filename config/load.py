"""Command line, environment, TOML file -> settings; or one message with every fault, and exit status 2.

Precedence: command line, environment, file, default. The sources are merged before anything is checked, each
value with the place it came from, so that a message can name it (which is why they are read here: the settings
library for this reads the process's own environment only, and forgets where it found what).
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from config.describe import CONFIG, add_options, allowed, default, kind_of, option, variable
from config.output import telling
from config.settings import MonitorSettings, ProxySettings, Settings
from config.toml_file import TomlError, read_toml
from config.version import VERSION
from config.words import counted, did_you_mean, masked, shown

BAD_SETTINGS = 2
NEAR, SHORTEST = 0.88, 7
"""How alike two names must be, of 1, and how long, for one to be taken for the other: `REDIS_URI` for `REDIS_URL`."""
M = TypeVar("M", bound=Settings)


class SettingsError(Exception):
    """Settings that cannot be used. Its text lists every fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n  ".join([f"{counted(len(faults), 'fault')} in the settings:", *faults]))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was found, and where."""

    value: object
    place: str


def load(
    model: type[M],
    argv: Sequence[str],
    environ: Mapping[str, str],
    prog: str,
    commands: Mapping[str, str] | None = None,
) -> M:
    """The settings. Exits with status 2 and one message on standard error if any is at fault.

    commands -- what may stand in place of settings, and what it does: for `--help`, and for whoever misspells one.
    """
    try:
        return read(model, argv, environ, prog, commands or {})
    except SettingsError as fault:
        print("\n".join([f"{prog}: {fault}", *misspelt(model, environ)]), file=sys.stderr)
        raise SystemExit(BAD_SETTINGS) from None


def read(
    model: type[M],
    argv: Sequence[str],
    environ: Mapping[str, str],
    prog: str,
    commands: Mapping[str, str] = MappingProxyType({}),
) -> M:
    """The settings. Raises SettingsError with every fault; `--help` and `--version` print and exit."""
    faults: list[str] = []
    options = _command_line(model, argv, prog, commands, faults)
    path = ((options or {}).get(CONFIG, "") or environ.get(variable(CONFIG), "")).strip()
    file = _file(model, path, faults) if path else {}
    given = _merged(model, file or {}, environ, options or {})
    try:
        settings = model.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as invalid:
        faults += _invalid(model, given, invalid, missing=None not in (options, file))
    if faults:
        raise SettingsError(faults)
    return settings


def misspelt(model: type[Settings], environ: Mapping[str, str]) -> list[str]:
    """What to say of each variable that is no setting, and is called nearly like one that is not set.

    An environment is full of what is meant for others, so nothing else that is unknown is told of.
    """
    known = {variable(name) for one in (ProxySettings, MonitorSettings) for name in one.model_fields}
    unset = [variable(name) for name in model.model_fields if variable(name) not in environ]
    doubts = []
    for name in sorted(environ.keys() - known):
        near = difflib.get_close_matches(name.upper(), unset, n=1, cutoff=NEAR) if len(name) >= SHORTEST else []
        doubts += [f"the environment has {name}, which is no setting; was {one} meant?" for one in near]
    return doubts


def _merged(
    model: type[Settings], file: Mapping[str, Given], environ: Mapping[str, str], options: Mapping[str, str]
) -> dict[str, Given]:
    """What is given for each setting, the later source before the earlier."""
    given = dict(file)
    for name in model.model_fields:
        if name in options:
            given[name] = Given(options[name], f"command line, {option(name)}")
        elif variable(name) in environ:
            given[name] = Given(environ[variable(name)], "environment")
    return {name: one for name, one in given.items() if not _is_unset(model, name, one)}


def _is_unset(model: type[Settings], name: str, given: Given) -> bool:
    """Empty text means none where there may be none: `ADMIN_TOKEN=` in an environment file sets no token."""
    return isinstance(given.value, str) and not given.value.strip() and default(model.model_fields[name]) == "none"


# -- the sources


class _Described(argparse.HelpFormatter):
    """Leaves the lines of a description as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(f"{indent}{line}" for line in text.split("\n"))


class _Parser(argparse.ArgumentParser):
    """Tells its faults instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _command_line(
    model: type[Settings], argv: Sequence[str], prog: str, commands: Mapping[str, str], faults: list[str]
) -> dict[str, str] | None:
    """The options that are given; None if the line cannot be read."""
    if not argv:
        return {}
    width = max(map(len, commands), default=0)
    lines = ["A setting on the command line goes before the environment, and that before the file."]
    if commands:
        lines += ["", "commands, each with a --help of its own:"]
        lines += [f"  {prog} {name:{width}}  {about}" for name, about in commands.items()]
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [--setting VALUE ...]{f' | {prog} COMMAND ...' if commands else ''}",
        description="\n".join(lines),
        formatter_class=_Described,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{prog} {VERSION}")
    add_options(parser, model)
    try:
        with telling():
            options, rest = parser.parse_known_args(list(argv))
    except ValueError as fault:
        faults.append(f"command line: {fault}")
        return None
    faults += _unknown_options(rest, [option(name) for name in (*model.model_fields, CONFIG)], list(commands))
    return dict(vars(options))


def _unknown_options(rest: Sequence[str], known: Sequence[str], commands: Sequence[str]) -> Iterator[str]:
    """A fault for each; what follows an unknown option may be its value, and a secret, so it is not repeated."""
    follows = False
    for word in rest:
        name = masked(word.partition("=")[0])
        if word.startswith("-"):
            yield f"{name} (command line) is no option{did_you_mean(name, known)}"
        elif not follows:
            hint = f", and is no command: {', '.join(commands)}{did_you_mean(word, commands)}" if commands else ""
            yield f"{shown(word)} (command line) belongs to no option{hint}"
        follows = word.startswith("-") and "=" not in word


def _file(model: type[Settings], path: str, faults: list[str]) -> dict[str, Given] | None:
    """The settings that are given in the file; None if it cannot be read."""
    try:
        document = read_toml(path)
    except TomlError as fault:
        faults.append(f"{variable(CONFIG)} {path} {fault}")
    else:
        known = model.model_fields
        faults += [
            f"{name} (in {path}) is no setting{did_you_mean(name, known)}" for name in document if name not in known
        ]
        return {name: Given(value, f"in {path}") for name, value in document.items() if name in known}
    return None


# -- faults in words


def _invalid(
    model: type[Settings], given: Mapping[str, Given], invalid: ValidationError, *, missing: bool
) -> Iterator[str]:
    """A fault for each. missing -- whether to tell what is not given at all."""
    for error in invalid.errors():
        name = str(error["loc"][0])
        match error["type"]:
            case "missing":
                if missing:
                    yield f"{variable(name)} is not set: give {allowed(model.model_fields[name])}"
            case "default_factory_not_called":
                pass  # a default that follows from a setting which is itself among the faults
            case kind:
                reason = str(error["ctx"]["error"]) if kind == "value_error" else ""
                yield _refused(name, model.model_fields[name], given.get(name), reason)


def _refused(name: str, setting: FieldInfo, given: Given | None, reason: str) -> str:
    value, place = (given.value, given.place) if given is not None else (default(setting), "default")
    what = "(not shown)" if kind_of(setting).secret else shown(value)
    return "; ".join(filter(None, [f"{variable(name)} is {what} ({place})", reason, f"allowed: {allowed(setting)}"]))
