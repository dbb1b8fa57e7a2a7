"""Telling the proxy that what it stored is out of date: its tags are purged when a table changes.

A proxy that is away, restarted for a moment, is asked until it answers, and so is whoever answers in its place: what is
not purged would be served for as long as its route allows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import aiohttp
import orjson
from pydantic import SecretStr

from config.flags import FlagName
from config.tasks import end
from config.told import Told

log = logging.getLogger("siding.proxy_tags")

SECONDS = 2.0
MAX_FLAGS_BYTES = 16 * 1024
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0
"""From one try to the next, twice as long each time."""
TELL_SECONDS = 5.0
"""A proxy that is away for less was restarted, and nothing needs to be done."""
OK = 200
REFUSALS = {400: "", 401: "; is PROXY_ADMIN_TOKEN its ADMIN_TOKEN?", 403: "; is PROXY_ADMIN_TOKEN its ADMIN_TOKEN?"}
"""Statuses with which a proxy refuses, and would again; with what is to be done."""


class ProxyTags:
    """Purges tags at the proxy's admin listener, one call for each tag that is wanted purged at the time.

    url -- PROXY_ADMIN_URL; None does nothing.
    """

    def __init__(self, url: str | None, token: SecretStr | None) -> None:
        self._url = url
        self._fields = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._wanted: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_admin = False
        self._told = Told()

    def purge(self, tags: Iterable[str]) -> None:
        """Purge `tags` soon; returns at once."""
        if self._url is None:
            return
        self._wanted.update(dict.fromkeys(tags))
        if self._wanted and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._purge_all(self._url))

    async def _purge_all(self, url: str) -> None:
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        # what is wanted while the session closes is wanted from the next
        while self._wanted:
            self._is_admin = False
            async with aiohttp.ClientSession(url, timeout=timeout) as session:
                await self._purge_wanted(session)

    async def _purge_wanted(self, session: aiohttp.ClientSession) -> None:
        pause = FIRST_PAUSE_SECONDS
        clock = asyncio.get_running_loop().time
        since = clock()
        while self._wanted:
            tag = next(iter(self._wanted))
            # who wants it purged from now on wants it purged again
            del self._wanted[tag]
            try:
                away = await self._purge_one(session, tag)
            except asyncio.CancelledError:
                self._wanted[tag] = None
                raise
            if away is None:
                pause, since = FIRST_PAUSE_SECONDS, clock()
                continue
            if clock() - since >= TELL_SECONDS and self._told.news(away):
                log.warning("tags cannot be purged at the proxy, which is asked until it answers: %s", away)
            self._wanted[tag] = None
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def close(self) -> None:
        """Stop; what is wanted purged still goes out, within a bound."""
        await end([self._task])
        if self._url is not None and self._wanted:
            # not by a time-out, whose cancellation is lost where it meets one of aiohttp's own
            last = asyncio.create_task(self._purge_all(self._url))
            await asyncio.wait([last], timeout=SECONDS)
            await end([last])
        if self._wanted:
            log.error("tags stay unpurged at the proxy, which did not answer: %s", ", ".join(self._wanted))

    async def _purge_one(self, session: aiohttp.ClientSession, tag: str) -> str | None:
        """Why the proxy has to be asked again; None once it has answered."""
        try:
            if not self._is_admin and (other := await self._look(session)) is not None:
                return other
            order = {"tag": tag}
            async with session.post("/api/purge", json=order, headers=self._fields, allow_redirects=False) as answer:
                status = answer.status
            if status == OK:
                if self._told.works():
                    log.info("the proxy purges tags again")
                return None
            # a proxy may be away, and another answer in its place, who has no use for the token
            self._is_admin = False
            if status not in REFUSALS:
                return f"it answered {status}"
            if (other := await self._look(session)) is not None:
                return other
        except TimeoutError:
            self._is_admin = False
            return f"no answer within {SECONDS:g} s"
        except (aiohttp.ClientError, OSError) as fault:
            self._is_admin = False
            return str(fault) or type(fault).__name__
        refusal = f"the proxy answered {status}{REFUSALS[status]}"
        if self._told.news(refusal):
            log.error("tag %r is not purged: %s (said once)", tag, refusal)
        return None

    async def _look(self, session: aiohttp.ClientSession) -> str | None:
        """Why what is there is not to be told the token; None if it is an admin listener.

        Another's answers are to purges what it likes, and the token is none of its business.
        """
        async with session.get("/api/flags", allow_redirects=False) as answer:
            if answer.status != OK:
                return f"it answered {answer.status}"
            content = b""
            while len(content) < MAX_FLAGS_BYTES and (piece := await answer.content.read(MAX_FLAGS_BYTES)):
                content += piece
            self._is_admin = _has_flags(content)
            if not self._is_admin:
                return "what PROXY_ADMIN_URL names is no admin listener of a proxy"
        return None


def _has_flags(content: bytes) -> bool:
    try:
        found = orjson.loads(content)
    except ValueError:
        return False
    return isinstance(found, dict) and FlagName.BYPASS in found
