"""The rules file: all of it read and checked at the start, and asked on every request for the rule that applies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from config.patterns import PathIndex, Pattern
from config.rule import Rule, read_rule
from config.toml_file import read_tables

__all__ = ["OTHER", "RouteTable", "Rule", "load_rules"]

OTHER = "other"
"""The route of paths that no rule matches."""


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
    """The rules in a TOML file. default_ttl -- seconds, for rules without one. Raises FileError."""

    def read(table: Mapping[str, Any], earlier: Sequence[Rule]) -> tuple[Rule, list[str]]:
        rule, faults = read_rule(table, default_ttl)
        return rule, faults or _repeats(rule, earlier)

    return RouteTable(read_tables("RULES_FILE", path, kind="route", what="rule", called="match", read=read))


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
