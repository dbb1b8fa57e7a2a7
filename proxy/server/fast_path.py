"""Hits answered from prepared octets, before any task or object of the ordinary way is made.

`answer` takes only what it fully understands. None is always right: the same octets then go the ordinary way, whose
answer is prepared for the next time (`Index.prepare`), so that what is answered here is what the policy has said.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import sys
from collections.abc import Callable
from time import monotonic
from typing import cast

from config.flags import Flags
from config.rules import RouteTable
from proxy.observe.briefs import Briefs
from proxy.observe.events import Brief, BriefKind
from proxy.policy import cache_key, prepared, reuse
from proxy.policy.lines import Kind, Known, Start
from proxy.policy.messages import RequestHead, ResponseHead, StoredResponse
from proxy.policy.plain import Heading, Lexicon, Plain, parse
from proxy.policy.prepared import Prepared
from proxy.store.invalidations import Invalidations, Validity
from proxy.store.memory import MemoryStore

log = logging.getLogger("siding.fast_path")

MAX_ANSWER_BYTES = 64 * 1024
"""Longer answers may have to wait for a slow client, which is the ordinary way's to do."""
MAX_PLACES = 1024
MAX_PLACE = 1024
"""Characters: longer ones are worked out each time, for clients choose how long they are."""
MAX_RULED = 8192
MAX_OCTETS, MAX_OCTETS_LENGTH = 4096, 512
MAX_RULED_KEY = 1024
"""Characters: a cache key that is longer is not kept beside the store."""
OF_THE_SHAPE = frozenset({"accept-encoding", "if-none-match", "if-modified-since"})
"""Fields that a shape tells apart, so that a response may vary on them."""

_KEYED = frozenset({Kind.PLACE, Kind.CREDENTIAL})

Digest = Callable[[bytes], str]
Found = tuple[Prepared, bytes]
"""The form of a stored response, and the whole answer."""


def head_of(plain: Plain) -> RequestHead:
    """The whole head of a plain request, as the policy sees it."""
    fields = plain.fields()
    return RequestHead(
        plain.start.method, plain.start.target, fields, scheme_of(fields.get("x-forwarded-proto")), plain.host
    )


def scheme_of(forwarded: str | None) -> str:
    """The scheme of the target URI, as the edge before this hop says (X-Forwarded-Proto); http otherwise."""
    return (forwarded.partition(",")[0].strip().lower() if forwarded else "") or "http"


class Index:
    """Where `answer` looks. For the event loop's thread.

    digest -- a keyed hash, as cache keys have it. show_keys -- Cache-Status tells keys: nothing is prepared.
    mark -- of this process.
    """

    def __init__(
        self,
        store: MemoryStore,
        invalidations: Invalidations,
        routes: RouteTable,
        flags: Flags,
        digest: Digest,
        *,
        show_keys: bool,
        mark: str,
    ) -> None:
        self.store = store
        self.invalidations = invalidations
        self.lexicon = Lexicon(mark.encode())
        self.generation = 0
        self._routes = routes
        self._flags = flags
        self._digest = digest
        self._show_keys = show_keys
        self._salt = secrets.token_bytes(32)
        self._places: dict[tuple[Known, ...], cache_key.Place] = {}
        self._found: dict[str, tuple[str, bool]] = {}
        self._ruled: dict[bytes, str] = {}
        self._octets: dict[bytes, bytes] = {}
        self._kinds: dict[BriefKind, BriefKind] = {}
        headers = {name for rule in routes.rules for part, name in rule.key if part == "header"}
        self._keyed = {b"content-type", b"content-encoding"} | {name.encode() for name in headers}
        self._mimicked = {cache_key.as_read(name) for name in headers}
        self.on = False
        self._flipped("", False)
        flags.subscribe(self._flipped)

    def _flipped(self, _: str, __: bool) -> None:
        """What was prepared under other flags is not to be used."""
        self.generation += 1
        self.on = self._flags.query_cache and not self._flags.bypass and not self._show_keys

    def key(self, plain: Plain, content: bytes) -> str | None:
        """The cache key, where it is known without the policy."""
        start = plain.start
        if (start.route or self.route(start))[1]:
            return self._ruled.get(self._mark(plain, content))
        if content:
            return None
        place = self._place(plain)
        if start.spot is place:
            return start.key
        key = cache_key.key_at(place, start.method, start.asked)
        if len(key) <= MAX_PLACE:
            start.spot, start.key = place, key
        return key

    def is_ruled(self, plain: Plain) -> bool:
        """Whether there is a rule for method and path, be it that it applies or not."""
        return (plain.start.route or self.route(plain.start))[1]

    def route(self, start: Start) -> tuple[str, bool]:
        """The label for metrics, and whether there is a rule."""
        if start.route is None:
            start.route = self._route(start)
        return start.route

    def _route(self, start: Start) -> tuple[str, bool]:
        if len(start.path) == len(start.target) or len(start.path) > MAX_PLACE:
            return self._routes.found(start.method, start.path)
        # one path with ever new queries
        asked = f"{start.method} {start.path}"
        found = self._found.get(asked)
        if found is None:
            found = self._routes.found(start.method, start.path)
            if len(self._found) >= MAX_PLACES:
                self._found.clear()
            self._found[asked] = found
        return found

    def uri(self, plain: Plain) -> str:
        """The target URI."""
        return f"{self._place(plain).origin}{plain.start.target}"

    def _place(self, plain: Plain) -> cache_key.Place:
        heading = plain.heading
        if heading is None:
            return self._place_of(plain)
        if heading.spot is None:
            heading.spot = self._place_of(plain)
        return heading.spot

    def _place_of(self, plain: Plain) -> cache_key.Place:
        place = self._places.get(plain.place)
        if place is None:
            place = cache_key.place_of(head_of(plain), self._digest)
            if sum([len(line.line[1]) for line in plain.place]) <= MAX_PLACE:
                if len(self._places) >= MAX_PLACES:
                    self._places.clear()
                self._places[plain.place] = place
        return place

    def _mark(self, plain: Plain, content: bytes) -> bytes:
        """Stands for everything that a key under a rule may be made of; nobody can tell what from it."""
        known = plain.lines()
        lines = [line.line for line in known if line.kind in _KEYED or line.lower in self._keyed]
        if self._mimicked:
            lines += [line.line for line in known if cache_key.as_read(line.lower.decode("ascii")) in self._mimicked]
        parts = [
            plain.start.method,
            plain.start.target,
            *[f"{len(name)}:{name}{len(value)}:{value}" for name, value in lines],
        ]
        told = "\n".join(parts).encode("latin-1")
        return hashlib.blake2b(b"%d\n%b%b" % (len(told), told, content), key=self._salt, digest_size=16).digest()

    def prepare(
        self,
        plain: Plain,
        content: bytes,
        stored: StoredResponse,
        head: ResponseHead,
        answer: bytes,
        kind: BriefKind,
        generation: int,
    ) -> None:
        """Have what the policy answered `plain` with, from the fresh `stored`, at hand for the next time.

        head, answer -- what was sent, Age and Cache-Status included. generation -- when the policy began.
        """
        if not self.on or generation != self.generation or plain.demanding or len(answer) > MAX_ANSWER_BYTES:
            return
        if any(name not in OF_THE_SHAPE for name, _ in stored.secondary_key):
            return
        made = prepared.template(head, len(answer), "siding; hit; ttl=")
        if made is None:
            return
        start = plain.start
        sent = b"" if start.method == "HEAD" or head.status in prepared.NO_CONTENT else answer
        if sent and not any(sent is octets for octets in (stored.content, *stored.codings.values())):
            return
        if self.is_ruled(plain):
            if len(stored.key) > MAX_RULED_KEY:
                return
            if len(self._ruled) >= MAX_RULED:
                self._ruled.clear()
            self._ruled[self._mark(plain, content)] = stored.key
        elif self.key(plain, content) != stored.key:
            return
        own = stored.head.fields.octets
        made = prepared.Template(
            self._one(made.status),
            own if own == made.fields and own is not None else made.fields,
            self._one(made.between),
            self._one(made.end),
        )
        kind = self._kinds.setdefault(kind, kind)
        # what was invalidated while the answer was on its way is seen when it is asked for again
        form = Prepared(sys.intern(plain.shape), made, sent, kind, generation, stored)
        self.store.add_prepared(stored, form)

    def _one(self, octets: bytes) -> bytes:
        """The same octets as one object, however many answers have them."""
        if len(octets) > MAX_OCTETS_LENGTH:
            return octets
        if len(self._octets) >= MAX_OCTETS:
            self._octets.clear()
        return self._octets.setdefault(octets, octets)


def answer(plain: Plain, content: bytes, index: Index, now: float) -> Found | None:
    """The prepared answer to `plain` at `now` (wall clock, seconds); None where there is none."""
    if not index.on or plain.demanding:
        return None
    key = plain.key = index.key(plain, content)
    slot = index.store.find(key) if key is not None else None
    if slot is None:
        return None
    stored: StoredResponse | None = None
    form = slot.form
    if form is None:
        if len(slot.variants) < 2:
            return None
        stored = reuse.select(slot.variants, plain.fields())
        form = stored.prepared if stored is not None else None
    while form is not None and form.shape != plain.shape:
        form = form.next
    if form is None or form.generation != index.generation:
        return None
    epoch = index.invalidations.epoch
    if form.epoch != epoch:
        stored = stored or slot.variants[0]
        if index.invalidations.state(stored.uri, stored.tags, stored.epoch) is not Validity.VALID:
            return None
        form.epoch = epoch
    octets = form.answer(now)
    if octets is None:
        return None
    slot.use()
    return form, octets


class Seat:
    """A client's connection, as hits see it.

    write -- sends octets, when nothing else is on its way. address -- the client's.
    plain -- the request that was read, for who goes on with it. heading -- of the last that had one.
    ended -- when an answer was last sent, on the monotonic clock.
    """

    __slots__ = ("address", "ended", "heading", "plain", "write")

    def __init__(self, write: Callable[[bytes], object], address: str) -> None:
        self.write = write
        self.address = address
        self.plain: Plain | None = None
        self.heading: Heading | None = None
        self.ended = 0.0

    def read(self, data: bytes, lexicon: Lexicon) -> Plain | None:
        """The plain request that `data` begins with, for `leave` as well."""
        plain = self.plain = parse(data, lexicon, self.heading)
        if plain is not None and plain.heading is not None:
            self.heading = plain.heading
        return plain

    def leave(self) -> Plain | None:
        """What was read, if it was a plain request; nothing of it is kept while the connection is idle."""
        plain, self.plain = self.plain, None
        return plain


class Hits:
    """Sends prepared answers, and tells of them.

    wall -- the wall clock, seconds. needs_span -- whether a request has to have a span, which only the ordinary way
    makes; None where none has.
    """

    __slots__ = ("_briefs", "_index", "_needs_span", "_wall")

    def __init__(
        self,
        index: Index,
        briefs: Briefs,
        wall: Callable[[], float],
        needs_span: Callable[[Plain], bool] | None = None,
    ) -> None:
        self._index = index
        self._briefs = briefs
        self._wall = wall
        self._needs_span = needs_span

    def take(self, seat: Seat, data: bytes) -> bool:
        """Read `data`, and answer it if it is a plain request, whole and alone, to which an answer is at hand.

        Raises what `Seat.write` raises.
        """
        began = monotonic()
        plain = seat.read(data, self._index.lexicon)
        if plain is None or plain.size + plain.length != len(data):
            return False
        now = self._wall()
        try:
            if self._needs_span is not None:
                plain.watched = True
                if self._needs_span(plain):
                    return False
                plain.watched = False
            if not plain.length:
                found = answer(plain, b"", self._index, now)
            elif self._index.is_ruled(plain):
                found = answer(plain, data[plain.size :], self._index, now)
            else:
                return False
        except Exception:
            # law 6: it goes the ordinary way
            log.exception("the fast path failed")
            return False
        if found is None:
            return False
        form, octets = found
        seat.write(octets)
        seat.ended = monotonic()
        seat.plain = None
        self._briefs.add(
            Brief(
                cast("BriefKind", form.told),
                plain.start.path,
                seat.address,
                plain.request_id,
                plain.traceparent,
                plain.length,
                len(form.content),
                form.whole,
                form.origin_seconds,
                now,
                seat.ended - began,
            )
        )
        return True
