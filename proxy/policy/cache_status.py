"""The Cache-Status field: how this cache handled the request, as a structured field (RFC 9211)."""

from __future__ import annotations

import math

from proxy.policy.decisions import Forward
from proxy.policy.fields import valid_token

NAME = "siding"


def cache_status(
    *,
    hit: bool,
    fwd: Forward | None,
    fwd_status: int | None,
    stored: bool,
    collapsed: bool,
    ttl: float | None,
    detail: str | None,
    key: str | None = None,
) -> str:
    """This cache's member of the list.

    hit -- answered without the origin. fwd, fwd_status -- why the origin was asked, and what it answered.
    ttl -- remaining freshness in seconds, negative when stale. detail -- a word of our own.
    key -- the cache key, for those who look for a fault.
    """
    parts = [NAME]
    if hit:
        parts.append("hit")
    elif fwd is not None:
        parts.append(f"fwd={fwd.value}")
        if fwd_status is not None:
            parts.append(f"fwd-status={fwd_status}")
    if ttl is not None:
        parts.append(f"ttl={math.floor(ttl)}")
    if stored:
        parts.append("stored")
    if collapsed:
        parts.append("collapsed")
    if detail is not None:
        parts.append(f"detail={_item(detail)}")
    if key is not None:
        parts.append(f"key={_string(key)}")
    return "; ".join(parts)


def _item(text: str) -> str:
    """A structured token where `text` is one, otherwise a string of its printable characters (RFC 9651 3.3)."""
    if valid_token(text) and (text[0].isalpha() or text[0] == "*"):
        return text
    return _string(text)


def _string(text: str) -> str:
    printable = "".join(character for character in text if " " <= character <= "~")
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
