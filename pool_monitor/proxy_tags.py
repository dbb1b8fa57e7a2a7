"""Telling the proxy that what it stored is out of date: its tags are purged when a table changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import aiohttp
from pydantic import SecretStr

log = logging.getLogger("siding.proxy_tags")

SECONDS = 2.0
ATTEMPTS = 3


class ProxyTags:
    """Purges tags at the proxy's admin listener, one call for each tag that is wanted purged at the time.

    url -- PROXY_ADMIN_URL; None does nothing.
    """

    def __init__(self, url: str | None, token: SecretStr | None) -> None:
        self._url = url
        self._fields = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._wanted: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def purge(self, tags: Iterable[str]) -> None:
        """Purge `tags` soon; returns at once."""
        if self._url is None:
            return
        self._wanted.update(dict.fromkeys(tags))
        if self._wanted and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._purge_all(self._url))

    async def _purge_all(self, url: str) -> None:
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        async with aiohttp.ClientSession(url, headers=self._fields, timeout=timeout) as session:
            while self._wanted:
                tag = next(iter(self._wanted))
                del self._wanted[tag]
                await self._purge_one(session, tag)

    async def _purge_one(self, session: aiohttp.ClientSession, tag: str) -> None:
        why = ""
        for _ in range(ATTEMPTS):
            try:
                async with session.post("/api/purge", json={"tag": tag}) as answer:
                    if answer.ok:
                        return
                    why = f"it answered {answer.status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as fault:
                why = str(fault) or type(fault).__name__
        log.error("tag %r could not be purged at the proxy: %s", tag, why)

    async def close(self) -> None:
        """Stop; what is wanted purged still goes out, within a bound."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=SECONDS)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
