"""One request to the origin, whose answer may serve many clients.

    asking -> Found       another replica has what was to be asked for
           -> Ready       everything is at hand: small, freshened, or a stale stand-in
           -> Streaming   shareable, still arriving; each client reads it at its own pace
           -> Alone       not shareable: the leader gets the connection, followers go their own way
           -> Failed      the origin failed and nothing stored may hide it

The outcome is reached once. The fetch runs in a task of its own, so the client that came first may
leave without failing the others; it is cancelled when nobody waits and nothing is to be stored, or
hardly anything comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from config.tracing import here
from proxy import errors
from proxy.origin.client import OriginResponse
from proxy.policy import judgement as policy
from proxy.policy import reuse
from proxy.policy.decisions import Outcome, Verdict
from proxy.policy.judgement import Judgement, Ruling
from proxy.policy.messages import Question, StoredResponse

log = logging.getLogger("siding.fetch")

SMALL_BYTES = 64 * 1024
SMALL_SECONDS = 0.02
"""Content of known length, up to `SMALL_BYTES`, that arrives within `SMALL_SECONDS` of its head is completed before
the head goes on, so that the first client already gets a validator and a whole coded answer. Anything else streams."""
ORIGIN_SAID_ERROR = "origin-status"
"""What a hidden response with an error status is called, beside the codes of `errors`."""
WINDOW_BYTES = 256 * 1024
"""How far the origin may run ahead of the slowest client once an answer turned out too large to be kept."""
LAG_SECONDS = 30.0
"""How long one slow client may hold up others that wait for the same octets; then it is cut."""
UNREAD_SECONDS, UNREAD_BYTES = 60.0, 4096
"""Content that nobody reads is given up where less comes in so long. nginx and Varnish would go on for ever, and Squid
no further than 16 KB (quick_abort_max): what comes steadily is worth its while, a stream that has no end is not."""


class Copies:
    """Octets of answers that are on their way and kept to be stored, or of requests: never more than `limit` together.

    What exceeds it is not kept: it goes on as it comes, at the pace at which it is read.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, octets: int) -> bool:
        """Reserve; False where that would be too much."""
        if self.held + octets > self.limit:
            return False
        self.held += octets
        return True

    def give(self, octets: int) -> None:
        """Give back."""
        self.held -= octets


@dataclass(frozen=True, slots=True)
class Ready:
    """A whole response. kept -- it is in the store now; when not, `verdict` says why.

    hidden -- code of the origin's failure that a stale response hides from the clients.
    """

    stored: StoredResponse
    outcome: Outcome
    judgement: Judgement
    kept: bool
    verdict: Verdict
    status: int | None
    hidden: str | None = None


@dataclass(frozen=True, slots=True)
class Streaming:
    """A shareable response whose content is still arriving. response_time -- when its head did."""

    judgement: Judgement
    length: int | None
    response_time: float


@dataclass(frozen=True, slots=True)
class Alone:
    """A response for the leader only; `response` is handed over with its connection."""

    response: OriginResponse
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Found:
    """Another replica has asked, and this is stored now."""

    stored: StoredResponse


@dataclass(frozen=True, slots=True)
class Failed:
    """The origin failed, or (not a SidingError) something of ours did."""

    fault: Exception


Result = Found | Ready | Streaming | Alone | Failed
Keep = Callable[[StoredResponse], Verdict]
Finish = Callable[[Question, Judgement, bytes, tuple[float, float]], Awaitable[StoredResponse]]


class Fetch:
    """See the module. All times in seconds.

    elsewhere -- looks whether another replica has asked, and waits for one that does; None where there is no other.
    ask -- sends the request; awaited once. again -- asks for the whole and without conditions, once the answer was of
        no use. keep -- puts a response into the store and says whether it could.
    finish -- makes the stored response of complete content (which may cost CPU, hence awaitable).
    trace -- the span of the request that began it, where there is one.
    origin_seconds, total_seconds -- until the head of the origin's response, and until its content was complete.
    limit -- octets of content beyond which nothing is kept. copies -- bounds all fetches together.
    wall -- the wall clock. began -- by it, where the origin has been asked already.
    """

    def __init__(
        self,
        question: Question,
        *,
        ask: Callable[[], Awaitable[OriginResponse]],
        again: Callable[[], Awaitable[OriginResponse]],
        keep: Keep,
        finish: Finish,
        limit: int,
        copies: Copies,
        wall: Callable[[], float],
        worth_finishing: bool,
        began: float | None = None,
        elsewhere: Callable[[], Awaitable[StoredResponse | None]] | None = None,
    ) -> None:
        self.question = question
        self.open = True
        self.followers = 0
        self.origin_seconds = 0.0
        self.total_seconds: float | None = None
        self.result: Result | None = None
        self._again = again
        self._elsewhere = elsewhere
        self._ask, self._keep, self._finish, self._limit, self._wall = ask, keep, finish, limit, wall
        self._worth_finishing = worth_finishing
        self._began = began
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: list[Callable[[], None]] = []
        self._streams: list[Callable[[], None]] = []
        self._waiting = 0
        self._taken = False
        self._pieces: list[bytes] = []
        self._copies = copies
        self._held = 0
        self._first = 0
        self._size = 0
        self._keeping = True
        self._ended = False
        self._fault: Exception | None = None
        self._readers: set[Reader] = set()
        self._progress: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.trace = here()
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run())
        self._task.add_done_callback(self._over)

    def __repr__(self) -> str:
        state = type(self.result).__name__ if self.result else "asking"
        return f"<Fetch {state} waiting={self._waiting} readers={len(self._readers)} bytes={self._size}>"

    # -- for clients

    async def wait(self, seconds: float) -> Result | None:
        """The outcome, or None when it did not come in time. Cancelling the wait does not harm the fetch."""
        self._waiting += 1
        try:
            if not self._settled.done():
                await asyncio.wait((self._settled,), timeout=seconds)
        finally:
            self._waiting -= 1
            self._reader_moved()
            if self._waiting == 0:
                # the clients that were just woken take what is theirs first
                asyncio.get_running_loop().call_soon(self._tidy)
        return self.result

    def take(self) -> OriginResponse | None:
        """The response of an `Alone` outcome, once: for the leader."""
        if isinstance(self.result, Alone) and not self._taken:
            self._taken = True
            return self.result.response
        return None

    def reader(self) -> Reader:
        """Read a `Streaming` outcome from its first octet. Close the reader when done."""
        reader = Reader(self)
        self._readers.add(reader)
        return reader

    def on_streaming(self, callback: Callable[[], None]) -> None:
        """Call back if the content takes its time: the clients that there are have its beginning."""
        self._streams.append(callback)

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Call back once no more clients may join."""
        self._closed.append(callback)

    def cancel(self) -> None:
        """End it, whoever waits: it is not to be joined any more."""
        self._close()
        if self._task is not None:
            self._task.cancel()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task it runs in; None once it has ended."""
        return self._task

    def _over(self, _: asyncio.Task[None]) -> None:
        # one that was cancelled keeps, by the traceback of that, all that it was at
        self._task = None

    def on_end(self, callback: Callable[[asyncio.Task[None]], None]) -> None:
        """Call back when its task has ended."""
        assert self._task is not None
        self._task.add_done_callback(callback)

    # -- the fetch itself

    def _close(self) -> None:
        self.open = False
        for callback in self._closed:
            callback()
        self._closed.clear()

    def _settle(self, result: Result) -> None:
        self.result = result
        if not self._settled.done():
            self._settled.set_result(None)

    def _tidy(self) -> None:
        """With nobody left: give up what nobody will read and nothing will store."""
        if self._waiting or self._readers:
            return
        if self._ended and not self.open:
            self._let_go()
        if isinstance(self.result, Alone):
            response = self.take()
            if response is not None:
                response.close()
            return
        unheard = self.result is None and not self._worth_finishing
        unkept = isinstance(self.result, Streaming) and not self._keeping
        if unheard or unkept:
            self.cancel()

    def _let_go(self) -> None:
        """Nobody will read it any more."""
        self._first += len(self._pieces)
        self._pieces.clear()
        self._copies.give(self._held)
        self._held = 0

    async def _run(self) -> None:
        try:
            await self._ask_and_judge()
        except asyncio.CancelledError:
            self._fault = errors.OriginReset("the request to the origin was given up")
            self._settle(Failed(self._fault))
            raise
        except Exception as fault:
            if not isinstance(fault, errors.SidingError):
                log.exception("a fetch failed inside Siding")
            # kept with its traceback, it would keep all that it came through until cycles are looked for
            self._fault = fault.with_traceback(None)
            self._settle(Failed(fault))
        finally:
            self._ended = True
            if self._unread is not None:
                self._unread.cancel()
            self._close()
            self._wake()
            asyncio.get_running_loop().call_soon(self._tidy)

    def _complete(self, request_time: float) -> None:
        self.total_seconds = self._wall() - request_time

    async def _ask_and_judge(self) -> None:
        if self._elsewhere is not None and (stored := await self._elsewhere()) is not None:
            self._settle(Found(stored))
            return
        question = self.question
        request_time = self._wall() if self._began is None else self._began
        try:
            response = await self._ask()
        except errors.NoAnswer as fault:
            now = self._wall()
            self.origin_seconds = now - request_time
            if question.stored is None or not reuse.may_hide_error(question.stored, question.request, now):
                raise
            log.warning("no answer of the origin (%s); a stale response stands in", fault.code)
            judged = policy.hide(question.stored)
            self._settle(
                Ready(question.stored, Outcome.STALE_IF_ERROR, judged, False, judged.verdict, None, fault.code)
            )
            return
        try:
            response_time = self._wall()
            judged = policy.judge(question, response.head, request_time, response_time)
            if judged.ruling is Ruling.REPEAT:
                response.close()
                question = self.question = replace(question, stored=None, candidates=(), part=None)
                request_time = self._wall()
                response = await self._again()
                response_time = self._wall()
                judged = policy.judge(question, response.head, request_time, response_time)
            self.origin_seconds = response_time - request_time
            if judged.stored is not None:
                response.close()
                freshened = judged.ruling is Ruling.FRESHENED
                verdict = judged.verdict
                if judged.kept is not None:
                    put = self._keep(judged.kept)
                    verdict = put if verdict is Verdict.STORE else verdict
                outcome = Outcome.VALIDATED if freshened else Outcome.STALE_IF_ERROR
                hidden = None if freshened else ORIGIN_SAID_ERROR
                kept = verdict is Verdict.STORE
                self._settle(Ready(judged.stored, outcome, judged, kept, verdict, response.head.status, hidden))
                return
            if judged.ruling is Ruling.SHARED and not judged.before and (response.length or 0) > self._limit:
                judged = replace(judged, ruling=Ruling.ALONE, verdict=Verdict.TOO_LARGE)
            if judged.ruling is Ruling.ALONE:
                self._close()
                self._settle(Alone(response, judged))
                return
            await self._receive(response, judged, (request_time, response_time))
            response.close()
        except BaseException:
            # a connection that is never given back is lost to all that come after
            response.close()
            raise

    async def _receive(self, response: OriginResponse, judged: Judgement, times: tuple[float, float]) -> None:
        patience = SMALL_SECONDS if response.length is not None else 0.0
        content = await response.settle(min(SMALL_BYTES, self._limit), patience)
        if content is not None:
            self._complete(times[0])
            stored = await self._finish(self.question, judged, judged.before + content, times)
            verdict = self._keep(stored)
            kept = verdict is Verdict.STORE
            self._settle(Ready(stored, Outcome.MISS, judged, kept, verdict, response.head.status))
            return
        length = None if response.length is None else len(judged.before) + response.length
        self._settle(Streaming(judged, length, times[1]))
        self._watch(None)
        for callback in self._streams:
            callback()
        if judged.before:
            self._add(judged.before)
        while piece := await response.read():
            self._add(piece)
            self._wake()
            if not self._keeping:
                await self._make_room()
        self._complete(times[0])
        self._ended = True
        self._wake()
        if self._keeping:
            await self._keep_all(judged, times)

    def _add(self, piece: bytes) -> None:
        """One more piece for the clients; the first that is too much makes an end of keeping."""
        self._pieces.append(piece)
        self._size += len(piece)
        if not self._keeping:
            return
        if self._size <= self._limit and self._copies.take(len(piece)):
            self._held += len(piece)
            return
        self._keeping = False
        self._close()
        self._tidy()

    def _watch(self, before: int | None) -> None:
        """Give it up once hardly anything has come for so long that nobody read. before -- its size when nobody did."""
        if self._waiting or self._readers:
            before = None
        elif before is not None and self._size - before < UNREAD_BYTES:
            self.cancel()
            return
        else:
            before = self._size
        self._unread = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._watch, before)

    async def _keep_all(self, judged: Judgement, times: tuple[float, float]) -> None:
        try:
            self._keep(await self._finish(self.question, judged, b"".join(self._pieces), times))
        except Exception:
            # the clients have their answer; that it could not be stored is not their failure
            log.exception("a complete response could not be stored")

    # -- content on its way to several clients

    def _wake(self) -> None:
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)
        self._progress = None

    async def _make_room(self) -> None:
        """Too large to keep: drop what all clients have, and wait for the slowest of them.

        Clients that were woken and have yet to begin count as having read nothing.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LAG_SECONDS
        while True:
            end = self._first + len(self._pieces)
            slowest = min((reader.position for reader in self._readers), default=end)
            slowest = self._first if self._waiting else slowest
            del self._pieces[: slowest - self._first]
            self._first = slowest
            left = sum(map(len, self._pieces))
            if left < self._held:
                self._copies.give(self._held - left)
                self._held = left
            if left <= WINDOW_BYTES:
                return
            self._room = loop.create_future()
            starving = any(reader.position == end for reader in self._readers)
            await asyncio.wait((self._room,), timeout=max(0.0, deadline - loop.time()) if starving else None)
            if starving and not self._room.done():
                self._cut(slowest)

    def _cut(self, position: int) -> None:
        """Leave those behind who have not got past `position`."""
        for reader in [reader for reader in self._readers if reader.position == position]:
            reader.cut = True
            self._readers.discard(reader)

    def _reader_moved(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _piece(self, position: int) -> bytes:
        while position - self._first >= len(self._pieces):
            if self._fault is not None:
                raise self._fault
            if self._ended:
                return b""
            if self._progress is None:
                self._progress = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._progress,))
        return self._pieces[position - self._first]


class Reader:
    """One client's way through the content of a fetch."""

    __slots__ = ("_fetch", "cut", "position")

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self.position = 0
        self.cut = False

    async def read(self) -> bytes:
        """The next piece; b"" at the end. Raises what failed the fetch, and TooFarBehind."""
        if self.cut:
            raise errors.TooFarBehind(f"the others that read this answer waited {LAG_SECONDS:.0f} s for this client")
        piece = await self._fetch._piece(self.position)
        if piece:
            self.position += 1
            self._fetch._reader_moved()
        return piece

    def close(self) -> None:
        """Leave; the last to go may end the fetch."""
        self._fetch._readers.discard(self)
        self._fetch._reader_moved()
        self._fetch._tidy()
