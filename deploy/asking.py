"""Requests as `siding check` and `siding rollback` send them, and what their answers show."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import http_sf
import orjson


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that can be sent."""

    name: str
    method: str
    path: str
    fields: Mapping[str, str]
    content: bytes | None

    def as_another(self, authorization: str) -> Ask:
        """The same with another credential."""
        kept = {name: value for name, value in self.fields.items() if name.lower() not in {"authorization", "cookie"}}
        return Ask(self.name, self.method, self.path, {**kept, "Authorization": authorization}, self.content)

    @property
    def has_credential(self) -> bool:
        return any(name.lower() in {"authorization", "cookie"} for name in self.fields)


FLAGS = "/api/flags"


def flags_in(document: Any) -> dict[str, bool]:
    """The flags of `GET /api/flags`, which tells of more."""
    return {name: on for name, on in document.items() if isinstance(on, bool)} if isinstance(document, dict) else {}


@dataclass(frozen=True, slots=True)
class Stand:
    """`GET /api/flags`: how flags stand at one listener, and why.

    pinned -- as they were set in all replicas. known -- whether those are; otherwise it has not heard of any yet.
    untold -- what it has set in all replicas, and Redis does not know; None: handed back to the settings of each.
    """

    flags: Mapping[str, bool]
    settings: Mapping[str, bool]
    pinned: Mapping[str, bool]
    known: bool
    untold: Mapping[str, bool | None]

    @property
    def pins(self) -> Mapping[str, bool | None]:
        """As all replicas have them once Redis answers."""
        return {**self.pinned, **self.untold}

    @property
    def words(self) -> list[str]:
        """What is not as the settings say, and nobody would think of."""
        pinned, untold = self._listed(self.pinned), self._listed(self.untold)
        return [
            *([f"set in all replicas, whatever their settings say: {pinned}"] if pinned else []),
            *([] if self.known else ["which are set in all replicas is not known: it has not heard from Redis yet"]),
            *([f"{NOT_TOLD}: {untold}"] if untold else []),
        ]

    def _listed(self, pins: Mapping[str, bool | None]) -> str:
        here = {name: self.settings.get(name) if on is None else on for name, on in pins.items()}
        return ", ".join(
            f"{name} {SETTING if on is None else word(on)}{'' if self.flags.get(name) == here[name] else ' (not here)'}"
            for name, on in pins.items()
        )


SETTING = "setting"
"""The word for what a flag's own setting says, in each replica its own."""
NOT_TOLD = "not told to the other replicas, as Redis does not answer, and lost if this one ends before it does"


def word(on: bool) -> str:
    """How a flag stands."""
    return "on" if on else "off"


def stand_in(document: Any) -> Stand:
    """Of `GET /api/flags`."""
    given = document if isinstance(document, dict) else {}
    pinned, untold = given.get("pinned", {}), given.get("untold")
    return Stand(
        flags_in(given),
        flags_in(given.get("settings")),
        flags_in(pinned),
        pinned is not None,
        untold if isinstance(untold, dict) else {},
    )


def why(fault: Exception) -> str:
    """In words, of a request that got no answer: not every fault has any, and aiohttp's speak of TLS."""
    if isinstance(fault, aiohttp.ClientConnectorError):
        cause = fault.os_error
        known = cause.errno in errno.errorcode and not isinstance(cause, ssl.SSLError)
        return os.strerror(cause.errno or 0) if known else cause.strerror or str(cause)
    return str(fault) or ("no answer in time" if isinstance(fault, TimeoutError) else type(fault).__name__)


class Unreachable(Exception):
    """What was to be measured does not answer. Its text says what and why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. seconds -- to the end of the content, whose octets are as they were sent."""

    status: int
    seconds: float
    fields: Mapping[str, str]
    content: bytes

    @property
    def plain(self) -> bytes:
        """The content without gzip. Raises OSError and EOFError."""
        return gzip.decompress(self.content) if self.fields.get("Content-Encoding") == "gzip" else self.content

    def _status_of_cache(self) -> Mapping[str, Any]:
        """Siding's own member of Cache-Status (RFC 9211)."""
        with contextlib.suppress(ValueError):
            members: Any = http_sf.parse(self.fields.get("Cache-Status", "").encode(), tltype="list")
            for member, parameters in members:
                if str(member) == "siding":
                    return dict(parameters)
        return {}

    @property
    def hit(self) -> bool:
        return bool(self._status_of_cache().get("hit"))

    @property
    def by_siding(self) -> bool:
        """Whether Siding has had it in hand."""
        return any(part.strip().endswith(" siding") for part in self.fields.get("Via", "").split(","))

    @property
    def bypassed(self) -> bool:
        """Whether BYPASS was on; `detail` tells of a fault that was stepped around."""
        told = self._status_of_cache()
        return str(told.get("fwd")) == "bypass" and "detail" not in told

    @property
    def collapsed(self) -> bool:
        return bool(self._status_of_cache().get("collapsed"))

    @property
    def asked(self) -> bool:
        """Whether the content is what the origin gave to this very request."""
        return self._status_of_cache().get("fwd-status") not in {None, 304} and not self.collapsed

    @property
    def lifetime(self) -> float | None:
        """Seconds for which it is fresh from now on."""
        ttl = self._status_of_cache().get("ttl")
        return float(ttl) if isinstance(ttl, int) else None

    @property
    def age(self) -> float:
        with contextlib.suppress(ValueError):
            return float(self.fields.get("Age", "0"))
        return 0.0


@dataclass(slots=True)
class Way:
    """To the origin: through Siding, or past it."""

    url: str
    client: aiohttp.ClientSession

    async def send(self, ask: Ask, **more: str) -> Answer:
        """Raises aiohttp.ClientError, OSError, TimeoutError."""
        fields = {"Accept-Encoding": "identity", **ask.fields, **{k.replace("_", "-"): v for k, v in more.items()}}
        began = time.perf_counter()
        async with self.client.request(
            ask.method, self.url + ask.path, headers=fields, data=ask.content, allow_redirects=False
        ) as answer:
            content = await answer.read()
            return Answer(answer.status, time.perf_counter() - began, answer.headers.copy(), content)

    async def answers(self, path: str) -> None:
        """See that there is somebody, whatever the answer. Raises Unreachable."""
        try:
            await self.send(Ask("", "GET", path, {}, None))
        except (aiohttp.ClientError, OSError, TimeoutError) as fault:
            raise Unreachable(f"{self.url} does not answer GET {path}: {why(fault)}") from fault

    async def document(self, path: str) -> Any:
        """A JSON document, or None where there is none."""
        try:
            async with self.client.get(self.url + path) as answer:
                return orjson.loads(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None


@contextlib.asynccontextmanager
async def ways(urls: Sequence[str | None], timeout_seconds: float) -> AsyncIterator[list[Way | None]]:
    """One for each URL, with connections that are reused, as those of a browser or a service are."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as client:
        yield [Way(url.rstrip("/"), client) if url else None for url in urls]
