"""Sends requests and times them; what the figures mean is decided elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import http_sf
import openai
import orjson

from deploy.check.criteria import Crowd, Isolation, Load, Pair, Pool, Renewal, Sizes
from deploy.check.requests import NONCE, Ask, Form, Requests
from pool_monitor.grading.template_files import load_templates

CROWD = 20
GRADINGS = 10
"""As many as the plan's own test."""
POLLS = 4
LEAST_CODED = 1024
SAMPLE_SECONDS = 0.1
RENEW_TRIES = 6
COUNTED_TRIES = 50
HOMEWORK = "1. 7 + 5 = 12\n2. 9 - 4 = 6\n3. The capital of France is Paris\n4. Water boils at ____ degrees"

NOTHING, UNLOADED = Sizes(0, 0), Load((), 0)

Tell = Callable[[str], None]


class Unreachable(Exception):
    """What was to be measured does not answer. Its text says what and why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. seconds -- to the end of the content, whose octets are as they were sent."""

    status: int
    seconds: float
    fields: Mapping[str, str]
    content: bytes

    def _status_of_cache(self) -> Mapping[str, Any]:
        """Siding's own member of Cache-Status (RFC 9211)."""
        with contextlib.suppress(ValueError):
            members: Any = http_sf.parse(self.fields.get("Cache-Status", "").encode(), tltype="list")
            for member, parameters in members:
                if str(member) == "siding":
                    return dict(parameters)
        return {}

    @property
    def hit(self) -> bool:
        return bool(self._status_of_cache().get("hit"))

    @property
    def collapsed(self) -> bool:
        return bool(self._status_of_cache().get("collapsed"))

    @property
    def lifetime(self) -> float | None:
        """Seconds for which it is fresh from now on."""
        ttl = self._status_of_cache().get("ttl")
        return float(ttl) if isinstance(ttl, int) else None

    @property
    def age(self) -> float:
        with contextlib.suppress(ValueError):
            return float(self.fields.get("Age", "0"))
        return 0.0


@dataclass(slots=True)
class Way:
    """To the origin: through Siding, or past it."""

    url: str
    client: aiohttp.ClientSession

    async def send(self, ask: Ask, **more: str) -> Answer:
        """Raises aiohttp.ClientError, OSError, TimeoutError."""
        fields = {"Accept-Encoding": "identity", **ask.fields, **{k.replace("_", "-"): v for k, v in more.items()}}
        began = time.perf_counter()
        async with self.client.request(
            ask.method, self.url + ask.path, headers=fields, data=ask.content, allow_redirects=False
        ) as answer:
            content = await answer.read()
            return Answer(answer.status, time.perf_counter() - began, answer.headers.copy(), content)

    async def document(self, path: str) -> Any:
        """A JSON document, or None where there is none."""
        try:
            async with self.client.get(self.url + path) as answer:
                return orjson.loads(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None


@contextlib.asynccontextmanager
async def ways(urls: Sequence[str | None], timeout_seconds: float) -> AsyncIterator[list[Way | None]]:
    """One for each URL, with connections that are reused, as those of a browser or a service are."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as client:
        yield [Way(url.rstrip("/"), client) if url else None for url in urls]


@dataclass(slots=True)
class Seen:
    """One request, as it was first asked."""

    form: Form
    nonce: str
    pair: Pair
    second: Answer
    at: float


@dataclass(slots=True)
class Measured:
    """All of one deployment's URL."""

    pairs: list[Pair] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    statuses_of: str = ""
    isolations: list[Isolation] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)
    coded: Sizes = NOTHING
    validated: Sizes = NOTHING
    through: Load = UNLOADED
    direct: Load | None = None
    renewal: Renewal | None = None
    shortest: float | None = None
    counts: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much. wait, seconds -- for a lifetime to end, and of load each way."""

    requests: Requests
    wait: float = 10.0
    seconds: float = 5.0
    clients: int = 8


def _nonce() -> str:
    return secrets.token_hex(6)


async def deployment(plan: Plan, through: Way, direct: Way | None, admin: Way | None, tell: Tell) -> Measured:
    """Measure all that the requests allow. Raises Unreachable."""
    made = Measured()
    tell("each request twice")
    seen = [await _twice(plan, form, through, direct) for form in plan.requests.forms]
    made.pairs = [one.pair for one in seen]
    stored = [one for one in seen if one.pair.second_hit]
    tell("every user, and the credentials of another")
    await _users(plan, seen, through, made)
    made.isolations = [await _another(plan, one, through) for one in stored if _has_credential(plan, one)]
    tell(f"{CROWD} clients at once")
    made.crowds = [await _crowd(plan, one.form, through) for one in stored if NONCE in one.form.blanks]
    tell("codings and entity tags")
    made.coded, made.validated = await _coded(plan, seen, through), await _validated(plan, seen, through)
    tell(f"load, {plan.seconds:g} s each way")
    made.through, made.direct = await _loads(plan, through, direct)
    lifetimes = [(one.second.lifetime, one) for one in stored if one.second.lifetime is not None]
    if lifetimes:
        made.shortest, least = min(lifetimes, key=lambda pair: pair[0])
        if made.shortest <= plan.wait:
            tell(f"until a stored answer is {made.shortest:g} s old")
            made.renewal = await _renewal(plan, least, made.shortest, through)
    made.counts = await _counts(admin or through)
    return made


async def _send(way: Way, ask: Ask, **more: str) -> Answer:
    try:
        return await way.send(ask, **more)
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        why = str(fault) or type(fault).__name__
        raise Unreachable(f"{way.url} does not answer {ask.method} {ask.path.partition('?')[0]}: {why}") from fault


async def _twice(plan: Plan, form: Form, through: Way, direct: Way | None) -> Seen:
    nonce = _nonce()
    ask = plan.requests.fill(form, nonce)
    past = await _send(direct, plan.requests.fill(form, _nonce())) if direct is not None else None
    first, second = await _send(through, ask), await _send(through, ask)
    pair = Pair(form.name, first.seconds, second.seconds, first.hit, second.hit, past.seconds if past else None)
    return Seen(form, nonce, pair, second, time.monotonic() - second.age)


async def _users(plan: Plan, seen: Sequence[Seen], through: Way, made: Measured) -> None:
    """Each asks for what is its own: the slowest request that names a user."""
    words = {name for user in plan.requests.users for name in user}
    own = [one for one in seen if words & one.form.blanks]
    if len(plan.requests.users) > 1 and own:
        slowest = max(own, key=lambda one: one.pair.first)
        asks = [plan.requests.fill(slowest.form, slowest.nonce, number) for number in range(len(plan.requests.users))]
        made.statuses = [one.status for one in await asyncio.gather(*(_send(through, ask) for ask in asks))]
        made.statuses_of = slowest.form.name


def _has_credential(plan: Plan, seen: Seen) -> bool:
    return plan.requests.fill(seen.form, seen.nonce).has_credential


async def _another(plan: Plan, seen: Seen, through: Way) -> Isolation:
    """The same in every octet but the credential."""
    ask, other = plan.requests.fill(seen.form, seen.nonce), f"Bearer siding-check-{_nonce()}"
    if len(plan.requests.users) > 1:
        theirs = {name.lower(): value for name, value in plan.requests.fill(seen.form, "", 1).fields.items()}
        other = theirs.get("authorization", other)
    answer = await _send(through, ask.as_another(other))
    return Isolation(seen.form.name, answer.hit, answer.content == seen.second.content, answer.status)


async def _crowd(plan: Plan, form: Form, through: Way) -> Crowd:
    ask = plan.requests.fill(form, _nonce())
    answers = await asyncio.gather(*(through.send(ask) for _ in range(CROWD)), return_exceptions=True)
    came = [one for one in answers if isinstance(one, Answer) and one.status < 500]
    return Crowd(form.name, CROWD, sum(one.collapsed or one.hit for one in came), CROWD - len(came))


async def _coded(plan: Plan, seen: Sequence[Seen], through: Way) -> Sizes:
    before = after = 0
    for one in seen:
        if one.form.method != "HEAD" and len(one.second.content) >= LEAST_CODED and one.second.status == 200:
            answer = await _send(through, plan.requests.fill(one.form, one.nonce), Accept_Encoding="gzip")
            kind = answer.fields.get("Content-Type", "")
            if kind.startswith("text/") or "json" in kind or "xml" in kind or "javascript" in kind:
                before, after = before + len(one.second.content), after + len(answer.content)
    return Sizes(before, after)


async def _validated(plan: Plan, seen: Sequence[Seen], through: Way) -> Sizes:
    """What a client that keeps answers receives, against one that does not."""
    before = after = 0
    for one in seen:
        tag = one.second.fields.get("ETag")
        if one.form.method == "GET" and tag and one.second.status == 200:
            ask, whole = plan.requests.fill(one.form, one.nonce), len(one.second.content)
            before, after = before + (1 + POLLS) * whole, after + whole
            for _ in range(POLLS):
                answer = await _send(through, ask, If_None_Match=tag)
                tag = answer.fields.get("ETag", tag)
                after += len(answer.content)
    return Sizes(before, after)


async def _loads(plan: Plan, through: Way, direct: Way | None) -> tuple[Load, Load | None]:
    """Both ways in turn, in slices, so that what else this machine does meets both."""
    nonce, users = _nonce(), len(plan.requests.users)
    asks = [plan.requests.fill(form, nonce, user) for user in range(users) for form in plan.requests.forms]
    ways = [through] if direct is None else [through, direct]
    times: list[list[float]] = [[] for _ in ways]
    failed = [0 for _ in ways]
    slices = max(1, round(plan.seconds))

    async def client(number: int, way: int, until: float) -> None:
        for ask in itertools.islice(itertools.cycle(asks), number * len(asks) // plan.clients, None):
            if time.monotonic() >= until:
                return
            began = time.perf_counter()
            try:
                bad = (await ways[way].send(ask, Accept_Encoding="gzip")).status >= 500
            except (aiohttp.ClientError, OSError, TimeoutError):
                bad = True
            times[way].append(time.perf_counter() - began)
            failed[way] += bad

    for _ in range(slices):
        for way in range(len(ways)):
            until = time.monotonic() + plan.seconds / slices
            await asyncio.gather(*(client(number, way, until) for number in range(plan.clients)))
    found = [Load(tuple(sorted(one)), bad) for one, bad in zip(times, failed, strict=True)]
    return found[0], found[1] if direct is not None else None


async def _renewal(plan: Plan, seen: Seen, lifetime: float, through: Way) -> Renewal:
    ask = plan.requests.fill(seen.form, seen.nonce)
    await asyncio.sleep(max(0.0, seen.at + seen.second.age + lifetime + 1 - time.monotonic()))
    for _ in range(RENEW_TRIES):
        answer = await _send(through, ask)
        waited = time.monotonic() - seen.at
        if answer.age <= lifetime:
            break
        await asyncio.sleep(0.5)  # it may be renewed behind the one stale answer
    return Renewal(seen.form.name, lifetime, waited, answer.age)


async def _counts(way: Way) -> tuple[int, int]:
    document = await way.document("/api/metrics/report-cache")
    try:
        return int(document["cacheHits"]), int(document["cacheMisses"])
    except (TypeError, KeyError, ValueError):
        return 0, 0


# -- the monitor


@contextlib.asynccontextmanager
async def pool_watched(monitor: Way | None) -> AsyncIterator[list[Pool]]:
    """Samples of the pool while the block runs."""
    samples: list[Pool] = []

    async def watch(way: Way) -> None:
        while True:
            document = await way.document("/api/metrics/database-pool")
            with contextlib.suppress(TypeError, KeyError, ValueError):
                wait = document["waitMs"]["p95"] if document["acquiredTotal"] else None
                samples.append(Pool(int(document["waitingCount"]), int(document["activeConnections"]), wait))
            await asyncio.sleep(SAMPLE_SECONDS)

    task = asyncio.create_task(watch(monitor)) if monitor is not None else None
    try:
        yield samples
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def most(samples: Sequence[Pool]) -> Pool | None:
    """The worst of each figure."""
    if not samples:
        return None
    return Pool(max(one.waiting for one in samples), max(one.active for one in samples), samples[-1].wait_ms)


@dataclass(frozen=True, slots=True)
class Graded:
    """Known prompts: how many requests, and their tokens as they came and as they were sent."""

    requests: int = 0
    before: int = 0
    after: int = 0


async def graded(monitor: Way) -> Graded:
    """All since the monitor started."""
    document = await monitor.document("/api/metrics/grading")
    try:
        prompt = document["estimated"]["prompt"]
        return Graded(int(document["requests"]), int(prompt["before"]), int(prompt["after"]))
    except (TypeError, KeyError, ValueError):
        return Graded()


async def grade(monitor: Way) -> Graded:
    """Grade homework through the monitor with the plan's prompt. Raises Unreachable."""
    [template, *_] = load_templates()
    key = os.environ.get("OPENAI_API_KEY", "siding-check")
    nonce, earlier = _nonce(), await graded(monitor)
    async with openai.AsyncOpenAI(base_url=f"{monitor.url}/v1", api_key=key, max_retries=0) as client:

        async def one(number: int) -> None:
            await client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[
                    {"role": "system", "content": template.original},
                    {"role": "user", "content": f"Sheet {number} of {nonce}\n{HOMEWORK}"},
                ],
                response_format={"type": "json_object"},
            )

        try:
            await asyncio.gather(*map(one, range(GRADINGS)))
        except openai.OpenAIError as fault:
            raise Unreachable(f"{monitor.url}/v1 does not grade: {fault}") from fault
    # tokens are counted behind the answers
    for _ in range(COUNTED_TRIES):
        later = await graded(monitor)
        if later.requests - earlier.requests >= GRADINGS:
            break
        await asyncio.sleep(0.2)
    counted = (later.requests - earlier.requests, later.before - earlier.before, later.after - earlier.after)
    return Graded(*counted)
