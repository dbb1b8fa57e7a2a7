"""Kinds of values: how each is read from text or TOML, and how what is allowed is put in words.

Each kind is an annotated type. A setting adds its own bounds, which both the check and the words take from
there. Readers raise ValueError; its text is the reason, or nothing where the words say it all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import BeforeValidator, SecretStr

from config.redis_place import read_place

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4
SWITCHES = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
SWITCH_WORDS = "true or false (also 1/0, yes/no, on/off)"

_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?")
_SIZE = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?) ?([A-Za-z]*)")
_SIZE_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4} | {
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
}
_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
MAX_LABEL, MAX_HOST_NAME = 63, 253
"""RFC 1035 2.3.4, without what is not written."""
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value in words.

    words -- what is allowed; `{low}` and `{high}` stand for the setting's bounds. secret -- never to be shown.
    show -- how a bound or a default is written.
    """

    words: str
    secret: bool = False
    show: Callable[[Any], str] = str


# -- readers


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("it is not text")
    text = raw.strip()
    if not text:
        raise ValueError("it is empty")
    return text


def read_switch(raw: object) -> bool:
    """A boolean from any of `SWITCHES`, in any case, from 1 and 0, or from a boolean."""
    word = raw.strip().lower() if isinstance(raw, str) else str(raw).lower() if type(raw) in {bool, int} else ""
    if word not in SWITCHES:
        raise ValueError
    return SWITCHES[word]


def read_whole(raw: object) -> int:
    """A whole number from decimal digits or from an integer."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or not _WHOLE.fullmatch(raw.strip()):
        raise ValueError
    return int(raw)


def read_number(raw: object) -> float:
    """A number from decimal digits with or without a fraction, or from a number."""
    if isinstance(raw, str) and _NUMBER.fullmatch(raw.strip()):
        return float(raw)
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise ValueError
    try:
        return float(raw)
    except OverflowError as fault:
        raise ValueError("it is too large") from fault


def read_size(raw: object) -> int:
    """Bytes from `256MiB` (1024s), `8 MB` (1000s), in any case, or from a plain number of bytes."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    found = _SIZE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if found is None:
        raise ValueError
    number, unit = found[1], found[2].lower()
    if unit not in _SIZE_UNITS:
        raise ValueError(f"{found[2]} is no unit of size")
    return int(number) * _SIZE_UNITS[unit] if number.isdecimal() else round(float(number) * _SIZE_UNITS[unit])


def show_size(size: int) -> str:
    """Bytes with the largest unit that leaves a whole number: `8 MiB`."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return "1 byte" if size == 1 else f"{size} bytes"


def is_address(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 address, without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def read_host(raw: object) -> str:
    """A host name or an IP address, as sockets take it."""
    host = _text(raw)
    if host.startswith("["):
        raise ValueError("an IPv6 address stands without brackets here")
    if not is_address(host):
        if not _HOST_NAME.fullmatch(host):
            raise ValueError("it is neither a host name nor an IP address")
        _check_length(host, "it")
    return host


def _check_length(name: str, what: str) -> None:
    if len(name.rstrip(".")) > MAX_HOST_NAME:
        raise ValueError(f"{what} is longer than the {MAX_HOST_NAME} characters that a host name may have")
    if any(len(label) > MAX_LABEL for label in name.split(".")):
        raise ValueError(f"{what} has more than {MAX_LABEL} characters without a dot, so it is no host name")


def _read_url(raw: object, schemes: tuple[str, ...]) -> SplitResult:
    url = _text(raw)
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise ValueError("it has characters that a URL must escape")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as fault:
        raise ValueError("its host or its port is malformed") from fault
    if parts.scheme not in schemes or not url.lower().startswith(f"{parts.scheme}://"):
        raise ValueError(f"it does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("its port is malformed")
    return parts


def _checked_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if not host:
        raise ValueError("it names no host")
    _check_place(host)
    return host


def _check_place(host: str) -> None:
    """A URL's host, without brackets."""
    if not is_address(host):
        if not _HOST_NAME.fullmatch(host):
            raise ValueError("its host is malformed")
        _check_length(host, "its host")


def _read_base_url(raw: object) -> SplitResult:
    parts = _read_url(raw, ("http", "https"))
    if "@" in parts.netloc:
        raise ValueError("it has a user name or a password, which would not be sent")
    if "%" in _checked_host(parts):
        raise ValueError("its host has a zone, which a request cannot name; give an address without one, or a name")
    return parts


def _without_query(raw: object) -> None:
    if "?" in str(raw) or "#" in str(raw):
        raise ValueError("it has a query or a fragment")


def read_http_url(raw: object) -> str:
    """`http(s)://host[:port]` without a slash at the end, in lower case."""
    parts = _read_base_url(raw)
    if parts.path not in {"", "/"}:
        raise ValueError("it has a path, but paths are forwarded as they are")
    _without_query(raw)
    return f"{parts.scheme}://{parts.netloc}".lower()


def read_api_url(raw: object) -> str:
    """`http(s)://host[:port][/path]` without a slash at the end."""
    parts = _read_base_url(raw)
    _without_query(raw)
    return f"{parts.scheme}://{parts.netloc}".lower() + parts.path.rstrip("/")


def read_redis_url(raw: object) -> str:
    """See `redis_place`."""
    url = _text(raw)
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise ValueError("it has characters that a URL must escape")
    for host, _ in read_place(url).hosts:
        _check_place(host)
    return url


def read_database_url(raw: object) -> str:
    """`postgresql://[user[:password]@]host[:port]/database[?options]`."""
    parts = _read_url(raw, ("postgresql", "postgres"))
    if "host=" not in parts.query:
        _checked_host(parts)
    for host in ",".join(parse_qs(parts.query).get("host", ())).split(","):
        if not host.startswith("/"):
            _check_length(host.partition(":")[0], "its host")
    return _text(raw)


def read_secret(raw: object) -> str:
    """A secret that can be sent in a field: visible ASCII characters."""
    secret = _text(raw)
    if not _VISIBLE.fullmatch(secret):
        raise ValueError("it has spaces or characters beyond ASCII in it")
    return secret


def read_path(raw: object) -> str:
    """A path of a file. Whether there is one is for whoever reads it."""
    path = _text(raw)
    if "\0" in path:
        raise ValueError("it has a NUL character in it")
    return path


def read_word(raw: object) -> str:
    """A word in any case."""
    return _text(raw).lower()


def read_field_names(raw: object) -> tuple[str, ...]:
    """Field names from a list of texts or from one text with commas, in lower case; `none` for none."""
    names = raw if isinstance(raw, (list, tuple)) else _text(raw).split(",")
    if not all(isinstance(name, str) for name in names):
        raise ValueError("it is not a list of texts")
    lower = [name.strip().lower() for name in names]
    if lower == ["none"]:
        return ()
    for name in lower:
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no field name" if name else "it has an empty name in it")
    return tuple(dict.fromkeys(lower))


# -- kinds

Switch = Annotated[bool, BeforeValidator(read_switch), Kind(SWITCH_WORDS, show=lambda on: str(on).lower())]
Whole = Annotated[int, BeforeValidator(read_whole), Kind("a whole number from {low} to {high}")]
Milliseconds = Annotated[int, BeforeValidator(read_whole), Kind("milliseconds, a whole number from {low} to {high}")]
Seconds = Annotated[
    float, BeforeValidator(read_number), Kind("seconds, a number from {low} to {high}", show=lambda n: f"{n:.15g}")
]
Size = Annotated[
    int,
    BeforeValidator(read_size),
    Kind("bytes, or a size like 256MiB or 8 MB, from {low} to {high}", show=show_size),
]
Share = Annotated[
    float, BeforeValidator(read_number), Kind("a share, a number from {low} to {high}", show=lambda n: f"{n:.15g}")
]
Dollars = Annotated[
    float, BeforeValidator(read_number), Kind("US dollars, a number from {low} to {high}", show=lambda n: f"{n:.15g}")
]
Host = Annotated[str, BeforeValidator(read_host), Kind("a host name or an IP address")]
_HTTP_WORDS = "http://host:port or https://host:port, without user name, path and query"
HttpUrl = Annotated[str, BeforeValidator(read_http_url), Kind(_HTTP_WORDS)]
_API_WORDS = "http://host:port/path or https://host:port/path, without user and query"
ApiUrl = Annotated[str, BeforeValidator(read_api_url), Kind(_API_WORDS)]
OptionalApiUrl = Annotated[str | None, BeforeValidator(read_api_url), Kind(_API_WORDS)]
OptionalHttpUrl = Annotated[str | None, BeforeValidator(read_http_url), Kind(_HTTP_WORDS)]
OptionalRedisUrl = Annotated[
    str | None,
    BeforeValidator(read_redis_url),
    Kind(
        "redis://host:port/number, unix:///path, redis+sentinel://host:port,host:port/service/number or "
        "redis+cluster://host:port,host:port; rediss for TLS, user:password@ where needed, "
        "?sentinel_username=user&sentinel_password=password where Sentinels have their own"
    ),
]
OptionalDatabaseUrl = Annotated[
    str | None,
    BeforeValidator(read_database_url),
    Kind("postgresql://user:password@host:port/database", secret=True),
]
Tristate = Annotated[Literal["auto", "yes", "no"], BeforeValidator(read_word), Kind("auto, yes or no")]
Detail = Annotated[
    Literal["as-asked", "low", "high", "auto"], BeforeValidator(read_word), Kind("as-asked, low, high or auto")
]
OptionalSecret = Annotated[
    SecretStr | None,
    BeforeValidator(read_secret),
    Kind("visible ASCII characters without spaces", secret=True),
]
FieldNames = Annotated[
    tuple[str, ...],
    BeforeValidator(read_field_names),
    Kind("field names with commas between them, or none", show=lambda names: ", ".join(names) or "none"),
]
OptionalFile = Annotated[Path | None, BeforeValidator(read_path), Kind("the path of a file")]
OptionalFolder = Annotated[Path | None, BeforeValidator(read_path), Kind("the path of a folder")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"],
    BeforeValidator(read_word),
    Kind("debug, info, warning, error or critical"),
]
LogFormat = Annotated[Literal["json", "text"], BeforeValidator(read_word), Kind("json or text")]
