"""The other workers of one proxy, as each of them tells them: by way of the parent.

What a worker invalidates, the others know before the answer that says so goes to its client: whichever worker the
client's next request comes to, it sees the change. A worker that hangs holds nobody up for longer than `KNOWN_SECONDS`.
"""

from __future__ import annotations

import asyncio
import logging
import time

from config.bulletin import Standing
from config.told import Episode
from config.tracing import apart
from proxy.channel import Channel, ChannelError

log = logging.getLogger("siding.siblings")

KNOWN_SECONDS = 0.25
"""The longest that an answer waits until the others know. From then on none does, until they have said so."""


class Siblings:
    """See the module. For the event loop's thread. channel -- to the parent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lines: list[str] = []
        self._count = 0
        self._known: asyncio.Future[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._late = False
        self._slow = Episode()

    def tell(self, what: list[str], count: int) -> asyncio.Future[None] | None:
        """What was invalidated, the last of `count` notices (`store.telling`). When the others know; None: not awaited.

        One call at a time: what is told meanwhile goes with the next.
        """
        self._lines += what
        self._count = count
        if self._late:
            self._tell_on()
            return None
        if self._known is None:
            self._known = asyncio.get_running_loop().create_future()
        if self._telling is None:
            self._telling = apart(self._tell())
        return self._known

    def logged(self, count: int, upto: Standing) -> None:
        """The first `count` notices are in a log of the replicas, up to there."""
        self._channel.tell("logged", [count, list(upto)])

    async def _tell(self) -> None:
        try:
            while self._known is not None:
                await self._tell_once(self._known)
        finally:
            self._telling = None

    async def _tell_once(self, known: asyncio.Future[None]) -> None:
        lines, self._lines, self._known = self._lines, [], None
        call = asyncio.create_task(self._channel.call("invalidated", [self._count, lines]))
        await asyncio.wait((call,), timeout=KNOWN_SECONDS)
        known.set_result(None)
        try:
            if not call.done():
                if self._slow.begins(time.monotonic()):
                    log.warning("another worker is slow to note what is invalid: until it does, no answer waits for it")
                self._late = True
                self._tell_on()
            await call
        except ChannelError as fault:
            log.warning("other workers may not know what is invalid: %s", fault)
        finally:
            self._late = False

    def _tell_on(self) -> None:
        """Without waiting."""
        if self._lines:
            self._channel.tell("invalidated", [self._count, self._lines])
            self._lines = []
        known, self._known = self._known, None
        if known is not None:
            known.set_result(None)
