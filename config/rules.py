"""The rules file: all of it read and checked at the start, and asked on every request for the rule that applies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from config.patterns import PathIndex, Pattern
from config.rule import Rule, read_rule
from config.toml_file import TomlError, read_toml
from config.words import counted, did_you_mean, quoted

__all__ = ["OTHER", "RouteTable", "Rule", "RulesError", "load_rules"]

OTHER = "other"
"""The route of paths that no rule matches."""


class RulesError(Exception):
    """A rules file that cannot be used. Its text lists every fault."""

    def __init__(self, path: str | os.PathLike[str], faults: Sequence[str]) -> None:
        words = counted(len(faults), "fault")
        super().__init__("\n  ".join([f"RULES_FILE {os.fspath(path)}: {words}:", *faults]))
        self.faults = tuple(faults)


class RouteTable:
    """The rules, in the order of the file: the first that matches path and method applies.

    triggers -- the methods of requests that make a rule's stored responses out of date.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Rules whose patterns are sound, as `load_rules` checks. Raises PatternError."""
        self.rules = tuple(rules)
        patterns = [Pattern(rule.name) for rule in self.rules]
        paired = list(zip(patterns, self.rules, strict=True))
        methods = {method for rule in self.rules for method in rule.methods}
        self._by_method = {
            method: PathIndex((pattern, rule) for pattern, rule in paired if method in rule.methods)
            for method in methods
        }
        self._labels = PathIndex((pattern, rule.name) for pattern, rule in paired)
        triggers: dict[str, list[tuple[Pattern, Rule]]] = {}
        for rule in self.rules:
            for method, path in rule.invalidated_by:
                triggers.setdefault(method, []).append((Pattern(path), rule))
        self._triggers = {method: PathIndex(entries) for method, entries in triggers.items()}
        self.triggers = frozenset(triggers)

    def match(self, method: str, path: str) -> Rule | None:
        """The rule for a request; a HEAD falls under the rule of its GET. path -- as received, without query."""
        index = self._by_method.get("GET" if method == "HEAD" else method)
        return index.first(path) if index is not None else None

    def route_of(self, path: str) -> str:
        """The label for metrics, whatever the method: the first pattern that matches, or `other`."""
        return self._labels.first(path) or OTHER

    def found(self, method: str, path: str) -> tuple[str, bool]:
        """The label for metrics, and whether there is a rule for such a request."""
        return self.route_of(path), self.match(method, path) is not None

    def invalidated_by(self, method: str, path: str) -> tuple[Rule, ...]:
        """The rules whose stored responses a success of this request makes out of date.

        The path is compared decoded as well: the origin may take both for the same, and to invalidate too much
        is safe where too little is not.
        """
        index = self._triggers.get(method)
        if index is None:
            return ()
        found = index.all(path)
        if "%" in path:
            found += index.all(unquote(path, "latin-1"))
        return tuple(dict.fromkeys(found))

    def idle(self) -> list[str]:
        """What to say of each rule some or all of whose requests an earlier one takes."""
        said = []
        patterns = [Pattern(rule.name) for rule in self.rules]
        for number, (rule, pattern) in enumerate(zip(self.rules, patterns, strict=True)):
            for other, before in zip(self.rules[:number], patterns, strict=False):
                if (both := rule.methods & other.methods) and before.covers(pattern):
                    methods = " and ".join(sorted(both))
                    said.append(
                        f"the route rule for {rule.name} is never asked for {methods}: {other.name}, which "
                        "comes first, takes its requests; put the narrower one before the wider"
                    )
                    break
        return said

    def describe(self) -> list[dict[str, object]]:
        """The rules as JSON."""
        return [rule.describe() for rule in self.rules]


def load_rules(path: str | os.PathLike[str], default_ttl: float) -> RouteTable:
    """The rules in a TOML file. default_ttl -- seconds, for rules without one. Raises RulesError."""
    try:
        document = read_toml(path)
    except TomlError as fault:
        raise RulesError(path, [f"it {fault}"]) from fault
    rules, faults = read_rules(document, default_ttl)
    if faults:
        raise RulesError(path, faults)
    return RouteTable(rules)


def read_rules(document: dict[str, Any], default_ttl: float) -> tuple[list[Rule], list[str]]:
    """The rules in a TOML document, and what is wrong with them."""
    faults = [f"{name}: this key is not known{did_you_mean(name, ['route'])}" for name in document if name != "route"]
    tables = document.get("route", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return [], [*faults, "route: each rule begins with [[route]], in double brackets"]
    rules: list[Rule] = []
    for number, table in enumerate(tables, 1):
        rule, found = read_rule(table, default_ttl)
        where = f"route {number} ({quoted(table['match'])})" if "match" in table else f"route {number}"
        faults += [f"{where}: {fault}" for fault in found or _repeats(rule, rules)]
        rules.append(rule)
    return rules, faults


def _repeats(rule: Rule, earlier: Sequence[Rule]) -> list[str]:
    """An earlier rule for the same paths takes the methods it names; naming them again has no effect."""
    shape = Pattern(rule.name).shape
    return [
        f"match: {' and '.join(sorted(both))} of the same paths has a rule already, route {number}"
        for number, other in enumerate(earlier, 1)
        if (both := rule.methods & other.methods) and _shape(other) == shape
    ]


def _shape(rule: Rule) -> str | None:
    try:
        return Pattern(rule.name).shape
    except ValueError:
        return None
