"""A compact answer that streams: the caller gets each question as the model completes its row.

Until the first question is told another answer can take the place of this one; afterwards one can only complete it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar

from pool_monitor.grading import sse
from pool_monitor.grading.answers import Doubt, NotCertain
from pool_monitor.grading.calls import Call, Expansion, Fields, UpstreamFault, is_events
from pool_monitor.grading.collapse import Telling
from pool_monitor.grading.expanding import Expander, full_answer
from pool_monitor.grading.jsons import decoded
from pool_monitor.grading.outcomes import (
    CUT,
    FILTERED,
    NO_COMPLETION,
    REFUSED_AS_ASKED,
    REFUSED_BY_UPSTREAM,
    Outcome,
    added,
    said_by,
    without_text,
)
from pool_monitor.grading.receiving import TIMES_SLOWER, done_to
from pool_monitor.grading.upstream import Streamed, Upstream
from pool_monitor.grading.wire import OF_OCTETS, end_to_end

Given = ParamSpec("Given")
Found = TypeVar("Found")


async def expanding(length: int, do: Callable[Given, Found], *given: Given.args, **more: Given.kwargs) -> Found:
    """What is done to expand a text of that length, or to put it in its place, in a thread where it is long."""
    return await done_to(length * TIMES_SLOWER, do, *given, **more)


class Streaming:
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
        self._over = False
        """A refusal or an error has come: nothing more is expanded, and no more text is told."""
        self._last: tuple[sse.Event, dict[str, Any]] = sse.Event(b"", b"{}"), {}
        self._compact_text: list[str] = []
        self._full_text: list[str] = []

    async def run(self) -> None:
        """Tell all of it. Raises UpstreamFault."""
        try:
            await self._run()
        finally:
            self._outcome.compact = "".join(self._compact_text)
            self._outcome.full = "".join(self._full_text)

    async def _run(self) -> None:
        doubt = ""
        async with self._upstream.stream(self._compact) as streamed:
            self._outcome.status = streamed.status
            if streamed.status in REFUSED_AS_ASKED:
                doubt = REFUSED_BY_UPSTREAM
            elif not 200 <= streamed.status < 300:
                await self._relay(streamed)
                return
            elif not is_events(streamed.fields):
                doubt = NO_COMPLETION
            else:
                self._outcome.begun = True
                try:
                    await self._expand(streamed)
                except NotCertain as fault:
                    doubt = str(fault)
        if doubt:
            await self._again(doubt)

    async def _relay(self, streamed: Streamed) -> None:
        """As it comes; what it says is noted for the books."""
        decoder, noted = sse.Decoder(), True
        self._telling.begin(streamed.status, streamed.fields)
        async with aclosing(streamed.pieces()) as pieces:
            async for piece in pieces:
                self._telling.write(piece)
                if noted:
                    noted = self._note_all(decoder, piece)

    def _note_all(self, decoder: sse.Decoder, piece: bytes) -> bool:
        """Whether what it says could be read."""
        try:
            for event in decoder.feed(piece):
                self._note(event.document or {})
        except UpstreamFault:
            return False
        return True

    def _note(self, document: Mapping[str, Any]) -> None:
        self._outcome.bill(document)
        try:
            content = document["choices"][0]["delta"]["content"]
        except (KeyError, IndexError, TypeError):
            return
        if isinstance(content, str):
            self._full_text.append(content)

    async def _expand(self, streamed: Streamed) -> None:
        decoder = sse.Decoder()
        self._head = (streamed.status, end_to_end(streamed.fields, OF_OCTETS))
        async with aclosing(streamed.pieces()) as pieces:
            async for piece in pieces:
                for event in decoder.feed(piece):
                    await self._take(event)
                # the next may be there already: others have their turn before it
                await asyncio.sleep(0)
        if (rest := decoder.rest()) is not None:
            await self._take(rest)
        await self._end()
        self._release()

    async def _take(self, event: sse.Event) -> None:
        if event.is_last:
            await self._end()
        document = event.document
        if document is None:
            if event.data.strip() and not event.is_last and not self._settled:
                raise NotCertain(Doubt.NOT_JSON, "an event is no JSON object")
            self._pass(event.raw)
            return
        self._outcome.bill(document)
        if self._over or document.get("error"):
            self._over = True
            self._release()
            self._telling.write(self._silent(event, document))
            return
        choices = document.get("choices")
        if not (isinstance(choices, list) and choices):
            self._pass(event.raw)
        elif len(choices) == 1 and isinstance(choices[0], dict) and choices[0].get("index") in (0, None):
            await self._take_choice(event, document, choices[0])
        elif self._settled:
            self._pass(self._silent(event, document))
        else:
            raise NotCertain(Doubt.NOT_COMPACT, "there are several choices")

    @property
    def _settled(self) -> bool:
        """Whether no doubt can come any more."""
        return self._finished or self._over or self._expander.plain

    def _silent(self, event: sse.Event, document: dict[str, Any]) -> bytes:
        """An event without the text of its choices; as it came where it has none."""
        choices = document.get("choices")
        if not isinstance(choices, list) or self._expander.plain:
            return event.raw
        silent = [*map(without_text, choices)]
        return event.raw if silent == choices else event.saying(document, {**document, "choices": silent})

    async def _take_choice(self, event: sse.Event, document: dict[str, Any], choice: dict[str, Any]) -> None:
        self._last = event, document
        given = choice.get("delta")
        delta: dict[str, Any] = given if isinstance(given, dict) else {}
        # some compatible APIs say "" as long as there is none
        finish = choice.get("finish_reason") or None
        if delta.get("refusal"):
            self._outcome.expansion = Expansion.REFUSED
            self._over = True
            self._release()
            self._telling.write(self._silent(event, document))
            return
        content = delta.get("content")
        text = ""
        if isinstance(content, str) and content and (not self._finished or self._expander.plain):
            self._compact_text.append(content)
            text = await expanding(len(content), self._expander.feed, content)
        if finish is not None and not self._finished:
            text += await self._finish(str(finish))
        silent = without_text(choice)
        if content and silent["delta"] and finish is None:
            self._pass(event.saying(document, {**document, "choices": [silent]}))
        self._say(text)
        if finish is not None:
            self._pass(event.saying(document, {**document, "choices": [silent]}))
        elif not content:
            self._pass(self._silent(event, document))

    async def _end(self) -> None:
        """Of a stream that may not have said how the model ended. Raises NotCertain where the answer is not whole."""
        if not self._settled:
            self._say(await self._finish("stop"))

    async def _finish(self, reason: str) -> str:
        self._finished = True
        if reason in {CUT, FILTERED}:
            self._outcome.expansion = Expansion.CUT if reason == CUT else Expansion.REFUSED
            return self._expander.cut()
        finished = await expanding(sum(map(len, self._compact_text)), self._expander.finish)
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
        self._tell_chunk({"content": text})
        if self._outcome.first_question is None and self._expander.emitted_rows:
            self._outcome.first_question = self._clock() - self._began

    def _tell_chunk(self, delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> None:
        event, document = self._last
        self._telling.write(event.saying(document, _chunk(document, delta, finish) | more))

    def _release(self) -> None:
        if not self._told:
            self._told = True
            self._telling.begin(*self._head)
            for raw in self._held:
                self._telling.write(raw)
            self._held.clear()

    # -- when the compact answer cannot be expanded

    async def _again(self, reason: str) -> None:
        self._outcome.doubt(reason)
        if self._told:
            await self._complete()
            return
        first = self._outcome.usage
        try:
            async with self._upstream.stream(self._call) as streamed:
                self._outcome.status = streamed.status
                if 200 <= streamed.status < 300:
                    self._outcome.answered_again()
                await self._relay(streamed)
        finally:
            # also where it breaks off or its caller leaves
            if first is not self._outcome.usage:
                self._outcome.usage = added(first, self._outcome.usage)

    async def _complete(self) -> None:
        """The rest of an answer that is half told, from a whole one to the original prompt."""
        body = {name: value for name, value in self._call.body.items() if name not in {"stream", "stream_options"}}
        self._outcome.expansion = Expansion.FAILED
        try:
            call = await expanding(len(self._call.content), self._call.asking_apart, body, "whole")
            answer = await self._upstream.complete(call)
            completion = decoded(answer.content)
            said = said_by(completion)
            if not answer.ok or completion is None or said is None or said.content is None or said.refused:
                raise UpstreamFault(
                    answer.status if not answer.ok else 502, "upstream_no_answer", "the answer could not be completed"
                )
            rest = await expanding(len(said.content), self._rest_of, said.content)
        except NotCertain as doubt:
            self._end_with(UpstreamFault(502, "upstream_no_answer", f"the answer could not be completed: {doubt}"))
            return
        except UpstreamFault as fault:
            self._end_with(fault)
            return
        self._outcome.answered_again()
        self._outcome.bill_again(completion)
        self._say(rest)
        self._tell_chunk({}, said.finish_reason or "stop")
        options = self._call.body.get("stream_options")
        if isinstance(options, Mapping) and options.get("include_usage") and self._outcome.usage is not None:
            self._tell_chunk({}, choices=[], usage=dict(self._outcome.usage))
        self._telling.write(sse.DONE)

    def _rest_of(self, content: str) -> str:
        return self._expander.resume(full_answer(self._outcome.template.shape, content))

    def _end_with(self, fault: UpstreamFault) -> None:
        """As the vendor ends a stream that fails."""
        self._outcome.status = fault.status
        self._telling.write(sse.event(fault.document))


def _chunk(like: Mapping[str, Any], delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    """A chunk of the same completion."""
    first = like["choices"][0] if like.get("choices") else {"index": 0}
    choice = {**without_text(first), "delta": dict(delta), "finish_reason": finish}
    chunk = {**like, "choices": [choice]}
    chunk.pop("obfuscation", None)
    if chunk.get("usage") is not None:
        # compatible APIs state it with the end: it is told there, and once
        chunk["usage"] = None
    return chunk
