"""Every field that the policy reads is known to the fast ways.

What the policy answers is remembered by the request's shape, place and credentials, and by what is judged of a
response. A policy that begins to read another field fails here: it is to be added to `lines` or `passing`, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Set
from pathlib import Path
from typing import Any

import pytest

from proxy.policy import lines, passing
from proxy.policy.forwarding import HOP_BY_HOP
from proxy.policy.lines import Kind
from proxy.policy.messages import Fields
from proxy.server.fast_path import OF_THE_SHAPE
from tests.fast.sides import Side
from tests.support import Origin, running_proxy

REQUEST, RESPONSE = "request", "response"
MARK = "X-Whose"

TEXT = b'{"text": "' + b"lorem ipsum " * 150 + b'"}'
JSON = "Content-Type: application/json"
DATE = "Date: Fri, 15 Jan 2027 08:00:00 GMT"

NOT_PLAIN = {"connection", "upgrade", "expect", "transfer-encoding", "http2-settings", "max-forwards", "cdn-loop"}
"""Fields without which, or with some of their values alone, a request is plain."""
WRITTEN_ANEW = {"x-forwarded-for", "via", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "traceparent"}
"""Fields that are read for the sake of the next hop (`policy.plain.to_origin` is held to `forwarding.to_origin`)."""


class Names(Set[str]):
    """The names of fields, telling which were asked for."""

    def __init__(self, names: Iterable[str], asked: set[str]) -> None:
        self._names, self._asked = frozenset(names), asked

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Set[Any]:
        return frozenset(it)

    def __contains__(self, name: object) -> bool:
        self._asked.add(str(name))
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Reading:
    """The names of the fields that were read, of requests and of responses."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {REQUEST: set(), RESPONSE: set()}

    def of(self, fields: Fields) -> set[str]:
        for name, value in fields.lines:
            if name == MARK:
                return self.names[value]
        return set()


@contextlib.contextmanager
def reading() -> Iterator[Reading]:
    """What is read meanwhile."""
    found, patch = Reading(), pytest.MonkeyPatch()
    get, every, contains, without, replacing = (
        Fields.get,
        Fields.all,
        Fields.__contains__,
        Fields.without,
        Fields.replacing,
    )
    names = Fields.names

    def read_without(self: Fields, gone: Container[str]) -> Fields:
        if isinstance(gone, (set, frozenset)):
            found.of(self).update(gone)
        return without(self, gone)

    def note(self: Fields, name: object) -> None:
        found.of(self).add(str(name))

    def read_get(self: Fields, name: str) -> str | None:
        note(self, name)
        return get(self, name)

    def read_all(self: Fields, name: str) -> tuple[str, ...]:
        note(self, name)
        return every(self, name)

    def read_contains(self: Fields, name: object) -> bool:
        note(self, name)
        return contains(self, name)

    def read_replacing(self: Fields, name: str, value: str) -> Fields:
        note(self, name.lower())
        return replacing(self, name, value)

    patch.setattr(Fields, "get", read_get)
    patch.setattr(Fields, "all", read_all)
    patch.setattr(Fields, "__contains__", read_contains)
    patch.setattr(Fields, "without", read_without)
    patch.setattr(Fields, "replacing", read_replacing)
    patch.setattr(Fields, "names", lambda self: Names(names(self), found.of(self)))
    try:
        yield found
    finally:
        patch.undo()


def of_kind(*kinds: Kind) -> set[str]:
    return {name.decode() for name, kind in lines._KINDS.items() if kind in kinds}


KNOWN_OF_HITS = (
    of_kind(Kind.SHAPE, Kind.PLACE, Kind.CREDENTIAL, Kind.DEMANDING, Kind.LENGTH, Kind.REQUEST_ID, Kind.TRACE)
    | NOT_PLAIN
)
KNOWN_OF_PASSES = (
    of_kind(Kind.SHAPE, Kind.PLACE, Kind.CREDENTIAL, Kind.LENGTH, Kind.REQUEST_ID, Kind.TRACE)
    | NOT_PLAIN
    | WRITTEN_ANEW
    | HOP_BY_HOP
)
JUDGED = {
    name.decode()
    for name in passing._JUDGED_NAMES | passing._PRESENT | passing._NEVER | passing._HOPS | {b"date", b"content-length"}
}

RULES = """
[[route]]
match = "/rule"
methods = ["POST"]
ttl = 60
key = ["body", "authorization", "header:X-Tenant", "cookie:sid"]

[[route]]
match = "/named"
methods = ["GET"]
ttl = 60
key = ["query:a", "authorization", "header:X-Tenant", "cookie:sid"]
"""
STORABLE = ("Cache-Control: max-age=60", 'ETag: "a"', "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", DATE, JSON)


def wire(start: str, *lines: str, content: bytes = b"") -> list[bytes]:
    length = [f"Content-Length: {len(content)}"] if content else []
    text = "\r\n".join([f"{start} HTTP/1.1", "Host: app.example", f"{MARK}: {REQUEST}", *lines, *length, "", ""])
    return [text.encode("latin-1") + content]


@pytest.mark.parametrize(
    ("start", "lines", "content"),
    [
        ("GET /a", (), b""),
        ("GET /a?b=c", ("Accept-Encoding: gzip",), b""),
        ("GET /a", ('If-None-Match: "a"',), b""),
        ("GET /a", ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "Accept-Encoding: br"), b""),
        ("GET /a", ("X-Forwarded-Host: b", "X-Forwarded-Proto: https", "Forwarded: host=a"), b""),
        ("GET /a", ("Cookie: a=b", "X-Api-Key: c", "Connection: keep-alive"), b""),
        ("HEAD /a", ("Accept-Encoding: gzip",), b""),
        ("GET /named?a=1&b=2", ("Authorization: Bearer a", "Cookie: sid=1"), b""),
        ("POST /rule", ("X-Tenant: a", "Content-Type: application/json"), b'{"a": 1}'),
        ("POST /rule", ("X-Tenant: a", "Content-Type: text/plain", "Content-Encoding: gzip"), b"x"),
    ],
)
async def test_of_a_request_whose_answer_is_prepared(
    origin: Origin, tmp_path: Path, start: str, lines: tuple[str, ...], content: bytes
) -> None:
    origin.respond(TEXT, *STORABLE, "Vary: Accept-Encoding", f"{MARK}: {RESPONSE}")
    async with running_proxy(origin.url, rules=RULES, directory=tmp_path) as proxy:
        side, method = Side(proxy, origin), start.partition(" ")[0]
        first = "GET" if method == "HEAD" else method
        await side.ask(wire(start.replace("HEAD", "GET"), *lines, content=content), first)
        with reading() as found:
            answer, asked = await side.ask(wire(start, *lines, content=content), method)
        assert answer is not None
        assert (answer.get("cache-status"), asked) == ("siding; hit; ttl=60", [])
        assert any(stored.prepared is not None for stored in proxy.stored())
        keyed = {name.decode() for name in proxy.worker._fast._keyed} if start.endswith(("/rule", "&b=2")) else set()
    assert {"cache-control", "if-none-match"} <= found.names[REQUEST]
    assert found.names[REQUEST] - keyed <= KNOWN_OF_HITS
    assert of_kind(Kind.SHAPE) == OF_THE_SHAPE


@pytest.mark.parametrize(
    ("start", "lines", "reply"),
    [
        ("GET /a", (), ("Cache-Control: private", JSON)),
        ("GET /a", (), ("Cache-Control: no-store", JSON, 'ETag: "a"')),
        ("GET /a", ("Authorization: Bearer a",), ("Cache-Control: max-age=60", JSON)),
        ("GET /a", (), ("Cache-Control: max-age=60", "Set-Cookie: a=b")),
        ("GET /a", ("Cookie: a=b",), (JSON,)),
        ("GET /a", (), ("Vary: *", "Cache-Control: max-age=60")),
        ("GET /a", ("Accept-Encoding: identity",), ("CDN-Cache-Control: private", JSON)),
        ("GET /a", ('If-None-Match: "a"',), ("Cache-Control: private", JSON, 'ETag: "b"')),
        ("POST /a", ("Cookie: a=b",), (JSON,)),
        ("PUT /a", ("Authorization: b",), (JSON, "Set-Cookie: a=b")),
        ("DELETE /a", (), ("Cache-Control: max-age=60", "Cache-Tag: a", "Surrogate-Key: b")),
        ("OPTIONS /a", (), ("Allow: GET",)),
    ],
)
async def test_of_what_passes(origin: Origin, start: str, lines: tuple[str, ...], reply: tuple[str, ...]) -> None:
    origin.respond(TEXT, *reply, DATE, f"{MARK}: {RESPONSE}")
    async with running_proxy(origin.url) as proxy:
        side, method = Side(proxy, origin), start.partition(" ")[0]
        # a conditional request says nothing of whether it is worth to wait for one
        first = () if any(line.startswith("If-") for line in lines) else lines
        await side.ask(wire(start, *first), method)
        with reading() as found:
            ordinary, _ = await side.ask(wire(start, *lines), method)
        assert ordinary is not None
        targets = set(proxy.worker.settings.targeted_fields)
        with reading() as express:
            again, asked = await side.ask(wire(start, *lines), method)
        assert again is not None
        assert (again.raw_head, again.content, len(asked)) == (ordinary.raw_head, ordinary.content, 1)
    assert "content-length" in found.names[RESPONSE]
    assert found.names[REQUEST] <= KNOWN_OF_PASSES | (of_kind(Kind.DEMANDING) if method == "GET" else set())
    assert found.names[RESPONSE] <= JUDGED | targets
    # the third was answered the express way, which reads no fields
    assert express.names[RESPONSE] == set()
