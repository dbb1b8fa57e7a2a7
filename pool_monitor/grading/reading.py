"""Pure: what a model said, and the full answer in that, as a document; to compare, not to pass on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from pool_monitor.grading import jsons, sse
from pool_monitor.grading.answers import NotCertain, decoded
from pool_monitor.grading.calls import Answer, UpstreamFault, coding_of
from pool_monitor.grading.decoding import without_coding
from pool_monitor.grading.expanding import expand
from pool_monitor.grading.outcomes import Said, said_by, said_in
from pool_monitor.grading.templates import Template


class Form(StrEnum):
    """Which prompt is asked."""

    ORIGINAL = "original"
    COMPACT = "compact"


def told_by(answer: Answer) -> Said | None:
    """What a completion says that was answered as it came, whole or as events; None where that cannot be read."""
    decoder = sse.Decoder()
    try:
        content = without_coding(answer.content, coding_of(answer.fields))
        if (whole := jsons.decoded(content)) is not None:
            return said_by(whole)
        events = [*decoder.feed(content), decoder.rest()]
    except (ValueError, UpstreamFault):
        return None
    return said_in(document for event in events if event is not None and (document := event.document) is not None)


Read = Callable[[Template, Form, str], Mapping[str, Any] | None]
"""The full answer in what a model said to that prompt; None where it is not certain."""


def read_answer(template: Template, form: Form, text: str) -> Mapping[str, Any] | None:
    """As the caller would have got it: the compact form expanded, the original one however faithful it is."""
    try:
        if form is Form.COMPACT:
            text = expand(template.shape, text).content
        document = decoded(text[text.find("{") : text.rfind("}") + 1])
    except (NotCertain, ValueError, RecursionError):
        return None
    questions = document.get(template.shape.rows.name) if isinstance(document, dict) else None
    return document if isinstance(questions, list) else None
