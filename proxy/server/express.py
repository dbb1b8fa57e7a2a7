"""Requests that pass, answered without a task: the origin asked at once, its answer written when it is there.

    taken -> asked -> passed on        a plain response whose like the policy has judged before (`policy.passing`)
                   -> ordinary         anything else: the handler goes on with what the origin has been asked
                   -> abandoned        the client left

Only what the policy would send to the origin whatever is stored is taken: methods that are written through, GETs whose
last answer could not be shared (see `origin.collapse`), and under BYPASS all but HEAD. Declining is always right.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final, Protocol, cast

from config.rules import Rule
from proxy import errors
from proxy.observe.briefs import Briefs
from proxy.observe.events import Brief, BriefKind, Observation
from proxy.origin.client import IDEMPOTENT, WITHOUT_MEANING, OriginResponse
from proxy.origin.connection import OnInterim, OriginConnection
from proxy.origin.fetch import SMALL_BYTES, SMALL_SECONDS
from proxy.policy import cache_key, invalidation, plain
from proxy.policy.decisions import Forward, Outcome
from proxy.policy.forwarding import CDN_LOOP
from proxy.policy.judgement import route_tag
from proxy.policy.messages import RequestHead, ResponseHead
from proxy.policy.passing import Passed, Replies, Reply, unchunked
from proxy.policy.plain import Plain
from proxy.server.answer import make_etag
from proxy.server.coding import OFF_LOOP_BYTES, encode
from proxy.server.fast_path import Seat, head_of
from proxy.server.in_flight import InFlight
from proxy.server.visit import Shared

log = logging.getLogger("siding.express")

DIGITS: Final = 4096
CHUNKS_SECONDS = 0.002
"""How long the end of chunks is waited for: most origins send it by itself, and soon."""


class Client(Protocol):
    """The client's connection."""

    @property
    def closing(self) -> bool:
        """Whether the next answer is the last."""
        ...

    def answered(self) -> None:
        """The whole answer is sent: the connection is for the next request."""
        ...

    def serve_ordinarily(self, plain: Plain, content: bytes, passing: Passing) -> OnInterim:
        """Have the handler serve the request, whose origin has been asked already; takes interim responses."""
        ...


class _Digits:
    """Random hexadecimal digits, made many at once. For identifiers, not for secrets."""

    __slots__ = ("_at", "_made")

    def __init__(self) -> None:
        self._made = ""
        self._at = 0

    def take(self, number: int) -> str:
        """So many that were not taken before."""
        begin = self._at
        if begin + number > len(self._made):
            self._made = random.randbytes(DIGITS // 2).hex()  # noqa: S311 - as said
            begin = 0
        self._at = begin + number
        return self._made[begin : self._at]


class Express:
    """Takes requests that pass. For the event loop's thread."""

    def __init__(
        self, shared: Shared, in_flight: InFlight, briefs: Briefs, own_paths: frozenset[str] = frozenset()
    ) -> None:
        """own_paths -- those of GETs that are never the origin's."""
        self.shared = shared
        self.briefs = briefs
        self.fast = shared.fast
        self.origin = shared.origin
        self.clock = shared.clock
        self.wall = shared.wall
        self._flags = shared.flags
        self._own_paths = own_paths
        self._collapse = shared.collapse
        self._invalidations = shared.invalidations
        self._announces = shared.announce is not None
        self._max_request_bytes = shared.limits.max_request_bytes
        self.mark = f"{CDN_LOOP}: {shared.mark}\r\n".encode()
        self.digits = _Digits()
        self.in_flight = in_flight
        self.replies = Replies(shared.targets)
        shared.flags.subscribe(lambda _, __: self.replies.forget())

    def take(self, client: Client, seat: Seat, request: Plain, content: bytes) -> Passing | None:
        """Ask the origin on behalf of `client` on its `seat`; None where it is not to be done here, or not at once."""
        method = request.start.method
        if method == "HEAD" or request.watched or len(content) > self._max_request_bytes:
            return None
        if content and method in WITHOUT_MEANING:
            return None
        now = self.clock()
        if self._flags.bypass:
            if method == "GET" and request.start.path in self._own_paths:
                return None
            forward = Forward.BYPASS
        elif self.fast.is_ruled(request):
            return None
        elif method == "GET":
            if not self._passes(request, now):
                return None
            forward = Forward.URI_MISS
        else:
            forward = Forward.METHOD
        return Passing(self, client, seat, request, content, forward, now).ask()

    @property
    def epoch(self) -> int:
        """How many invalidations there have been."""
        return self._invalidations.epoch

    def invalidate(self, request: Plain, status: int) -> asyncio.Future[None] | None:
        """As the handler does; fields that name more than the target URI are not seen here (`policy.passing`)."""
        start, shared = request.start, self.shared
        method = start.method
        if method == "GET" or status >= 400:
            return None
        tags: list[str] = []
        own = self._rule(request)
        if method in shared.routes.triggers:
            rules = shared.routes.invalidated_by(method, start.path)
            tags = [route_tag(rule.name) for rule in rules if rule is not own]
        uris = [] if own is not None or invalidation.is_safe(method) else [self.fast.uri(request)]
        if tags or self._announces:
            return shared.invalidate(tags, uris)
        # all that is left of it where there is nobody to tell
        for uri in uris:
            self._invalidations.purge_uri(uri)
        return None

    def _rule(self, request: Plain) -> Rule | None:
        """Under BYPASS there may be one."""
        if not self.fast.is_ruled(request):
            return None
        rule = self.shared.routes.match(request.start.method, request.start.path)
        return rule if rule is not None and cache_key.rule_applies(rule, head_of(request)) else None

    def _passes(self, request: Plain, now: float) -> bool:
        """Whether the last answer to such a GET could not be shared, and nothing stored may answer it."""
        fast, collapse = self.fast, self._collapse
        if self.shared.show_keys or request.demanding or not collapse.remembers:
            return False
        key = request.key or fast.key(request, b"")
        if key is None or (self._flags.query_cache and fast.store.find(key) is not None):
            return False
        authorization = request.authorization() if request.credentials else None
        if authorization:
            key = f"{key}\n{self.shared.digest(', '.join(authorization).encode('latin-1'))}"
        return not collapse.worth_waiting(key, now)


class Passing:
    """One request on its way."""

    __slots__ = (
        "_asked",
        "_client",
        "_coming",
        "_connection",
        "_express",
        "_generation",
        "_held",
        "_late",
        "_request_id",
        "_seat",
        "_seen",
        "_traceparent",
        "began",
        "content",
        "epoch",
        "forward",
        "plain",
    )

    def __init__(
        self,
        express: Express,
        client: Client,
        seat: Seat,
        request: Plain,
        content: bytes,
        forward: Forward,
        now: float,
    ) -> None:
        """now -- on the monotonic clock. began -- on the wall clock. epoch -- of the invalidations, at that time."""
        self._express = express
        self._client = client
        self._seat = seat
        self.plain = request
        self.content = content
        self.forward = forward
        self._connection: OriginConnection | None = None
        self._seen: tuple[Reply, int] | None = None
        self._coming: Reply | None = None
        self._late: asyncio.TimerHandle | None = None
        # the answer waits until other workers know what it makes invalid
        self._held: tuple[bytes, bytes, Reply, Passed, tuple[int, int], float] | None = None
        self._generation = express.fast.generation
        self.began, self._asked = express.wall(), now
        self.epoch = express.epoch
        self._request_id, self._traceparent = request.request_id, request.traceparent

    def ask(self) -> Passing | None:
        """Ask the origin, if there is an idle connection to it."""
        express, request = self._express, self.plain
        if not self._request_id:
            self._request_id = express.digits.take(32)
        if not self._traceparent:
            self._traceparent = f"00-{express.digits.take(32)}-{express.digits.take(16)}-00"
        head = plain.to_origin(request, self._seat.address, self._request_id, self._traceparent, express.mark)
        if request.framed:
            wire = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(self.content), self.content)
        else:
            wire = b"%b\r\n" % head
        self._connection = express.origin.ask_now(request.start.method, wire, self._arrived, _ignored, self._asked)
        if self._connection is None:
            return None
        express.in_flight.enter()
        return self

    def _arrived(self, data: bytes) -> bool | None:
        """See `origin.connection.Shortcut`."""
        try:
            done = self._pass_on(data) if data else False
        except Exception:
            # law 6: the handler goes on with it
            log.exception("the express way failed")
            # once the origin's connection is given back it may be another's
            done = self._connection is None
        if done is False and self._connection is not None:
            self._serve_ordinarily(self._connection)
        elif done is None and self._late is None:
            seconds = SMALL_SECONDS if self._coming is None else CHUNKS_SECONDS
            self._late = asyncio.get_running_loop().call_later(seconds, self._wait_no_longer)
        return done

    def _serve_ordinarily(self, connection: OriginConnection) -> None:
        self._stop_waiting()
        connection.on_interim(self._client.serve_ordinarily(self.plain, self.content, self))
        # once the handler has begun to count it
        asyncio.get_running_loop().call_soon(self._express.in_flight.leave)

    def _wait_no_longer(self) -> None:
        """Content that comes slowly goes on as it comes."""
        if self._connection is not None:
            if self._coming is not None:
                self._express.replies.came(self.plain.question(), self._coming, whole=False)
            self._serve_ordinarily(self._connection)
            self._connection.go_on()

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _content(self, reply: Reply, data: bytes) -> bytes | bool:
        """The content of `reply`, whole; True while it is waited for; False where it is not for here."""
        if reply.length < 0:
            if len(data) > SMALL_BYTES:
                return False
            replies, question = self._express.replies, self.plain.question()
            content = unchunked(data, reply.size)
            if content is None:
                self._coming = reply
                return not replies.is_stream(question, reply)
            replies.came(question, reply, whole=True)
            return content
        size = reply.size + reply.length
        if size > SMALL_BYTES or size < len(data):
            return False
        return True if size > len(data) else data[reply.size :]

    def _pass_on(self, data: bytes) -> bool | None:
        express = self._express
        reply = express.replies.read(data)
        content = self._content(reply, data) if reply is not None else False
        if reply is None or isinstance(content, bool):
            return None if content else False
        length = len(content)
        self._seen = reply, length
        passed = express.replies.known(self.plain.question(), reply, length)
        connection = self._connection
        if passed is None or connection is None or self._generation != express.fast.generation:
            return False
        etag = make_etag(content) if passed.made is not None else None
        if passed.coding is not None:
            if length > OFF_LOOP_BYTES:
                return False
            content = encode(content, passed.coding)
        head = reply.answer(passed, etag, len(content))
        known = express.invalidate(self.plain, reply.status.status)
        self._stop_waiting()
        connection.finish()
        arrived = express.clock()
        express.origin.done(connection, arrived)
        self._connection = None
        sent = len(content)
        if passed.in_chunks:
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (sent, content) if content else b"0\r\n\r\n"
        lengths = length, sent
        if known is None:
            self._answer(head, content, reply, passed, lengths, arrived)
        else:
            self._held = (head, content, reply, passed, lengths, arrived)
            known.add_done_callback(self._answer_held)
        return True

    def _answer_held(self, _: object) -> None:
        if self._held is not None:
            head, content, reply, passed, lengths, arrived = self._held
            self._held = None
            self._answer(head, content, reply, passed, lengths, arrived)

    def _answer(
        self, head: bytes, content: bytes, reply: Reply, passed: Passed, lengths: tuple[int, int], arrived: float
    ) -> None:
        """lengths -- of the origin's content, and of what is sent."""
        express, seat, client = self._express, self._seat, self._client
        express.in_flight.leave()
        seat.write(b"%b%b%b" % (head, b"Connection: close\r\n\r\n" if client.closing else b"\r\n", content))
        ended = seat.ended = express.clock()
        client.answered()
        self._tell(reply, passed, lengths, arrived, ended)

    def _tell(self, reply: Reply, passed: Passed, lengths: tuple[int, int], arrived: float, ended: float) -> None:
        """As above."""
        express, start = self._express, self.plain.start
        route = express.fast.route(start)[0]
        kind = passed.told.get(route)
        if kind is None:
            kind = passed.told[route] = BriefKind(
                route,
                start.method,
                reply.status.status,
                passed.coding,
                outcome=Outcome.BYPASS if self.forward is Forward.BYPASS else Outcome.PASS,
                forward=self.forward,
                verdict=passed.verdict,
            )
        express.briefs.add(
            Brief(
                cast("BriefKind", kind),
                start.path,
                self._seat.address,
                self._request_id,
                self._traceparent,
                len(self.content),
                lengths[1],
                lengths[0],
                arrived - self._asked,
                self.began,
                ended - self._asked,
            )
        )

    # -- for the handler, where it goes on

    @property
    def identifiers(self) -> tuple[str, str]:
        """Request id and traceparent, as the origin has them."""
        return self._request_id, self._traceparent

    def stands_for(self, request: RequestHead, whole: RequestHead) -> bool:
        """Whether the origin has been asked what the handler is about to ask; `whole` is the client's own request.

        What cannot be repeated is never asked twice.
        """
        return self._connection is not None and (request.method not in IDEMPOTENT or request.fields == whole.fields)

    async def response(self) -> OriginResponse | None:
        """The origin's response, once; None where it has to be asked again. Raises OriginError."""
        connection, self._connection = self._connection, None
        assert connection is not None
        try:
            return await self._express.origin.response_on(connection)
        except errors.OriginReset:
            if self.plain.start.method not in IDEMPOTENT or connection.received:
                raise
            # it had been closing already (RFC 9112 9.3.1)
            return None

    def learn(self, sent: tuple[ResponseHead, bytes | None], content: bytes | None, seen: Observation) -> None:
        """What the handler made of the origin's response is made of the next like it.

        Unless it had reasons of its own, or other flags.
        """
        usual = seen.forward is self.forward and seen.detail is None and not seen.collapsed
        # what was sent is the origin's content, or that in a coding: not a piece of it, nor what was not whole here
        as_it_was = sent[1] is content or seen.coding is not None
        if self._seen is None or not usual or not as_it_was:
            return
        if self._generation == self._express.fast.generation:
            try:
                reply, length = self._seen
                self._express.replies.learn(
                    self.plain.question(),
                    reply,
                    length,
                    sent[0],
                    seen.verdict,
                    seen.coding,
                    in_chunks=reply.length < 0 and content is None,
                )
            except Exception:
                # law 6: it has been answered
                log.exception("what became of a response could not be learnt")

    def give_up(self) -> None:
        """Whatever is still on its way is not wanted; what was asked for may be done all the same. Idempotent."""
        connection, self._connection = self._connection, None
        self._stop_waiting()
        if connection is not None:
            connection.shortcut = None
            self._express.origin.drop(connection)
            self._express.invalidate(self.plain, invalidation.UNANSWERED.status)

    def abandon(self) -> None:
        """The client left, or was cut."""
        if self._connection is None and self._held is None:
            return
        self._held = None
        self._express.in_flight.leave()
        self.give_up()
        shared, request = self._express.shared, self.plain
        seen = Observation(request.start.method, request.start.path)
        seen.route = self._express.fast.route(request.start)[0]
        seen.client, seen.started = self._seat.address, self.began
        seen.request_id, seen.traceparent = self.identifiers
        seen.spanless = True
        seen.outcome, seen.forward = self._express.in_flight.unfinished, self.forward
        seen.duration = seen.origin_seconds = self._express.clock() - self._asked
        seen.request_bytes = len(self.content)
        shared.observe(seen)


def _ignored(_: ResponseHead) -> None:
    """No interim response is read while the shortcut is in place."""
