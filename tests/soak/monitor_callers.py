"""Callers of the monitors, who judge each answer: is it of what was asked for, whole, theirs, and new enough?"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from typing import Any

import aiohttp
import orjson

from tests.pool_monitor.grading.samples import asked
from tests.soak.crowd import Crowd
from tests.soak.process import Process
from tests.soak.truth import Truth

ITEMS = 40
LINES = 3_000
USERS = [f"Bearer sk-user-{number}" for number in range(5)]
SHEETS = [f"page {number}" for number in range(6)]
GRACE_SECONDS = 1.0
"""In which a commit is heard of."""
LONGEST = 40.0
"""Seconds after which an answer does not come any more."""
EXCUSED = {429, 500, 502, 503, 504}


class Excused(Exception):
    """No answer, but an error. status -- as told."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(status, content)
        self.status, self.content = status, content


def is_told(said: str, text: str, key: str) -> bool:
    """Whether it may be said to who asked by this key; an upstream that fails tells nothing of it."""
    return said == f"{text} {key}" or not any(word in said for word in USERS)


async def whole(answer: aiohttp.ClientResponse) -> bytes:
    """The content of a success. Raises Excused."""
    content = await answer.read()
    if answer.status != 200:
        raise Excused(answer.status, content)
    return content


class Callers(Crowd):
    """monitors -- by name. graded -- what the upstream says of each sheet. calm -- nothing is broken.

    committed -- when each version of an item was told to have been written.
    """

    def __init__(self, truth: Truth, monitors: dict[str, Process], number: int, seed: int) -> None:
        super().__init__(number)
        self._truth = truth
        self._monitors = monitors
        self._seed = seed
        self.graded: dict[str, str] = {}
        self.calm = True
        self.statuses: Counter[str] = Counter()
        self.committed: defaultdict[int, list[tuple[float, int]]] = defaultdict(lambda: [(0.0, 0)])

    async def _ask_on(self, number: int) -> None:
        dice = random.Random(self._seed * 1000 + number)  # noqa: S311 - repeatable on purpose
        kinds = [self.item, self.all, self.lines, self.change, self.whose, self.grade, self.batch]
        weights = [60, 5, 1, 2, 15, 4, 1]
        timeout = aiohttp.ClientTimeout(total=LONGEST)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not self._stopping:
                where = dice.choice(list(self._monitors))
                [ask] = dice.choices(kinds, weights)
                calm, what = self.calm, f"{ask.__name__} at {where}"
                try:
                    wrong = await ask(session, self._monitors[where].url, dice)
                except TimeoutError:
                    self._truth.fault(f"{what}: no answer within {LONGEST:g} s")
                    continue
                except (aiohttp.ClientError, ConnectionError) as fault:
                    self.statuses["broken"] += 1
                    wrong = f"{fault!r} though nothing was broken" if calm and self.calm else ""
                except Excused as excuse:
                    self.statuses[str(excuse.status)] += 1
                    wrong = ""
                    if excuse.status not in EXCUSED or b"internal" in excuse.content:
                        wrong = f"{excuse.status} {excuse.content[:300]!r}"
                    elif calm and self.calm:
                        wrong = f"{excuse.status} {excuse.content[:300]!r} though nothing was broken"
                except (ValueError, LookupError, TypeError) as fault:
                    wrong = f"an answer that nobody can read: {fault!r}"
                else:
                    self.statuses["right" if not wrong else "wrong"] += 1
                if wrong:
                    self._truth.fault(f"{what}: {wrong}")

    # -- named queries

    def least(self, item: int, at: float) -> int:
        """The version that who asks at this time is to be told, or a later one."""
        return max(version for when, version in self.committed[item] if when <= at - GRACE_SECONDS)

    async def item(self, session: aiohttp.ClientSession, url: str, dice: random.Random) -> str:
        item = min(dice.randrange(ITEMS), dice.randrange(ITEMS))
        least = self.least(item, time.monotonic())
        async with session.get(f"{url}/api/queries/item?id={item}") as answer:
            document = orjson.loads(await whole(answer))
            found = document["rows"][0]
            if len(document["rows"]) != 1 or found["id"] != item:
                return f"{document} for item {item}"
            if found["version"] < least:
                return f"{found} after {least} was committed; {dict(answer.headers)}"
        return ""

    async def all(self, session: aiohttp.ClientSession, url: str, _: random.Random) -> str:
        now = time.monotonic()
        least = [self.least(item, now) for item in range(ITEMS)]
        async with session.post(f"{url}/api/queries/all", json={}) as answer:
            rows = orjson.loads(await whole(answer))["rows"]
        if [row["id"] for row in rows] != list(range(ITEMS)):
            return f"rows {rows}"
        old = [(row, floor) for row, floor in zip(rows, least, strict=True) if row["version"] < floor]
        return f"outdated {old[:3]}" if old else ""

    async def lines(self, session: aiohttp.ClientSession, url: str, _: random.Random) -> str:
        async with session.get(f"{url}/api/queries/lines", headers={"Accept": "application/x-ndjson"}) as answer:
            lines = (await whole(answer)).splitlines()
        rows = [orjson.loads(line) for line in lines]
        if rows and "error" in rows[-1]:
            raise Excused(503, lines[-1])
        right = [{"id": n, "filler": chr(97 + n % 26) * (n % 300)} for n in range(1, LINES + 1)]
        return "" if rows == right else f"{len(rows)} lines, the last {lines[-1:]}"

    async def change(self, session: aiohttp.ClientSession, url: str, dice: random.Random) -> str:
        item = min(dice.randrange(ITEMS), dice.randrange(ITEMS))
        async with session.post(f"{url}/api/queries/raise", json={"id": item}) as answer:
            [row] = orjson.loads(await whole(answer))["rows"]
        self.committed[item].append((time.monotonic(), row["version"]))
        return ""

    # -- grading

    async def complete(self, session: aiohttp.ClientSession, url: str, body: dict[str, Any], key: str) -> str:
        """What the model says, in whichever way it was asked."""
        async with session.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": key}) as answer:
            content = await whole(answer)
        if not body.get("stream"):
            said: str = orjson.loads(content)["choices"][0]["message"]["content"]
            return said
        events = [line.removeprefix(b"data: ") for line in content.split(b"\n\n") if line]
        if not events or events[-1] != b"[DONE]":
            # it broke off, which the SDK notices as well
            raise Excused(502, content[-200:])
        chunks = [orjson.loads(event) for event in events[:-1]]
        if any("error" in chunk for chunk in chunks):
            raise Excused(502, content[-200:])
        return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk.get("choices"))

    async def whose(self, session: aiohttp.ClientSession, url: str, dice: random.Random) -> str:
        key, text = dice.choice(USERS), f"whose: {dice.randrange(8)}"
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "temperature": 0}
        if dice.random() < 0.3:
            body["stream"] = True
        said = await self.complete(session, url, body, key)
        return "" if is_told(said, text, key) else f"{key} asked {text!r} and got {said!r}"

    async def grade(self, session: aiohttp.ClientSession, url: str, dice: random.Random) -> str:
        sheet = dice.choice(SHEETS)
        more = {"stream": True} if dice.random() < 0.4 else {}
        said = await self.complete(session, url, asked(sheet, **more), dice.choice(USERS))
        return "" if said == self.graded[sheet] else f"{sheet} ({more}) is told as {said[-300:]!r}"

    async def batch(self, session: aiohttp.ClientSession, url: str, dice: random.Random) -> str:
        key = dice.choice(USERS)
        texts = [f"whose: {dice.randrange(8)}" for _ in range(6)]
        bodies = [{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]} for text in texts]
        async with session.post(
            f"{url}/v1/batch/chat/completions", json=bodies, headers={"Authorization": key}
        ) as answer:
            document = orjson.loads(await whole(answer))
        for text, one in zip(texts, document["results"], strict=True):
            if one["status"] != 200:
                raise Excused(one["status"], orjson.dumps(one))
            said = one["response"]["choices"][0]["message"]["content"]
            if not is_told(said, text, key):
                return f"{key} asked {text!r} and got {said!r}"
        return ""
