"""The settings in words: what is allowed, defaults, `--help`, and the README's table.

`python -m config.describe README.md` writes the tables into a document, between their markers.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from config.kinds import Kind
from config.settings import FlagSettings, MonitorSettings, ProxySettings, Settings
from config.words import did_you_mean

CONFIG = "siding_config"
CONFIG_MEANING = "a TOML file with settings under their lower-case names"
TABLES: dict[str, type[Settings]] = {"proxy": ProxySettings, "monitor": MonitorSettings}
"""Names of the README's tables, each between `<!-- settings:NAME -->` and `<!-- /settings:NAME -->`."""


def kind_of(setting: FieldInfo) -> Kind:
    """The kind of value; every setting has one."""
    return next(one for one in setting.metadata if isinstance(one, Kind))


def allowed(setting: FieldInfo) -> str:
    """What may be given, with unit and bounds."""
    kind = kind_of(setting)
    low = next((kind.show(one.ge) for one in setting.metadata if isinstance(one, Ge)), "")
    high = next((kind.show(one.le) for one in setting.metadata if isinstance(one, Le)), "")
    return kind.words.format(low=low, high=high)


def default(setting: FieldInfo) -> str:
    """The default as an operator would write it; `required` where there is none, `none` for unset."""
    if setting.is_required():
        return "required"
    value = setting.get_default(call_default_factory=True, validated_data={})
    return "none" if value is None else kind_of(setting).show(value)


def settings_of(model: type[Settings]) -> dict[str, FieldInfo]:
    """The settings by name, the flags last."""
    fields = model.model_fields
    return dict(sorted(fields.items(), key=lambda item: item[0] in FlagSettings.model_fields))


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return name.upper()


def option(name: str) -> str:
    """The command-line option of a setting."""
    return f"--{name.replace('_', '-')}"


def add_options(parser: argparse.ArgumentParser, model: type[Settings]) -> None:
    """An option for every setting, with its whole definition as help. Values are left as text, absent ones out."""
    groups = {
        False: parser.add_argument_group("settings", "each is also an environment variable, named at the end"),
        True: parser.add_argument_group("feature flags", "how they stand at the start; they can be flipped later"),
    }
    for name, setting in settings_of(model).items():
        otherwise = "required" if setting.is_required() else f"default: {default(setting)}"
        about = f"{setting.description} ({allowed(setting)}; {otherwise}) [{variable(name)}]"
        switch = setting.annotation is bool
        groups[name in FlagSettings.model_fields].add_argument(
            option(name),
            dest=name,
            metavar="VALUE",
            help=about.replace("%", "%%"),
            default=argparse.SUPPRESS,
            nargs="?" if switch else None,
            const="true" if switch else None,
        )
    parser.add_argument(
        option(CONFIG), metavar="FILE", default=argparse.SUPPRESS, help=f"{CONFIG_MEANING} [{variable(CONFIG)}]"
    )


def settings_table(model: type[Settings]) -> str:
    """The settings as a Markdown table, one row each."""
    lines = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, setting in settings_of(model).items():
        cells = [f"`{variable(name)}`", _cell(default(setting)), allowed(setting), setting.description or ""]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _cell(value: str) -> str:
    return value if value in {"required", "none"} else f"`{value}`"


def with_tables(text: str) -> str:
    """A document with what stands between the markers replaced by the tables of today. Raises ValueError."""

    def table(found: re.Match[str]) -> str:
        name = found[2]
        if name not in TABLES:
            raise ValueError(f"there is no table of settings called {name!r}{did_you_mean(name, TABLES)}")
        return f"{found[1]}\n{settings_table(TABLES[name])}\n{found[4]}"

    return re.sub(r"(<!-- settings:(\w+) -->)(.*?)(<!-- /settings:\2 -->)", table, text, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 a document cannot be read, written or filled in."""
    parser = argparse.ArgumentParser(
        prog="python -m config.describe", description="Bring the tables of settings in documents up to date."
    )
    parser.add_argument("documents", metavar="DOCUMENT", nargs="+", type=Path)
    for path in parser.parse_args(argv).documents:
        try:
            path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
        except (OSError, ValueError) as fault:
            print(f"{path}: {fault}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
