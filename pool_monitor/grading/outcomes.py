"""Pure: what a chat completion says, and what became of one that was asked in its compact form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pool_monitor.grading.calls import Call, Expansion
from pool_monitor.grading.templates import Template

REFUSED_AS_ASKED = frozenset({400, 422})
"""The upstream's answer to a request that it does not take, which may be our doing."""
REFUSED_BY_UPSTREAM = "the upstream refused the compact request"
CUT, FILTERED = "length", "content_filter"
"""Why a model ended that was not at the end."""
NO_COMPLETION = "the upstream's answer is no chat completion"


@dataclass(slots=True)
class Outcome:
    """What became of one asking.

    asked -- the body in its compact form. reason -- why it was asked again. doubted -- whether that tells against the
    template, as a request that is refused in either form does not. compact, full -- what the model said, and what the
    caller got. usage -- of all that was asked, as reported; None where it was not. tier -- of service, likewise, or "".
    model -- that answered, as it says, or "". first_question -- seconds until the caller had the first question of a
    streamed answer. begun -- the upstream had begun to answer in a stream: it is billed, however it ended.
    """

    call: Call
    template: Template
    asked: Mapping[str, Any]
    expansion: Expansion = Expansion.FAILED
    reason: str = ""
    compact: str = ""
    full: str = ""
    usage: Mapping[str, Any] | None = None
    tier: str = ""
    model: str = ""
    status: int = 0
    first_question: float | None = None
    notes: tuple[str, ...] = ()
    doubted: bool = False
    begun: bool = False

    def bill(self, document: Mapping[str, Any] | None) -> None:
        """Take down what an answer, or an event of it, says of its bill."""
        self.usage = usage_of(document) or self.usage
        self.tier = tier_of(document) or self.tier
        self.model = model_of(document) or self.model

    def bill_again(self, document: Mapping[str, Any] | None) -> None:
        """The same of a further answer, which is billed as well."""
        self.usage = added(self.usage, usage_of(document))
        self.tier = tier_of(document) or self.tier
        self.model = model_of(document) or self.model

    def doubt(self, reason: str) -> None:
        """It is asked again."""
        self.reason, self.doubted = reason, reason != REFUSED_BY_UPSTREAM

    def answered_again(self) -> None:
        """And that was answered."""
        self.expansion, self.doubted = Expansion.ASKED_AGAIN, True


@dataclass(frozen=True, slots=True)
class Said:
    """What a completion says. content -- None where it says nothing. refused -- by the model, or by a filter; there may
    be a beginning of an answer all the same."""

    content: str | None
    finish_reason: str | None
    refused: bool = False


def said_by(completion: Mapping[str, Any] | None) -> Said | None:
    """The first choice of a completion; None where this is none."""
    try:
        choice = (completion or {})["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return Said(content if isinstance(content, str) else None, finish, bool(refusal) or finish == FILTERED)


def said_in(chunks: Iterable[Mapping[str, Any]]) -> Said | None:
    """The same of one that was streamed."""
    texts: list[str] = []
    finish, refused, begun = None, False, False
    for chunk in chunks:
        try:
            choice = chunk["choices"][0]
            delta = choice.get("delta") or {}
            content, refusal = delta.get("content"), delta.get("refusal")
        except (KeyError, IndexError, TypeError, AttributeError):
            continue
        begun = True
        finish = choice.get("finish_reason") or finish
        refused = refused or bool(refusal)
        texts += [content] if isinstance(content, str) else []
    return Said("".join(texts) or None, finish, refused or finish == FILTERED) if begun else None


def says_one_text(completion: Mapping[str, Any]) -> bool:
    """Whether there is no text in it but that of its first choice, which is a text or nothing."""
    choices = completion["choices"]
    return len(choices) == 1 and isinstance(choices[0]["message"].get("content"), str | None)


def without_text(choice: object) -> dict[str, Any]:
    """A choice of a chunk without the text that it tells. Compatible APIs may have it in other members too."""
    if not isinstance(choice, dict):
        return {}
    kept = {name: value for name, value in choice.items() if name not in {"message", "text"}}
    delta = choice.get("delta")
    if isinstance(delta, dict):
        kept["delta"] = {name: value for name, value in delta.items() if name != "content" or not value}
    return kept


def saying(completion: dict[str, Any], content: str) -> dict[str, Any]:
    """The completion of one choice with other content; everything else as it was."""
    [choice] = completion["choices"]
    said = {**choice, "message": {**choice["message"], "content": content}}
    if isinstance(choice.get("text"), str):
        said["text"] = content
    return {**completion, "choices": [said]}


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


def usage_of(document: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    usage = (document or {}).get("usage")
    return usage if isinstance(usage, dict) else None


def model_of(document: Mapping[str, Any] | None) -> str:
    """The model that answered; "" where it does not say."""
    model = (document or {}).get("model")
    return model if isinstance(model, str) else ""


def tier_of(document: Mapping[str, Any] | None) -> str:
    """The tier of service that it was answered at; "" where it does not say."""
    tier = (document or {}).get("service_tier")
    return tier if isinstance(tier, str) else ""
