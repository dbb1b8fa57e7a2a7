"""A known prompt is asked in its compact form, and the answer given back in full.

Never worse than without: what cannot be expanded with certainty is asked once more with the original prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pool_monitor.grading.answers import NotCertain
from pool_monitor.grading.calls import Answer, Call, Expansion, UpstreamFault
from pool_monitor.grading.collapse import Telling
from pool_monitor.grading.expanding import Expander, expand
from pool_monitor.grading.health import Health
from pool_monitor.grading.jsons import decoded, rewritten
from pool_monitor.grading.outcomes import (
    CUT,
    NO_COMPLETION,
    REFUSED_AS_ASKED,
    REFUSED_BY_UPSTREAM,
    Outcome,
    said_by,
    saying,
    says_one_text,
)
from pool_monitor.grading.receiving import done_to
from pool_monitor.grading.streamed import Streaming, expanding
from pool_monitor.grading.templates import Recognised, Template
from pool_monitor.grading.upstream import Upstream
from pool_monitor.grading.wire import OF_OCTETS, end_to_end

log = logging.getLogger("siding.grading")

_SUCCEEDED = frozenset({Expansion.EXPANDED, Expansion.REPAIRED, Expansion.ALREADY_FULL})


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
        call = replace(call, template=recognised.template.name)
        outcome = Outcome(call, recognised.template, recognised.body)
        what = f"compact-{recognised.template.digest}"
        compact = await expanding(len(call.content), call.asking_apart, recognised.body, what)
        try:
            if call.body.get("stream") is True:
                await Streaming(self._upstream, self._clock, call, compact, outcome, telling).run()
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
        if outcome.doubted:
            log.info("template %s: an answer was asked for again: %s", name, outcome.reason)
            now = self._clock()
            if health.failed(now):
                log.warning(
                    "template %s is switched off for %.0f s, its answers fail too often: %s",
                    name,
                    health.until - now,
                    outcome.reason,
                )
        elif outcome.expansion in _SUCCEEDED and health.succeeded():
            log.info("template %s is asked in its compact form again", name)

    async def _whole(self, call: Call, compact: Call, outcome: Outcome) -> Answer:
        answer = await self._upstream.complete(compact)
        if answer.status in REFUSED_AS_ASKED:
            return await self._again(call, outcome, REFUSED_BY_UPSTREAM)
        outcome.status = answer.status
        completion = await done_to(len(answer.content), decoded, answer.content)
        outcome.bill(completion)
        said = said_by(completion)
        if not answer.ok:
            return answer
        if completion is None or said is None or not says_one_text(completion):
            return await self._again(call, outcome, NO_COMPLETION)
        if said.content is None:
            outcome.expansion = Expansion.REFUSED
            return answer
        outcome.compact = said.content
        try:
            if said.refused or said.finish_reason == CUT:
                outcome.expansion = Expansion.REFUSED if said.refused else Expansion.CUT
                outcome.full = await expanding(len(said.content), _cut, outcome.template, said.content)
            else:
                expanded = await expanding(len(said.content), expand, outcome.template.shape, said.content)
                outcome.expansion, outcome.full, outcome.notes = expanded.found, expanded.content, expanded.notes
        except NotCertain as doubt:
            return await self._again(call, outcome, str(doubt))
        return await _with_content(answer, completion, saying(completion, outcome.full))

    async def _again(self, call: Call, outcome: Outcome, reason: str) -> Answer:
        """The answer to the original prompt, with what both cost."""
        outcome.doubt(reason)
        answer = await self._upstream.complete(call)
        outcome.status = answer.status
        if not answer.ok:
            return answer
        outcome.answered_again()
        completion = decoded(answer.content)
        said = said_by(completion)
        outcome.full = (said.content if said is not None else None) or ""
        first = outcome.usage
        outcome.bill_again(completion)
        if completion is None or first is None:
            return answer
        return await _with_content(answer, completion, {**completion, "usage": outcome.usage})


async def _with_content(answer: Answer, before: Mapping[str, Any], after: Mapping[str, Any]) -> Answer:
    content = await expanding(len(answer.content), rewritten, answer.content, before, after)
    return replace(answer, fields=end_to_end(answer.fields, OF_OCTETS), content=content)


def _cut(template: Template, content: str) -> str:
    """What can be told of an answer that was cut, left as open as it came. Raises NotCertain."""
    expander = Expander(template.shape)
    return expander.feed(content) + expander.cut()
