"""Callers of the proxies, who judge each answer: is it of what was asked for, whole, theirs, and new enough?"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence

import aiohttp

from tests.soak.crowd import Crowd
from tests.soak.truth import ITEMS, Truth, is_sound

USERS = [f"Bearer user-{number}" for number in range(6)]
CODINGS = ("identity", "gzip", "gzip, deflate, br", "zstd, gzip")
FROM_THE_SERVICE = {500, 503}
FROM_SIDING = {502, 503, 504}
HOST = {"Host": "app.example"}
"""Both proxies are asked for the same."""
LONGEST = 30.0
"""Seconds after which an answer does not come any more."""


class Clients(Crowd):
    """proxies -- their URLs by name. calm -- nothing is broken, so only success is an answer.

    writes -- set while changes are made. writing -- how many are on their way.
    """

    def __init__(self, truth: Truth, proxies: dict[str, str], number: int, seed: int) -> None:
        super().__init__(number)
        self._truth = truth
        self.proxies = proxies
        self._seed = seed
        self.calm = True
        self.writes = asyncio.Event()
        self.writes.set()
        self.writing = 0
        self.statuses: Counter[int] = Counter()
        self._serial = 0

    async def _ask_on(self, number: int) -> None:
        dice = random.Random(self._seed * 1000 + number)  # noqa: S311 - repeatable on purpose
        timeout = aiohttp.ClientTimeout(total=LONGEST)
        kinds = [self._get_item, self._get_me, self._get_now, self._post_report, self._post_echo, self._put]
        weights = [50, 10, 15, 20, 4, 1]
        async with aiohttp.ClientSession(timeout=timeout, headers=HOST, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while not self._stopping:
                proxy = dice.choice(list(self.proxies))
                [ask] = dice.choices(kinds, weights)
                calm = self.calm
                try:
                    await ask(session, proxy, dice)
                except TimeoutError:
                    self._truth.fault(f"{ask.__name__} at {proxy}: no answer within {LONGEST:g} s")
                except aiohttp.ClientPayloadError:
                    self.statuses[-1] += 1
                    if calm and self.calm:
                        self._truth.fault(f"{ask.__name__} at {proxy}: an answer broke off though nothing was broken")
                except aiohttp.ClientError as fault:
                    self.statuses[0] += 1
                    if calm and self.calm:
                        self._truth.fault(f"{ask.__name__} at {proxy}: {fault!r} though nothing was broken")

    def _judge(self, what: str, answer: aiohttp.ClientResponse, expected: Sequence[int], *, calm: bool) -> bool:
        """Whether it is an answer with content to look at."""
        self.statuses[answer.status] += 1
        if answer.status in expected:
            return True
        if answer.status not in FROM_SIDING | FROM_THE_SERVICE:
            self._truth.fault(f"{what}: status {answer.status}")
        elif calm and self.calm:
            self._truth.fault(f"{what}: status {answer.status} though nothing was broken")
        return False

    async def _get_item(self, session: aiohttp.ClientSession, proxy: str, dice: random.Random) -> None:
        name = str(min(dice.randrange(ITEMS), dice.randrange(ITEMS)))
        await self.look_at_item(session, proxy, name, dice)

    async def look_at_item(self, session: aiohttp.ClientSession, proxy: str, name: str, dice: random.Random) -> None:
        """Ask for an item, plainly, by its tag, or for a part of it."""
        key, calm = f"item {name}", self.calm
        process = self._truth.floors[proxy]
        least = process[key]
        fields = {"Accept-Encoding": dice.choice(CODINGS)}
        way = dice.choices(["plain", "tag", "part"], [8, 1, 1])[0]
        if way == "tag":
            fields["If-None-Match"] = f'"{name}.{self._truth.versions[key]}"'
        elif way == "part":
            fields |= {"Range": "bytes=10-49", "Accept-Encoding": "identity"}
        what = f"item {name} at {proxy} ({way}, {fields['Accept-Encoding']})"
        async with session.get(f"{self.proxies[proxy]}/items/{name}", headers=fields) as answer:
            content = await answer.read()
            if not self._judge(what, answer, (200, 206, 304), calm=calm):
                return
            tag = answer.headers.get("ETag", "").removeprefix("W/").strip('"').split("-")[0]
            version = int(tag.partition(".")[2].partition("-")[0] or -1)
            if answer.status == 200 and is_sound(content, "item", name) != version:
                self._truth.fault(f"{what}: version {version}, but the content is {content[:80]!r}")
            if answer.status == 206 and len(content) != 40:
                self._truth.fault(f"{what}: a part of {len(content)} octets")
            if version < least and self._truth.floors[proxy] is process:
                self._truth.fault(f"{what}: version {version} after a change to {least}; {answer.headers}")

    async def _get_me(self, session: aiohttp.ClientSession, proxy: str, dice: random.Random) -> None:
        user, calm = dice.choice(USERS), self.calm
        fields = {"Authorization": user, "Accept-Encoding": dice.choice(CODINGS)}
        async with session.get(f"{self.proxies[proxy]}/me", headers=fields) as answer:
            content = await answer.read()
            ok = self._judge(f"me at {proxy}", answer, (200,), calm=calm)
            if ok and is_sound(content, "me", user, user) is None:
                self._truth.fault(f"me at {proxy}: {user} got {content[:80]!r}")

    async def _get_now(self, session: aiohttp.ClientSession, proxy: str, dice: random.Random) -> None:
        self._serial += 1
        user, name, nonce, calm = dice.choice(USERS), str(dice.randrange(5)), str(self._serial), self.calm
        url = f"{self.proxies[proxy]}/now/{name}?nonce={nonce}"
        async with session.get(url, headers={"Authorization": user}) as answer:
            content = await answer.read()
            ok = self._judge(f"now at {proxy}", answer, (200,), calm=calm)
            if ok and is_sound(content, "now", f"{name} {nonce}", user) is None:
                self._truth.fault(f"now at {proxy}: {user} got {content[:80]!r}")

    async def _post_report(self, session: aiohttp.ClientSession, proxy: str, dice: random.Random) -> None:
        user, name, calm = dice.choice(USERS), str(dice.randrange(10)), self.calm
        process = self._truth.floors[proxy]
        least = process["marks"]
        fields = {"Authorization": user, "Accept-Encoding": dice.choice(CODINGS)}
        url = f"{self.proxies[proxy]}/reports"
        async with session.post(url, json={"student": name}, headers=fields) as answer:
            content = await answer.read()
            if not self._judge(f"report at {proxy}", answer, (200,), calm=calm):
                return
            version = is_sound(content, "report", name, user)
            if version is None:
                self._truth.fault(f"report at {proxy}: {user} asked for {name} and got {content[:80]!r}")
            elif version < least and self._truth.floors[proxy] is process:
                self._truth.fault(f"report at {proxy}: version {version} after a change to {least}; {answer.headers}")

    async def _post_echo(self, session: aiohttp.ClientSession, proxy: str, dice: random.Random) -> None:
        sent, calm = os.urandom(dice.choice((10, 3_000, 200_000))), self.calm
        async with session.post(f"{self.proxies[proxy]}/echo", data=sent) as answer:
            content = await answer.read()
            if self._judge(f"echo at {proxy}", answer, (200,), calm=calm) and content != sent:
                self._truth.fault(f"echo at {proxy}: {len(sent)} octets came back as {len(content)} others")

    async def _put(self, session: aiohttp.ClientSession, proxy: str, dice: random.Random) -> None:
        await self.writes.wait()
        self.writing += 1
        try:
            await self._change(session, proxy, dice)
        finally:
            self.writing -= 1

    async def _change(self, session: aiohttp.ClientSession, proxy: str, dice: random.Random) -> None:
        calm, name = self.calm, str(min(dice.randrange(ITEMS), dice.randrange(ITEMS)))
        path, key = (f"/items/{name}", f"item {name}") if dice.random() < 0.8 else ("/marks", "marks")
        process = self._truth.floors[proxy]
        async with session.put(f"{self.proxies[proxy]}{path}", data=b"x") as answer:
            content = await answer.read()
            ok = self._judge(f"change of {key} at {proxy}", answer, (200,), calm=calm)
            if ok and not content.isdigit():
                self._truth.fault(f"change of {key} at {proxy}: {content[:80]!r}")
            # counted only if that process is still the one that is there
            elif ok and self._truth.floors[proxy] is process:
                self._truth.answered(proxy, key, int(content))
