"""What `siding check` may send: requests with blanks, from a TOML file; nothing that writes unless said to be safe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from config.toml_file import TomlError, read_toml
from deploy.asking import Ask

EXAMPLE = Path(__file__).parent / "example_requests.toml"
READING = frozenset({"GET", "HEAD"})
NONCE = "nonce"
_BLANK = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

_UNSENDABLE = re.compile(r"[\r\n\0]")


class BadRequests(Exception):
    """The file cannot be used. Its text lists every fault."""


class Form(BaseModel):
    """A request with blanks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    method: str = Field("GET", pattern=r"^[A-Z]+$")
    path: str = Field(pattern=r"^/")
    at: Literal["proxy", "monitor"] = "proxy"
    headers: dict[str, str] = {}
    json_content: Any = Field(None, alias="json")
    safe: bool = False

    @property
    def reads(self) -> bool:
        """Whether its method is safe by itself (RFC 9110 9.2.1)."""
        return self.method in READING

    @property
    def blanks(self) -> frozenset[str]:
        """The names of what is to be filled in."""
        return frozenset(
            name for text in _texts((self.path, self.headers, self.json_content)) for name, _ in _found(text)
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user: list[dict[str, str]] = []
    request: list[Form] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests, users (the words for their blanks), the environment's words, and what is asked of the monitor."""

    forms: tuple[Form, ...]
    users: tuple[Mapping[str, str], ...]
    environ: Mapping[str, str]
    queries: tuple[Form, ...] = ()

    def fill(self, form: Form, nonce: str, user: int = 0) -> Ask:
        """The request of one of the users."""
        words = {**self.environ, **self.users[user], NONCE: nonce}
        content = None if form.json_content is None else orjson.dumps(_filled(form.json_content, words))
        fields = {name: _fill(value, words) for name, value in form.headers.items()}
        if content is not None:
            fields.setdefault("Content-Type", "application/json")
        return Ask(form.name, form.method, _fill(form.path, words), fields, content)


def of_paths(paths: list[str]) -> Requests:
    """GET requests of paths. Raises BadRequests."""
    for path in paths:
        if not path.startswith("/"):
            raise BadRequests(f"--get {path}: a path begins with /")
    return _checked({"request": [{"name": path, "path": path} for path in paths]}, {}, "--get")


def read(path: Path, environ: Mapping[str, str]) -> Requests:
    """The requests of a file. Raises BadRequests."""
    try:
        document = read_toml(path)
    except TomlError as fault:
        raise BadRequests(f"{path} {fault}") from fault
    return _checked(document, environ, str(path))


def _checked(document: dict[str, Any], environ: Mapping[str, str], where: str) -> Requests:
    try:
        file = _File.model_validate(document)
    except ValidationError as invalid:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in invalid.errors()]
        raise BadRequests("\n  ".join([f"{where}:", *faults])) from invalid
    apart = {place: tuple(one for one in file.request if one.at == place) for place in ("proxy", "monitor")}
    if not apart["proxy"]:
        raise BadRequests(f"{where}: there must be a request for the proxy")
    # as the services read theirs: a line's end that came with a secret is no part of it
    words = {name: value.strip() for name, value in environ.items()}
    made = Requests(apart["proxy"], tuple(file.user) or ({},), words, apart["monitor"])
    faults = list(_faults(made))
    if faults:
        raise BadRequests("\n  ".join([f"{where}:", *faults]))
    return made


def _faults(requests: Requests) -> Iterator[str]:
    forms = (*requests.forms, *requests.queries)
    names = [form.name for form in forms]
    yield from (f"two requests are called {name!r}" for name in sorted({one for one in names if names.count(one) > 1}))
    for form in forms:
        if not form.reads and not form.safe:
            yield (
                f"{form.name!r} is a {form.method}, which may write: it is only sent with `safe = true`, "
                "by which you say that it changes nothing at the origin, however often it is sent"
            )
        for number, user in enumerate(requests.users, 1):
            words = {**requests.environ, **user, NONCE: ""}
            missing = {
                name
                for text in _texts((form.path, form.headers, form.json_content))
                for name, otherwise in _found(text)
                if name not in words and otherwise is None
            }
            for name in sorted(missing):
                yield f"{form.name!r} needs ${{{name}}}, which neither user {number} nor the environment has"
            for name, value in form.headers.items():
                if _UNSENDABLE.search(_fill(value, words)):
                    yield f"{form.name!r} has a line's end or a NUL in its {name} for user {number}"


def _found(text: str) -> list[tuple[str, str | None]]:
    return [(one[1], one[2]) for one in _BLANK.finditer(text)]


def _fill(text: str, words: Mapping[str, str]) -> str:
    return _BLANK.sub(lambda one: words.get(one[1], one[2] or ""), text)


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    match value:
        case str():
            return _fill(value, words)
        case list():
            return [_filled(one, words) for one in value]
        case dict():
            return {name: _filled(one, words) for name, one in value.items()}
    return value


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list() | tuple():
            for one in value:
                yield from _texts(one)
        case dict():
            yield from _texts(list(value.values()))
