"""The values that decisions are made of: fields, request heads, response heads, stored responses.

Text of a message head is latin-1 decoded `str`: one character an octet, so nothing is lost and
nothing is changed on the way through (RFC 9110 5.5 calls the octets above 0x7F opaque data).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.policy.prepared import Prepared

Line = tuple[str, str]


class Fields:
    """Field lines in the order and case received; names are looked up in lower case.

    Immutable: the methods that change something return new fields. Packed, they take up a tenth of the memory, and are
    read anew each time.
    """

    __slots__ = ("_index", "_lines", "_octets")

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self._lines: tuple[Line, ...] | None = tuple(lines)
        self._index: dict[str, tuple[str, ...]] | None = None
        self._octets: bytes | None = None

    @property
    def lines(self) -> tuple[Line, ...]:
        """Name and value of each line."""
        if self._lines is not None:
            return self._lines
        assert self._octets is not None
        read = [line.partition(": ") for line in self._octets.decode("latin-1").split("\r\n")[:-1]]
        return tuple([(name, value) for name, _, value in read])

    def packed(self) -> Fields:
        """The same, packed; these where they cannot be (a line break within a value, which no parser lets pass)."""
        if self._lines is None or any(
            "\r" in value or "\n" in value or ":" in name or "\n" in name for name, value in self._lines
        ):
            return self
        fields = Fields()
        fields._octets, fields._lines = self.wire(), None
        return fields

    @property
    def octets(self) -> bytes | None:
        """The octets that packed fields are kept as; None where they are not packed."""
        return self._octets

    @classmethod
    def from_raw(cls, lines: Iterable[tuple[bytes, bytes]]) -> Fields:
        """Field lines as octets, from a parser."""
        return cls((name.decode("latin-1"), value.decode("latin-1")) for name, value in lines)

    def _lookup(self) -> dict[str, tuple[str, ...]]:
        if self._index is not None:
            return self._index
        index: dict[str, tuple[str, ...]] = {}
        for name, value in self.lines:
            lower = name.lower()
            index[lower] = (*index.get(lower, ()), value)
        if self._lines is not None:
            self._index = index
        return index

    def all(self, name: str) -> tuple[str, ...]:
        """The values of every line called `name` (lower case), in order."""
        return self._lookup().get(name, ())

    def get(self, name: str) -> str | None:
        """The combined value (RFC 9110 5.3: lines joined by comma and space); None when absent."""
        values = self._lookup().get(name)
        if values is None:
            return None
        return values[0] if len(values) == 1 else ", ".join(values)

    def names(self) -> Set[str]:
        """The names, in lower case."""
        return self._lookup().keys()

    def __contains__(self, name: object) -> bool:
        return name in self._lookup()

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.lines == other.lines

    def __hash__(self) -> int:
        return hash(self.lines)

    def __repr__(self) -> str:
        return f"Fields({[name for name, _ in self.lines]!r})"

    def without(self, names: Container[str]) -> Fields:
        """All lines but those whose lower-case name is in `names`."""
        return Fields(line for line in self.lines if line[0].lower() not in names)

    def adding(self, *lines: Line) -> Fields:
        """With `lines` after the others."""
        return Fields(self.lines + lines)

    def replacing(self, name: str, value: str) -> Fields:
        """With exactly one line called `name`: in the place of the first such line, or at the end."""
        lower, out, placed = name.lower(), [], False
        for line in self.lines:
            if line[0].lower() != lower:
                out.append(line)
            elif not placed:
                out.append((line[0], value))
                placed = True
        if not placed:
            out.append((name, value))
        return Fields(out)

    def wire(self) -> bytes:
        """The lines as octets, each ended by CRLF (RFC 9112 5)."""
        if self._octets is not None:
            return self._octets
        return "".join([f"{name}: {value}\r\n" for name, value in self.lines]).encode("latin-1")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line and its fields.

    target -- request target exactly as received, origin-form or `*`.
    scheme, authority -- of the target URI as the client used it (forwarding fields considered).
    """

    method: str
    target: str
    fields: Fields
    scheme: str = "http"
    authority: str = ""
    version: tuple[int, int] = (1, 1)

    @property
    def path(self) -> str:
        """The path alone, undecoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str | None:
        """What follows the first question mark, undecoded; None where there is none."""
        _, mark, query = self.target.partition("?")
        return query if mark else None


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A status line and its fields."""

    status: int
    reason: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long, and how, a stored response may be reused. Seconds throughout.

    initial_age -- corrected initial age at `response_time` (RFC 9111 4.2.3).
    lifetime -- freshness lifetime (RFC 9111 4.2.1).
    stale_while_revalidate, stale_if_error -- seconds past the lifetime (RFC 5861); 0 forbids;
        `stale_if_error` is None where nothing is said about it.
    must_revalidate -- never to be served stale (RFC 9111 5.2.2.2, .8, .10).
    no_cache -- to be validated before every reuse (RFC 9111 5.2.2.4).
    """

    initial_age: float = 0.0
    lifetime: float = 0.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float | None = None
    must_revalidate: bool = False
    no_cache: bool = False


class RouteRule(Protocol):
    """What the policy needs to know of a route rule; `config.rules.Rule` is one.

    name -- the match pattern, which is also the route's label in metrics.
    ttl -- freshness lifetime in seconds, instead of the origin's; None leaves it to the origin.
    key -- parts beside the target URI: ("query", ""), ("query", NAME), ("body", ""), ("body", FIELD),
        ("authorization", ""), ("header", NAME), ("cookie", NAME); field names in lower case.
    stale_while_revalidate, stale_if_error -- seconds past the lifetime; None leaves it to the origin.
    private -- the key holds the whole credential, so each one has stored responses of its own.
    public -- the operator declares that the answer is the same for everyone.
    set_cookie -- the operator declares that everyone may be given the cookies that one was given.
    mark -- another for each other rule, for the same paths as well: what is stored was judged by that rule alone.
    """

    @property
    def name(self) -> str: ...
    @property
    def methods(self) -> frozenset[str]: ...
    @property
    def ttl(self) -> float | None: ...
    @property
    def key(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def stale_while_revalidate(self) -> float | None: ...
    @property
    def stale_if_error(self) -> float | None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def private(self) -> bool: ...
    @property
    def public(self) -> bool: ...
    @property
    def set_cookie(self) -> bool: ...
    @property
    def mark(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Part:
    """Which octets of a representation a stored response holds, where it does not hold all (RFC 9110 14.4).

    first -- position of the first. complete -- length of the whole representation. to_end -- it holds the last.
    """

    first: int
    complete: int
    to_end: bool


NO_CODINGS: Mapping[str, bytes] = {}
"""That of every stored response of which no coding has been made."""
SecondaryKey = tuple[tuple[str, str | None], ...]
"""Selecting field names (lower case) with the normalised values of the request that was answered."""


@dataclass(slots=True, eq=False)
class StoredResponse:
    """A response kept for reuse. Compared by identity.

    uri -- target URI, by which it is invalidated. key -- cache key. secondary_key -- see `cache_key.secondary_key`.
    head -- status and fields as they will be sent: no hop-by-hop fields, no Age, no framing.
    content -- the content in the origin's coding: all of it, or the `part` of it.
    request_time, response_time -- wall clock, seconds since the epoch.
    epoch -- the invalidation counter when the origin was asked (see `invalidation`).
    tags -- what it can be purged by. made_etag -- its ETag was made here; the origin knows nothing of it.
    origin_seconds -- how long the origin took, which each hit saves.
    codings -- content coding -> content in that coding, made once when first asked for.
    part -- None when the content is complete; otherwise `head` is that of the complete response.
    prepared -- answers made of it before, as octets; those of another are never taken over.
    """

    key: str
    uri: str
    secondary_key: SecondaryKey
    head: ResponseHead
    content: bytes
    freshness: Freshness
    request_time: float
    response_time: float
    epoch: int
    tags: tuple[str, ...] = ()
    made_etag: bool = False
    origin_seconds: float = 0.0
    codings: Mapping[str, bytes] = field(default_factory=lambda: NO_CODINGS)
    part: Part | None = None
    prepared: Prepared | None = field(default=None, init=False)


@dataclass(frozen=True, slots=True)
class Question:
    """What the origin is asked, and on whose behalf.

    request -- the client's request, before any validator was added to it.
    uri, key -- target URI and cache key. rule -- the route rule that applies, if any.
    stored -- the stored response to be validated, or to fall back on.
    epoch -- the invalidation counter when the origin was asked.
    targets -- the target list (RFC 9213 2.2), in lower case.
    candidates -- stored for other selecting fields, of which the origin may say that one will do.
    part -- the stored part of which the rest is asked for.
    """

    request: RequestHead
    uri: str
    key: str
    rule: RouteRule | None
    stored: StoredResponse | None
    epoch: int
    targets: tuple[str, ...] = ()
    candidates: tuple[StoredResponse, ...] = ()
    part: StoredResponse | None = None
