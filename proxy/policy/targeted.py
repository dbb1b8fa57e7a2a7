"""Targeted cache control: fields such as `CDN-Cache-Control`, which speak to some caches only (RFC 9213)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.policy.fields import parse_dictionary
from proxy.policy.messages import Fields

_DELTAS = frozenset({"max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"})
_REPLACED = frozenset({"cache-control", "expires", "pragma"})


def governing(fields: Fields, targets: tuple[str, ...]) -> Fields:
    """The fields that say how this cache may use a response: `fields` themselves, or with the first targeted field
    that is valid and not empty in place of Cache-Control, Expires and Pragma (RFC 9213 2.2).

    targets -- the target list: field names in lower case, the most specific first.
    """
    for name in targets:
        value = fields.get(name)
        members = parse_dictionary(value) if value is not None else None
        if members:
            return fields.without(_REPLACED).adding(("Cache-Control", _cache_control(members)))
    return fields


def _cache_control(members: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> str:
    """Directives as Cache-Control writes them; parameters are ignored.

    A lifetime of a wrong type is written as an invalid one, which is over (RFC 9111 4.2.1).
    """
    directives = []
    for name, (value, _) in members.items():
        if name in _DELTAS:
            valid = type(value) is int and value >= 0
            directives.append(f"{name}={value if valid else 'invalid'}")
        elif type(value) is str:
            directives.append(f"{name}={_quoted(value)}")
        elif value is not False:
            directives.append(name)
    return ", ".join(directives)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
