"""Sends requests and times them; what the figures mean is decided elsewhere."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

from deploy.asking import Answer, Ask, Unreachable, Way, why
from deploy.check.criteria import Counts, Crowd, Isolation, Load, Pair, Renewal, Sizes
from deploy.check.load import loads
from deploy.check.monitor import queries
from deploy.check.requests import NONCE, Form, Requests

CROWD = 20
FIRSTS = 3
"""How often something that is new to Siding is asked for, and past it; the median counts."""
REPEATS = 5
"""How often it is asked for again; the median counts."""
LONG_SECONDS = 5.0
"""What has taken this long is not asked for once more."""
POLLS = 4
LEAST_CODED = 1024
RENEW_TRIES = 6
LOOKUPS = "/api/metrics/report-cache"

NOTHING, UNLOADED = Sizes(0, 0), Load((), 0)

Tell = Callable[[str], None]


@dataclass(slots=True)
class Seen:
    """One request, as it was first asked."""

    form: Form
    nonce: str
    pair: Pair
    second: Answer
    at: float
    """When it was fresh from the origin, by this machine's clock."""

    @property
    def stored(self) -> bool:
        return self.pair.second_hit and self.pair.status < 400

    @property
    def lifetime(self) -> float | None:
        """Seconds for which it is fresh in all, by the proxy."""
        left = self.second.lifetime
        return None if left is None else left + self.second.age


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
    before: Counts | None = None
    after: Counts | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much. wait, seconds -- for a lifetime to end, and of load each way."""

    requests: Requests
    wait: float = 10.0
    seconds: float = 5.0
    clients: int = 8

    async def query(self, monitor: Way) -> str:
        """Ask named queries for a while; the first fault, if any."""
        if not self.requests.queries:
            await asyncio.sleep(self.seconds)
            return ""

        def asks() -> list[Ask]:
            return [self.requests.fill(form, _nonce()) for form in self.requests.queries]

        return await queries(monitor, asks, self.clients, self.seconds)


def _nonce() -> str:
    return secrets.token_hex(6)


async def deployment(plan: Plan, through: Way, direct: Way | None, admin: Way | None, tell: Tell) -> Measured:
    """Measure all that the requests allow. Raises Unreachable."""
    made = Measured()
    made.before = await counts_of(admin or through)
    for way in (through, direct):
        if way is not None:
            await _opened(way)
    tell("each request again and again")
    seen = [await _again(form, plan, through, direct) for form in plan.requests.forms]
    made.pairs = [one.pair for one in seen]
    stored = [one for one in seen if one.stored]
    tell("every user, and the credentials of another")
    await _users(plan, seen, through, made)
    made.isolations = [await _another(plan, one, through) for one in stored if _has_credential(plan, one)]
    tell(f"{CROWD} clients at once")
    made.crowds = [await _crowd(plan, one.form, through) for one in stored if NONCE in one.form.blanks]
    tell("codings and entity tags")
    made.coded, made.validated = await _coded(plan, seen, through), await _validated(plan, seen, through)
    tell(f"load, {plan.seconds:g} s each way")
    made.through, made.direct = await _loads(plan, through, direct)
    lifetimes = [(one.lifetime, one) for one in stored if one.lifetime is not None]
    if lifetimes:
        made.shortest, least = min(lifetimes, key=lambda pair: pair[0])
        if made.shortest <= plan.wait:
            tell(f"until a stored answer is {made.shortest:g} s old")
            made.renewal = await _renewal(plan, least, made.shortest, through)
    made.after = await counts_of(admin or through)
    return made


async def _send(way: Way, ask: Ask, **more: str) -> Answer:
    try:
        return await way.send(ask, **more)
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        path = ask.path.partition("?")[0]
        raise Unreachable(f"{way.url} does not answer {ask.method} {path}: {why(fault)}") from fault


async def _opened(way: Way) -> None:
    """Have a connection open, so that the first that is timed does not pay for it. Raises Unreachable."""
    await _send(way, Ask("connection", "HEAD", "/", {}, None))


async def _again(form: Form, plan: Plan, through: Way, direct: Way | None) -> Seen:
    """Ask for what is new to Siding and past it, in turn, and then again for the last. Raises Unreachable."""
    past: list[Answer] = []
    first: list[Answer] = []
    began = time.monotonic()
    # without a nonce it is new but once
    for _ in range(FIRSTS if NONCE in form.blanks else 1):
        nonce = _nonce()
        if direct is not None:
            past.append(await _send(direct, plan.requests.fill(form, _nonce())))
        first.append(await _send(through, plan.requests.fill(form, nonce)))
        if time.monotonic() - began > LONG_SECONDS:
            break
    repeats: list[Answer] = []
    for _ in range(REPEATS):
        repeats.append(await _send(through, plan.requests.fill(form, nonce)))
        at = time.monotonic()
        if at - began > 2 * LONG_SECONDS:
            break
    pair = Pair(
        form.name,
        first=_median(first),
        second=_median(repeats),
        first_hit=any(one.hit for one in first),
        second_hit=2 * sum(one.hit for one in repeats) > len(repeats),
        direct=_median(past) if past else None,
        status=max(one.status for one in (*past, *first, *repeats)),
    )
    return Seen(form, nonce, pair, repeats[-1], at - repeats[-1].age)


def _median(answers: Sequence[Answer]) -> float:
    return statistics.median(one.seconds for one in answers)


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
    return Isolation(seen.form.name, answer.hit, answer.content == seen.second.content, answer.status, answer.asked)


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
    nonce, users = _nonce(), len(plan.requests.users)
    asks = [plan.requests.fill(form, nonce, user) for user in range(users) for form in plan.requests.forms]
    found = await loads(asks, [through] if direct is None else [through, direct], plan.clients, plan.seconds)
    return found[0], found[1] if direct is not None else None


async def _renewal(plan: Plan, seen: Seen, lifetime: float, through: Way) -> Renewal:
    """Ask again when its time is over; what comes then must be younger."""
    ask = plan.requests.fill(seen.form, seen.nonce)
    await asyncio.sleep(max(0.0, seen.at + lifetime + 1 - time.monotonic()))
    for _ in range(RENEW_TRIES):
        answer = await _send(through, ask)
        if answer.age <= lifetime:
            break
        await asyncio.sleep(0.5)  # it may be renewed behind the one stale answer
    return Renewal(seen.form.name, lifetime, time.monotonic() - seen.at, answer.age)


async def counts_of(way: Way) -> Counts | None:
    """What has been looked up since the proxy started; None where it does not say."""
    document = await way.document(LOOKUPS)
    try:
        return Counts(int(document["cacheHits"]), int(document["cacheMisses"]))
    except (TypeError, KeyError, ValueError):
        return None
