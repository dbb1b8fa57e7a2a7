"""A known prompt is asked in its compact form, and the answer given back in full.

Never worse than without: what cannot be expanded with certainty is asked once more with the original prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import orjson

from pool_monitor.grading import sse
from pool_monitor.grading.answers import NotCertain
from pool_monitor.grading.calls import Answer, Call, Expansion, Fields, UpstreamFault
from pool_monitor.grading.collapse import Telling
from pool_monitor.grading.expanding import Expander, expand, full_answer
from pool_monitor.grading.health import Health
from pool_monitor.grading.templates import Recognised, Template
from pool_monitor.grading.upstream import Streamed, Upstream

log = logging.getLogger("siding.grading")

REFUSED_AS_ASKED = frozenset({400, 422})
"""The upstream's answer to a request that it does not take, which may be our doing."""
REFUSED_BY_UPSTREAM = "the upstream refused the compact request"
NO_COMPLETION = "the upstream's answer is no chat completion"


@dataclass(slots=True)
class Outcome:
    """What became of one asking.

    reason -- why it was asked again. compact, full -- what the model said, and what the caller got.
    usage -- of all that was asked, as reported; None where it was not. first_question -- seconds until the caller
    had the first question of a streamed answer.
    """

    call: Call
    template: Template
    expansion: Expansion = Expansion.FAILED
    reason: str = ""
    compact: str = ""
    full: str = ""
    usage: Mapping[str, Any] | None = None
    status: int = 0
    first_question: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """What a completion says. content -- None where it says nothing, as in a refusal."""

    content: str | None
    finish_reason: str | None


def said_by(completion: Mapping[str, Any] | None) -> Said | None:
    """The first choice of a completion; None where this is none."""
    try:
        choice = (completion or {})["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return Said(content if isinstance(content, str) and not refusal else None, finish)


def saying(completion: dict[str, Any], content: str) -> dict[str, Any]:
    """The completion with other content; everything else as it was."""
    first, *others = completion["choices"]
    return {**completion, "choices": [{**first, "message": {**first["message"], "content": content}}, *others]}


def added(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Two `usage` objects as one: what both cost."""
    if one is None or other is None:
        return one or other
    total = dict(one)
    for name, value in other.items():
        if isinstance(value, Mapping):
            total[name] = added(value, total[name] if isinstance(total.get(name), Mapping) else None)
        elif isinstance(value, int) and isinstance(total.get(name, 0), int):
            total[name] = total.get(name, 0) + value
    return total


def _decoded(content: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _usage_of(document: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    usage = (document or {}).get("usage")
    return usage if isinstance(usage, dict) else None


class Completions:
    """Asks `upstream`. clock -- monotonic seconds. observe -- told of every asking that has ended."""

    def __init__(self, upstream: Upstream, clock: Callable[[], float], observe: Callable[[Outcome], None]) -> None:
        self._upstream = upstream
        self._clock = clock
        self._observe = observe
        self.healths: dict[str, Health] = {}

    def admits(self, template: Template) -> bool:
        """Whether the template is asked in its compact form at the moment."""
        return self._health(template).admits(self._clock())

    def _health(self, template: Template) -> Health:
        return self.healths.setdefault(template.name, Health())

    async def produce(self, call: Call, recognised: Recognised, telling: Telling) -> Outcome:
        """Tell the answer to a call whose prompt was recognised. Raises UpstreamFault."""
        outcome = Outcome(call, recognised.template)
        compact = call.asking(recognised.body)
        try:
            if call.body.get("stream") is True:
                await _Streaming(self._upstream, self._clock, call, compact, outcome, telling).run()
            else:
                telling.whole(await self._whole(call, compact, outcome))
        except UpstreamFault as fault:
            outcome.status = fault.status
            raise
        finally:
            self._judge(outcome)
            self._observe(outcome)
        return outcome

    def _judge(self, outcome: Outcome) -> None:
        health, name = self._health(outcome.template), outcome.template.name
        match outcome.expansion:
            case Expansion.EXPANDED | Expansion.REPAIRED | Expansion.ALREADY_FULL:
                if health.succeeded():
                    log.info("template %s is asked in its compact form again", name)
            case Expansion.ASKED_AGAIN:
                log.info("template %s: an answer was asked for again: %s", name, outcome.reason)
                now = self._clock()
                if health.failed(now):
                    log.warning(
                        "template %s is switched off for %.0f s, its answers fail too often: %s",
                        name,
                        health.until - now,
                        outcome.reason,
                    )

    async def _whole(self, call: Call, compact: Call, outcome: Outcome) -> Answer:
        answer = await self._upstream.complete(compact)
        if answer.status in REFUSED_AS_ASKED:
            return await self._again(call, outcome, REFUSED_BY_UPSTREAM)
        outcome.status = answer.status
        completion = _decoded(answer.content)
        outcome.usage = _usage_of(completion)
        said = said_by(completion)
        if not answer.ok or completion is None or said is None:
            outcome.reason = NO_COMPLETION if answer.ok else ""
            return answer
        if said.content is None or said.finish_reason == "content_filter":
            outcome.expansion = Expansion.REFUSED
            return answer
        outcome.compact = said.content
        try:
            if said.finish_reason == "length":
                outcome.expansion, outcome.full = Expansion.CUT, _cut(outcome.template, said.content)
            else:
                expanded = expand(outcome.template.shape, said.content)
                outcome.expansion, outcome.full, outcome.notes = expanded.found, expanded.content, expanded.notes
        except NotCertain as doubt:
            return await self._again(call, outcome, str(doubt))
        return replace(answer, content=orjson.dumps(saying(completion, outcome.full)))

    async def _again(self, call: Call, outcome: Outcome, reason: str) -> Answer:
        """The answer to the original prompt, with what both cost."""
        outcome.reason = reason
        answer = await self._upstream.complete(call)
        outcome.status = answer.status
        if not answer.ok:
            return answer
        outcome.expansion = Expansion.ASKED_AGAIN
        completion = _decoded(answer.content)
        said = said_by(completion)
        outcome.full = (said.content if said is not None else None) or ""
        if completion is None or outcome.usage is None:
            outcome.usage = outcome.usage or _usage_of(completion)
            return answer
        outcome.usage = added(outcome.usage, _usage_of(completion))
        return replace(answer, content=orjson.dumps({**completion, "usage": outcome.usage}))


def _cut(template: Template, content: str) -> str:
    """What can be told of an answer that was cut at max_tokens, left as open as it came. Raises NotCertain."""
    expander = Expander(template.shape)
    return expander.feed(content) + expander.cut()


class _Streaming:
    """One streamed answer: events come in, events go out."""

    def __init__(
        self,
        upstream: Upstream,
        clock: Callable[[], float],
        call: Call,
        compact: Call,
        outcome: Outcome,
        telling: Telling,
    ) -> None:
        self._upstream = upstream
        self._clock = clock
        self._call = call
        self._compact = compact
        self._outcome = outcome
        self._telling = telling
        self._expander = Expander(outcome.template.shape)
        self._began = clock()
        self._head: tuple[int, Fields] = (0, ())
        self._held: list[bytes] = []
        """What came before the first text; kept back, for until then another answer can take its place."""
        self._told = False
        self._finished = False
        self._plain = False
        self._last: dict[str, Any] = {}
        self._compact_text: list[str] = []
        self._full_text: list[str] = []

    async def run(self) -> None:
        doubt = ""
        async with self._upstream.stream(self._compact) as streamed:
            self._outcome.status = streamed.status
            if streamed.status in REFUSED_AS_ASKED:
                doubt = REFUSED_BY_UPSTREAM
            elif not 200 <= streamed.status < 300:
                await self._relay(streamed)
                return
            else:
                try:
                    await self._expand(streamed)
                except NotCertain as fault:
                    doubt = str(fault)
        if doubt:
            await self._again(doubt)
        self._outcome.compact = "".join(self._compact_text)
        self._outcome.full = "".join(self._full_text)

    async def _relay(self, streamed: Streamed) -> None:
        """As it comes."""
        self._telling.begin(streamed.status, streamed.fields)
        async with aclosing(streamed.pieces()) as pieces:
            async for piece in pieces:
                self._telling.write(piece)

    async def _expand(self, streamed: Streamed) -> None:
        decoder = sse.Decoder()
        self._head = (streamed.status, streamed.fields)
        async with aclosing(streamed.pieces()) as pieces:
            async for piece in pieces:
                for event in decoder.feed(piece):
                    self._take(event)
        self._release()
        self._telling.write(decoder.rest())

    def _take(self, event: sse.Event) -> None:
        document = event.document
        if document is None or self._plain:
            self._pass(event.raw)
            return
        if "error" in document:
            self._plain = True
            self._release()
            self._telling.write(event.raw)
            return
        usage = _usage_of(document)
        if usage is not None:
            self._outcome.usage = usage
        choices = document.get("choices")
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            self._pass(event.raw)
            return
        self._take_choice(event, document, choices[0])

    def _take_choice(self, event: sse.Event, document: dict[str, Any], choice: dict[str, Any]) -> None:
        self._last = document
        given = choice.get("delta")
        delta: dict[str, Any] = given if isinstance(given, dict) else {}
        finish = choice.get("finish_reason")
        if delta.get("refusal") or finish == "content_filter":
            self._outcome.expansion = Expansion.REFUSED
            self._plain = True
            self._release()
            self._telling.write(event.raw)
            return
        content = delta.get("content")
        text = ""
        if isinstance(content, str) and content:
            self._compact_text.append(content)
            text = self._expander.feed(content)
        if finish is not None and not self._finished:
            text += self._finish(str(finish))
        self._say(text)
        if finish is not None:
            ended = {**choice, "delta": {name: value for name, value in delta.items() if name != "content"}}
            self._pass(sse.event({**document, "choices": [ended]}))
        elif content is None or content == "":
            self._pass(event.raw)

    def _finish(self, reason: str) -> str:
        self._finished = True
        if reason == "length":
            self._outcome.expansion = Expansion.CUT
            return self._expander.cut()
        finished = self._expander.finish()
        self._outcome.expansion, self._outcome.notes = finished.found, finished.notes
        return finished.content

    def _pass(self, raw: bytes) -> None:
        if self._told:
            self._telling.write(raw)
        else:
            self._held.append(raw)

    def _say(self, text: str) -> None:
        if not text:
            return
        self._release()
        self._full_text.append(text)
        self._telling.write(sse.event(_chunk(self._last, {"content": text}, None)))
        if self._outcome.first_question is None and self._expander.emitted_rows:
            self._outcome.first_question = self._clock() - self._began

    def _release(self) -> None:
        if not self._told:
            self._told = True
            self._telling.begin(*self._head)
            for raw in self._held:
                self._telling.write(raw)
            self._held.clear()

    # -- when the compact answer cannot be expanded

    async def _again(self, reason: str) -> None:
        self._outcome.reason = reason
        self._outcome.usage = None
        if self._told:
            await self._complete()
            return
        async with self._upstream.stream(self._call) as streamed:
            self._outcome.status = streamed.status
            if 200 <= streamed.status < 300:
                self._outcome.expansion = Expansion.ASKED_AGAIN
            await self._relay(streamed)

    async def _complete(self) -> None:
        """The rest of an answer that is half told, from a whole one to the original prompt."""
        body = {name: value for name, value in self._call.body.items() if name not in {"stream", "stream_options"}}
        self._outcome.expansion = Expansion.FAILED
        try:
            answer = await self._upstream.complete(self._call.asking(body))
            completion = _decoded(answer.content)
            said = said_by(completion)
            if not answer.ok or completion is None or said is None or said.content is None:
                raise UpstreamFault(
                    answer.status if not answer.ok else 502, "upstream_no_answer", "the answer could not be completed"
                )
            rest = self._expander.resume(full_answer(self._outcome.template.shape, said.content))
        except NotCertain as doubt:
            self._end_with(UpstreamFault(502, "upstream_no_answer", f"the answer could not be completed: {doubt}"))
            return
        except UpstreamFault as fault:
            self._end_with(fault)
            return
        self._outcome.expansion = Expansion.ASKED_AGAIN
        self._outcome.usage = _usage_of(completion)
        self._say(rest)
        self._telling.write(sse.event(_chunk(self._last, {}, said.finish_reason or "stop")))
        options = self._call.body.get("stream_options")
        if isinstance(options, Mapping) and options.get("include_usage") and self._outcome.usage is not None:
            usage = {**_chunk(self._last, {}, None), "choices": [], "usage": dict(self._outcome.usage)}
            self._telling.write(sse.event(usage))
        self._telling.write(sse.DONE)

    def _end_with(self, fault: UpstreamFault) -> None:
        """As the vendor ends a stream that fails."""
        self._outcome.status = fault.status
        self._telling.write(sse.event(fault.document))


def _chunk(like: Mapping[str, Any], delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    """A chunk of the same completion."""
    first = like["choices"][0] if like.get("choices") else {"index": 0}
    choice = {**first, "delta": dict(delta), "finish_reason": finish}
    chunk = {**like, "choices": [choice]}
    chunk.pop("obfuscation", None)
    return chunk
