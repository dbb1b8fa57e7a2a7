"""What field values say: lists, tokens, dates, entity tags, weights and cache directives.

No parser here raises, whatever the text. What is invalid is read as the RFCs say: a date is no date, an age is
not there, a lifetime is over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import http_sf

OWS = " \t"
"""Optional white space (RFC 9110 5.6.3)."""

FOREVER = 2**31
"""Seconds. A greater number counts as this one (RFC 9111 1.2.2)."""

# token = 1*tchar (RFC 9110 5.6.2)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE (RFC 9110 5.6.4)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)

# delta-seconds = 1*DIGIT (RFC 9111 1.2.2)
_DIGITS = re.compile(r"[0-9]+")


def valid_token(text: str) -> bool:
    """Whether `text` is a token (RFC 9110 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def media_type(content_type: str | None) -> str:
    """type/subtype in lower case, without parameters (RFC 9110 8.3.1); "" for none."""
    return (content_type or "").partition(";")[0].strip().lower()


def split_list(value: str) -> list[str]:
    """The members of a list, split at commas outside quoted strings (RFC 9110 5.6.1).

    Empty members are dropped. A quotation mark that nobody closes begins no quoted string: it would hide what follows,
    a `no-store` say.
    """
    return [member for part in parts_of(value) if (member := part.strip(OWS))]


def parts_of(value: str) -> list[str]:
    """What stands between the commas of a list, white space and nothing included."""
    if '"' not in value:
        return value.split(",")
    parts, start, quoted, escaped = [], 0, False, False
    for position, char in enumerate(value):
        if escaped:
            escaped = False
        elif char == '"':
            quoted = not quoted
        elif quoted:
            escaped = char == "\\"
        elif char == ",":
            parts.append(value[start:position])
            start = position + 1
    return parts + (value[start:].split(",") if quoted else [value[start:]])


def _unquoted(text: str) -> str:
    """The text of a whole quoted string; anything else as it is."""
    match = _QUOTED.fullmatch(text)
    return text if match is None else _QUOTED_PAIR.sub(r"\1", match[1])


def _delta_seconds(text: str) -> int | None:
    """A non-negative decimal integer, at most `FOREVER`; None for anything else."""
    if _DIGITS.fullmatch(text) is None:
        return None
    digits = text.lstrip("0")
    return FOREVER if len(digits) > 10 else min(int(digits or "0"), FOREVER)


# -- structured fields (RFC 9651)


def parse_dictionary(value: str) -> Mapping[str, tuple[Any, Mapping[str, Any]]] | None:
    """The members of a structured Dictionary, each with its parameters; None for anything else (RFC 9651 4.2.2)."""
    try:
        return cast("Mapping[str, Any]", http_sf.parse(value.encode("latin-1"), tltype="dictionary"))
    except ValueError:
        return None


def parse_strings(values: Iterable[str]) -> tuple[str, ...]:
    """The Strings of a structured List, without parameters; none where it is no such list (RFC 9651 4.2.1)."""
    try:
        members = cast("list[Any]", http_sf.parse(", ".join(values).encode("latin-1"), tltype="list"))
    except ValueError:
        return ()
    texts = [member for member, _ in members]
    return tuple(texts) if all(type(text) is str for text in texts) else ()


# -- dates (RFC 9110 5.6.7)

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}

_DAY = f"(?:{'|'.join(_DAYS)})"
_LONG_DAY = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"

_DATE_FORMS = (
    # IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT
    re.compile(f"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    # rfc850-date, obsolete: Sunday, 06-Nov-94 08:49:37 GMT
    re.compile(f"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    # asctime-date, obsolete: Sun Nov  6 08:49:37 1994
    re.compile(f"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)

_WRITTEN = 1_767_225_600.0
"""2026-01-01, in whose neighbourhood a two-digit year is sought where no time is given."""


def _full_year(digits: str, now: float) -> int:
    """The year meant: of two digits, never one more than fifty years ahead of `now`."""
    year = int(digits)
    if len(digits) == 4:
        return year
    this_year = datetime.fromtimestamp(now, UTC).year
    year += this_year // 100 * 100
    return year - 100 if year > this_year + 50 else year


def parse_date(value: str, now: float = _WRITTEN) -> float | None:
    """An HTTP-date as seconds since the epoch; None for anything else (RFC 9110 5.6.7).

    Case-sensitive and GMT only, as the grammar says; the name of the day is not checked against the date.
    now -- seconds since the epoch, by which the two-digit years of the RFC 850 form are understood.
    """
    match = next((match for form in _DATE_FORMS if (match := form.fullmatch(value))), None)
    if match is None:
        return None
    second = int(match["second"])
    try:
        minute = datetime(
            _full_year(match["year"], now),
            _MONTH_NUMBERS[match["month"]],
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    # 60 is a leap second
    return minute.timestamp() + second if second <= 60 else None


def format_date(seconds: float) -> str:
    """Seconds since the epoch, of the years 1 to 9999, as IMF-fixdate (RFC 9110 5.6.7); fractions are dropped."""
    date = datetime.fromtimestamp(seconds // 1, UTC)
    day, month = _DAYS[date.weekday()], _MONTHS[date.month - 1]
    return f"{day}, {date.day:02} {month} {date.year:04} {date.hour:02}:{date.minute:02}:{date.second:02} GMT"


# -- entity tags (RFC 9110 8.8.3): [ W/ ] DQUOTE *etagc DQUOTE. A backslash is a character like any other.

_ENTITY_TAG = r'(W/)?"([\x21\x23-\x7E\x80-\xFF]*)"'
_ONE_TAG = re.compile(_ENTITY_TAG)
_TAG_MEMBER = re.compile(rf"[ \t]*{_ENTITY_TAG}[ \t]*(?:,|$)")


@dataclass(frozen=True, slots=True)
class ETag:
    """An entity tag. opaque -- what stands between the quotes."""

    weak: bool
    opaque: str


def parse_etag(value: str) -> ETag | None:
    """One entity tag; None for anything else."""
    match = _ONE_TAG.fullmatch(value.strip(OWS))
    return None if match is None else ETag(match[1] is not None, match[2])


def parse_etags(value: str) -> tuple[ETag, ...] | None:
    """The entity tags of an If-Match or If-None-Match; None stands for `*`. What is no entity tag is left out."""
    if value.strip(OWS) == "*":
        return None
    tags, position = [], 0
    while position < len(value):
        match = _TAG_MEMBER.match(value, position)
        if match is not None:
            tags.append(ETag(match[1] is not None, match[2]))
            position = match.end()
        else:
            position = (value.find(",", position) + 1) or len(value)
    return tuple(tags)


def strong_match(one: ETag, other: ETag) -> bool:
    """Strong comparison: the same octets (RFC 9110 8.8.3.2)."""
    return not one.weak and not other.weak and one.opaque == other.opaque


def weak_match(one: ETag, other: ETag) -> bool:
    """Weak comparison: as good as the same (RFC 9110 8.8.3.2)."""
    return one.opaque == other.opaque


# -- parts (RFC 9110 14.4)

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


def parse_content_range(value: str | None) -> tuple[int, int, int] | None:
    """First and last octet and complete length, as a Content-Range of bytes gives them; None for anything else."""
    match = _CONTENT_RANGE.fullmatch(value.strip(OWS)) if value is not None else None
    if match is None:
        return None
    first, last, complete = int(match[1]), int(match[2]), int(match[3])
    return (first, last, complete) if first <= last < complete else None


# -- Age and weights


def parse_age(values: Iterable[str]) -> float | None:
    """Age in seconds from the values of its field lines; None where there is none that is valid.

    Of several the first counts, and what is no non-negative integer is ignored (RFC 9111 5.1).
    """
    first = next(iter(values), "").partition(",")[0].strip(OWS)
    age = _delta_seconds(first)
    return None if age is None else float(age)


# weight = OWS ";" OWS "q=" qvalue; qvalue = "0" [ "." 0*3DIGIT ] / "1" [ "." 0*3"0" ] (RFC 9110 12.4.2)
_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def parse_weights(value: str) -> list[tuple[str, float]]:
    """The members of an Accept-* list in lower case, each with its weight, in order (RFC 9110 12.4.2).

    The weight is 1 where none is given and 0, not acceptable, where it is invalid. Other parameters are left out.
    """
    weights = []
    for member in split_list(value):
        name, *parameters = member.split(";")
        weight = 1.0
        for parameter in parameters:
            key, _, text = parameter.strip(OWS).partition("=")
            if key in {"q", "Q"}:
                weight = float(text) if _QVALUE.fullmatch(text) else 0.0
        weights.append((name.strip(OWS).lower(), weight))
    return weights


# -- cache directives (RFC 9111 5.2): token [ "=" ( token / quoted-string ) ]

_DIRECTIVE = re.compile(r"""[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:=(?:"(?:[^"\\]|\\.)*"|[^\s;"]*))?""", re.DOTALL)
_FORBIDDING = re.compile(r"(?<![\w-])(?:no-store|no-cache|private|must-revalidate|proxy-revalidate)(?![\w-])")


class Directives:
    """The directives of a Cache-Control field, known ones and others. Names are asked for in lower case."""

    __slots__ = ("_arguments",)

    def __init__(self, arguments: dict[str, list[str | None]]) -> None:
        self._arguments = arguments

    def has(self, name: str) -> bool:
        """Whether the directive is there, with any argument or none."""
        return name in self._arguments

    def arg(self, name: str) -> str | None:
        """The argument, unquoted, of the first such directive; None without one."""
        given = self._arguments.get(name)
        return None if given is None else given[0]

    def seconds(self, name: str) -> int | None:
        """The argument in seconds; None where there is no such directive.

        Anything but a non-negative integer is 0, stale already; of several the first counts (RFC 9111 4.2.1).
        """
        given = self._arguments.get(name)
        return None if given is None else _delta_seconds(given[0] or "") or 0

    def names_in(self, name: str) -> tuple[str, ...]:
        """The field names, lower case, of a qualified directive such as no-cache="a, b" (RFC 9111 5.2.2.4, .7).

        Empty where the directive is absent or, once at least, unqualified, which what names no fields is taken for.
        """
        names: list[str] = []
        for argument in self._arguments.get(name, ()):
            listed = split_list((argument or "").lower())
            if not listed or not all(valid_token(name) for name in listed):
                return ()
            names += listed
        return tuple(names)


def parse_directives(values: Iterable[str]) -> Directives:
    """The directives in the values of all Cache-Control lines, in order (RFC 9111 5.2).

    What is none, as two that a semicolon parts, still forbids what it names: many mean `private` by it.
    """
    arguments: dict[str, list[str | None]] = {}
    for value in values:
        for member in split_list(value):
            name, equals, argument = member.partition("=")
            bare = name.rstrip(OWS)
            # white space at the equals sign is an error: the directive counts, its argument does not
            given = (_unquoted(argument) if name == bare else "") if equals else None
            arguments.setdefault(bare.lower(), []).append(given)
            if _DIRECTIVE.fullmatch(member) is None:
                for found in _FORBIDDING.findall(member.lower()):
                    arguments.setdefault(found, []).append(None)
    return Directives(arguments)
