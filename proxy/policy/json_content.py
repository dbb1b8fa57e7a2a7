"""JSON content of a request, compared by what it says."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from proxy.policy.fields import OWS, media_type
from proxy.policy.messages import Fields

_AS_JSON_IS = re.compile(r'(?:charset=(?:utf-8|"utf-8"))?', re.IGNORECASE)
"""Parameters of a JSON type that change nothing."""


class Document:
    """A request's content as the key sees it: JSON canonically, anything else octet for octet, and of which type it is.

    JSON that two parsers may read differently (repeated names, NaN, 1.00, deep nesting) counts as anything else, and so
    does what is to be read in another way than as UTF-8 (RFC 8259 8.1, 11).
    """

    def __init__(self, fields: Fields, content: bytes) -> None:
        self._content = content
        content_type, coding = fields.get("content-type") or "", fields.get("content-encoding")
        self._kind = f"{content_type}\n{coding}".encode()
        media = media_type(content_type)
        is_json = media == "application/json" or media.endswith("+json")
        plain = coding is None and _AS_JSON_IS.fullmatch(content_type.partition(";")[2].strip(OWS)) is not None
        self._parsed = parse_json(content) if is_json and plain else None
        self._media = media.encode()
        self._names: str | None = None

    def whole(self) -> bytes:
        """All of it, as what stands in a key's digest."""
        text = canonical(self._parsed[0]) if self._parsed is not None else None
        if text is None:
            return b"raw\n%b\n%b" % (self._kind, self._content)
        return b"json\n%b\n%b" % (self._media, text)

    def member(self, name: str) -> bytes:
        """One member's value; the whole where it cannot be told apart."""
        value = self._parsed[0] if self._parsed is not None else None
        if not isinstance(value, dict):
            return b"whole\n" + self.whole()
        if self._names is None:
            self._names = "_".join(["", *[other.replace("_", "") for other in value], ""]).casefold()
        if len(_read_as(name).findall(self._names)) > (name in value):
            return b"whole\n" + self.whole()
        if name not in value:
            return b"absent\n%b" % self._media
        text = canonical(value[name])
        return b"whole\n" + self.whole() if text is None else b"member\n%b\n%b" % (self._media, text)


@functools.cache
def _read_as(name: str) -> re.Pattern[str]:
    """Finds what an origin may take for a member's name, among names in small letters with _ before and behind each.

    Some origins leave aside the case, characters that are none, or whether words are parted by _ or a capital.
    """
    letters = filter(str.isalnum, name.casefold())
    return re.compile(r"_\W*+" + "".join([rf"{letter}\W*+" for letter in letters]) + "(?=_)")


class _Ambiguous(ValueError):
    """JSON that two parsers may read differently, or write differently."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Ambiguous("a member's name is repeated")
    return value


def _integer(text: str) -> int:
    value = int(text)
    if repr(value) != text:
        raise _Ambiguous(f"{text} is written as {value!r}")
    return value


def _fraction(text: str) -> float:
    """Only as its shortest text: longer ones are other numbers to parsers with more digits."""
    value = float(text)
    if repr(value) != text:
        raise _Ambiguous(f"{text} is written as {value!r}")
    return value


def _constant(name: str) -> Any:
    raise _Ambiguous(f"{name} is no JSON")


def parse_json(content: bytes) -> tuple[Any] | None:
    """The value of a JSON text, in a tuple; None where it is none or may be read in two ways."""
    try:
        return (
            json.loads(
                content.decode("utf-8"),
                object_pairs_hook=_object,
                parse_int=_integer,
                parse_float=_fraction,
                parse_constant=_constant,
            ),
        )
    except (ValueError, RecursionError):
        return None


def canonical(value: Any) -> bytes | None:
    """One text for equal values, whatever the order of members and the white space; None when nested too deep."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError:
        return None
