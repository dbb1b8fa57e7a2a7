"""`POST /v1/batch/chat/completions`: up to so many requests in one, as a JSON array or NDJSON, and answered as either.

With an `Idempotency-Key` a run outlasts its caller: a retry gets what is done at once and the rest as it comes, and
what had failed is asked again. Runs are not kept over a restart.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import orjson
from aiohttp import hdrs, web

from pool_monitor.grading.batch import Result, Run, Work
from pool_monitor.grading.batch_asking import Asking
from pool_monitor.grading.batch_items import Item, Parsed, Shares, content_digest, parse_array, parse_lines, together
from pool_monitor.grading.batch_runs import BUSY_SECONDS, Runs
from pool_monitor.grading.calls import JSON, Call, CallersFault, Lane, UpstreamFault
from pool_monitor.grading.jsons import loaded
from pool_monitor.grading.receiving import TIMES_SLOWER, content_of, done_to

MOST_REQUESTS = 1000
MOST_BYTES = 64 * 1024 * 1024
MOST_READING = 16
"""Contents that are received at the same time."""
MOST_KEY_CHARACTERS = 255

NDJSON = "application/x-ndjson"
LINES = frozenset(
    {NDJSON, "application/jsonl", "application/ndjson", "application/x-jsonlines", "application/jsonlines"}
)
_OF_THE_WHOLE = frozenset({"idempotency-key", "accept", "content-digest", "content-md5"})
"""Fields that speak of all items together, so they go with none."""

CallOf = Callable[[web.Request, Mapping[str, Any], Lane], Call]


def asker_of(request: web.Request, call_of: CallOf) -> Call:
    """A call without a body, to be made one for each item."""
    call = call_of(request, {}, Lane.BATCH)
    return replace(call, fields=tuple(pair for pair in call.fields if pair[0].lower() not in _OF_THE_WHOLE))


def answer_fault(fault: UpstreamFault) -> web.Response:
    """As the vendor's SDKs read it."""
    return web.Response(status=fault.status, headers=dict(fault.fields), body=orjson.dumps(fault.document))


def form_asked(accept: Sequence[str], content_type: str) -> str:
    """The media type to answer with (RFC 9110 12.5.1); without a preference, that of the request."""
    best: dict[bool, tuple[float, str]] = {True: (0.0, NDJSON), False: (0.0, JSON)}
    for member in ",".join(accept).split(","):
        name, *parameters = (part.strip().lower() for part in member.split(";"))
        weight = next((_weight(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
        if (name in LINES or name == JSON) and weight > best[name in LINES][0]:
            best[name in LINES] = (weight, name)
    lines, document = best[True], best[False]
    if lines[0] != document[0]:
        return max(lines, document)[1]
    return lines[1] if content_type in LINES else JSON


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


async def in_order(results: AsyncIterator[Result]) -> AsyncGenerator[Result, None]:
    """By index, each as soon as all before it were given."""
    early: dict[int, Result] = {}
    following = 0
    async for result in results:
        early[result.item.index] = result
        while following in early:
            yield early.pop(following)
            following += 1


class BatchCompletions:
    """The handler. call_of -- gives a call with a request's own fields. shares -- whether equal bodies of this content
    may have one answer. secret -- of the keys of runs and owners.
    """

    def __init__(self, asking: Asking, runs: Runs, call_of: CallOf, *, secret: bytes, shares: Shares) -> None:
        self._asking = asking
        self._runs = runs
        self._call_of = call_of
        self._secret = secret
        self._shares = shares
        self._reading = 0

    async def close(self) -> None:
        """End every run."""
        await self._runs.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any method."""
        try:
            if request.method != "POST":
                raise CallersFault(405, "method_not_allowed", "batches are posted")
            given = await self._given(request)
            asker = asker_of(request, self._call_of)
            key = self._key_of(request, asker)

            def begun() -> Run:
                works = [_work(group) for group in given.groups]
                return Run(self._asking, asker, works, given.refused, kept=key is not None)

            with self._runs.joined(key, given.digest, begun) as (run, again):
                # the contents of items live no longer than their turn
                given.groups.clear()
                return await _told(request, _response(request, again), run)
        except UpstreamFault as fault:
            return answer_fault(fault)

    # -- what is asked

    async def _given(self, request: web.Request) -> _Given:
        if self._reading >= MOST_READING:
            message = f"{MOST_READING} batches are being received already"
            raise UpstreamFault(503, "too_many_batches", message, retry_after=BUSY_SECONDS)
        self._reading += 1
        try:
            content, more = await content_of(request, MOST_BYTES)
            if more:
                message = f"a batch may have {MOST_BYTES} bytes"
                raise CallersFault(413, "batch_too_large", message)
            parse = parse_lines if request.content_type in LINES else parse_array
            return await done_to(len(content) * TIMES_SLOWER, _given, parse, content, self._shares)
        finally:
            self._reading -= 1

    def _key_of(self, request: web.Request, asker: Call) -> str | None:
        given = request.headers.get("Idempotency-Key")
        if given is None:
            return None
        if not 0 < len(given) <= MOST_KEY_CHARACTERS:
            message = f"Idempotency-Key must have 1 to {MOST_KEY_CHARACTERS} characters"
            raise CallersFault(400, "invalid_idempotency_key", message)
        return asker.keyed(self._secret, "", given)


@dataclass(frozen=True, slots=True)
class _Given:
    """What is asked. groups -- of equal items. digest -- the same for the same items."""

    groups: list[list[Parsed]]
    refused: list[Item]
    digest: bytes


def _given(parse: Callable[[bytes, int], list[Parsed]], content: bytes, shares: Shares) -> _Given:
    """Raises UpstreamFault."""
    parsed = parse(content, MOST_REQUESTS)
    groups = together(parsed, lambda one: one.content is not None and shares(loaded(one.content)))
    return _Given(groups, [one.item for one in parsed if one.item.refused is not None], content_digest(parsed))


def _work(group: Sequence[Parsed]) -> Work:
    content = group[0].content
    assert content is not None

    async def load() -> tuple[Mapping[str, Any], bytes]:
        return await done_to(len(content) * TIMES_SLOWER, loaded, content), content

    return Work(tuple(one.item for one in group), load)


# -- answering


def _response(request: web.Request, again: bool) -> web.StreamResponse:
    form = form_asked(request.headers.getall(hdrs.ACCEPT, ()), request.content_type)
    fields: dict[str, str] = {hdrs.CONTENT_TYPE: form, hdrs.CACHE_CONTROL: "no-store"}
    if again:
        fields["Idempotent-Replayed"] = "true"
    return web.StreamResponse(headers=fields)


async def _tell(response: web.StreamResponse, run: Run) -> None:
    if response.content_type in LINES:
        await _tell_lines(response, run)
    else:
        await _tell_document(response, run)


async def _tell_lines(response: web.StreamResponse, run: Run) -> None:
    async with aclosing(run.listen()) as results:
        async for result in results:
            await response.write(result.line + b"\n")
    await response.write(orjson.dumps({"summary": run.summary}) + b"\n")


async def _tell_document(response: web.StreamResponse, run: Run) -> None:
    before = b'{"results":['
    async with aclosing(run.listen()) as results, aclosing(in_order(results)) as ordered:
        async for result in ordered:
            await response.write(before + result.line)
            before = b","
    await response.write(
        (b'{"results":[' if before != b"," else b"") + b'],"summary":' + orjson.dumps(run.summary) + b"}"
    )


async def _told(request: web.Request, response: web.StreamResponse, run: Run) -> web.StreamResponse:
    """Cuts off what is not whole."""
    try:
        await response.prepare(request)
        await _tell(response, run)
        await response.write_eof()
    except (ConnectionError, UpstreamFault):
        if request.transport is not None:
            request.transport.abort()
    return response
